//! How answers are told: the objects and events of OpenAI's APIs, one file each.

mod calls;
mod chat;
mod completion;
mod response;

use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Value, json};

pub(crate) use chat::Chat;
pub(crate) use completion::Completion;
pub(crate) use response::Response;

use super::crew::{Said, TokenLog};
use super::desk::Desk;
use super::job::{Done, Progress};
use super::random::{id, now};
use super::wire::{ChatRequest, Fault, Json, ResponseRequest, short};
use crate::stream::Finish;
use crate::text::Tokenizer;

/// One of the APIs.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// The object of a whole answer.
    fn whole(&mut self, heard: &Heard, done: &Done) -> Value;

    /// The events of what was said, those that open a stream before the first.
    fn said(&mut self, said: &Said) -> Vec<Bytes>;

    /// What is told of a prompt that is being read, to those who asked to be told.
    fn progress(&self, progress: &Progress) -> Option<Bytes>;

    /// The last events.
    fn end(&mut self, heard: &Heard, done: &Done) -> Vec<Bytes>;

    /// The last events of an answer that failed in the middle.
    fn failed(&mut self, fault: &Fault) -> Vec<Bytes>;
}

/// What is asked for, and in whose words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
    Response,
}

impl Endpoint {
    /// By its path; else what is wrong with that.
    pub(crate) fn of(path: &str) -> std::result::Result<Endpoint, String> {
        match path {
            "/v1/chat/completions" => Ok(Endpoint::Chat),
            "/v1/completions" => Ok(Endpoint::Completion),
            "/v1/responses" => Ok(Endpoint::Response),
            _ => Err(format!("is `{}`, expected /v1/chat/completions, /v1/completions or /v1/responses", short(path))),
        }
    }

    /// Reads a request, and begins to tell of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(self, desk: &Arc<Desk>, body: &Json<'_>) -> Result<(ChatRequest, Box<dyn Dialect>), Fault> {
        let about = |kind: &str, request: &ChatRequest| About::new(desk, id(kind), request.logprobs, &request.ignored);
        Ok(match self {
            Endpoint::Chat => {
                let request = ChatRequest::parse(body)?;
                let dialect = Chat::new(about("chatcmpl", &request), &request);
                (request, Box::new(dialect))
            }
            Endpoint::Completion => {
                let request = ChatRequest::parse_completion(body)?;
                let dialect = Completion::new(about("cmpl", &request), &request);
                (request, Box::new(dialect))
            }
            Endpoint::Response => {
                let request = ResponseRequest::parse(body)?;
                let dialect = Response::new(about("resp", &request.chat), &request);
                (request.chat, Box::new(dialect))
            }
        })
    }
}

/// An answer so far.
#[derive(Default)]
pub(crate) struct Heard {
    pub text: String,
    pub logs: Vec<TokenLog>,
}

impl Heard {
    /// Takes in what was said.
    pub(crate) fn hear(&mut self, said: &Said) {
        self.text.push_str(&said.text);
        self.logs.extend_from_slice(&said.logprobs);
    }
}

/// What answers say of themselves in every dialect.
pub(crate) struct About {
    pub desk: Arc<Desk>,
    pub id: String,
    pub created: u64,
    pub logprobs: bool,
    pub ignored: Vec<String>,
}

impl About {
    /// An answer that begins now.
    pub(crate) fn new(desk: &Arc<Desk>, id: String, logprobs: bool, ignored: &[String]) -> About {
        About { desk: desk.clone(), id, created: now(), logprobs, ignored: ignored.to_vec() }
    }

    /// The fields that all objects of the older APIs begin with.
    fn object(&self, kind: &str) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.desk.name(),
            "system_fingerprint": self.desk.fingerprint,
        })
    }

    /// What no other server says.
    fn own(&self, done: &Done) -> Value {
        let mut own = json!({
            "media": done.media, "order": if done.is_reordered { "video-first" } else { "as-sent" }, "warnings": done.warnings,
            "ignored": self.ignored,
        });
        if let Some(looked) = &done.looked {
            own["where"] = looked.clone();
        }
        own
    }

    /// Tokens with the likeliest others, as the chat API tells them.
    fn token_logs(&self, logs: &[TokenLog]) -> Vec<Value> {
        let tokenizer = &self.desk.engine.tokenizer;
        let one = |log: &TokenLog| {
            let mut entry = log_json(tokenizer, log.id, log.logprob);
            entry["top_logprobs"] = log.top.iter().map(|(id, logprob)| log_json(tokenizer, *id, *logprob)).collect();
            entry
        };
        logs.iter().map(one).collect()
    }
}

/// Numbers of JSON are finite; nothing is less likely than this.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

fn log_json(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Value {
    let bytes = tokenizer.token_bytes(id);
    json!({ "token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::Caller => "stop",
    }
}
