//! `POST /v1/chat/completions`.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::calls::Calls;
use super::{About, Dialect, Heard, finish_reason};
use crate::server::crew::{Said, TokenLog};
use crate::server::job::{Done, Progress};
use crate::server::reply::{DONE, event};
use crate::server::wire::{ChatRequest, Fault};
use crate::text::tools::Told;

/// Chat completions, and the chunks of streamed ones.
pub(crate) struct Chat {
    about: About,
    include_usage: bool,
    return_progress: bool,
    timings_per_token: bool,
    is_open: bool,
    calls: Calls,
    /// Likelihoods of tokens that no chunk has told yet: a part of a call may be held back.
    logs: Vec<TokenLog>,
}

impl Chat {
    /// The answer to a request.
    pub(crate) fn new(about: About, request: &ChatRequest) -> Chat {
        Chat {
            calls: Calls::new(&about.desk, request),
            about,
            include_usage: request.include_usage,
            return_progress: request.return_progress,
            timings_per_token: request.timings_per_token,
            is_open: false,
            logs: Vec::new(),
        }
    }

    fn logprobs(&self, logs: &[TokenLog]) -> Value {
        match self.about.logprobs {
            true => json!({ "content": self.about.token_logs(logs), "refusal": null }),
            false => Value::Null,
        }
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Value {
        let mut chunk = self.about.object("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The first chunk says who speaks.
    fn open(&mut self, events: &mut Vec<Bytes>) {
        if !std::mem::replace(&mut self.is_open, true) {
            events.push(event(None, None, &self.chunk(json!({ "role": "assistant", "content": "" }), None)));
        }
    }

    /// What changes with a piece of the answer.
    fn delta(&self, told: &Told) -> Value {
        let call = |call: Value| json!({ "tool_calls": [call] });
        match told {
            Told::Text(text) => json!({ "content": text }),
            Told::Call(i, name) => call(json!({
                "index": i, "id": self.calls.list[*i].id, "type": "function", "function": { "name": name, "arguments": "" },
            })),
            Told::Arguments(i, text) => call(json!({ "index": i, "function": { "arguments": text } })),
        }
    }

    fn tell(&mut self, told: Vec<Told>, events: &mut Vec<Bytes>, n_tokens: usize) {
        for told in told {
            let mut chunk = self.chunk(self.delta(&told), None);
            let logs = std::mem::take(&mut self.logs);
            chunk["choices"][0]["logprobs"] = self.logprobs(&logs);
            if self.timings_per_token {
                chunk["timings"] = json!({ "predicted_n": n_tokens });
            }
            events.push(event(None, None, &chunk));
        }
    }

    fn finish(&self, done: &Done) -> &'static str {
        match finish_reason(done.finish) {
            "stop" if !self.calls.list.is_empty() => "tool_calls",
            other => other,
        }
    }
}

impl Dialect for Chat {
    fn whole(&mut self, heard: &Heard, done: &Done) -> Value {
        self.calls.read(&heard.text);
        self.calls.finish();
        let calls: Vec<Value> = self.calls.list.iter().map(|call| call.to_json()).collect();
        let text = &self.calls.text;
        let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.as_str().into() };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let mut object = self.about.object("chat.completion");
        object["choices"] = json!([{
            "index": 0, "message": message, "logprobs": self.logprobs(&heard.logs), "finish_reason": self.finish(done),
        }]);
        object["usage"] = done.usage();
        object["timings"] = done.timings();
        object["longtake"] = self.about.own(done);
        object
    }

    fn said(&mut self, said: &Said) -> Vec<Bytes> {
        let mut events = Vec::new();
        self.open(&mut events);
        self.logs.extend_from_slice(&said.logprobs);
        let mut told = self.calls.read(&said.text);
        if told.is_empty() && said.text.is_empty() {
            // Tokens without text have likelihoods, too.
            told.push(Told::Text(String::new()));
        }
        self.tell(told, &mut events, said.n_tokens);
        events
    }

    fn progress(&self, progress: &Progress) -> Option<Bytes> {
        if !self.return_progress {
            return None;
        }
        let mut chunk = self.about.object("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": {}, "finish_reason": null }]);
        chunk["prompt_progress"] = progress.to_json();
        Some(event(None, None, &chunk))
    }

    fn end(&mut self, _: &Heard, done: &Done) -> Vec<Bytes> {
        let mut events = Vec::new();
        self.open(&mut events);
        let told = self.calls.finish();
        self.tell(told, &mut events, done.n_tokens);
        let mut last = self.chunk(json!({}), Some(self.finish(done)));
        last["choices"][0]["logprobs"] = match self.logs.is_empty() {
            true => Value::Null,
            false => self.logprobs(&self.logs),
        };
        last["timings"] = done.timings();
        last["longtake"] = self.about.own(done);
        events.push(event(None, None, &last));
        if self.include_usage {
            let mut usage = self.about.object("chat.completion.chunk");
            usage["choices"] = json!([]);
            usage["usage"] = done.usage();
            events.push(event(None, None, &usage));
        }
        events.push(DONE);
        events
    }

    fn failed(&mut self, fault: &Fault) -> Vec<Bytes> {
        vec![event(None, None, &fault.to_json()), DONE]
    }
}
