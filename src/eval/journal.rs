//! A run's results as JSON lines: the first line says what was run, each other line is one result, written as soon as it is
//! known. A run that was stopped goes on from there.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result, error::Context};

/// Longest line and most lines of a journal that is read back.
const MAX_LINE: u64 = 1 << 20;
const MAX_LINES: usize = 10_000_000;

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or begins the journal at `path`. Returns the results that it holds; a last line without its end, which a kill
    /// may leave, is cut off.
    ///
    /// # Errors
    /// A journal of another run (with what differs), damage elsewhere than at the end, a disk that refuses.
    pub fn open(path: &Path, settings: &Value) -> Result<(Journal, Vec<Value>)> {
        let place = || path.display().to_string();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at(place)?;
        let mut reader = BufReader::new(&file);
        let (mut lines, mut whole) = (Vec::new(), 0u64);
        loop {
            let mut line = Vec::new();
            let n = std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line).at(place)? as u64;
            if n == 0 || (line.last() != Some(&b'\n') && n < MAX_LINE) {
                break;
            }
            let number = lines.len() + 1;
            if line.last() != Some(&b'\n') || number > MAX_LINES {
                return Err(Error::limit(format!("line {number}: longer or more than a journal may have")).at(place()));
            }
            let value = serde_json::from_slice(&line)
                .map_err(|err| Error::format(format!("line {number} is damaged: {err}")).at(place()))?;
            lines.push(value);
            whole += n;
        }
        file.set_len(whole).at(place)?;
        let mut journal = Journal { path: path.to_path_buf(), file };
        journal.file.seek(SeekFrom::Start(whole)).at(place)?;
        if lines.is_empty() {
            journal.add(settings)?;
            return Ok((journal, lines));
        }
        let first = lines.remove(0);
        if let Some(message) = difference(&first, settings) {
            let message = format!("holds results of another run: {message}; choose another folder or remove it");
            return Err(Error::mismatch(message).at(place()));
        }
        Ok((journal, lines))
    }

    /// Adds one result.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn add(&mut self, row: &Value) -> Result<()> {
        let mut line = row.to_string();
        line.push('\n');
        // One write, so that a kill leaves at most this line torn.
        self.file.write_all(line.as_bytes()).at(|| self.path.display().to_string())
    }
}

/// The first setting in which two runs differ.
fn difference(old: &Value, new: &Value) -> Option<String> {
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else { return Some("it has no settings".to_string()) };
    let keys = a.keys().chain(b.keys());
    keys.filter(|key| a.get(*key) != b.get(*key))
        .map(|key| {
            let show = |side: Option<&Value>| side.map_or("nothing".to_string(), Value::to_string);
            format!("`{key}` was {}, now {}", show(a.get(key)), show(b.get(key)))
        })
        .next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_killed_run_goes_on_wherever_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let settings = json!({ "model": "a", "n": 3 });
        let (mut journal, rows) = Journal::open(&path, &settings).unwrap();
        assert!(rows.is_empty());
        let all: Vec<Value> = (0..5).map(|i| json!({ "id": i, "text": "ä\n" })).collect();
        all.iter().for_each(|row| journal.add(row).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (mut journal, rows) = Journal::open(&path, &settings).unwrap();
            assert_eq!(rows, all[..rows.len()], "cut at {cut}");
            all[rows.len()..].iter().for_each(|row| journal.add(row).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
        }
    }

    #[test]
    fn other_settings_and_damage_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        Journal::open(&path, &json!({ "model": "a" })).unwrap();
        let message = Journal::open(&path, &json!({ "model": "b" })).err().unwrap().to_string();
        assert!(message.contains("`model` was \"a\", now \"b\""), "{message}");
        std::fs::write(&path, b"{}\n{\"a\":\n{}\n").unwrap();
        let message = Journal::open(&path, &json!({})).err().unwrap().to_string();
        assert!(message.contains("line 2 is damaged"), "{message}");
    }
}
