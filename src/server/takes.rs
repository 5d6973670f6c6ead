//! Takes over HTTP: a video is read once, by a job of the server and not of the socket that asked for it, and asked about as
//! often as wanted. The same video with the same settings is the same take, so that to ask for it again goes on with it.
//!
//! ```text
//! DATA/takes/take-….json   what was asked for, and how it stands
//! DATA/takes/take-….take   the take itself, as `longtake watch` writes it
//! DATA/takes/NAME.take     one that `longtake watch` wrote here: it can be asked, and nothing else
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::desk::Desk;
use super::job::Progress;
use super::lane::Class;
use super::limits::MAX_ENTRIES;
use super::plan::{around, base_name, seconds_json};
use super::random::{id, now};
use super::store::Blob;
use super::wire::{Code, Fault, From, Json, TakeRequest};
use crate::error::Context as _;
use crate::files::atomic::write_beside;
use crate::files::input::read_capped;
use crate::gguf::GgmlType;
use crate::kernels::threads;
use crate::stream::{
    Budget, Cost, Event, Events, IfExists, Limits, MediaOptions, MediaPlan, SessionOptions, Take, Watch, WatchRequest,
    fingerprint, part_options,
};
use crate::{Error, ErrorKind};

type Result<T> = std::result::Result<T, Fault>;

/// Slots behind a video for questions and answers, unless the request says otherwise.
const RESERVE: usize = 4096;
/// Longest note of a take, in bytes.
const MAX_NOTE: u64 = 256 << 10;

/// All takes of the store.
pub(crate) struct Takes {
    folder: PathBuf,
    state: Mutex<State>,
    /// Told when something is to be read.
    changed: Condvar,
    is_closing: AtomicBool,
}

#[derive(Default)]
struct State {
    takes: BTreeMap<String, Arc<Entry>>,
    queue: VecDeque<String>,
}

/// One of them.
pub(crate) struct Entry {
    pub id: String,
    path: PathBuf,
    note: Note,
    /// Written by `longtake watch`: not ours to change.
    is_foreign: bool,
    show: watch::Sender<Shown>,
    cancel: AtomicBool,
    opened: Mutex<Option<Arc<Take>>>,
    last_used_at: AtomicU64,
}

/// What was asked for.
#[derive(Debug, Clone)]
struct Note {
    /// Says whether another request is for the same take.
    key: String,
    name: String,
    created_at: u64,
    /// The body of the request.
    request: Value,
    plan: Value,
}

/// How a take stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub status: Status,
    pub progress: Progress,
    /// What is wrong, of one that failed.
    pub error: Option<Fault>,
    /// Grows with every change.
    pub n: u64,
}

/// In which state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Queued,
    Reading,
    Paused,
    Ready,
    Failed,
}

impl Status {
    /// As it is spelt.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Reading => "reading",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Failed => "failed",
        }
    }

    /// Whether nothing happens until somebody asks.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Status::Paused | Status::Ready | Status::Failed)
    }
}

impl Entry {
    fn new(id: String, path: PathBuf, note: Note, is_foreign: bool, status: Status) -> Entry {
        let (show, _) = watch::channel(Shown { status, progress: Progress::default(), error: None, n: 0 });
        let last_used_at = AtomicU64::new(now());
        let (cancel, opened) = (AtomicBool::new(false), Mutex::default());
        Entry { id, path, note, is_foreign, show, cancel, opened, last_used_at }
    }

    /// Hears of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Shown> {
        self.show.subscribe()
    }

    /// How it stands.
    pub(crate) fn shown(&self) -> Shown {
        self.show.borrow().clone()
    }

    fn set(&self, status: Status, error: Option<Fault>) {
        self.show.send_modify(|shown| {
            shown.n += 1;
            (shown.status, shown.error) = (status, error);
        });
    }

    /// As clients see it.
    pub(crate) fn to_json(&self) -> Value {
        let Shown { status, progress, error, .. } = self.shown();
        let bytes = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        json!({
            "id": self.id, "object": "take", "status": status.name(), "name": self.note.name, "plan": self.note.plan,
            "progress": (status != Status::Ready).then(|| progress.to_json()),
            "source": { "file_id": self.note.request["file_id"], "filename": self.note.name },
            "created_at": self.note.created_at, "bytes": bytes, "last_used_at": self.last_used_at.load(Ordering::Relaxed),
            "error": error.map(|fault| fault.to_json()["error"].clone()), "read_only": self.is_foreign,
        })
    }
}

