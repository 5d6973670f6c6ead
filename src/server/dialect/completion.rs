//! `POST /v1/completions`: the text after a prompt that stands as it is, without roles.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::{About, Dialect, Heard, finish_reason, finite};
use crate::server::crew::{Said, TokenLog};
use crate::server::job::{Done, Progress};
use crate::server::reply::{DONE, event};
use crate::server::wire::{ChatRequest, Fault};

/// Text completions, and the chunks of streamed ones.
pub(crate) struct Completion {
    about: About,
    include_usage: bool,
    return_progress: bool,
    /// Characters that were told.
    n_chars: usize,
}

impl Completion {
    /// The answer to a request.
    pub(crate) fn new(about: About, request: &ChatRequest) -> Completion {
        let (include_usage, return_progress) = (request.include_usage, request.return_progress);
        Completion { about, include_usage, return_progress, n_chars: 0 }
    }

    /// Lists beside each other, as this API tells likelihoods; `from` characters stand before.
    fn logprobs(&self, logs: &[TokenLog], mut from: usize) -> Value {
        if !self.about.logprobs {
            return Value::Null;
        }
        let text = |id: u32| String::from_utf8_lossy(self.about.desk.engine.tokenizer.token_bytes(id)).into_owned();
        let offsets: Vec<usize> = logs
            .iter()
            .map(|log| {
                from += text(log.id).chars().count();
                from - text(log.id).chars().count()
            })
            .collect();
        let top = |log: &TokenLog| -> Map<String, Value> {
            log.top.iter().map(|(id, logprob)| (text(*id), json!(finite(*logprob)))).collect()
        };
        json!({
            "tokens": logs.iter().map(|log| text(log.id)).collect::<Vec<_>>(),
            "token_logprobs": logs.iter().map(|log| finite(log.logprob)).collect::<Vec<_>>(),
            "top_logprobs": logs.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }

    fn object(&self, text: &str, logprobs: Value, finish: Option<&str>) -> Value {
        let mut object = self.about.object("text_completion");
        object["choices"] = json!([{ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish }]);
        object
    }
}

impl Dialect for Completion {
    fn whole(&mut self, heard: &Heard, done: &Done) -> Value {
        let mut object = self.object(&heard.text, self.logprobs(&heard.logs, 0), Some(finish_reason(done.finish)));
        object["usage"] = done.usage();
        object["timings"] = done.timings();
        object["longtake"] = self.about.own(done);
        object
    }

    fn said(&mut self, said: &Said) -> Vec<Bytes> {
        let logprobs = self.logprobs(&said.logprobs, self.n_chars);
        self.n_chars += said.text.chars().count();
        vec![event(None, None, &self.object(&said.text, logprobs, None))]
    }

    fn progress(&self, progress: &Progress) -> Option<Bytes> {
        let mut object = self.about.object("text_completion");
        (object["choices"], object["prompt_progress"]) = (json!([]), progress.to_json());
        self.return_progress.then(|| event(None, None, &object))
    }

    fn end(&mut self, _: &Heard, done: &Done) -> Vec<Bytes> {
        let mut last = self.object("", Value::Null, Some(finish_reason(done.finish)));
        (last["timings"], last["longtake"]) = (done.timings(), self.about.own(done));
        let mut events = vec![event(None, None, &last)];
        if self.include_usage {
            let mut usage = self.about.object("text_completion");
            (usage["choices"], usage["usage"]) = (json!([]), done.usage());
            events.push(event(None, None, &usage));
        }
        events.push(DONE);
        events
    }

    fn failed(&mut self, fault: &Fault) -> Vec<Bytes> {
        vec![event(None, None, &fault.to_json()), DONE]
    }
}
