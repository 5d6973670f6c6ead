//! Videos that were read for a question, and whose conversation is let go: what took long to read becomes a take first, so that the
//! next turn finds it again without a frame encoded. Which take that is follows from content: the tokens before the video, its
//! frames, the model, the sizes of the context; and the video's file is hashed whole before it is believed.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::desk::Desk;
use super::lane::Class;
use super::plan::Planned;
use super::pool::Borrowed;
use crate::Result;
use crate::kernels::threads;
use crate::stream::{Engine, MediaKind, MediaPlan, Prompt, Session, Take, TakeHeader, Unit, fingerprint};

/// The video of a prompt, and its file, where nothing but words stands before it: their tokens.
fn first_video(prompt: &Prompt) -> Option<(Vec<u32>, &MediaPlan, &Path)> {
    let token = |unit: &Unit| if let Unit::Token(id) = unit { Some(*id) } else { None };
    let before: Vec<u32> = prompt.units.iter().map_while(token).collect();
    let Unit::Media { kind: MediaKind::Video, index } = prompt.units.get(before.len())? else { return None };
    let plan = prompt.videos.get(*index)?;
    Some((before, plan, plan.path.as_deref()?))
}

/// Where in a prompt its one video ends that nothing but words stands before, and what tells that beginning from others.
pub(super) struct Beginning {
    pub key: String,
    /// Tokens up to the end of the video.
    pub n_tokens: usize,
}

impl Beginning {
    /// That of a planned prompt, where it has one.
    pub(super) fn of(desk: &Desk, planned: &Planned) -> Option<Beginning> {
        let (before, plan, _) = first_video(&planned.prompt)?;
        let mut hash = Sha256::new();
        hash.update(&desk.model);
        hash.update(format!("{:?} {:?}", desk.setup.session, plan.temporal_scale));
        before.iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.update(plan.id());
        let key = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(Beginning { key: format!("chat-{key}"), n_tokens: before.len() + plan.n_tokens })
    }

    /// What it became when it was read before, where no conversation holds it now.
    pub(super) fn find(&self, desk: &Desk, planned: &Planned) -> Option<Seen> {
        if desk.pool.n_common(&planned.prompt) >= self.n_tokens {
            return None;
        }
        let (_, plan, path) = first_video(&planned.prompt)?;
        desk.takes().ok()?.find(&self.key, (plan.id(), path))
    }
}

impl Borrowed {
    /// Some time was spent with reading the video at the beginning of a prompt, after what was spent before.
    pub(super) fn note_reading(&mut self, beginning: Option<&Beginning>, spent: Duration) {
        let key = beginning.map(|beginning| &beginning.key);
        if self.seen.as_ref().map(|seen| &seen.facts.key) != key {
            self.seen = None;
        }
        let before =
            self.reading.take().filter(|(other, _)| Some(other) == key).map_or(Duration::ZERO, |(_, time)| time);
        self.reading = key.map(|key| (key.clone(), before + spent));
    }

    /// The video was read: if that took long, it is worth a take.
    pub(super) fn note_seen(&mut self, desk: &Desk, planned: &Planned, beginning: &Beginning) {
        let spent = self.reading.as_ref().map_or(Duration::ZERO, |(_, spent)| *spent);
        if self.seen.is_none() && !spent.is_zero() && spent >= desk.setup.keep_read {
            self.seen = Seen::new(desk, planned, beginning, spent).ok().flatten();
        }
    }
}

/// A video that stands at the beginning of a conversation.
#[derive(Clone)]
pub(crate) struct Seen {
    facts: Arc<Facts>,
    /// The take that it came from.
    take: Option<Arc<Take>>,
}

struct Facts {
    header: TakeHeader,
    /// What conversations know the video by.
    video: [u8; 32],
    key: String,
    name: String,
    plan: Value,
    spent: Duration,
}