/// A request with everything that it names.
struct Wanted {
    request: TakeRequest,
    video: PathBuf,
    name: String,
    media: MediaOptions,
    limits: Limits,
    options: SessionOptions,
    _held: Option<Arc<Blob>>,
}

impl Wanted {
    fn watch_request(&self) -> WatchRequest<'_> {
        WatchRequest {
            video: &self.video,
            system_prompt: self.request.system_prompt.as_deref(),
            media: &self.media,
            limits: self.limits,
            reserve: self.request.reserve.unwrap_or(RESERVE),
            options: self.options,
        }
    }
}

impl Takes {
    /// Opens the takes of a folder, which is made where it is missing.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn open_folder(folder: &Path) -> crate::Result<Takes> {
        fs::create_dir_all(folder).at(|| folder.display().to_string())?;
        let mut state = State::default();
        let mut names: Vec<PathBuf> =
            fs::read_dir(folder)?.flatten().map(|entry| entry.path()).take(MAX_ENTRIES).collect();
        names.sort();
        for path in names {
            let stem = base_name(&path.with_extension(""));
            let extension = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
            let is_ours = stem.starts_with("take-") && stem.len() == 37;
            match extension {
                "json" if is_ours => {
                    let note = read_capped(&path, MAX_NOTE).ok();
                    let note = note.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
                    let Some((note, status)) = Note::from_json(&note) else { continue };
                    let take = path.with_extension("take");
                    if status == Status::Queued {
                        state.queue.push_back(stem.clone());
                    }
                    state.takes.insert(stem.clone(), Arc::new(Entry::new(stem, take, note, false, status)));
                }
                "take" if !path.with_extension("json").exists() => {
                    let hash = Sha256::digest(base_name(&path).as_bytes());
                    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
                    let note = Note {
                        key: String::new(),
                        name: base_name(&path),
                        created_at: now(),
                        request: Value::Null,
                        plan: Value::Null,
                    };
                    let id = format!("take-{hex}");
                    state.queue.push_back(id.clone());
                    state.takes.insert(id.clone(), Arc::new(Entry::new(id, path, note, true, Status::Queued)));
                }
                _ => {}
            }
        }
        let takes = Takes {
            folder: folder.to_path_buf(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_closing: AtomicBool::new(false),
        };
        Ok(takes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that reads videos, one after the other.
    ///
    /// # Errors
    /// A thread that the system refuses.
    pub(crate) fn start(self: &Arc<Takes>, desk: &Arc<Desk>) -> crate::Result<()> {
        let (takes, desk) = (self.clone(), Arc::downgrade(desk));
        threads::builder("takes").spawn(move || {
            while let Some(entry) = takes.next() {
                let Some(desk) = desk.upgrade() else { return };
                takes.work(&desk, &entry);
            }
        })?;
        Ok(())
    }

    /// The next one to read, once there is one; nothing when the server ends.
    fn next(&self) -> Option<Arc<Entry>> {
        let mut state = self.lock();
        loop {
            if self.is_closing.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(id) = state.queue.pop_front() {
                if let Some(entry) = state.takes.get(&id) {
                    return Some(entry.clone());
                }
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops reading at the next checkpoint; what was not read to the end goes on after the next start.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let state = self.lock();
        for entry in state.takes.values() {
            entry.cancel.store(true, Ordering::Relaxed);
        }
        self.changed.notify_all();
    }

    /// Whether something is being read.
    pub(crate) fn is_reading(&self) -> bool {
        self.lock().takes.values().any(|entry| entry.shown().status == Status::Reading)
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        let mut list: Vec<_> = self.lock().takes.values().cloned().collect();
        list.sort_by(|a, b| (b.note.created_at, &b.id).cmp(&(a.note.created_at, &a.id)));
        list
    }

    /// One of them.
    ///
    /// # Errors
    /// `take_not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Entry>> {
        let message = "no take has this id: it was never here, was removed, or was not used for too long";
        self.lock().takes.get(id).cloned().ok_or_else(|| Fault::new(Code::TakeNotFound, message))
    }

    /// Bytes on disk, and how many there are in each state.
    pub(crate) fn usage(&self) -> (u64, Vec<(&'static str, usize)>) {
        let list = self.list();
        let bytes = list.iter().filter_map(|entry| fs::metadata(&entry.path).ok()).map(|meta| meta.len()).sum();
        let states = [Status::Queued, Status::Reading, Status::Paused, Status::Ready, Status::Failed];
        let count = |status: Status| list.iter().filter(|entry| entry.shown().status == status).count();
        (bytes, states.into_iter().map(|status| (status.name(), count(status))).collect())
    }

    /// A take that can be asked, checked whole when it is asked for the first time, and its name.
    ///
    /// # Errors
    /// `take_not_found`, `take_not_ready`; what is wrong with its file.
    pub(crate) fn open(&self, id: &str) -> Result<(Arc<Take>, String)> {
        let entry = self.get(id)?;
        entry.last_used_at.store(now(), Ordering::Relaxed);
        let mut opened = entry.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(take) = &*opened {
            return Ok((take.clone(), entry.note.name.clone()));
        }
        let Shown { status, error, progress, .. } = entry.shown();
        let not_ready = |why: String| Fault::new(Code::TakeNotReady, why);
        match status {
            Status::Ready | Status::Queued if entry.path.exists() => {}
            Status::Failed => {
                let why = error.map_or_else(String::new, |fault| fault.message);
                return Err(not_ready(format!("the take failed: {why}")));
            }
            _ => {
                let (done, all) = (progress.processed, progress.total);
                return Err(not_ready(format!("the take is {}: {done} of {all} tokens are in it", status.name())));
            }
        }
        let take = Take::open(&entry.path, true).map_err(|err| {
            eprintln!("error: {err}");
            let fault = Fault { code: Code::TakeNotReady, ..Fault::from_error(&err) };
            entry.set(Status::Failed, Some(fault.clone()));
            fault
        })?;
        if !take.is_complete() {
            return Err(not_ready(format!(
                "the take is not complete: {} of {} tokens are in it",
                take.n_done(),
                take.header.n_tokens()
            )));
        }
        let take = Arc::new(take);
        *opened = Some(take.clone());
        Ok((take, entry.note.name.clone()))
    }

    /// Asks for a take: a new one, or the one that there is. Says whether it is ready.
    ///
    /// # Errors
    /// A file that is not here, a plan that does not fit, a full store.
    pub(crate) fn ask(&self, desk: &Desk, body: &Json<'_>) -> Result<(Arc<Entry>, bool)> {
        let request = TakeRequest::parse(body)?;
        let wanted = desk.wanted(request)?;
        let key = desk.key(&wanted)?;
        let same = self.lock().takes.values().find(|entry| entry.note.key == key).cloned();
        if let Some(entry) = same {
            let entry = self.resume(&entry.id)?;
            let is_ready = entry.shown().status == Status::Ready;
            return Ok((entry, is_ready));
        }
        let (plan, cost) = desk.plan_video(&wanted, true)?;
        self.make_room(desk, cost.cache)?;
        let id = id("take");
        let name = wanted.request.name.clone().unwrap_or_else(|| wanted.name.clone());
        let note = Note { key, name, created_at: now(), request: body.to_value(), plan: plan_json(&plan, &cost) };
        let path = self.folder.join(format!("{id}.take"));
        let entry = Arc::new(Entry::new(id.clone(), path, note, false, Status::Paused));
        entry.show.send_modify(|shown| shown.progress.total = cost.n_tokens);
        self.lock().takes.insert(id, entry.clone());
        self.put(&entry)?;
        Ok((entry, false))
    }

    /// Goes on with a take that stopped; one that did not is left to itself.
    ///
    /// # Errors
    /// `take_not_found`; a store that cannot be written to.
    pub(crate) fn resume(&self, id: &str) -> Result<Arc<Entry>> {
        let entry = self.get(id)?;
        if matches!(entry.shown().status, Status::Paused | Status::Failed) {
            self.put(&entry)?;
        }
        Ok(entry)
    }

    /// Puts it into the queue.
    fn put(&self, entry: &Arc<Entry>) -> Result<()> {
        entry.cancel.store(false, Ordering::Relaxed);
        entry.set(Status::Queued, None);
        self.write(entry, Status::Queued)?;
        self.lock().queue.push_back(entry.id.clone());
        self.changed.notify_all();
        Ok(())
    }

    /// Notes how it stands, for the next start.
    fn write(&self, entry: &Entry, status: Status) -> Result<()> {
        if entry.is_foreign {
            return Ok(());
        }
        let text = entry.note.to_json(status).to_string();
        let path = self.folder.join(format!("{}.json", entry.id));
        write_beside(&path, |out| Ok(out.write_all(text.as_bytes())?)).map_err(|err| {
            eprintln!("error: {err}");
            Fault::new(Code::StorageFull, "the store cannot be written to")
        })
    }

    /// Stops reading; what was read stays.
    ///
    /// # Errors
    /// `take_not_found`.
    pub(crate) fn cancel(&self, id: &str) -> Result<Arc<Entry>> {
        let entry = self.get(id)?;
        entry.cancel.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        let n = state.queue.len();
        state.queue.retain(|other| other != id);
        if state.queue.len() < n && !entry.is_foreign {
            drop(state);
            entry.set(Status::Paused, None);
            self.write(&entry, Status::Paused)?;
        }
        Ok(entry)
    }

    /// Removes a take. Conversations about it that are running end first.
    ///
    /// # Errors
    /// `take_not_found`; one that `longtake watch` wrote.
    pub(crate) fn remove(&self, desk: &Desk, id: &str) -> Result<()> {
        let entry = self.get(id)?;
        if entry.is_foreign {
            let message = "this take was written by `longtake watch`: it is removed where its file is";
            return Err(Fault::value("id", message));
        }
        self.cancel(id)?;
        self.lock().takes.remove(id);
        if let Some(take) = entry.opened.lock().unwrap_or_else(PoisonError::into_inner).take() {
            desk.pool.forget(&take);
        }
        let _ = fs::remove_file(self.folder.join(format!("{id}.json")));
        let _ = fs::remove_file(&entry.path);
        Ok(())
    }

    /// Removes what was not used for as long as it is kept.
    pub(crate) fn sweep(&self, desk: &Desk) {
        let oldest = now().saturating_sub(desk.setup.rules.keep.as_secs());
        for entry in self.list() {
            if entry.last_used_at.load(Ordering::Relaxed) < oldest && self.is_free(&entry) {
                let _ = self.remove(desk, &entry.id);
            }
        }
    }

    /// Whether nobody reads it or asks about it.
    fn is_free(&self, entry: &Entry) -> bool {
        let opened = entry.opened.lock().unwrap_or_else(PoisonError::into_inner);
        !entry.is_foreign
            && entry.shown().status.is_final()
            && opened.as_ref().is_none_or(|take| Arc::strong_count(take) == 1)
    }

    /// Makes room for a take of so many bytes, by removing those that were not used for longest.
    fn make_room(&self, desk: &Desk, n_bytes: u64) -> Result<()> {
        loop {
            let used = self.usage().0 + desk.files().map_or(0, |files| files.n_bytes());
            if used.saturating_add(n_bytes) <= desk.setup.rules.quota {
                return Ok(());
            }
            let free = self.list().into_iter().filter(|entry| self.is_free(entry));
            match free.min_by_key(|entry| entry.last_used_at.load(Ordering::Relaxed)) {
                Some(oldest) => self.remove(desk, &oldest.id)?,
                None => {
                    let message = format!("the store is full: its quota is {} bytes", desk.setup.rules.quota);
                    return Err(Fault::new(Code::StorageFull, message));
                }
            }
        }
    }

    /// Reads one, from wherever it was left.
    fn work(&self, desk: &Desk, entry: &Arc<Entry>) {
        if entry.is_foreign {
            // It is looked at, and that is all.
            match self.open(&entry.id) {
                Ok(_) => entry.set(Status::Ready, None),
                Err(fault) => entry.set(Status::Failed, Some(fault)),
            }
            return;
        }
        entry.set(Status::Reading, None);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(desk, entry)));
        let (status, error) = match read {
            Ok(Ok(())) => (Status::Ready, None),
            Ok(Err(Stop::Cancelled)) => (Status::Paused, None),
            Ok(Err(Stop::Fault(fault))) => (Status::Failed, Some(fault)),
            Err(_) => {
                desk.metrics.add(super::metrics::Counter::JobPanics, 1);
                (Status::Failed, Some(Fault::new(Code::InternalError, "a fault of the program; its log says where")))
            }
        };
        // What stopped because the server does goes on after the next start.
        let kept =
            if status == Status::Paused && self.is_closing.load(Ordering::Relaxed) { Status::Queued } else { status };
        let _ = self.write(entry, kept);
        entry.set(status, error);
    }
}

enum Stop {
    Cancelled,
    Fault(Fault),
}

impl std::convert::From<Error> for Stop {
    fn from(err: Error) -> Stop {
        match err.kind() {
            ErrorKind::Cancelled => Stop::Cancelled,
            _ => {
                eprintln!("error: {err}");
                Stop::Fault(Fault::from_error(&err))
            }
        }
    }
}

impl std::convert::From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// Reads a video into its take, or on.
fn read(desk: &Desk, entry: &Arc<Entry>) -> std::result::Result<(), Stop> {
    let body = entry.note.request.to_string();
    let wanted = desk.wanted(TakeRequest::parse(&Json::parse(body.as_bytes())?)?)?;
    let request = wanted.watch_request();
    let mut watch = if entry.path.exists() {
        let take = Take::open(&entry.path, true)?;
        if take.is_complete() {
            take.check_same(&desk.engine, &request)?;
            return Ok(());
        }
        Watch::resume(&desk.engine, &request, take)?
    } else {
        let (plan, cost) = desk.plan_video(&wanted, false)?;
        let around = around(desk, request.system_prompt)?;
        Watch::begin(&desk.engine, &request, (plan, around, cost.n_ctx), (&entry.path, IfExists::Refuse))?
    };
    watch.set_interval(desk.setup.checkpoint);
    let began = Instant::now();
    let mut turn = desk.lane.turn(Class::Reading);
    let mut frames = 0;
    let mut sink = |event: Event| {
        entry.show.send_modify(|shown| {
            shown.n += 1;
            shown.progress.update(&event, began.elapsed());
        });
        frames += 2 * usize::from(matches!(event, Event::Encoded { .. }));
        if matches!(event, Event::Prefilled { .. } | Event::Encoded { .. } | Event::Encoding { .. }) {
            turn.pass();
        }
    };
    let done = watch.run(&mut Events::new(&mut sink, &entry.cancel));
    desk.metrics.add(super::metrics::Counter::FramesEncoded, frames as u64);
    Ok(done?)
}

impl Desk {
    /// What a request asks for, with its files.
    fn wanted(&self, request: TakeRequest) -> Result<Wanted> {
        let not_found = || Fault::new(Code::MediaNotFound, "nothing is known under this name").of("path");
        let (video, name, held) = match &request.from {
            From::File(id) => {
                let upload = self.files()?.get(id).map_err(|fault| fault.of("file_id"))?;
                if upload.kind != "video" {
                    return Err(Fault::value("file_id", "a picture needs no take: ask about it directly"));
                }
                (upload.blob().path().to_path_buf(), upload.name.clone(), Some(upload.blob().clone()))
            }
            From::Path(path) => {
                let path = self.local(path).ok_or_else(not_found)?;
                let name = base_name(&path);
                (path, name, None)
            }
            _ => return Err(not_found()),
        };
        let fault = |err: Error| Fault::from_error(&err).of("options");
        let media = part_options(&request.options, &self.setup.media).map_err(fault)?;
        let ty = |name: &Option<String>, default: GgmlType, at: &str| match name {
            None => Ok(default),
            Some(name) => GgmlType::from_name(name)
                .filter(|ty| crate::cache::CACHE_TYPES.contains(ty))
                .ok_or_else(|| Fault::value(at, format!("`{at}` is no type of a cache"))),
        };
        let base = self.setup.session;
        let options = SessionOptions {
            type_k: ty(&request.cache_type_k, base.type_k, "cache_type_k")?,
            type_v: ty(&request.cache_type_v, base.type_v, "cache_type_v")?,
            temporal_scale: request.temporal_scale.or(base.temporal_scale),
            n_ctx: 0,
            ..base
        };
        let memory = match (request.max_memory, self.setup.limits.memory) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let time = request.max_time.map(Duration::from_secs_f64).or(self.setup.limits.time);
        let limits = Limits { n_ctx: request.context, memory, time };
        Ok(Wanted { request, video, name, media, limits, options, _held: held })
    }

    /// Tells requests for the same take: by the video's content and everything that the take depends on.
    fn key(&self, wanted: &Wanted) -> Result<String> {
        let (content, _) = fingerprint::content(&wanted.video).map_err(|err| Fault::from_error(&err))?;
        let tower = self.engine.need_vision().map_err(|err| Fault::from_error(&err))?;
        let asked = wanted.watch_request().asked(&tower.hparams().video.form);
        let what = (asked, wanted.options, &wanted.request.system_prompt);
        let scale = wanted.watch_request().temporal_scale(&self.engine);
        let words =
            format!("{content} {} {:?} {what:?} {scale}", self.engine.fingerprint(), self.engine.mmproj_fingerprint());
        Ok(Sha256::digest(words.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Plans the video of a take; `in_time` also measures how long it will take.
    fn plan_video(&self, wanted: &Wanted, in_time: bool) -> Result<(MediaPlan, Cost)> {
        let request = wanted.watch_request();
        let n_around = around(self, request.system_prompt)?.n_tokens() + request.reserve;
        let budget = Budget::new(&self.engine, request.limits, request.options).with_reserve(request.reserve);
        let fault = |err: Error| super::plan::fit_fault(&err, true);
        let _turn = (in_time || request.limits.time.is_some()).then(|| self.lane.turn(Class::Prefill));
        let (plan, mut cost) = budget.fit_video(request.video, request.media, n_around).map_err(fault)?;
        if in_time && cost.is_long() {
            budget.time(&mut cost).map_err(fault)?;
        }
        Ok((plan, cost))
    }

    /// What reading a video into a take would cost; nothing happens.
    ///
    /// # Errors
    /// As when it is asked for.
    pub(crate) fn plan_of_take(&self, body: &Json<'_>) -> Result<Value> {
        let wanted = self.wanted(TakeRequest::parse(body)?)?;
        let (plan, cost) = self.plan_video(&wanted, true)?;
        Ok(plan_json(&plan, &cost))
    }
}

fn plan_json(plan: &MediaPlan, cost: &Cost) -> Value {
    let shown = plan.shown();
    let times: Vec<f64> = shown.iter().map(|frame| (frame.seconds * 1e3).round() / 1e3).collect();
    let reduced: Vec<&str> = cost.reduced.iter().map(|words| words.rsplit(": ").next().unwrap_or(words)).collect();
    json!({
        "media": [{
            "type": "video", "frames": plan.frames.len(), "size": [plan.width, plan.height], "tokens": plan.n_tokens,
            "duration": plan.info.as_ref().map(|info| info.duration), "times": times,
        }],
        "n_media": cost.n_tokens, "n_ctx": cost.n_ctx,
        "memory": { "total": cost.memory(), "weights": cost.weights, "cache": cost.cache, "working": cost.working },
        "seconds": seconds_json(cost), "reduced": reduced,
    })
}

impl Note {
    fn to_json(&self, status: Status) -> Value {
        json!({
            "key": self.key, "name": self.name, "created_at": self.created_at, "request": self.request, "plan": self.plan,
            "status": status.name(),
        })
    }

    fn from_json(note: &Value) -> Option<(Note, Status)> {
        let text = |key: &str| note[key].as_str().map(str::to_string);
        let status = match note["status"].as_str()? {
            "ready" => Status::Ready,
            "paused" => Status::Paused,
            "failed" => Status::Failed,
            // Killed while it was read.
            _ => Status::Queued,
        };
        let (request, plan) = (note["request"].clone(), note["plan"].clone());
        let created_at = note["created_at"].as_u64()?;
        Some((Note { key: text("key")?, name: text("name")?, created_at, request, plan }, status))
    }
}
