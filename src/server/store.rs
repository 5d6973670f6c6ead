//! Uploaded files: bytes on disk under the hash of their content, and beside them one small JSON file for each id.
//!
//! ```text
//! DATA/files/file-….json   what is known of an upload
//! DATA/blobs/SHA256        its bytes; uploads of the same content share them
//! DATA/blobs/….part        an upload on its way; none survives a start
//! ```
//! Names that clients give are told back to them and are never part of a path.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::limits::{MAX_ENTRIES, MAX_NAME_BYTES};
use super::random::{id, now};
use super::wire::media::{Kind, kind_of};
use super::wire::{Code, Fault};
use crate::error::Context;
use crate::files::atomic::write_beside;
use crate::files::input::read_capped;
use crate::stream::{MediaOptions, Medium};

/// Where uploads are.
pub(crate) struct Store {
    folder: PathBuf,
    rules: Rules,
    media: MediaOptions,
    state: Mutex<State>,
}

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub max_file: u64,
    pub quota: u64,
    pub keep: Duration,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Upload>,
    blobs: HashMap<String, Arc<Blob>>,
    /// Bytes of all blobs, and of uploads on their way.
    used: u64,
}

/// Bytes on disk. When the last upload of them is gone, they go as soon as nobody reads them any more.
#[derive(Debug)]
pub(crate) struct Blob {
    path: PathBuf,
    n_bytes: u64,
    is_doomed: AtomicBool,
}

impl Blob {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if self.is_doomed.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An uploaded file.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub id: String,
    pub sha256: String,
    pub n_bytes: u64,
    pub created_at: u64,
    pub last_used_at: u64,
    /// Seconds after the last use.
    pub keep: u64,
    pub name: String,
    pub purpose: String,
    /// `image`, `video`, or `text` for the files of batches.
    pub kind: String,
    /// What its container says: `seconds`, `fps`, `width`, `height`.
    pub facts: Value,
    blob: Arc<Blob>,
}

impl Upload {
    /// Its bytes, which stay for as long as this is held.
    pub(crate) fn blob(&self) -> &Arc<Blob> {
        &self.blob
    }

    /// As clients see it.
    pub(crate) fn to_json(&self) -> Value {
        let mut object = json!({
            "id": self.id, "object": "file", "bytes": self.n_bytes, "created_at": self.created_at,
            "expires_at": self.expires_at(), "filename": self.name, "purpose": self.purpose, "status": "processed",
            "kind": self.kind, "sha256": self.sha256,
        });
        if let (Some(object), Some(facts)) = (object.as_object_mut(), self.facts.as_object()) {
            object.extend(facts.clone());
        }
        object
    }

    fn expires_at(&self) -> u64 {
        self.last_used_at.saturating_add(self.keep)
    }

    fn to_note(&self) -> Value {
        json!({
            "id": self.id, "sha256": self.sha256, "bytes": self.n_bytes, "created_at": self.created_at,
            "last_used_at": self.last_used_at, "keep": self.keep, "filename": self.name, "purpose": self.purpose,
            "kind": self.kind, "facts": self.facts,
        })
    }

    fn from_note(note: &Value, blob: Arc<Blob>) -> Option<Upload> {
        let text = |key: &str| note[key].as_str().map(str::to_string);
        let number = |key: &str| note[key].as_u64();
        Some(Upload {
            id: text("id")?,
            sha256: text("sha256")?,
            n_bytes: number("bytes")?,
            created_at: number("created_at")?,
            last_used_at: number("last_used_at")?,
            keep: number("keep")?,
            name: text("filename")?,
            purpose: text("purpose")?,
            kind: text("kind")?,
            facts: note["facts"].clone(),
            blob,
        })
    }
}

/// Longest note of an upload, in bytes.
const MAX_NOTE: u64 = 64 << 10;