impl Seen {
    /// The video of a prompt that was read in so much time. Reads its file.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(super) fn new(desk: &Desk, planned: &Planned, beginning: &Beginning, spent: Duration) -> Result<Option<Seen>> {
        let Some((before, plan, path)) = first_video(&planned.prompt) else { return Ok(None) };
        let (source_fingerprint, source_bytes) = fingerprint::content(path)?;
        let system = planned.system.as_deref();
        let header = TakeHeader {
            source_bytes,
            source_fingerprint,
            ..TakeHeader::of(&desk.engine, plan, &desk.setup.session, (&before, &[]), system)?
        };
        let name = planned.names.first().cloned().unwrap_or_default();
        let facts =
            Facts { header, video: plan.id(), key: beginning.key.clone(), name, plan: planned.to_json(), spent };
        Ok(Some(Seen { facts: Arc::new(facts), take: None }))
    }

    /// The video of a prompt as it is in a take, if that is of a video of the same content as the file at `path`.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(super) fn again(
        take: Arc<Take>,
        (video, path): ([u8; 32], &Path),
        (key, name): (&str, &str),
    ) -> Result<Option<Seen>> {
        let (content, n_bytes) = fingerprint::content(path)?;
        if (&content, n_bytes) != (&take.header.source_fingerprint, take.header.source_bytes) {
            return Ok(None);
        }
        let (header, spent) = (take.header.clone(), Duration::from_secs_f64(take.seconds()));
        let facts = Facts { header, video, key: key.to_string(), name: name.to_string(), plan: Value::Null, spent };
        Ok(Some(Seen { facts: Arc::new(facts), take: Some(take) }))
    }

    /// What tells it from others.
    pub(super) fn key(&self) -> &str {
        &self.facts.key
    }

    pub(super) fn name(&self) -> &str {
        &self.facts.name
    }

    /// The plan by which it was read.
    pub(super) fn plan(&self) -> &Value {
        &self.facts.plan
    }

    /// Tokens up to its end.
    pub(crate) fn n_tokens(&self) -> usize {
        self.facts.header.n_tokens()
    }

    /// Bytes of its take.
    ///
    /// # Errors
    /// Sizes that cannot be counted.
    pub(super) fn n_bytes(&self) -> Result<u64> {
        Ok(self.facts.header.shape.n_bytes()? as u64)
    }

    /// Whether it is in no take.
    pub(crate) fn is_new(&self) -> bool {
        self.take.is_none()
    }

    /// The take that it came from.
    pub(crate) fn take(&self) -> Option<&Arc<Take>> {
        self.take.as_ref()
    }

    /// A conversation that begins with it, from its take.
    ///
    /// # Errors
    /// A take of another model; memory that the system refuses.
    pub(crate) fn session(&self, engine: &Arc<Engine>, take: &Take) -> Result<Session> {
        Session::from_take_as(engine, take, self.facts.video)
    }

    /// Writes its take from a conversation that begins with it; says whether it still does.
    ///
    /// # Errors
    /// A disk that refuses.
    pub(super) fn write(&self, session: &mut Session, path: &Path) -> Result<bool> {
        session.write_take(path, &self.facts.header, self.facts.video, self.facts.spent)
    }
}

/// Where conversations go that are let go and have something to keep.
pub(crate) struct Keeper {
    send: SyncSender<Borrowed>,
    pending: Arc<Pending>,
}

/// What is on its way to disk.
#[derive(Default)]
struct Pending {
    n: AtomicUsize,
    n_bytes: AtomicU64,
}

impl Keeper {
    /// With the far end, for [`start`](Keeper::start).
    pub(crate) fn new() -> (Keeper, Receiver<Borrowed>) {
        // One is written, one waits; whoever lets go of more waits, too.
        let (send, receive) = sync_channel(1);
        (Keeper { send, pending: Arc::default() }, receive)
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// A thread that the system refuses.
    pub(crate) fn start(&self, receive: Receiver<Borrowed>, desk: &Arc<Desk>) -> Result<()> {
        let (desk, pending) = (Arc::downgrade(desk), self.pending.clone());
        threads::builder("keeping").spawn(move || {
            for talk in receive {
                let n_bytes = talk.n_bytes();
                write(&desk, talk);
                pending.n_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
                pending.n.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(())
    }

    /// Keeps what a conversation has read, in its own time; its memory is free after that.
    pub(crate) fn keep(&self, talk: Borrowed) {
        self.pending.n.fetch_add(1, Ordering::Relaxed);
        self.pending.n_bytes.fetch_add(talk.n_bytes(), Ordering::Relaxed);
        if let Err(lost) = self.send.send(talk) {
            self.pending.n_bytes.fetch_sub(lost.0.n_bytes(), Ordering::Relaxed);
            self.pending.n.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Bytes of conversations that are being written.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.pending.n_bytes.load(Ordering::Relaxed)
    }

    /// Whether nothing is being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.n.load(Ordering::Relaxed) == 0
    }
}

/// Writes one, if it can be; what cannot is read again when it is asked for.
fn write(desk: &Weak<Desk>, mut talk: Borrowed) {
    let (Some(desk), Some(seen)) = (desk.upgrade(), talk.seen.clone()) else { return };
    let Ok(takes) = desk.takes() else { return };
    let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // What a GPU holds is brought here.
        {
            let _turn = desk.lane.turn(Class::Reading);
            talk.session.pull().map_err(|err| super::wire::Fault::from_error(&err))?;
        }
        takes.keep(&desk, &seen, &mut talk.session)
    }));
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => eprintln!("warning: a video that was read is not kept: {}", fault.message),
        Err(_) => desk.metrics.add(super::metrics::Counter::JobPanics, 1),
    }
}
