//! The responses of a run by question: a [`Journal`] whose lines have an `id` and a `response`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Context;
use crate::eval::journal::Journal;
use crate::{Error, Result};

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub text: String,
}

/// A results file that is open for more.
pub struct Log {
    journal: Journal,
    /// By question id.
    responses: HashMap<String, Response>,
}

impl Log {
    /// Opens or begins the results of a run with `settings`.
    ///
    /// # Errors
    /// See [`Journal::open`]; a line without id or response, a question with two responses.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<Log> {
        let (journal, lines) = Journal::open(path, settings)?;
        let responses = responses(&lines).at(|| path.display().to_string())?;
        Ok(Log { journal, responses })
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
        self.journal.push(&Value::Object(line))?;
        self.responses.insert(id.to_string(), Response { text: response.to_string() });
        Ok(())
    }
}

fn responses(lines: &[Value]) -> Result<HashMap<String, Response>> {
    let mut responses = HashMap::new();
    for (i, line) in lines.iter().enumerate() {
        let place = || format!("line {}", i + 2);
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_string);
        let (Some(id), Some(text)) = (text("id"), text("response")) else {
            return Err(Error::format("has no `id` or no `response`").at(place()));
        };
        if responses.insert(id.clone(), Response { text }).is_some() {
            return Err(Error::format(format!("question `{id}` has two responses")).at(place()));
        }
    }
    Ok(responses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_must_be_responses_and_each_question_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let settings = Map::new();
        let mut log = Log::open(&path, &settings).unwrap();
        log.push("a", "B", Map::new()).unwrap();
        drop(log);
        assert_eq!(Log::open(&path, &settings).unwrap().responses()["a"].text, "B");
        let head = std::fs::read_to_string(&path).unwrap();
        for (line, want) in [(json!({ "id": "b" }), "line 3"), (json!({ "id": "a", "response": "" }), "two responses")]
        {
            std::fs::write(&path, format!("{head}{line}\n")).unwrap();
            let err = Log::open(&path, &settings).err().unwrap().to_string();
            assert!(err.contains(want) && err.contains("r.jsonl"), "{err}");
        }
    }
}
