//! Batches over HTTP: a file of requests that was uploaded, answered by the runner of `longtake batch` beside everything else,
//! one batch after the other. What was begun goes on after any end of the server.
//!
//! ```text
//! DATA/batches/batch-….json    what was asked for, and how it stands
//! DATA/batches/batch-….jsonl   answers so far; once all are there, they become a file of the store
//! ```

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::batch::{Batch, Counts, Endpoint, Shard, run};
use super::desk::Desk;
use super::limits::MAX_ENTRIES;
use super::random::{id, now};
use super::wire::{Code, Fault, Json, fields, short};
use crate::error::Context as _;
use crate::files::atomic::write_beside;
use crate::files::input::read_capped;
use crate::kernels::threads;
use crate::{Error, ErrorKind};

type Result<T> = std::result::Result<T, Fault>;

/// Longest note of a batch, in bytes.
const MAX_NOTE: u64 = 256 << 10;
/// Most words that a client may keep with a batch, in bytes.
const MAX_METADATA: usize = 16 << 10;

/// All batches of the store.
pub(crate) struct Batches {
    folder: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    is_closing: AtomicBool,
}

#[derive(Default)]
struct State {
    batches: BTreeMap<String, Arc<Entry>>,
    queue: VecDeque<String>,
}

/// One of them.
pub(crate) struct Entry {
    id: String,
    /// As clients see it.
    note: Mutex<Map<String, Value>>,
    stop: AtomicBool,
}

impl Entry {
    /// As clients see it.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.lock().clone())
    }

    fn lock(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> String {
        self.lock()["status"].as_str().unwrap_or_default().to_string()
    }

    fn is_final(&self) -> bool {
        matches!(&*self.status(), "completed" | "failed" | "cancelled")
    }

    /// Changes its status, with the time.
    fn set(&self, status: &str) {
        let mut note = self.lock();
        note.insert("status".into(), status.into());
        note.insert(format!("{status}_at"), now().into());
    }

    fn count(&self, counts: Counts) {
        let Counts { total, kept, completed, failed } = counts;
        let mut note = self.lock();
        note.insert(
            "request_counts".into(),
            json!({ "total": total, "completed": kept + completed, "failed": failed }),
        );
    }
}

