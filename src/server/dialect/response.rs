//! `POST /v1/responses`: the stateless part. Nothing of a response is kept, so none can be referred to.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::calls::Calls;
use super::{About, Dialect, Heard};
use crate::server::crew::{Said, TokenLog};
use crate::server::job::{Done, Progress};
use crate::server::random::id;
use crate::server::reply::{comment, event};
use crate::server::wire::{Fault, ResponseRequest};
use crate::stream::Finish;
use crate::text::tools::Told;

/// Responses, and the events of streamed ones.
pub(crate) struct Response {
    about: About,
    /// What the request said that the answer repeats.
    told: Value,
    n_events: u64,
    calls: Calls,
    items: Vec<Item>,
    /// Likelihoods that stand in no item yet: their text is held back, or they have none.
    logs: Vec<TokenLog>,
    is_open: bool,
}

/// A part of an answer.
enum Item {
    Message {
        id: String,
        text: String,
        logs: Vec<TokenLog>,
    },
    /// The call of this number.
    Call {
        id: String,
        call: usize,
    },
}

impl Response {
    /// The answer to a request.
    pub(crate) fn new(about: About, request: &ResponseRequest) -> Response {
        let (told, calls) = (request.told.clone(), Calls::new(&about.desk, &request.chat));
        Response { about, told, n_events: 0, calls, items: Vec::new(), logs: Vec::new(), is_open: false }
    }

    fn object(&self, status: &str, output: Value) -> Value {
        let mut object = json!({
            "id": self.about.id, "object": "response", "created_at": self.about.created, "status": status, "error": null,
            "incomplete_details": null, "model": self.about.desk.name(), "output": output, "usage": null,
        });
        if let (Some(object), Some(told)) = (object.as_object_mut(), self.told.as_object()) {
            object.extend(told.clone());
        }
        object
    }

    fn logprobs(&self, logs: &[TokenLog]) -> Value {
        if self.about.logprobs { self.about.token_logs(logs).into() } else { json!([]) }
    }

