//! Batches over HTTP: a file of requests that was uploaded, answered by the runner of `longtake batch` beside everything else,
//! one batch after the other. What was begun goes on after any end of the server.
//!
//! ```text
//! DATA/batches/batch-….json    what was asked for, and how it stands
//! DATA/batches/batch-….jsonl   answers so far; once all are there, they become a file of the store
//! ```

use serde_json::{Map, Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backlog::Backlog;
use super::batch::{Batch, Counts, Shard, run};
use super::desk::Desk;
use super::dialect::Endpoint;
use super::limits::MAX_ENTRIES;
use super::random::{id, now};
use super::wire::{Code, Fault, Json, fields};
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
    backlog: Backlog<Entry>,
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

    /// A field that is words.
    fn text(&self, key: &str) -> String {
        self.lock().get(key).and_then(Value::as_str).unwrap_or_default().to_string()
    }

    fn status(&self) -> String {
        self.text("status")
    }

    fn is_final(&self) -> bool {
        is_final(&self.lock())
    }

    /// Changes its status, with the time.
    fn set(&self, status: &str) {
        set(&mut self.lock(), status);
    }

    /// Asks it to stop, unless it is over. Whether it was asked.
    fn cancel(&self) -> bool {
        let mut note = self.lock();
        if is_final(&note) {
            return false;
        }
        self.stop.store(true, Ordering::Relaxed);
        set(&mut note, "cancelling");
        true
    }

    fn count(&self, counts: Counts) {
        let Counts { total, completed, failed, .. } = counts;
        self.lock()
            .insert("request_counts".into(), json!({ "total": total, "completed": completed, "failed": failed }));
    }
}

fn is_final(note: &Map<String, Value>) -> bool {
    matches!(note.get("status").and_then(Value::as_str), Some("completed" | "failed" | "cancelled"))
}

fn set(note: &mut Map<String, Value>, status: &str) {
    note.insert("status".into(), status.into());
    note.insert(format!("{status}_at"), now().into());
}

