//! The responses of a run, one JSON line each: written as they come, read again when a run goes on.
//!
//! The first line holds the settings. A line that a kill has torn is cut off; its question is asked again.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::Context;
use crate::{Error, Result};

/// Longest results file: the lines of a hundred thousand questions and more.
const MAX_BYTES: u64 = 1 << 30;
/// The key of the settings in the first line, and its version.
const HEAD: &str = "longtake_eval";
const VERSION: u64 = 1;

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub text: String,
}

/// A results file that is open for more, and locked against other runs.
pub struct Log {
    file: File,
    path: PathBuf,
    /// By question id.
    responses: HashMap<String, Response>,
}

impl Log {
    /// Opens or begins the results of a run with `settings`.
    ///
    /// # Errors
    /// A file that is no results file, one of a run with other settings (the first that differs is named), one that
    /// another run is writing, a damaged line before the last.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<Log> {
        Log::open_here(path, settings).at(|| path.display().to_string())
    }

    fn open_here(path: &Path, settings: &Map<String, Value>) -> Result<Log> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::mismatch("another run is writing to this file")),
            // A file system without locks.
            Err(TryLockError::Error(_)) => {}
        }
        let mut bytes = Vec::new();
        (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::limit(format!("is longer than {MAX_BYTES} bytes")));
        }
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        // A torn first line is ours only if it begins as ours does.
        let head = format!("{{\"{HEAD}\":");
        let n = head.len().min(bytes.len());
        if bytes[..n] != head.as_bytes()[..n] {
            return Err(Error::mismatch("is no results file of this program"));
        }
        let mut log = Log { file, path: path.to_path_buf(), responses: HashMap::new() };
        if whole == 0 {
            log.cut(0)?;
            log.append(&json!({ HEAD: VERSION, "settings": settings }))?;
            return Ok(log);
        }
        for (i, line) in bytes[..whole - 1].split(|b| *b == b'\n').enumerate() {
            let line: Value = serde_json::from_slice(line)
                .map_err(|err| Error::format(err.to_string()).at(format!("line {}", i + 1)))?;
            if i == 0 {
                same_settings(&line, settings)?;
                continue;
            }
            let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_string);
            let (Some(id), Some(text)) = (text("id"), text("response")) else {
                return Err(Error::format("has no `id` or no `response`").at(format!("line {}", i + 1)));
            };
            if log.responses.insert(id.clone(), Response { text }).is_some() {
                return Err(Error::format(format!("question `{id}` has two responses")).at(format!("line {}", i + 1)));
            }
        }
        log.cut(whole as u64)?;
        Ok(log)
    }

    /// Cuts off what follows; the next line is written there.
    fn cut(&mut self, at: u64) -> Result<()> {
        self.file.set_len(at)?;
        self.file.seek(SeekFrom::Start(at))?;
        Ok(())
    }

    /// What was answered so far.
    pub fn responses(&self) -> &HashMap<String, Response> {
        &self.responses
    }

    /// Writes a response, with whatever else `line` says about it, to disk.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn push(&mut self, id: &str, response: &str, more: Map<String, Value>) -> Result<()> {
        let mut line = Map::new();
        line.insert("id".to_string(), id.into());
        line.insert("response".to_string(), response.into());
        line.extend(more);
        self.append(&Value::Object(line)).at(|| self.path.display().to_string())?;
        self.responses.insert(id.to_string(), Response { text: response.to_string() });
        Ok(())
    }

    fn append(&mut self, line: &Value) -> Result<()> {
        // One write for one line: what a kill leaves is a beginning of it.
        self.file.write_all(format!("{line}\n").as_bytes())?;
        Ok(self.file.sync_data()?)
    }
}

fn same_settings(head: &Value, settings: &Map<String, Value>) -> Result<()> {
    if head.get(HEAD).and_then(Value::as_u64) != Some(VERSION) {
        return Err(Error::mismatch(format!("is of another version of results, expected {VERSION}")));
    }
    let empty = Map::new();
    let before = head.get("settings").and_then(Value::as_object).unwrap_or(&empty);
    let keys = settings.keys().chain(before.keys().filter(|key| !settings.contains_key(*key)));
    for key in keys {
        let (old, new) = (before.get(key).unwrap_or(&Value::Null), settings.get(key).unwrap_or(&Value::Null));
        if old != new {
            let message = format!("holds a run with {key} `{old}`, this one has `{new}`; choose another results file");
            return Err(Error::mismatch(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(model: &str) -> Map<String, Value> {
        json!({ "model": model, "context": 8192 }).as_object().unwrap().clone()
    }

    #[test]
    fn a_run_that_was_killed_at_any_byte_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let mut log = Log::open(&path, &settings("m")).unwrap();
        for i in 0..3 {
            log.push(&format!("q{i}"), "B\n\u{e9}", Map::new()).unwrap();
        }
        assert!(Log::open(&path, &settings("m")).err().unwrap().to_string().contains("another run"));
        drop(log);
        let bytes = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] == b'\n').map(|i| i + 1).collect();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut log = Log::open(&path, &settings("m")).unwrap();
            let n = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
            assert_eq!(log.responses().len(), n, "cut at {cut}");
            for i in n..3 {
                log.push(&format!("q{i}"), "B\n\u{e9}", Map::new()).unwrap();
            }
            drop(log);
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn other_settings_and_other_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        drop(Log::open(&path, &settings("m")).unwrap());
        let refused = |content: Option<&str>, settings: &Map<String, Value>| {
            content.into_iter().for_each(|content| std::fs::write(&path, content).unwrap());
            let before = std::fs::read(&path).unwrap();
            let err = Log::open(&path, settings).err().unwrap().to_string();
            assert_eq!(std::fs::read(&path).unwrap(), before, "{err}");
            err
        };
        let err = refused(None, &settings("other"));
        assert!(err.contains("model `\"m\"`") && err.contains("`\"other\"`"), "{err}");
        assert!(refused(Some("my notes"), &settings("m")).contains("no results file"));
        let head = json!({ HEAD: VERSION, "settings": settings("m") });
        for (rest, want) in [
            ("{\"id\":\"a\"}\n", "line 2"),
            ("{]}\n{}\n", "line 2"),
            ("{\"id\":\"a\",\"response\":\"\"}\n{\"id\":\"a\",\"response\":\"\"}\n", "two responses"),
        ] {
            let err = refused(Some(&format!("{head}\n{rest}")), &settings("m"));
            assert!(err.contains(want), "{err}");
        }
        assert!(refused(Some("{\"longtake_eval\":2}\n"), &settings("m")).contains("version"));
    }
}