impl Store {
    /// Opens the store in `folder`, which is made where it is missing. What a killed upload left goes.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn open(folder: &Path, rules: Rules, media: MediaOptions) -> crate::Result<Store> {
        for sub in ["files", "blobs"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).at(|| path.display().to_string())?;
        }
        let mut state = State::default();
        for entry in fs::read_dir(folder.join("blobs"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_hash(&name)
                && let Ok(meta) = entry.metadata()
            {
                let blob = Blob { path: entry.path(), n_bytes: meta.len(), is_doomed: AtomicBool::new(false) };
                state.used += blob.n_bytes;
                state.blobs.insert(name, Arc::new(blob));
            } else {
                let _ = fs::remove_file(entry.path());
            }
        }
        for entry in fs::read_dir(folder.join("files"))?.flatten().take(MAX_ENTRIES) {
            let note = read_capped(&entry.path(), MAX_NOTE).ok();
            let note = note.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
            let blob = note["sha256"].as_str().and_then(|hash| state.blobs.get(hash)).cloned();
            match blob.and_then(|blob| Upload::from_note(&note, blob)) {
                Some(upload) if entry.file_name().to_string_lossy() == format!("{}.json", upload.id) => {
                    state.files.insert(upload.id.clone(), upload);
                }
                _ => drop(fs::remove_file(entry.path())),
            }
        }
        let store = Store { folder: folder.to_path_buf(), rules, media, state: Mutex::new(state) };
        store.drop_unused(&mut store.lock());
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.lock().used
    }

    /// All uploads, newest first.
    pub(crate) fn list(&self) -> Vec<Upload> {
        let mut list: Vec<_> = self.lock().files.values().cloned().collect();
        list.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        list
    }

    /// An upload, without using it.
    ///
    /// # Errors
    /// `file_not_found`.
    pub(crate) fn look(&self, id: &str) -> Result<Upload, Fault> {
        self.lock().files.get(id).cloned().ok_or_else(not_found)
    }

    /// An upload that is used now, and therefore kept longer.
    ///
    /// # Errors
    /// `file_not_found`.
    pub(crate) fn get(&self, id: &str) -> Result<Upload, Fault> {
        let mut state = self.lock();
        let upload = state.files.get_mut(id).ok_or_else(not_found)?;
        let now = now();
        // The note is for the next start: it need not be of this second.
        let is_old = now.saturating_sub(upload.last_used_at) > 60;
        upload.last_used_at = now;
        let upload = upload.clone();
        drop(state);
        if is_old {
            let _ = self.write_note(&upload);
        }
        Ok(upload)
    }

    /// Removes an upload.
    ///
    /// # Errors
    /// `file_not_found`.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Fault> {
        let mut state = self.lock();
        state.files.remove(id).ok_or_else(not_found)?;
        let _ = fs::remove_file(self.note(id));
        self.drop_unused(&mut state);
        Ok(())
    }

    /// Removes what was not used for as long as it is kept.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        let now = now();
        let old: Vec<_> =
            state.files.values().filter(|upload| upload.expires_at() <= now).map(|u| u.id.clone()).collect();
        for id in old {
            state.files.remove(&id);
            let _ = fs::remove_file(self.note(&id));
        }
        self.drop_unused(&mut state);
    }

    /// Lets go of bytes that no upload has.
    fn drop_unused(&self, state: &mut State) {
        let State { files, blobs, used } = state;
        let is_used: std::collections::HashSet<&str> = files.values().map(|upload| upload.sha256.as_str()).collect();
        blobs.retain(|hash, blob| {
            let stays = is_used.contains(hash.as_str());
            if !stays {
                blob.is_doomed.store(true, Ordering::Relaxed);
                *used = used.saturating_sub(blob.n_bytes);
            }
            stays
        });
    }

    fn note(&self, id: &str) -> PathBuf {
        self.folder.join("files").join(format!("{id}.json"))
    }

    fn write_note(&self, upload: &Upload) -> crate::Result<()> {
        let text = upload.to_note().to_string();
        write_beside(&self.note(&upload.id), |out| Ok(out.write_all(text.as_bytes())?))
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// `storage_full`: too many files; a disk that refuses.
    pub(crate) fn begin(self: &Arc<Store>) -> Result<Incoming, Fault> {
        if self.lock().files.len() >= MAX_ENTRIES {
            return Err(Fault::new(
                Code::StorageFull,
                format!("the store holds `{MAX_ENTRIES}` files, which is the most"),
            ));
        }
        let path = self.folder.join("blobs").join(format!("{}.part", id("in")));
        let file = File::options().write(true).create_new(true).open(&path).map_err(|err| full(&err))?;
        Ok(Incoming { store: self.clone(), file: Some(file), path, hash: Sha256::new(), n_bytes: 0, start: Vec::new() })
    }

    /// Makes room for `n` more bytes, if need be by removing what was not used for longest.
    fn reserve(&self, n: u64) -> Result<(), Fault> {
        let mut state = self.lock();
        while state.used.saturating_add(n) > self.rules.quota {
            let oldest = state
                .files
                .values()
                .filter(|upload| Arc::strong_count(&upload.blob) <= 2 + self.n_sharing(&state, upload));
            let oldest = oldest.min_by_key(|upload| upload.last_used_at).map(|upload| upload.id.clone());
            let Some(oldest) = oldest else {
                let message = format!("the store is full: its quota is {} bytes", self.rules.quota);
                return Err(Fault::new(Code::StorageFull, message));
            };
            state.files.remove(&oldest);
            let _ = fs::remove_file(self.note(&oldest));
            self.drop_unused(&mut state);
        }
        state.used += n;
        Ok(())
    }

    /// Other uploads of the same bytes.
    fn n_sharing(&self, state: &State, upload: &Upload) -> usize {
        state.files.values().filter(|other| other.sha256 == upload.sha256).count() - 1
    }
}

