//! The desk: what all requests share. The model, the lane, the door, the conversations that are kept, files and takes. With
//! `--private` each key has a desk, and requests of one share nothing of the last three with those of another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use super::batches::Batches;
use super::crew::Crew;
use super::keep::Keeper;
use super::lane::Lane;
use super::linger::Attempts;
use super::memory::Memory;
use super::metrics::{Gauges, Metrics};
use super::pool::Pool;
use super::queue::Queue;
use super::random::now;
use super::setup::Setup;
use super::store::Store;
use super::takes::Takes;
use super::wire::media::Kind;
use super::wire::{Code, Fault};
use crate::stream::{Engine, Hold, Holder};
use crate::text::{MediaSource, Source};

/// What all requests share.
pub(crate) struct Desk {
    pub engine: Arc<Engine>,
    pub setup: Arc<Setup>,
    pub lane: Lane,
    pub queue: Queue,
    pub pool: Pool,
    pub crew: Crew,
    /// Questions that are worked on.
    pub attempts: Attempts,
    pub memory: Memory,
    pub metrics: Arc<Metrics>,
    /// When it was opened, in seconds since 1970.
    pub created: u64,
    /// What identifies the files of the model and the projector.
    pub model: String,
    /// Model and version, so that answers tell what made them.
    pub fingerprint: String,
    files: Option<Arc<Store>>,
    takes: Option<Arc<Takes>>,
    batches: Option<Arc<Batches>>,
    /// Other names that clients gave to media, newest last.
    aliases: Mutex<VecDeque<Alias>>,
}

/// A name that a client gave to a medium, and what its bytes hold of memory.
type Alias = (String, (Kind, MediaSource), Hold);

/// Names of media that are remembered, and bytes of theirs that came with requests.
const MAX_ALIASES: usize = 64;
const MAX_ALIAS_BYTES: usize = 256 << 20;

/// Bytes that a medium holds here.
fn n_bytes(medium: &MediaSource) -> usize {
    let of = |source: &Source| if let Source::Data(data) = source { data.bytes().len() } else { 0 };
    match medium {
        MediaSource::Path(source) => of(source),
        MediaSource::Frames(frames) => frames.iter().map(of).sum(),
    }
}

impl Desk {
    /// Opens the one that all share, or with [`Setup::private`] one for each key: one model, lane and queue, the same threads that
    /// answer, and conversations and a store of its own.
    ///
    /// # Errors
    /// A store that cannot be opened; threads that the system refuses.
    pub(crate) fn open_all(
        engine: &Arc<Engine>,
        setup: Setup,
        metrics: &Arc<Metrics>,
        memory: &Memory,
    ) -> crate::Result<Vec<Arc<Desk>>> {
        memory.loaded(engine, &setup.session)?;
        let lane = Lane::default();
        let crew = Crew::start(engine.clone(), lane.clone(), metrics.clone())?;
        let queue = Queue::new(setup.parallel, setup.queue);
        let setups = if setup.private { setup.of_keys() } else { vec![setup] };
        let open = |setup| {
            let shared = (lane.clone(), crew.clone(), queue.clone());
            Desk::open(engine.clone(), Arc::new(setup), shared, metrics.clone(), memory.clone())
        };
        let desks = setups.into_iter().map(open).collect::<crate::Result<Vec<_>>>()?;
        let all: Vec<_> = desks.iter().map(Arc::downgrade).collect();
        memory.on_lack(move |missing| {
            for desk in all.iter().filter_map(Weak::upgrade) {
                desk.pool.reclaim(missing);
            }
        });
        Ok(desks)
    }

    fn open(
        engine: Arc<Engine>,
        setup: Arc<Setup>,
        (lane, crew, queue): (Lane, Crew, Queue),
        metrics: Arc<Metrics>,
        memory: Memory,
    ) -> crate::Result<Arc<Desk>> {
        let (keeper, kept) = Keeper::new();
        let files = setup.data.as_deref().map(|folder| Store::open(folder, setup.rules, setup.media.clone()));
        let files = files.transpose()?.map(Arc::new);
        let model = format!("{} {}", engine.fingerprint(), engine.mmproj_fingerprint().unwrap_or_default());
        let fingerprint = format!("{}-{}", &model[..12], env!("CARGO_PKG_VERSION"));
        let takes = setup
            .data
            .as_deref()
            .map(|folder| Takes::open_folder(&folder.join("takes"), setup.takes.as_deref()))
            .transpose()?
            .map(Arc::new);
        let batches = setup.data.as_deref().map(|folder| Batches::open(&folder.join("batches")));
        let batches = batches.transpose()?.map(Arc::new);
        let desk = Arc::new(Desk {
            pool: Pool::new(&engine, &setup, memory.clone(), keeper)?,
            crew,
            queue,
            attempts: Attempts::default(),
            memory,
            created: now(),
            model,
            fingerprint,
            engine,
            setup,
            lane,
            metrics,
            files,
            takes,
            batches,
            aliases: Mutex::default(),
        });
        if let Some(takes) = &desk.takes {
            takes.start(&desk)?;
        }
        desk.pool.keeper.start(kept, &desk)?;
        Ok(desk)
    }

