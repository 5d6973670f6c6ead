//! The two files of a batch: requests that are read line by line, and answers that are appended.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Context as _;
use crate::files::lock;
use crate::server::dialect::Endpoint;
use crate::server::limits::MAX_BODY;
use crate::server::wire::{Json, short};
use crate::{Error, Result};

/// Longest line, in bytes: a request with its head.
const MAX_LINE: u64 = MAX_BODY + (1 << 20);
/// Most requests of a file.
const MAX_LINES: usize = 1_000_000;
/// Longest id of a request, in bytes.
const MAX_ID_BYTES: usize = 512;

/// One of `n` parts of a batch, by the ids of its requests: the same part whatever their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    pub i: u64,
    pub n: u64,
}

impl Shard {
    /// All of it.
    pub(crate) const WHOLE: Shard = Shard { i: 0, n: 1 };

    /// Reads `i/n`, counted from 0.
    ///
    /// # Errors
    /// `BadInput` for anything else.
    pub(crate) fn parse(text: &str) -> Result<Shard> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<u64>().ok()?, n.parse::<u64>().ok()?)));
        match parts {
            Some((i, n)) if i < n => Ok(Shard { i, n }),
            _ => Err(Error::bad_input(format!("shard `{}`, expected i/n with i from 0 to n - 1", short(text)))),
        }
    }

    /// Whether a request belongs to it.
    pub(crate) fn has(self, custom_id: &str) -> bool {
        let hash = Sha256::digest(custom_id.as_bytes());
        let first = hash.iter().take(8).fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        first % self.n == self.i
    }
}

/// A request of a batch.
pub(crate) struct Line {
    pub custom_id: String,
    pub endpoint: Endpoint,
    /// JSON.
    pub body: Vec<u8>,
}

/// Requests, from the first to the last.
pub(crate) struct Input {
    path: PathBuf,
    file: BufReader<File>,
    n: usize,
}

/// The next line without what ends it, of at most [`MAX_LINE`] bytes; nothing at the end. Says whether it had an end.
fn read_line(file: &mut BufReader<File>) -> Result<Option<(Vec<u8>, bool)>> {
    let mut line = Vec::new();
    file.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > MAX_LINE {
        return Err(Error::limit(format!("a line of more than {MAX_LINE} bytes")));
    }
    let is_whole = line.last() == Some(&b'\n');
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some((line, is_whole)))
}

impl Input {
    /// # Errors
    /// What the system says.
    pub(crate) fn open(path: &Path) -> Result<Input> {
        let file = File::open(path).at(|| path.display().to_string())?;
        Ok(Input { path: path.to_path_buf(), file: BufReader::new(file), n: 0 })
    }

    /// The next request; empty lines are none.
    ///
    /// # Errors
    /// A line that is no request, with its number.
    pub(crate) fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let read = read_line(&mut self.file);
            self.n += 1;
            match read.map_err(|err| self.here(&err))? {
                None => return Ok(None),
                Some((line, _)) if line.trim_ascii().is_empty() => {}
                Some((line, _)) => return request(&line).map(Some).map_err(|err| self.here(&err)),
            }
        }
    }

    /// An error of the line that was read last.
    fn here(&self, err: &Error) -> Error {
        Error::new(err.kind(), format!("line {}: {}", self.n, err.message())).at(self.path.display().to_string())
    }

    /// Looks at all of it; how many requests of `shard` there are.
    ///
    /// # Errors
    /// As [`Input::next`]; an id twice, too many requests, another endpoint than `only`.
    pub(crate) fn check(mut self, only: Option<Endpoint>, shard: Shard) -> Result<usize> {
        let (mut ids, mut n_here) = (HashSet::new(), 0);
        while let Some(line) = self.next()? {
            if only.is_some_and(|only| only != line.endpoint) {
                return Err(self.here(&Error::bad_input("`url` is another than the endpoint of the batch")));
            }
            n_here += usize::from(shard.has(&line.custom_id));
            let shown = short(&line.custom_id);
            if !ids.insert(line.custom_id) {
                return Err(self.here(&Error::bad_input(format!("the id `{shown}` is there twice"))));
            }
            if ids.len() > MAX_LINES {
                return Err(self.here(&Error::limit(format!("more than {MAX_LINES} requests"))));
            }
        }
        Ok(n_here)
    }
}

/// The request of a line.
fn request(line: &[u8]) -> Result<Line> {
    let wrong = |what: &str| Error::bad_input(what.to_string());
    let json = Json::parse(line).map_err(|fault| Error::bad_input(fault.message))?;
    let custom_id = json.get("custom_id").and_then(Json::as_text).filter(|id| !id.is_empty());
    let custom_id = custom_id.ok_or_else(|| wrong("`custom_id` is missing, or is no string"))?;
    if custom_id.len() > MAX_ID_BYTES {
        return Err(wrong(&format!("`custom_id` has `{}` bytes, at most {MAX_ID_BYTES}", custom_id.len())));
    }
    match json.get("method").map(Json::as_text) {
        None | Some(Some("POST")) => {}
        Some(_) => return Err(wrong("`method` is not POST")),
    }
    let url = json.get("url").and_then(Json::as_text).unwrap_or("/v1/chat/completions");
    let endpoint = Endpoint::of(url).map_err(|what| Error::bad_input(format!("`url` {what}")))?;
    let body = json.get("body").filter(|body| matches!(body, Json::Object(_)));
    let body = body.ok_or_else(|| wrong("`body` is missing, or is no object"))?;
    let body = serde_json::to_vec(&body.to_value()).map_err(|err| Error::bad_input(err.to_string()))?;
    Ok(Line { custom_id: custom_id.to_string(), endpoint, body })
}