    fn part(&self, text: &str, logs: &[TokenLog]) -> Value {
        json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs(logs) })
    }

    /// An item as it stands; one that is not begun has nothing in it.
    fn item(&self, item: &Item, status: &str) -> Value {
        let is_begun = status == "in_progress";
        match item {
            Item::Message { id, text, logs } => {
                let content = if is_begun { json!([]) } else { json!([self.part(text, logs)]) };
                json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
            }
            Item::Call { id, call } => {
                let call = &self.calls.list[*call];
                let arguments = if is_begun { "" } else { &call.arguments };
                json!({
                    "id": id, "type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments,
                    "status": status,
                })
            }
        }
    }

    /// The response at its end.
    fn ended(&self, done: &Done) -> Value {
        let is_cut = done.finish == Finish::Length;
        let last = if is_cut { "incomplete" } else { "completed" };
        let n = self.items.len();
        let items = (1..).zip(&self.items).map(|(i, item)| self.item(item, if i == n { last } else { "completed" }));
        let mut object = self.object(last, items.collect());
        if is_cut {
            object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        object["usage"] = json!({
            "input_tokens": done.n_prompt, "input_tokens_details": { "cached_tokens": done.n_cached },
            "output_tokens": done.n_tokens, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": done.n_prompt + done.n_tokens,
        });
        (object["timings"], object["longtake"]) = (done.timings(), self.about.own(done));
        object
    }

    /// An event of a type, with its number.
    fn event(&mut self, kind: &str, mut data: Value) -> Bytes {
        (data["type"], data["sequence_number"]) = (kind.into(), self.n_events.into());
        self.n_events += 1;
        event(Some(kind), None, &data)
    }

    /// What opens a stream.
    fn open(&mut self, events: &mut Vec<Bytes>) {
        if std::mem::replace(&mut self.is_open, true) {
            return;
        }
        let begun = self.object("in_progress", json!([]));
        events.push(self.event("response.created", json!({ "response": begun })));
        events.push(self.event("response.in_progress", json!({ "response": begun })));
    }

    /// Where the last item stands, with a field.
    fn place(&self, field: &str, value: Value) -> Value {
        let (Some(Item::Message { id, .. } | Item::Call { id, .. }), at) = (self.items.last(), self.items.len()) else {
            return json!({});
        };
        let mut place = json!({ "item_id": id, "output_index": at - 1 });
        if let Some(Item::Message { .. }) = self.items.last() {
            place["content_index"] = 0.into();
        }
        place[field] = value;
        place
    }

    /// Begins an item, after the one before.
    fn begin(&mut self, item: Item, events: &mut Vec<Bytes>) {
        self.close("completed", events);
        let told = self.item(&item, "in_progress");
        self.items.push(item);
        let at = self.items.len() - 1;
        events.push(self.event("response.output_item.added", json!({ "output_index": at, "item": told })));
        if let Some(Item::Message { .. }) = self.items.last() {
            let part = self.place("part", self.part("", &[]));
            events.push(self.event("response.content_part.added", part));
        }
    }

    /// Ends the last item.
    fn close(&mut self, status: &str, events: &mut Vec<Bytes>) {
        let Some(last) = self.items.last() else { return };
        let told = self.item(last, status);
        match last {
            Item::Message { text, logs, .. } => {
                let mut done = self.place("text", text.as_str().into());
                done["logprobs"] = self.logprobs(logs);
                let part = self.place("part", told["content"][0].clone());
                events.push(self.event("response.output_text.done", done));
                events.push(self.event("response.content_part.done", part));
            }
            Item::Call { .. } => {
                let mut done = self.place("arguments", told["arguments"].clone());
                done["name"] = told["name"].clone();
                events.push(self.event("response.function_call_arguments.done", done));
            }
        }
        let at = self.items.len() - 1;
        events.push(self.event("response.output_item.done", json!({ "output_index": at, "item": told })));
    }

    /// Takes what was understood into the items.
    fn tell(&mut self, told: Vec<Told>, events: &mut Vec<Bytes>) {
        for told in told {
            match told {
                Told::Text(new) => {
                    if !matches!(self.items.last(), Some(Item::Message { .. })) {
                        let item = Item::Message { id: id("msg"), text: String::new(), logs: Vec::new() };
                        self.begin(item, events);
                    }
                    let new_logs = std::mem::take(&mut self.logs);
                    let mut delta = self.place("delta", new.as_str().into());
                    delta["logprobs"] = self.logprobs(&new_logs);
                    if let Some(Item::Message { text, logs, .. }) = self.items.last_mut() {
                        text.push_str(&new);
                        logs.extend(new_logs);
                    }
                    events.push(self.event("response.output_text.delta", delta));
                }
                Told::Call(call, _) => self.begin(Item::Call { id: id("fc"), call }, events),
                Told::Arguments(_, text) => {
                    let delta = self.place("delta", text.into());
                    events.push(self.event("response.function_call_arguments.delta", delta));
                }
            }
        }
    }

    /// Takes in what was held back, and makes a message where there is nothing.
    fn finish(&mut self, events: &mut Vec<Bytes>) {
        let told = self.calls.finish();
        self.tell(told, events);
        if self.items.is_empty() {
            self.begin(Item::Message { id: id("msg"), text: String::new(), logs: Vec::new() }, events);
        }
        if let Some(Item::Message { logs, .. }) = self.items.last_mut() {
            logs.append(&mut self.logs);
        }
    }
}

impl Dialect for Response {
    fn whole(&mut self, heard: &Heard, done: &Done) -> Value {
        let mut unsent = Vec::new();
        let told = self.calls.read(&heard.text);
        self.logs.clone_from(&heard.logs);
        self.tell(told, &mut unsent);
        self.finish(&mut unsent);
        self.ended(done)
    }

    fn said(&mut self, said: &Said) -> Vec<Bytes> {
        let mut events = Vec::new();
        self.open(&mut events);
        let told = self.calls.read(&said.text);
        self.logs.extend_from_slice(&said.logprobs);
        self.tell(told, &mut events);
        events
    }

    fn progress(&self, _: &Progress) -> Option<Bytes> {
        Some(comment("working"))
    }

    fn end(&mut self, _: &Heard, done: &Done) -> Vec<Bytes> {
        let mut events = Vec::new();
        self.open(&mut events);
        self.finish(&mut events);
        let is_cut = done.finish == Finish::Length;
        self.close(if is_cut { "incomplete" } else { "completed" }, &mut events);
        let kind = if is_cut { "response.incomplete" } else { "response.completed" };
        let ended = self.ended(done);
        events.push(self.event(kind, json!({ "response": ended })));
        events
    }

    fn failed(&mut self, fault: &Fault) -> Vec<Bytes> {
        let mut failed = self.object("failed", json!([]));
        failed["error"] = json!({ "code": fault.code.name(), "message": fault.message });
        vec![self.event("response.failed", json!({ "response": failed }))]
    }
}