/// An upload on its way. Dropped before its end, it leaves nothing.
pub(crate) struct Incoming {
    store: Arc<Store>,
    file: Option<File>,
    path: PathBuf,
    hash: Sha256,
    n_bytes: u64,
    /// The first bytes, which tell what it is.
    start: Vec<u8>,
}

/// Bytes that are looked at.
const START: usize = 256;

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `file_too_large`, `storage_full`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let most = self.store.rules.max_file;
        if self.n_bytes + bytes.len() as u64 > most {
            return Err(Fault::new(Code::FileTooLarge, format!("a file of more than {most} bytes")));
        }
        self.store.reserve(bytes.len() as u64)?;
        self.n_bytes += bytes.len() as u64;
        self.hash.update(bytes);
        let n = bytes.len().min(START - self.start.len());
        self.start.extend_from_slice(&bytes[..n]);
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes)).map_err(|err| full(&err))
    }

    /// Keeps it: looks at what it is, puts it on disk whole, gives it an id.
    ///
    /// # Errors
    /// `invalid_media` for what is no picture or video that can be read.
    pub(crate) fn finish(mut self, name: &str, purpose: &str, keep: Option<u64>) -> Result<Upload, Fault> {
        let Some(file) = self.file.take() else { return Err(Fault::new(Code::InternalError, "the upload is over")) };
        file.sync_all().map_err(|err| full(&err))?;
        drop(file);
        let (kind, facts) = match purpose {
            // Lines of JSON, which their reader judges.
            "batch" | "batch_output" => ("text", Value::Null),
            _ => probe(&self.path, kind_of(&self.start), &self.store.media)?,
        };
        let sha256: String = std::mem::take(&mut self.hash).finalize().iter().map(|b| format!("{b:02x}")).collect();
        let store = self.store.clone();
        let mut state = store.lock();
        let blob = match state.blobs.get(&sha256) {
            // The very same bytes are there: these go when this is dropped.
            Some(blob) => blob.clone(),
            None => {
                let path = store.folder.join("blobs").join(&sha256);
                fs::rename(&self.path, &path).map_err(|err| full(&err))?;
                sync_folder(&path);
                let blob = Arc::new(Blob { path, n_bytes: self.n_bytes, is_doomed: AtomicBool::new(false) });
                state.blobs.insert(sha256.clone(), blob.clone());
                // What was reserved is the blob's from now on.
                state.used += self.n_bytes;
                blob
            }
        };
        let now = now();
        let upload = Upload {
            id: id("file"),
            sha256,
            n_bytes: self.n_bytes,
            created_at: now,
            last_used_at: now,
            keep: keep.unwrap_or(store.rules.keep.as_secs()),
            name: clean(name),
            purpose: purpose.to_string(),
            kind: kind.to_string(),
            facts,
            blob,
        };
        store.write_note(&upload).map_err(|_| full(&std::io::Error::other("note")))?;
        state.files.insert(upload.id.clone(), upload.clone());
        drop(state);
        Ok(upload)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let mut state = self.store.lock();
        state.used = state.used.saturating_sub(self.n_bytes);
    }
}

/// What a file is, by its header.
fn probe(path: &Path, kind: Kind, options: &MediaOptions) -> Result<(&'static str, Value), Fault> {
    let invalid = |err: &crate::Error| {
        let told = Fault::from_error(err);
        Fault { code: Code::InvalidMedia, ..told }
    };
    let video = || -> Result<(&'static str, Value), Fault> {
        let medium = Medium::video(path, options).map_err(|err| invalid(&err))?;
        let facts = medium.info.as_ref().map_or(Value::Null, |info| {
            json!({ "seconds": info.duration, "fps": info.fps, "frames": info.n_frames, "width": info.width, "height": info.height })
        });
        Ok(("video", facts))
    };
    let image = || -> Result<(&'static str, Value), Fault> {
        let medium = Medium::image(path, options).map_err(|err| invalid(&err))?;
        let (height, width) = medium.known.size();
        Ok(("image", json!({ "width": width, "height": height })))
    };
    match kind {
        Kind::Image => image(),
        Kind::Video => video(),
        // One that moves is a video; most do not.
        Kind::Animation => match video() {
            Ok((kind, facts)) if facts["frames"].as_u64().is_some_and(|n| n > 1) => Ok((kind, facts)),
            _ => image(),
        },
        Kind::Unknown => Err(Fault::new(Code::InvalidMedia, "the file is no picture or video that is known here")),
    }
}

