//! Takes over HTTP: a video is read once, by a job of the server and not of the socket that asked for it, and asked about as
//! often as wanted. The same video with the same settings is the same take, so that to ask for it again goes on with it.
//!
//! ```text
//! DATA/takes/take-….json   what was asked for, and how it stands
//! DATA/takes/take-….take   the take itself, as `longtake watch` writes it
//! DATA/takes/NAME.take     one that `longtake watch` wrote here: it can be asked, and nothing else
//! ```

mod entry;
mod kept;
mod read;
mod wanted;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

use entry::Note;
pub(crate) use entry::{Entry, Shown, Status};
use read::{Stop, read};
use wanted::plan_json;

use super::backlog::Backlog;
use super::desk::Desk;
use super::limits::MAX_ENTRIES;
use super::plan::base_name;
use super::random::{id, now};
use super::wire::{Code, Fault, Json, TakeRequest};
use crate::error::Context as _;
use crate::files::atomic::write_beside;
use crate::files::input::read_capped;
use crate::kernels::threads;
use crate::stream::Take;

type Result<T> = std::result::Result<T, Fault>;

/// Longest note of a take, in bytes.
const MAX_NOTE: u64 = 256 << 10;

/// All takes of the store.
pub(crate) struct Takes {
    folder: PathBuf,
    backlog: Backlog<Entry>,
}

impl Takes {
    /// Puts a take that `longtake watch` wrote among those that are looked at; its id follows from `name`.
    fn look_at(&self, path: PathBuf, name: &str) {
        let hash = Sha256::digest(name.as_bytes());
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let (key, name) = (String::new(), base_name(&path));
        let note = Note { key, name, created_at: now(), request: Value::Null, plan: Value::Null };
        let id = format!("take-{hex}");
        self.backlog.insert(id.clone(), Arc::new(Entry::new(id.clone(), path, note, true, Status::Queued)));
        self.backlog.push(&id);
    }

    /// Opens the takes of a folder, which is made where it is missing, and those of another, which is only read.
    ///
    /// # Errors
    /// A folder that cannot be written to, or one of others that cannot be read.
    pub(crate) fn open_folder(folder: &Path, others: Option<&Path>) -> crate::Result<Takes> {
        fs::create_dir_all(folder).at(|| folder.display().to_string())?;
        let takes = Takes { folder: folder.to_path_buf(), backlog: Backlog::new() };
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
                    if status == Status::Ready && !take.exists() {
                        // Killed while it was written, or removed by somebody.
                        let _ = fs::remove_file(&path);
                        continue;
                    }
                    let entry = Entry::new(stem.clone(), take, note, false, status);
                    takes.backlog.insert(stem.clone(), Arc::new(entry));
                    if status == Status::Queued {
                        takes.backlog.push(&stem);
                    }
                }
                "take" if !path.with_extension("json").exists() => {
                    let name = base_name(&path);
                    takes.look_at(path, &name);
                }
                _ => {}
            }
        }
        if let Some(others) = others {
            let read = fs::read_dir(others).at(|| others.display().to_string())?;
            let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).take(MAX_ENTRIES).collect();
            paths.sort();
            for path in paths.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "take")) {
                // Another folder may have one of the same name.
                let name = path.display().to_string();
                takes.look_at(path, &name);
            }
        }
        Ok(takes)
    }

    /// Starts the thread that reads videos, one after the other.
    ///
    /// # Errors
    /// A thread that the system refuses.
    pub(crate) fn start(self: &Arc<Takes>, desk: &Arc<Desk>) -> crate::Result<()> {
        let (takes, desk) = (self.clone(), Arc::downgrade(desk));
        threads::builder("takes").spawn(move || {
            while let Some(entry) = takes.backlog.next() {
                let Some(desk) = desk.upgrade() else { return };
                takes.work(&desk, &entry);
            }
        })?;
        Ok(())
    }

    /// Stops reading at the next checkpoint; what was not read to the end goes on after the next start.
    pub(crate) fn close(&self) {
        self.backlog.close(|entry| entry.cancel.store(true, Ordering::Relaxed));
    }

    /// Whether something is being read.
    pub(crate) fn is_reading(&self) -> bool {
        self.backlog.list().iter().any(|entry| entry.shown().status == Status::Reading)
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        let mut list = self.backlog.list();
        list.sort_by(|a, b| (b.note.created_at, &b.id).cmp(&(a.note.created_at, &a.id)));
        list
    }

    /// One of them.
    ///
    /// # Errors
    /// `take_not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Entry>> {
        let message = "no take has this id: it was never here, was removed, or was not used for too long";
        self.backlog.get(id).ok_or_else(|| Fault::new(Code::TakeNotFound, message))
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
        let same = self.backlog.list().into_iter().find(|entry| entry.note.key == key);
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
        self.backlog.insert(id, entry.clone());
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
        self.backlog.push(&entry.id);
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
        if entry.is_foreign {
            // It is only looked at, and asked about once it was.
            return Ok(entry);
        }
        entry.cancel.store(true, Ordering::Relaxed);
        if self.backlog.withdraw(id) {
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
        self.backlog.remove(id);
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
        let kept = if status == Status::Paused && self.backlog.is_closing() { Status::Queued } else { status };
        let _ = self.write(entry, kept);
        entry.set(status, error);
    }
}
