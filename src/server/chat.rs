//! `POST /v1/chat/completions`: a request becomes a job, and what the job says becomes chunks, or one object.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::body::Kept;
use super::crew::{Said, TokenLog};
use super::desk::Desk;
use super::job::{self, Done, Job, Progress, Word};
use super::limits::{PROGRESS_LEAST, PROGRESS_MOST, SILENCE};
use super::random::{id, now};
use super::reply::{DONE, comment, event, json as json_reply, stream};
use super::takes::Status;
use super::wire::{ChatRequest, Code, Fault, From, MediaPart, TurnPart};
use crate::stream::Finish;
use crate::text::Tokenizer;

/// What answers say of themselves, the same in all chunks.
struct Answer {
    desk: Arc<Desk>,
    id: String,
    created: u64,
    include_usage: bool,
    return_progress: bool,
    timings_per_token: bool,
    logprobs: bool,
    ignored: Vec<String>,
}

/// A job, or why there is none.
type Begun = Result<Job, Fault>;

/// Answers a request.
///
/// # Errors
/// Everything that is wrong with it, before a single byte of the answer is sent.
pub(super) async fn complete(desk: Arc<Desk>, request: ChatRequest, kept: Kept) -> Result<Response<Body>, Fault> {
    let answer = Answer {
        desk: desk.clone(),
        id: id("chatcmpl"),
        created: now(),
        include_usage: request.include_usage,
        return_progress: request.return_progress,
        timings_per_token: request.timings_per_token,
        logprobs: request.logprobs,
        ignored: request.ignored.clone(),
    };
    let (is_stream, keep_alive) = (request.stream, request.own.keep_alive);
    let (send, begun) = oneshot::channel();
    match waits_for(&desk, &request)? {
        // A take that is being read is waited for, while the client hears of it.
        Some((take, mut shown)) => {
            if !request.own.wait {
                return Err(Fault::new(Code::TakeNotReady, format!("the take `{take}` is not ready")));
            }
            let (relay, progress) = tokio::sync::watch::channel(Progress::default());
            let mut send = send;
            tokio::spawn(async move {
                let over = async {
                    while !shown.borrow().status.is_final() {
                        relay.send_replace(shown.borrow().progress.clone());
                        if shown.changed().await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = over => { let _ = send.send(begin(desk, request, kept).await); }
                    () = send.closed() => {}
                }
            });
            answer.reply(begun, Some(progress), is_stream, keep_alive).await
        }
        None => {
            // Planned here, so that what is wrong is told by the status.
            let job = begin(desk, request, kept).await?;
            let _ = send.send(Ok(job));
            answer.reply(begun, None, is_stream, keep_alive).await
        }
    }
}

/// Plans a request and begins to work on it.
async fn begin(desk: Arc<Desk>, mut request: ChatRequest, kept: Kept) -> Begun {
    let planner = desk.clone();
    let planned = tokio::task::spawn_blocking(move || {
        crate::text::Sampler::new(planner.sampler_options(&request.sampling)).map_err(|err| Fault::from_error(&err))?;
        let planned = planner.plan(&mut request);
        // What came with it is on disk.
        drop(kept);
        planned.map(|planned| (request, planned))
    });
    let (request, planned) = planned.await.map_err(|_| Fault::new(Code::InternalError, "a fault of the program"))??;
    let seconds = desk.metrics.seconds(planned.n_prompt, planned.n_predict.min(256));
    let place = desk.queue.enter(seconds).inspect_err(|_| {
        desk.metrics.add(super::metrics::Counter::QueueRejected, 1);
    })?;
    Ok(job::begin(&desk, request, planned, place))
}

type Waiting = (String, tokio::sync::watch::Receiver<super::takes::Shown>);

/// The take that a request asks about, where that is still being read.
fn waits_for(desk: &Desk, request: &ChatRequest) -> Result<Option<Waiting>, Fault> {
    for part in request.turns.iter().flat_map(|turn| &turn.parts) {
        if let TurnPart::Media(MediaPart { from: From::Take(id), at, .. }) = part {
            let entry = desk.takes()?.get(id).map_err(|fault| fault.of(&**at))?;
            return Ok(match entry.shown().status {
                Status::Reading | Status::Queued => Some((id.clone(), entry.watch())),
                _ => None,
            });
        }
    }
    Ok(None)
}

impl Answer {
    async fn reply(
        self,
        begun: oneshot::Receiver<Begun>,
        waiting: Option<tokio::sync::watch::Receiver<Progress>>,
        is_stream: bool,
        keep_alive: bool,
    ) -> Result<Response<Body>, Fault> {
        if is_stream {
            let (send, body) = stream();
            tokio::spawn(self.send_chunks(begun, waiting, send));
            return Ok(head("text/event-stream", body));
        }
        let mut whole = Box::pin(self.whole(begun));
        if !keep_alive {
            return whole.await.map(|object| json_reply(StatusCode::OK, &object));
        }
        match tokio::time::timeout(SILENCE, &mut whole).await {
            Ok(result) => result.map(|object| json_reply(StatusCode::OK, &object)),
            Err(_) => {
                // Proxies and clients cut silent connections: from here on the status is told, and spaces are sent.
                let (send, body) = stream();
                tokio::spawn(async move {
                    loop {
                        if send.send(Bytes::from_static(b" ")).await.is_err() {
                            return;
                        }
                        let next = tokio::select! {
                            result = &mut whole => Some(result),
                            () = tokio::time::sleep(SILENCE) => None,
                            () = send.closed() => return,
                        };
                        if let Some(result) = next {
                            let object = result.unwrap_or_else(|fault| fault.to_json());
                            let _ = send.send(object.to_string().into()).await;
                            return;
                        }
                    }
                });
                Ok(head("application/json", body))
            }
        }
    }

    /// The whole answer as one object.
    async fn whole(self, begun: oneshot::Receiver<Begun>) -> Result<Value, Fault> {
        let mut job = begun.await.unwrap_or_else(|_| Err(lost()))?;
        let (mut text, mut logs) = (String::new(), Vec::new());
        while let Some(word) = job.next().await {
            match word {
                Word::Said(said) => {
                    text.push_str(&said.text);
                    logs.extend(said.logprobs);
                }
                Word::Failed(fault) => return Err(fault),
                Word::Done(done) => {
                    let mut object = self.object("chat.completion");
                    object["choices"] = json!([{
                        "index": 0,
                        "message": { "role": "assistant", "content": text, "refusal": null },
                        "logprobs": self.logprobs(&logs),
                        "finish_reason": finish_reason(done.finish),
                    }]);
                    object["usage"] = done.usage();
                    object["timings"] = done.timings();
                    object["longtake"] = self.own(&done);
                    return Ok(object);
                }
            }
        }
        Err(lost())
    }

    /// Sends the answer as it comes.
    async fn send_chunks(
        self,
        begun: oneshot::Receiver<Begun>,
        waiting: Option<tokio::sync::watch::Receiver<Progress>>,
        send: mpsc::Sender<Bytes>,
    ) {
        // The first byte at once: whoever waits for it knows that the request is understood.
        let sent = self.try_chunks(begun, waiting, &send).await;
        if let Err(Some(fault)) = sent {
            let _ = send.send(event(None, None, &fault.to_json())).await;
            let _ = send.send(DONE).await;
        }
    }

    /// # Errors
    /// What to say instead of the rest; nothing where nobody reads any more.
    async fn try_chunks(
        &self,
        begun: oneshot::Receiver<Begun>,
        waiting: Option<tokio::sync::watch::Receiver<Progress>>,
        send: &mpsc::Sender<Bytes>,
    ) -> Result<(), Option<Fault>> {
        let gone = |_| None;
        send.send(comment("queued")).await.map_err(gone)?;
        let mut pulse = Pulse::new(self.return_progress);
        let mut begun = begun;
        let job = match waiting {
            None => begun.await,
            Some(mut progress) => loop {
                tokio::select! {
                    job = &mut begun => break job,
                    () = pulse.beat(&mut progress) => send.send(pulse.say(self, &progress)).await.map_err(gone)?,
                    () = send.closed() => return Err(None),
                }
            },
        };
        let mut job = job.unwrap_or_else(|_| Err(lost())).map_err(Some)?;
        let mut progress = job.progress.clone();
        let mut is_first = true;
        loop {
            let word = tokio::select! {
                // Text before progress.
                biased;
                () = send.closed() => return Err(None),
                word = job.next() => word,
                () = pulse.beat(&mut progress) => {
                    send.send(pulse.say(self, &progress)).await.map_err(gone)?;
                    continue;
                }
            };
            match word {
                Some(Word::Said(said)) => {
                    if std::mem::take(&mut is_first) {
                        send.send(event(None, None, &self.chunk(json!({ "role": "assistant", "content": "" }), None)))
                            .await
                            .map_err(gone)?;
                    }
                    pulse.rest();
                    send.send(event(None, None, &self.text(&said))).await.map_err(gone)?;
                }
                Some(Word::Failed(fault)) => return Err(Some(fault)),
                None => return Err(Some(lost())),
                Some(Word::Done(done)) => {
                    if is_first {
                        send.send(event(None, None, &self.chunk(json!({ "role": "assistant", "content": "" }), None)))
                            .await
                            .map_err(gone)?;
                    }
                    let mut last = self.chunk(json!({}), Some(finish_reason(done.finish)));
                    last["timings"] = done.timings();
                    last["longtake"] = self.own(&done);
                    send.send(event(None, None, &last)).await.map_err(gone)?;
                    if self.include_usage {
                        let mut usage = self.object("chat.completion.chunk");
                        usage["choices"] = json!([]);
                        usage["usage"] = done.usage();
                        send.send(event(None, None, &usage)).await.map_err(gone)?;
                    }
                    send.send(DONE).await.map_err(gone)?;
                    return Ok(());
                }
            }
        }
    }

    fn text(&self, said: &Said) -> Value {
        let mut chunk = self.chunk(json!({ "content": said.text }), None);
        chunk["choices"][0]["logprobs"] = self.logprobs(&said.logprobs);
        if self.timings_per_token {
            chunk["timings"] = json!({ "predicted_n": said.n_tokens });
        }
        chunk
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Value {
        let mut chunk = self.object("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn object(&self, kind: &str) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.desk.name(),
            "system_fingerprint": self.desk.fingerprint,
        })
    }

    fn logprobs(&self, logs: &[TokenLog]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let tokenizer = &self.desk.engine.tokenizer;
        let one = |log: &TokenLog| {
            let mut entry = log_json(tokenizer, log.id, log.logprob);
            entry["top_logprobs"] = log.top.iter().map(|(id, logprob)| log_json(tokenizer, *id, *logprob)).collect();
            entry
        };
        json!({ "content": logs.iter().map(one).collect::<Vec<_>>(), "refusal": null })
    }

    /// What no other server says.
    fn own(&self, done: &Done) -> Value {
        json!({
            "media": done.media, "order": if done.is_reordered { "video-first" } else { "as-sent" }, "warnings": done.warnings,
            "ignored": self.ignored,
        })
    }
}

fn log_json(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Value {
    let bytes = tokenizer.token_bytes(id);
    // Numbers of JSON are finite; nothing is less likely than this.
    json!({ "token": String::from_utf8_lossy(bytes), "logprob": logprob.max(-9999.0), "bytes": bytes })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::Caller => "stop",
    }
}

fn lost() -> Fault {
    Fault::new(Code::InternalError, "the answer was lost; the server's log may say why")
}

/// The head of a reply that is sent as it comes.
pub(super) fn head(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// When something is said while there is no text: progress to those who want it, else a comment now and then.
struct Pulse {
    with_progress: bool,
    last: Instant,
    said: Option<Progress>,
}

impl Pulse {
    fn new(with_progress: bool) -> Pulse {
        Pulse { with_progress, last: Instant::now(), said: None }
    }

    /// Something was said.
    fn rest(&mut self) {
        self.last = Instant::now();
    }

    /// Waits until it is time to say something.
    async fn beat(&self, progress: &mut tokio::sync::watch::Receiver<Progress>) {
        let most: Duration = if self.with_progress { PROGRESS_MOST } else { SILENCE };
        let late = tokio::time::sleep_until(self.last + most);
        if !self.with_progress {
            return late.await;
        }
        let news = async {
            let least = if self.said.is_some() { PROGRESS_LEAST } else { Duration::ZERO };
            tokio::time::sleep_until(self.last + least).await;
            while self.said.as_ref() == Some(&*progress.borrow()) {
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = news => {}
            () = late => {}
        }
    }

    fn say(&mut self, answer: &Answer, progress: &tokio::sync::watch::Receiver<Progress>) -> Bytes {
        self.last = Instant::now();
        if !self.with_progress {
            return comment("working");
        }
        let now = progress.borrow().clone();
        let mut chunk = answer.object("chat.completion.chunk");
        chunk["choices"] = json!([{ "index": 0, "delta": {}, "finish_reason": null }]);
        chunk["prompt_progress"] = now.to_json();
        self.said = Some(now);
        event(None, None, &chunk)
    }
}