impl Batches {
    /// Opens the batches of a folder, which is made where it is missing.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn open(folder: &Path) -> crate::Result<Batches> {
        fs::create_dir_all(folder).at(|| folder.display().to_string())?;
        let batches = Batches { folder: folder.to_path_buf(), backlog: Backlog::new() };
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
            let is_final = entry.is_final();
            batches.backlog.insert(stem.clone(), Arc::new(entry));
            if !is_final {
                batches.backlog.push(&stem);
            }
        }
        Ok(batches)
    }

    /// Starts the thread that runs batches, one after the other.
    ///
    /// # Errors
    /// A thread or a runtime that the system refuses.
    pub(crate) fn start(self: &Arc<Batches>, desk: &Arc<Desk>) -> crate::Result<()> {
        // With a thread of its own: what a cancelled batch leaves behind is still driven, and so dropped.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (batches, desk) = (self.clone(), Arc::downgrade(desk));
        threads::builder("batches").spawn(move || {
            while let Some(entry) = batches.backlog.next() {
                let Some(desk) = desk.upgrade() else { return };
                runtime.block_on(batches.work(&desk, &entry));
            }
            // Jobs that were begun are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(())
    }

    /// Stops what runs; it goes on after the next start.
    pub(crate) fn close(&self) {
        self.backlog.close(|entry| entry.stop.store(true, Ordering::Relaxed));
    }

    fn write(&self, entry: &Entry) -> crate::Result<()> {
        let text = entry.to_json().to_string();
        write_beside(&self.folder.join(format!("{}.json", entry.id)), |out| {
            Ok(std::io::Write::write_all(out, text.as_bytes())?)
        })
    }

    async fn work(&self, desk: &Arc<Desk>, entry: &Arc<Entry>) {
        let Err(err) = self.answer(desk, entry).await else { return };
        // What the server stops, or its disk, goes on after the next start.
        if err.kind() == ErrorKind::Cancelled {
            return;
        }
        eprintln!("error: batch {}: {err}", entry.id);
        if err.kind() != ErrorKind::Io {
            entry.set("failed");
        }
        let message = Fault::from_error(&err).message;
        let errors = json!({ "object": "list", "data": [{ "code": "invalid_batch", "message": message, "param": null, "line": null }] });
        entry.lock().insert("errors".into(), errors);
        if let Err(err) = self.write(entry) {
            eprintln!("error: batch {}: {err}", entry.id);
        }
    }

    /// Answers the requests of a batch and makes a file of the answers.
    async fn answer(&self, desk: &Arc<Desk>, entry: &Arc<Entry>) -> crate::Result<()> {
        let lost = |fault: Fault| Error::bad_input(fault.message);
        let input = desk.files().and_then(|files| files.get(&entry.text("input_file_id"))).map_err(lost)?;
        let output = self.folder.join(format!("{}.jsonl", entry.id));
        if entry.status() != "cancelling" {
            entry.set("in_progress");
            self.write(entry)?;
        }
        let batch = Batch {
            input: input.blob().path(),
            output: &output,
            shard: Shard::WHOLE,
            endpoint: Endpoint::of(&entry.text("endpoint")).ok(),
            // A place stays free for those who wait.
            parallel: desk.setup.parallel.saturating_sub(1).max(1),
        };
        let done = run(desk, &batch, &entry.stop, |counts| entry.count(counts)).await;
        let is_cancelled = done.as_ref().is_err_and(|err| err.kind() == ErrorKind::Cancelled);
        if !is_cancelled || self.backlog.is_closing() {
            done?;
        }
        self.finish(desk, entry, is_cancelled)
    }

    /// Makes a file of the answers that there are, and says that the batch is over. Whatever fails, they are still where they were.
    fn finish(&self, desk: &Desk, entry: &Entry, is_cancelled: bool) -> crate::Result<()> {
        let output = self.folder.join(format!("{}.jsonl", entry.id));
        if output.exists() {
            let kept = keep_output(desk, &output, &format!("{}_output.jsonl", entry.id));
            let upload = kept.map_err(|fault| Error::new(ErrorKind::Io, fault.message))?;
            entry.lock().insert("output_file_id".into(), upload.into());
        }
        entry.set(if is_cancelled { "cancelled" } else { "completed" });
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
                    let known = Endpoint::of(path).map_err(|what| Fault::value(at, format!("`endpoint` {what}")));
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
        if self.backlog.len() >= MAX_ENTRIES {
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
        self.backlog.insert(id.clone(), entry.clone());
        self.backlog.push(&id);
        Ok(entry)
    }

    /// One of them.
    ///
    /// # Errors
    /// `batch_not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Entry>> {
        self.backlog.get(id).ok_or_else(|| Fault::new(Code::BatchNotFound, "no batch has this id"))
    }

    /// All of them, newest first.
    pub(crate) fn list(&self) -> Vec<Value> {
        let mut list: Vec<Value> = self.backlog.list().iter().map(|entry| entry.to_json()).collect();
        list.sort_by_key(|batch| std::cmp::Reverse(batch["created_at"].as_u64()));
        list
    }

    /// Stops one; what was answered becomes its output.
    ///
    /// # Errors
    /// `batch_not_found`.
    pub(crate) fn cancel(&self, desk: &Desk, id: &str) -> Result<Arc<Entry>> {
        let entry = self.get(id)?;
        if entry.cancel() {
            let told = |err: Error| Fault::from_error(&err);
            if self.backlog.withdraw(id) {
                // Nobody works on it.
                self.finish(desk, &entry, true).map_err(told)?;
            } else {
                self.write(&entry).map_err(told)?;
            }
        }
        Ok(entry)
    }

    /// Removes what has been over for as long as it is kept; what it answered is a file like others.
    pub(crate) fn sweep(&self, desk: &Desk) {
        let oldest = now().saturating_sub(desk.setup.rules.keep.as_secs());
        for entry in self.backlog.list() {
            let is_old = entry.lock().get("created_at").and_then(Value::as_u64).is_some_and(|at| at < oldest);
            if is_old && entry.is_final() {
                self.backlog.remove(&entry.id);
                let _ = fs::remove_file(self.folder.join(format!("{}.json", entry.id)));
            }
        }
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