impl Batches {
    /// Opens the batches of a folder, which is made where it is missing.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn open(folder: &Path) -> crate::Result<Batches> {
        fs::create_dir_all(folder).at(|| folder.display().to_string())?;
        let mut state = State::default();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.flatten().map(|entry| entry.path()).take(MAX_ENTRIES).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "json")) {
            let note = read_capped(path, MAX_NOTE).ok();
            let note =
                note.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok()).unwrap_or_default();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if note.get("id").and_then(Value::as_str) != Some(&*stem) || !note.contains_key("status") {
                continue;
            }
            let entry = Entry { id: stem.clone(), note: Mutex::new(note), stop: AtomicBool::new(false) };
            if entry.status() == "cancelling" {
                entry.stop.store(true, Ordering::Relaxed);
            }
            if !entry.is_final() {
                state.queue.push_back(stem.clone());
            }
            state.batches.insert(stem, Arc::new(entry));
        }
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Ok(Batches { folder: folder.to_path_buf(), state, changed, is_closing: AtomicBool::new(false) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that runs batches, one after the other.
    ///
    /// # Errors
    /// A thread or a runtime that the system refuses.
    pub(crate) fn start(self: &Arc<Batches>, desk: &Arc<Desk>) -> crate::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (batches, desk) = (self.clone(), Arc::downgrade(desk));
        threads::builder("batches").spawn(move || {
            while let Some(entry) = batches.next() {
                let Some(desk) = desk.upgrade() else { return };
                runtime.block_on(batches.work(&desk, &entry));
            }
            // Jobs that were begun are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    /// The next one to run; nothing when the server ends.
    fn next(&self) -> Option<Arc<Entry>> {
        let mut state = self.lock();
        loop {
            if self.is_closing.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(id) = state.queue.pop_front() {
                match state.batches.get(&id) {
                    Some(entry) => return Some(entry.clone()),
                    None => continue,
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops what runs; it goes on after the next start.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let state = self.lock();
        state.batches.values().for_each(|entry| entry.stop.store(true, Ordering::Relaxed));
        self.changed.notify_all();
    }

    fn write(&self, entry: &Entry) -> crate::Result<()> {
        let text = entry.to_json().to_string();
        write_beside(&self.folder.join(format!("{}.json", entry.id)), |out| {
            Ok(std::io::Write::write_all(out, text.as_bytes())?)
        })
    }

    async fn work(&self, desk: &Arc<Desk>, entry: &Arc<Entry>) {
        let done = self.answer(desk, entry).await;
        match done {
            Ok(()) if entry.status() != "cancelled" => entry.set("completed"),
            Ok(()) => {}
            // It goes on after the next start.
            Err(err) if err.kind() == ErrorKind::Cancelled => return,
            Err(err) => {
                eprintln!("error: batch {}: {err}", entry.id);
                entry.set("failed");
                let message = Fault::from_error(&err).message;
                let errors = json!({ "object": "list", "data": [{ "code": "invalid_batch", "message": message, "param": null, "line": null }] });
                entry.lock().insert("errors".into(), errors);
            }
        }
        if let Err(err) = self.write(entry) {
            eprintln!("error: batch {}: {err}", entry.id);
        }
    }

    /// Answers the requests of a batch and makes a file of the answers.
    async fn answer(&self, desk: &Arc<Desk>, entry: &Arc<Entry>) -> crate::Result<()> {
        let text = |key: &str| entry.lock()[key].as_str().unwrap_or_default().to_string();
        let lost = |fault: Fault| Error::bad_input(fault.message);
        let input = desk.files().and_then(|files| files.get(&text("input_file_id"))).map_err(lost)?;
        let output = self.folder.join(format!("{}.jsonl", entry.id));
        if entry.status() != "cancelling" {
            entry.set("in_progress");
            self.write(entry)?;
        }
        let batch = Batch {
            input: input.blob().path(),
            output: &output,
            shard: Shard::WHOLE,
            endpoint: Endpoint::of(&text("endpoint")),
            // A place stays free for those who wait.
            parallel: desk.setup.parallel.saturating_sub(1).max(1),
        };
        let done = run(desk, &batch, &entry.stop, |counts| entry.count(counts)).await;
        let is_cancelled = done.as_ref().is_err_and(|err| err.kind() == ErrorKind::Cancelled);
        if !is_cancelled || self.is_closing.load(Ordering::Relaxed) {
            done?;
        }
        if !is_cancelled {
            entry.set("finalizing");
        }
        if output.exists() {
            let name = format!("{}_output.jsonl", entry.id);
            let upload = keep_output(desk, &output, &name).map_err(lost)?;
            entry.lock().insert("output_file_id".into(), upload.into());
        }
        if is_cancelled {
            entry.set("cancelled");
        }
        self.write(entry)?;
        let _ = fs::remove_file(&output);
        Ok(())
    }

    /// Asks for a batch.
    ///
    /// # Errors
    /// What is wrong with the request; a file that is not here.
    pub(crate) fn ask(&self, desk: &Desk, body: &Json<'_>) -> Result<Arc<Entry>> {
        let (mut file, mut endpoint, mut metadata) = (None, None, Value::Null);
        for (key, value) in fields::object(body, "body")? {
            let at: &str = key;
            match at {
                _ if *value == Json::Null => {}
                "input_file_id" => file = Some(fields::text(value, at, 64)?.to_string()),
                "endpoint" => {
                    let path = fields::text(value, at, 256)?;
                    let known = Endpoint::of(path).ok_or_else(|| {
                        let message = "expected /v1/chat/completions, /v1/completions or /v1/responses";
                        Fault::value(at, format!("`endpoint` is `{}`, {message}", short(path)))
                    });
                    endpoint = known.map(|_| Some(path.to_string()))?;
                }
                // All are answered as soon as they can be.
                "completion_window" => drop(fields::text(value, at, 16)?),
                "metadata" => {
                    fields::object(value, at)?;
                    metadata = value.to_value();
                    if metadata.to_string().len() > MAX_METADATA {
                        return Err(Fault::value(at, format!("`metadata` has more than {MAX_METADATA} bytes")));
                    }
                }
                "output_expires_after" => {}
                other => return Err(fields::unknown("body", other)),
            }
        }
        let missing = |at: &str| Fault::value(at, format!("`{at}` is missing"));
        let (file, endpoint) =
            (file.ok_or_else(|| missing("input_file_id"))?, endpoint.ok_or_else(|| missing("endpoint"))?);
        let upload = desk.files()?.get(&file).map_err(|fault| fault.of("input_file_id"))?;
        if upload.kind != "text" {
            let message = "`input_file_id` names a picture or a video: upload requests with the purpose batch";
            return Err(Fault::value("input_file_id", message));
        }
        if self.lock().batches.len() >= MAX_ENTRIES {
            return Err(Fault::new(Code::StorageFull, format!("there are `{MAX_ENTRIES}` batches, which is the most")));
        }
        let id = id("batch");
        let note = json!({
            "id": id, "object": "batch", "endpoint": endpoint, "model": desk.name(), "errors": null, "input_file_id": file,
            "completion_window": "24h", "status": "validating", "output_file_id": null, "error_file_id": null,
            "created_at": now(), "in_progress_at": null, "expires_at": null, "finalizing_at": null, "completed_at": null,
            "failed_at": null, "expired_at": null, "cancelling_at": null, "cancelled_at": null,
            "request_counts": { "total": 0, "completed": 0, "failed": 0 }, "metadata": metadata,
        });
        let note = note.as_object().cloned().unwrap_or_default();
        let entry = Arc::new(Entry { id: id.clone(), note: Mutex::new(note), stop: AtomicBool::new(false) });
        self.write(&entry).map_err(|err| Fault::from_error(&err))?;
        let mut state = self.lock();
        state.batches.insert(id.clone(), entry.clone());
        state.queue.push_back(id);
        drop(state);
        self.changed.notify_all();
        Ok(entry)
    }

    /// One of them.
    ///
    /// # Errors
    /// `batch_not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Entry>> {
        let found = self.lock().batches.get(id).cloned();
        found.ok_or_else(|| Fault::new(Code::BatchNotFound, "no batch has this id"))
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Value> {
        let mut list: Vec<Value> = self.lock().batches.values().map(|entry| entry.to_json()).collect();
        list.sort_by_key(|batch| std::cmp::Reverse(batch["created_at"].as_u64()));
        list
    }

    /// Stops one; what was answered becomes its output.
    ///
    /// # Errors
    /// `batch_not_found`.
    pub(crate) fn cancel(&self, id: &str) -> Result<Arc<Entry>> {
        let entry = self.get(id)?;
        if !entry.is_final() {
            entry.set("cancelling");
            entry.stop.store(true, Ordering::Relaxed);
            self.write(&entry).map_err(|err| Fault::from_error(&err))?;
        }
        Ok(entry)
    }
}

/// Makes a file of the store of a batch's answers; its id.
fn keep_output(desk: &Desk, path: &Path, name: &str) -> Result<String> {
    let internal = |_| Fault::new(Code::InternalError, "the answers cannot be read");
    let mut incoming = desk.files()?.begin()?;
    let mut file = fs::File::open(path).map_err(internal)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece).map_err(internal)? {
            0 => break,
            n => incoming.write(&piece[..n])?,
        }
    }
    Ok(incoming.finish(name, "batch_output", None)?.id)
}