/// The beginning of a file.
pub(super) fn start_of(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    if let Ok((file, _)) = crate::files::input::open_regular(path) {
        let _ = file.take(START as u64).read_to_end(&mut start);
    }
    start
}

fn not_found() -> Fault {
    Fault::new(Code::FileNotFound, "no file has this id: it was never here, was removed, or was not used for too long")
}

/// What the disk says. Its own words stay in the log.
fn full(err: &std::io::Error) -> Fault {
    eprintln!("error: store: {err}");
    match err.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Fault::new(Code::StorageFull, "the disk is full")
        }
        _ => Fault::new(Code::InternalError, "the store cannot be written to; the server's log says why"),
    }
}

/// A new name is on disk only when its folder is.
fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// A name that can be shown: no control characters, not too long. Never a path.
fn clean(name: &str) -> String {
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    if name.is_empty() { "upload".to_string() } else { name }
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PPM: &[u8] = b"P6 2 1 255\n\x01\x02\x03\x04\x05\x06";

    fn open(folder: &Path, quota: u64) -> Arc<Store> {
        let rules = Rules { max_file: 1000, quota, keep: Duration::from_secs(100) };
        Arc::new(Store::open(folder, rules, MediaOptions::default()).unwrap())
    }

    fn put(store: &Arc<Store>, bytes: &[u8], name: &str) -> Result<Upload, Fault> {
        let mut incoming = store.begin()?;
        bytes.chunks(7).try_for_each(|piece| incoming.write(piece))?;
        incoming.finish(name, "vision", None)
    }

    fn n_files(folder: &Path) -> usize {
        ["files", "blobs"].iter().map(|sub| fs::read_dir(folder.join(sub)).unwrap().count()).sum()
    }

    #[test]
    fn the_same_content_is_kept_once_and_goes_with_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 10_000);
        let (a, b) = (put(&store, PPM, "a.ppm").unwrap(), put(&store, PPM, "../../b\n.ppm").unwrap());
        assert!(a.id != b.id && a.sha256 == b.sha256 && b.name == "../../b.ppm");
        assert_eq!((store.n_bytes(), n_files(dir.path())), (PPM.len() as u64, 3));
        assert_eq!(a.to_json()["width"], 2);
        store.remove(&a.id).unwrap();
        assert_eq!(fs::read(b.blob().path()).unwrap(), PPM);
        let again = open(dir.path(), 10_000);
        assert_eq!(again.get(&b.id).unwrap().to_json(), b.to_json());
        again.remove(&b.id).unwrap();
        assert_eq!(again.remove(&b.id).unwrap_err().code, Code::FileNotFound);
        drop(again);
        assert!(open(dir.path(), 10_000).list().is_empty());
    }

    #[test]
    fn bytes_stay_while_somebody_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 10_000);
        let upload = put(&store, PPM, "a").unwrap();
        let path = upload.blob().path().to_path_buf();
        store.remove(&upload.id).unwrap();
        assert!(path.exists() && store.n_bytes() == 0);
        drop(upload);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_too_large_no_medium_or_cut_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 10_000);
        assert_eq!(put(&store, &[0; 1001], "x").unwrap_err().code, Code::FileTooLarge);
        assert_eq!(put(&store, b"hello, I am text", "x").unwrap_err().code, Code::InvalidMedia);
        assert_eq!(put(&store, b"", "x").unwrap_err().code, Code::InvalidMedia);
        let mut incoming = store.begin().unwrap();
        incoming.write(b"P6 ").unwrap();
        drop(incoming);
        assert_eq!((store.n_bytes(), n_files(dir.path())), (0, 0));
        // A killed server leaves a part and a blob without a note.
        fs::write(dir.path().join("blobs/in-1.part"), "x").unwrap();
        fs::write(dir.path().join("blobs").join("a".repeat(64)), "x").unwrap();
        fs::write(dir.path().join("files/file-1.json"), "{").unwrap();
        drop(store);
        drop(open(dir.path(), 10_000));
        assert_eq!(n_files(dir.path()), 0);
    }

    #[test]
    fn the_quota_holds_by_removing_the_oldest_that_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), 40);
        let with = |i: u8| [&PPM[..PPM.len() - 1], &[i]].concat();
        let first = put(&store, &with(1), "1").unwrap();
        let second = put(&store, &with(2), "2").unwrap().id;
        // The first is held here.
        put(&store, &with(3), "3").unwrap();
        assert!(store.look(&first.id).is_ok() && store.look(&second).is_err());
        let rules = Rules { max_file: 1000, quota: 1000, keep: Duration::ZERO };
        let store = Arc::new(Store::open(dir.path(), rules, MediaOptions::default()).unwrap());
        put(&store, &with(4), "4").unwrap();
        store.sweep();
        assert_eq!(store.list().len(), 2, "those of before are kept as long as they were promised");
    }
}
