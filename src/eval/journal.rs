//! A run's results, one JSON line each: written as they come, read again when a run goes on.
//!
//! The first line holds the settings. A line that a kill has torn is cut off; what it was about is done again.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::Context;
use crate::files::atomic::target;
use crate::{Error, Result};

/// Longest results file: the lines of a hundred thousand questions and more.
const MAX_BYTES: u64 = 1 << 30;
/// The key of the version in the first line, and the version.
const HEAD: &str = "longtake_eval";
const VERSION: u64 = 1;

/// A results file that is open for more, and locked against other runs.
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens or begins the results of a run with `settings`. Returns the results that are there, line by line; the first of
    /// them is line 2 of the file.
    ///
    /// # Errors
    /// A file that is no results file, one of a run with other settings (the first that differs is named), one that
    /// another run is writing, a damaged line before the last. Such files are left alone, unless they hold no result.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<(Journal, Vec<Value>)> {
        Journal::open_here(path, settings).at(|| path.display().to_string())
    }

    fn open_here(path: &Path, settings: &Map<String, Value>) -> Result<(Journal, Vec<Value>)> {
        let path = &target(path)?;
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
        let mut journal = Journal { file, path: path.to_path_buf() };
        if whole == 0 {
            return journal.begin(settings);
        }
        let parse = |(i, line): (usize, &[u8])| {
            serde_json::from_slice(line).map_err(|err| Error::format(err.to_string()).at(format!("line {}", i + 1)))
        };
        let lines = bytes[..whole - 1].split(|b| *b == b'\n').enumerate();
        let mut lines = lines.map(parse).collect::<Result<Vec<Value>>>()?;
        let same = same_settings(&lines.remove(0), settings);
        if same.is_err() && lines.is_empty() {
            // A run that came to nothing stands in nobody's way.
            return journal.begin(settings);
        }
        same?;
        journal.cut(whole as u64)?;
        Ok((journal, lines))
    }

    fn begin(mut self, settings: &Map<String, Value>) -> Result<(Journal, Vec<Value>)> {
        self.cut(0)?;
        self.append(&json!({ HEAD: VERSION, "settings": settings }))?;
        Ok((self, Vec::new()))
    }

    /// Cuts off what follows; the next line is written there.
    fn cut(&mut self, at: u64) -> Result<()> {
        self.file.set_len(at)?;
        self.file.seek(SeekFrom::Start(at))?;
        Ok(())
    }

    /// Writes one result to disk.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn push(&mut self, line: &Value) -> Result<()> {
        self.append(line).at(|| self.path.display().to_string())
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
        let row = |i: usize| json!({ "id": i, "response": "B\n\u{e9}" });
        let (mut log, _) = Journal::open(&path, &settings("m")).unwrap();
        (0..3).for_each(|i| log.push(&row(i)).unwrap());
        assert!(Journal::open(&path, &settings("m")).err().unwrap().to_string().contains("another run"));
        drop(log);
        let bytes = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] == b'\n').map(|i| i + 1).collect();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut log, rows) = Journal::open(&path, &settings("m")).unwrap();
            let n = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
            assert_eq!(rows, (0..n).map(row).collect::<Vec<_>>(), "cut at {cut}");
            (n..3).for_each(|i| log.push(&row(i)).unwrap());
            drop(log);
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn other_settings_and_other_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        drop(Journal::open(&path, &settings("x")).unwrap());
        // Without a result it belongs to nobody.
        let (mut journal, _) = Journal::open(&path, &settings("m")).unwrap();
        journal.push(&json!({ "id": 1 })).unwrap();
        drop(journal);
        let refused = |content: Option<&str>, settings: &Map<String, Value>| {
            content.into_iter().for_each(|content| std::fs::write(&path, content).unwrap());
            let before = std::fs::read(&path).unwrap();
            let err = Journal::open(&path, settings).err().unwrap().to_string();
            assert_eq!(std::fs::read(&path).unwrap(), before, "{err}");
            err
        };
        let err = refused(None, &settings("other"));
        assert!(err.contains("model `\"m\"`") && err.contains("`\"other\"`"), "{err}");
        assert!(refused(Some("my notes"), &settings("m")).contains("no results file"));
        let head = json!({ HEAD: VERSION, "settings": settings("m") });
        assert!(
            refused(
                Some(&format!(
                    "{head}
{{]}}
{{}}
"
                )),
                &settings("m")
            )
            .contains("line 2")
        );
        assert!(refused(Some("{\"longtake_eval\":2}\n{}\n"), &settings("m")).contains("version"));
    }
}