/// The request that a line of an output answers, and whether well.
fn answered(line: &[u8]) -> Option<(String, bool)> {
    let json = serde_json::from_slice::<Value>(line).ok()?;
    let status = json.get("response")?.get("status_code")?.as_u64()?;
    Some((json.get("custom_id")?.as_str()?.to_string(), status == 200))
}

/// Whether a line that does not end may be the beginning of one of an output.
fn is_torn(line: &[u8]) -> bool {
    let begins = |with: &[u8]| line.len().min(with.len()) > 0 && with.iter().zip(line).all(|(a, b)| a == b);
    let is_json = serde_json::from_slice::<Value>(line).is_ok();
    !is_json && begins(b"{\"id\":\"batch_req")
}

/// Answers, each on disk before the next.
pub(crate) struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    /// Opens it, or makes it; the ids that it answers, and whether well. A line that was torn off, which can only be the last, is
    /// taken away.
    ///
    /// # Errors
    /// What the system says; a file that holds something else; one that another batch writes to.
    pub(crate) fn open(path: &Path) -> Result<(Output, HashMap<String, bool>)> {
        let place = || path.display().to_string();
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).at(place)?;
        lock(|| file.try_lock(), "another batch writes to it").at(place)?;
        let mut reader = BufReader::new(file);
        let (mut ids, mut end, mut n) = (HashMap::new(), 0, 0);
        loop {
            n += 1;
            let place = || format!("{}, line {n}", path.display());
            let Some((line, is_whole)) = read_line(&mut reader).at(place)? else { break };
            let is_empty = line.trim_ascii().is_empty();
            let answered = answered(&line);
            if !(answered.is_some() || is_empty || (!is_whole && is_torn(&line))) {
                let message = "is no answer of a batch: it would be written to, so it is left alone";
                return Err(Error::bad_input(message).at(place()));
            }
            if !is_whole {
                break;
            }
            ids.extend(answered);
            end = reader.stream_position().at(place)?;
        }
        let mut file = reader.into_inner();
        file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0))).at(place)?;
        Ok((Output { path: path.to_path_buf(), file }, ids))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn append(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.at(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_in_one_shard() {
        for n in [1, 2, 7] {
            let count = |i: u64| (0..300).filter(|k| Shard { i, n }.has(&format!("request-{k}"))).count();
            let all: Vec<usize> = (0..n).map(count).collect();
            assert_eq!(all.iter().sum::<usize>(), 300);
            assert!(all.iter().all(|count| *count > 100 / n as usize), "{all:?}");
        }
        assert_eq!(Shard::parse("2/3").unwrap(), Shard { i: 2, n: 3 });
        for wrong in ["3/3", "1", "a/2", "0/0", "-1/2", ""] {
            assert!(Shard::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_checked_and_told_by_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.jsonl");
        let good = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}"#;
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Input::open(&path).unwrap().check(None, Shard::WHOLE).map_err(|err| err.to_string())
        };
        assert_eq!(check(&format!("{good}\r\n\n{}", good.replace("\"a\"", "\"b\""))), Ok(2));
        for (line, why) in [
            (good.to_string(), "twice"),
            ("{".to_string(), "JSON"),
            (good.replace("\"a\"", "3"), "custom_id"),
            (good.replace("POST", "GET"), "method"),
            (good.replace("chat/completions", "embeddings"), "url"),
            (good.replace("{\"messages\":[]}", "[]"), "body"),
        ] {
            let err = check(&format!("{good}\n{line}\n")).unwrap_err();
            assert!(err.contains("line 2") && err.contains(why), "{err}");
        }
    }

    #[test]
    fn an_output_is_gone_on_with_behind_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let line = |id: &str, status: u16| serde_json::json!({ "id": "batch_req-1", "custom_id": id, "response": { "status_code": status }, "error": null });
        let (a, b, c, d) = (line("a", 200), line("b", 400), line("c", 200).to_string(), line("d", 200));
        // Torn anywhere, even where only the end of the line is missing.
        for cut in 1..=c.len() {
            std::fs::write(&path, format!("{a}\n{b}\n{}", &c[..cut])).unwrap();
            let (mut output, ids) = Output::open(&path).unwrap();
            assert_eq!(ids, [("a".to_string(), true), ("b".to_string(), false)].into(), "cut at {cut}");
            assert!(Output::open(&path).is_err(), "two write to it");
            output.append(&d).unwrap();
            drop(output);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{a}\n{b}\n{d}\n"), "cut at {cut}");
        }
        // What is no output of a batch is not written to, however it ends: words, requests.
        let request = r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{}}"#;
        for text in ["precious\n", "precious", "{", "[1]", request, &format!("{request}\n"), &format!("{a}\n{request}")]
        {
            std::fs::write(&path, text).unwrap();
            let refused = Output::open(&path).is_err();
            assert!(refused || text == "{", "{text:?}");
            if refused {
                assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            }
        }
    }
}