    /// The model's name.
    pub(crate) fn name(&self) -> &str {
        &self.engine.name
    }

    /// The store of uploads.
    ///
    /// # Errors
    /// `file_not_found` where nothing is kept.
    pub(crate) fn files(&self) -> Result<&Arc<Store>, Fault> {
        let message = "this server keeps no files: it was started with --no-store";
        self.files.as_ref().ok_or_else(|| Fault::new(Code::FileNotFound, message))
    }

    /// The takes.
    ///
    /// # Errors
    /// `take_not_found` where nothing is kept.
    pub(crate) fn takes(&self) -> Result<&Arc<Takes>, Fault> {
        let message = "this server keeps no takes: it was started with --no-store";
        self.takes.as_ref().ok_or_else(|| Fault::new(Code::TakeNotFound, message))
    }

    /// The batches.
    ///
    /// # Errors
    /// `batch_not_found` where nothing is kept.
    pub(crate) fn batches(&self) -> Result<&Arc<Batches>, Fault> {
        let message = "this server keeps no batches: it was started with --no-store";
        self.batches.as_ref().ok_or_else(|| Fault::new(Code::BatchNotFound, message))
    }

    /// The medium that was sent under this name before.
    pub(crate) fn alias(&self, uuid: &str) -> Option<(Kind, MediaSource)> {
        let aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        aliases.iter().rev().find(|(name, ..)| name == uuid).map(|(_, medium, _)| medium.clone())
    }

    /// Remembers a name. Bytes that came with a request are shared, and dropped with the name.
    pub(crate) fn set_alias(&self, uuid: String, medium: (Kind, MediaSource)) {
        let n_new = n_bytes(&medium.1);
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        aliases.retain(|(name, ..)| *name != uuid);
        let mut held: usize = n_new + aliases.iter().map(|(_, (_, medium), _)| n_bytes(medium)).sum::<usize>();
        while aliases.len() >= MAX_ALIASES || held > MAX_ALIAS_BYTES {
            let Some((_, (_, medium), _)) = aliases.pop_front() else { break };
            held -= n_bytes(&medium);
        }
        // A name that there is no memory for is forgotten, or the oldest are for it.
        loop {
            match self.memory.hold(Holder::Bodies, n_new as u64) {
                Ok(hold) => return aliases.push_back((uuid, medium, hold)),
                Err(_) if aliases.pop_front().is_some() => {}
                Err(_) => return,
            }
        }
    }

    /// How things stand at all desks.
    pub(crate) fn gauges(all: &[Arc<Desk>]) -> Gauges {
        let Some(first) = all.first() else { return Gauges::default() };
        // What they share.
        let (n_running, n_waiting) = first.queue.len();
        let mut gauges = Gauges {
            n_running,
            n_waiting,
            memory: first.memory.told(),
            memory_limit: first.memory.limit(),
            kernels: crate::kernels::select().map_or("", |kernels| kernels.name).to_string(),
            ..Gauges::default()
        };
        for desk in all {
            let (n_sessions, cache_used, cache_limit) = desk.pool.usage();
            let (takes_bytes, takes) = desk.takes.as_ref().map_or((0, Vec::new()), |takes| takes.usage());
            gauges.n_lingering += desk.attempts.n_lingering();
            gauges.n_sessions += n_sessions;
            gauges.cache_used += cache_used;
            gauges.cache_limit += cache_limit;
            gauges.files_bytes += desk.files.as_ref().map_or(0, |files| files.n_bytes());
            gauges.takes_bytes += takes_bytes;
            gauges.add_takes(takes);
        }
        gauges
    }

    /// The model, as clients list it.
    pub(crate) fn model_json(&self) -> Value {
        let hp = self.engine.text.hparams();
        let inputs: &[&str] = if self.engine.vision.is_some() { &["text", "image", "video"] } else { &["text"] };
        json!({
            "id": self.name(), "object": "model", "created": self.created, "owned_by": "longtake",
            "meta": {
                "n_ctx_train": hp.n_ctx_train, "n_ctx": self.setup.session.n_ctx, "n_vocab": hp.n_vocab, "n_embd": hp.n_embd,
                "size": self.engine.n_bytes, "layout": hp.layout.to_string(), "temporal_scale": hp.temporal_scale,
            },
            "max_model_len": self.setup.session.n_ctx,
            "architecture": { "input_modalities": inputs, "output_modalities": ["text"] },
        })
    }
}
