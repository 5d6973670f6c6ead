//! Answers on their way out: a request becomes a job, and what the job says becomes events, or one object, in the words of a
//! [`Dialect`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::body::Kept;
use super::desk::Desk;
use super::dialect::{Dialect, Heard};
use super::job::{self, Job, Progress, Word};
use super::limits::{PROGRESS_LEAST, PROGRESS_MOST, SILENCE};
use super::linger::{self, Asked};
use super::reply::{comment, json as json_reply, stream};
use super::takes::Status;
use super::wire::{ChatRequest, Code, Fault, From, MediaPart, TurnPart};

/// A job, or why there is none.
type Begun = Result<Job, Fault>;

/// Answers a request.
///
/// # Errors
/// Everything that is wrong with it, before a single byte of the answer is sent.
pub(crate) async fn answer(
    desk: Arc<Desk>,
    request: ChatRequest,
    kept: Kept,
    dialect: Box<dyn Dialect>,
) -> Result<Response<Body>, Fault> {
    let answer = Answer { dialect, heard: Heard::default(), return_progress: request.return_progress };
    let (is_stream, keep_alive) = (request.stream, request.own.keep_alive);
    let (send, begun) = oneshot::channel();
    match waits_for(&desk, &request)? {
        // A take that is being read is waited for, while the client hears of it.
        Some(mut shown) => {
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

/// The whole answer to a request that no socket waits for.
///
/// # Errors
/// Everything that is wrong with it, and whatever fails.
pub(crate) async fn whole(desk: Arc<Desk>, request: ChatRequest, dialect: Box<dyn Dialect>) -> Result<Value, Fault> {
    if let Some(mut shown) = waits_for(&desk, &request)? {
        while !shown.borrow().status.is_final() && shown.changed().await.is_ok() {}
    }
    let job = begin(desk, request, ()).await?;
    let (send, begun) = oneshot::channel();
    let _ = send.send(Ok(job));
    Answer { dialect, heard: Heard::default(), return_progress: false }.whole(begun).await
}

/// Plans a request and begins to work on it.
async fn begin<K: Send + 'static>(desk: Arc<Desk>, mut request: ChatRequest, kept: K) -> Begun {
    let planner = desk.clone();
    let manner = linger::manner(&desk, &request);
    let planned = tokio::task::spawn_blocking(move || {
        crate::text::Sampler::new(planner.sampler_options(&request.sampling)).map_err(|err| Fault::from_error(&err))?;
        let planned = planner.plan(&mut request);
        // What came with it is on disk.
        drop(kept);
        planned.map(|planned| (request, planned))
    });
    let (request, planned) = planned.await.map_err(|_| Fault::new(Code::InternalError, "a fault of the program"))??;
    let conversation = desk.memory.conversation_bytes(&desk.engine, planned.take.as_ref());
    let conversation = conversation.map_err(|err| Fault::from_error(&err))?;
    desk.memory.admit(conversation + desk.memory.request_bytes(&planned.cost))?;
    let seconds = desk.metrics.seconds(planned.n_prompt, planned.n_predict.min(256));
    let place = desk.queue.enter(seconds).inspect_err(|_| {
        desk.metrics.add(super::metrics::Counter::QueueRejected, 1);
    })?;
    let asked = Asked::new(manner.as_deref(), &planned);
    Ok(job::begin(&desk, request, (planned, asked), place))
}

/// An answer that is told.
struct Answer {
    dialect: Box<dyn Dialect>,
    heard: Heard,
    return_progress: bool,
}

type Waiting = tokio::sync::watch::Receiver<super::takes::Shown>;

/// The take that a request asks about, where that is still being read.
fn waits_for(desk: &Desk, request: &ChatRequest) -> Result<Option<Waiting>, Fault> {
    for part in request.turns.iter().flat_map(|turn| &turn.parts) {
        if let TurnPart::Media(MediaPart { from: From::Take(id), at, .. }) = part {
            let entry = desk.takes()?.get(id).map_err(|fault| fault.of(&**at))?;
            return Ok(match entry.shown().status {
                Status::Reading | Status::Queued if !request.own.wait => {
                    return Err(Fault::new(Code::TakeNotReady, format!("the take `{id}` is not ready")));
                }
                Status::Reading | Status::Queued => Some(entry.watch()),
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
            tokio::spawn(self.send_events(begun, waiting, send));
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
    async fn whole(mut self, begun: oneshot::Receiver<Begun>) -> Result<Value, Fault> {
        let mut job = begun.await.unwrap_or_else(|_| Err(lost()))?;
        while let Some(word) = job.next().await {
            match word {
                Word::Said(said) => self.heard.hear(&said),
                Word::Failed(fault) => return Err(fault),
                Word::Done(done) => return Ok(self.dialect.whole(&self.heard, &done)),
            }
        }
        Err(lost())
    }

    /// Sends the answer as it comes.
    async fn send_events(
        mut self,
        begun: oneshot::Receiver<Begun>,
        waiting: Option<tokio::sync::watch::Receiver<Progress>>,
        send: mpsc::Sender<Bytes>,
    ) {
        // The first byte at once: whoever waits for it knows that the request is understood.
        let sent = self.try_events(begun, waiting, &send).await;
        if let Err(Some(fault)) = sent {
            let _ = send_all(&send, self.dialect.failed(&fault)).await;
        }
    }

    /// # Errors
    /// What to say instead of the rest; nothing where nobody reads any more.
    async fn try_events(
        &mut self,
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
                    () = pulse.beat(&mut progress) => send.send(pulse.say(&*self.dialect, &progress)).await.map_err(gone)?,
                    () = send.closed() => return Err(None),
                }
            },
        };
        let mut job = job.unwrap_or_else(|_| Err(lost())).map_err(Some)?;
        let mut progress = job.progress.clone();
        loop {
            let word = tokio::select! {
                // Text before progress.
                biased;
                () = send.closed() => return Err(None),
                word = job.next() => word,
                () = pulse.beat(&mut progress) => {
                    send.send(pulse.say(&*self.dialect, &progress)).await.map_err(gone)?;
                    continue;
                }
            };
            match word {
                Some(Word::Said(said)) => {
                    self.heard.hear(&said);
                    pulse.rest();
                    send_all(send, self.dialect.said(&said)).await?;
                }
                Some(Word::Failed(fault)) => return Err(Some(fault)),
                None => return Err(Some(lost())),
                Some(Word::Done(done)) => return send_all(send, self.dialect.end(&self.heard, &done)).await,
            }
        }
    }
}

/// # Errors
/// Nothing, where nobody reads any more.
async fn send_all(send: &mpsc::Sender<Bytes>, events: Vec<Bytes>) -> Result<(), Option<Fault>> {
    for event in events {
        send.send(event).await.map_err(|_| None)?;
    }
    Ok(())
}

fn lost() -> Fault {
    Fault::new(Code::InternalError, "the answer was lost; the server's log may say why")
}

/// The head of a reply that is sent as it comes.
pub(crate) fn head(content_type: &'static str, body: Body) -> Response<Body> {
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

    fn say(&mut self, dialect: &dyn Dialect, progress: &tokio::sync::watch::Receiver<Progress>) -> Bytes {
        self.last = Instant::now();
        let now = progress.borrow().clone();
        let told = if self.with_progress { dialect.progress(&now) } else { None };
        self.said = Some(now);
        told.unwrap_or_else(|| comment("working"))
    }
}
