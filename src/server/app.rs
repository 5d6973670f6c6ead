//! The routes. Handlers translate, and nothing more; none of them knows a socket.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Multipart, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::body::{Kept, Pace, Room, declared};
use super::chat::{complete, head};
use super::desk::Desk;
use super::guard::{Door, Guard, check_type};
use super::limits::{MAX_BODIES, MAX_EVENTS, MAX_FILE, SILENCE};
use super::metrics::{Counter, Metrics};
use super::page;
use super::random::id;
use super::reply::{comment, event, json as reply, stream};
use super::setup::Setup;
use super::store::{Incoming, Upload};
use super::takes::{Entry, Status};
use super::wire::{ChatRequest, Code, Fault, Json};

type Reply = Result<Response<Body>, Fault>;

/// What handlers see.
#[derive(Clone)]
pub(super) struct App(Arc<Shared>);

struct Shared {
    setup: Arc<Setup>,
    guard: Guard,
    metrics: Arc<Metrics>,
    bodies: Room,
    desk: OnceLock<Arc<Desk>>,
    is_draining: watch::Sender<bool>,
}

impl App {
    /// An application that is loading; `is_local` for a socket that is a file.
    pub(super) fn new(setup: Arc<Setup>, is_local: bool) -> App {
        let guard = Guard::new(&setup.keys, &setup.hosts, &setup.origins, is_local);
        let (is_draining, _) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        App(Arc::new(Shared {
            setup,
            guard,
            metrics,
            bodies: Room::new(MAX_BODIES),
            desk: OnceLock::new(),
            is_draining,
        }))
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The model is here.
    pub(super) fn ready(&self, desk: Arc<Desk>) {
        let _ = self.0.desk.set(desk);
    }

    /// The desk, once there is one.
    pub(super) fn desk(&self) -> Option<&Arc<Desk>> {
        self.0.desk.get()
    }

    /// No new work from now on.
    pub(super) fn drain(&self) {
        self.0.is_draining.send_replace(true);
    }

    /// The desk for a request that only asks.
    fn looking(&self) -> Result<&Arc<Desk>, Fault> {
        self.0.desk.get().ok_or_else(|| Fault::new(Code::Loading, "the model is being loaded").after(5))
    }

    /// The desk for a request that is work.
    fn working(&self) -> Result<&Arc<Desk>, Fault> {
        if *self.0.is_draining.borrow() {
            return Err(Fault::new(Code::Draining, "the server is about to end").after(10));
        }
        self.looking()
    }

    /// The routes.
    pub(super) fn router(self) -> Router {
        let mut router = Router::new()
            .route("/health", get(health))
            .route("/v1/health", get(health))
            .route("/ready", get(ready))
            .route("/v1/models", get(models))
            .route("/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/chat/completions/input_tokens", post(input_tokens))
            .route("/v1/tokenize", post(tokenize))
            .route("/v1/files", get(files).post(upload_form).put(upload_raw))
            .route("/v1/files/{id}", get(file).delete(delete_file))
            .route("/v1/plan", post(plan))
            .route("/v1/takes", get(takes).post(ask_take))
            .route("/v1/takes/{id}", get(take).delete(delete_take))
            .route("/v1/takes/{id}/cancel", post(cancel_take))
            .route("/v1/takes/{id}/resume", post(resume_take))
            .route("/v1/takes/{id}/events", get(take_events))
            .route("/props", get(props))
            .route("/metrics", get(metrics));
        if self.0.setup.slots {
            router = router.route("/slots", get(slots));
        }
        if self.0.setup.page {
            router = page::routes(router);
        }
        router
            .fallback(|| async { Fault::new(Code::UnknownRoute, "there is nothing at this path").into_response() })
            .method_not_allowed_fallback(|| async {
                Fault::new(Code::WrongMethod, "this path does not take this method").into_response()
            })
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(self.clone(), admit))
            .with_state(self)
    }
}

/// Paths that need no key.
fn door(path: &str, setup: &Setup) -> Door {
    match path {
        "/health" | "/v1/health" | "/ready" => Door::Open,
        "/metrics" if setup.metrics_public => Door::Open,
        "/" | "/page.js" | "/page.css" if setup.page => Door::Page,
        _ => Door::Keyed,
    }
}

/// The route of a request, from the fixed list.
fn route(path: Option<&MatchedPath>) -> &'static str {
    const KNOWN: [&str; 18] = [
        "/",
        "/health",
        "/ready",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/chat/completions",
        "/v1/chat/completions/input_tokens",
        "/v1/tokenize",
        "/v1/files",
        "/v1/files/{id}",
        "/v1/plan",
        "/v1/takes",
        "/v1/takes/{id}",
        "/v1/takes/{id}/cancel",
        "/v1/takes/{id}/events",
        "/v1/takes/{id}/resume",
        "/props",
        "/metrics",
    ];
    let path = path.map_or("", MatchedPath::as_str);
    KNOWN.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// Comes before every handler: who asks, and may he; and after it: what was answered, how fast.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    let route = route(request.extensions().get());
    let door = door(request.uri().path(), &app.0.setup);
    let checked = app.0.guard.check(request.method(), request.uri(), request.headers(), door);
    let is_preflight = request.method() == Method::OPTIONS;
    let (mut response, page) = match checked {
        Err(fault) => (fault.into_response(), None),
        Ok(Some(page)) if is_preflight => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE"));
            let names = HeaderValue::from_static("authorization, content-type, last-event-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            (response, Some(page))
        }
        Ok(page) => (next.run(request).await, page),
    };
    let headers = response.headers_mut();
    if let Some(page) = page.and_then(|page| HeaderValue::from_str(&page).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id("req")) {
        headers.insert("x-request-id", id);
    }
    if response.status().is_client_error() {
        headers_of(&mut response);
    }
    app.0.metrics.request(route, response.status().as_u16(), began.elapsed());
    response
}

/// Refusals that a framework made are told not to be tried again, too.
fn headers_of(response: &mut Response<Body>) {
    response.headers_mut().entry("x-should-retry").or_insert(HeaderValue::from_static("false"));
}

/// Reads a JSON body and makes something of it while it is there.
async fn with_json<T>(
    app: &App,
    request: Request,
    make: impl FnOnce(&Json<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let (parts, body) = request.into_parts();
    check_type(&parts.headers, "application/json")?;
    let held = app.0.bodies.read(&parts.headers, body, app.0.setup.max_body).await?;
    let made = make(&Json::parse(&held.bytes)?)?;
    Ok((made, held.room))
}

/// Work that reads files: not on the threads that answer sockets.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Fault::new(Code::InternalError, "a fault of the program; its log says where")))
}

fn ok(value: &Value) -> Reply {
    Ok(reply(StatusCode::OK, value))
}

async fn health() -> Reply {
    ok(&json!({ "status": "ok" }))
}

async fn ready(State(app): State<App>) -> Reply {
    let not = |status: &str| Ok(reply(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": status })));
    match (*app.0.is_draining.borrow(), app.desk()) {
        (true, _) => not("draining"),
        (false, None) => not("loading"),
        (false, Some(_)) => ok(&json!({ "status": "ok" })),
    }
}

async fn models(State(app): State<App>) -> Reply {
    ok(&json!({ "object": "list", "data": [app.looking()?.model_json()] }))
}

async fn model(State(app): State<App>, Path(id): Path<String>) -> Reply {
    let desk = app.looking()?;
    desk.check_model(Some(&id))?;
    ok(&desk.model_json())
}

async fn chat(State(app): State<App>, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let (request, kept) = with_json(&app, request, ChatRequest::parse).await?;
    if desk.setup.log_prompts {
        eprintln!("prompt: {:?}", request.turns);
    }
    complete(desk, request, kept).await
}

async fn input_tokens(State(app): State<App>, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let (mut request, _kept) = with_json(&app, request, ChatRequest::parse).await?;
    let planned = blocking(move || desk.plan(&mut request)).await?;
    ok(&json!({ "object": "response.input_tokens", "input_tokens": planned.n_prompt }))
}

/// The plan of a question, or of a take: a body with messages is the one, with a file the other.
async fn plan(State(app): State<App>, request: Request) -> Reply {
    let desk = app.working()?.clone();
    enum Asked {
        Chat(Box<ChatRequest>),
        Take(Value),
    }
    let (asked, _kept) = with_json(&app, request, |body| match body.get("messages") {
        Some(_) => ChatRequest::parse(body).map(|request| Asked::Chat(Box::new(request))),
        None => Ok(Asked::Take(body.to_value())),
    })
    .await?;
    let plan = blocking(move || match asked {
        Asked::Chat(mut request) => desk.plan(&mut request).map(|planned| planned.to_json()),
        Asked::Take(body) => desk.plan_of_take(&Json::parse(body.to_string().as_bytes())?),
    });
    ok(&plan.await?)
}

async fn tokenize(State(app): State<App>, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let ((text, with_pieces), _kept) = with_json(&app, request, |body| {
        let text = body.get("content").or_else(|| body.get("prompt")).or_else(|| body.get("text"));
        let text = text.ok_or_else(|| Fault::value("content", "`content` is missing"))?;
        let text = super::wire::fields::text(text, "content", super::limits::MAX_TEXT_BYTES)?.to_string();
        Ok((text, matches!(body.get("with_pieces"), Some(Json::Bool(true)))))
    })
    .await?;
    let tokens = blocking(move || {
        let ids = desk.engine.tokenizer.encode(&text, false).map_err(|err| Fault::from_error(&err))?;
        let piece =
            |id: &u32| json!({ "id": id, "piece": String::from_utf8_lossy(desk.engine.tokenizer.token_bytes(*id)) });
        let tokens: Value = if with_pieces { ids.iter().map(piece).collect() } else { json!(ids) };
        Ok(json!({ "tokens": tokens, "count": ids.len(), "max_model_len": desk.setup.session.n_ctx }))
    });
    ok(&tokens.await?)
}

async fn files(State(app): State<App>) -> Reply {
    let list: Vec<Value> = app.looking()?.files()?.list().iter().map(Upload::to_json).collect();
    ok(&json!({ "object": "list", "data": list, "has_more": false }))
}

async fn file(State(app): State<App>, Path(id): Path<String>) -> Reply {
    ok(&app.looking()?.files()?.look(&id)?.to_json())
}

async fn delete_file(State(app): State<App>, Path(id): Path<String>) -> Reply {
    app.looking()?.files()?.remove(&id)?;
    ok(&json!({ "id": id, "object": "file", "deleted": true }))
}

/// Takes the bytes of an upload as they come.
async fn receive(app: &App, headers: &HeaderMap, body: &mut Body) -> Result<Incoming, Fault> {
    let desk = app.working()?;
    let most = desk.setup.rules.max_file.min(MAX_FILE.max(desk.setup.rules.max_file));
    if declared(headers)?.is_some_and(|n| n > most) {
        return Err(Fault::new(Code::FileTooLarge, format!("a file of more than {most} bytes")));
    }
    let store = desk.files()?.clone();
    let mut incoming = store.begin()?;
    let mut pace = Pace::new();
    while let Some(bytes) = pace.next(body).await? {
        incoming = write(app, incoming, bytes).await?;
    }
    Ok(incoming)
}

/// Writes a piece on a thread that may wait for the disk.
async fn write(app: &App, mut incoming: Incoming, bytes: axum::body::Bytes) -> Result<Incoming, Fault> {
    app.0.metrics.add(Counter::UploadedBytes, bytes.len() as u64);
    blocking(move || incoming.write(&bytes).map(|()| incoming)).await
}

const PURPOSES: [&str; 3] = ["user_data", "vision", "video"];

/// What an upload is for, where it says so.
fn purpose(given: Option<&str>) -> Result<String, Fault> {
    match given {
        None => Ok("user_data".to_string()),
        Some(given) if PURPOSES.contains(&given) => Ok(given.to_string()),
        Some(_) => Err(Fault::value("purpose", format!("`purpose` is none of {}", PURPOSES.join(", ")))),
    }
}

#[derive(serde::Deserialize)]
struct UploadQuery {
    filename: Option<String>,
    purpose: Option<String>,
    expires_after: Option<u64>,
}

/// `curl -T`: the body is the file.
async fn upload_raw(State(app): State<App>, Query(query): Query<UploadQuery>, request: Request) -> Reply {
    let purpose = purpose(query.purpose.as_deref())?;
    let (parts, mut body) = request.into_parts();
    let incoming = receive(&app, &parts.headers, &mut body).await?;
    let name = query.filename.unwrap_or_else(|| "upload".to_string());
    let upload = blocking(move || incoming.finish(&name, &purpose, keep(query.expires_after)?)).await?;
    ok(&upload.to_json())
}

/// Seconds for which an upload is kept.
fn keep(seconds: Option<u64>) -> Result<Option<u64>, Fault> {
    match seconds {
        Some(n) if !(60..=30 * 24 * 3600).contains(&n) => {
            Err(Fault::value("expires_after", format!("`expires_after` is `{n}`, expected 60 to 2592000 seconds")))
        }
        seconds => Ok(seconds),
    }
}

/// A form with the file, as OpenAI's clients send it.
async fn upload_form(State(app): State<App>, request: Request) -> Reply {
    check_type(request.headers(), "multipart/form-data")?;
    let most = app.working()?.setup.rules.max_file;
    // The form around the file is small.
    if declared(request.headers())?.is_some_and(|n| n > most.saturating_add(1 << 20)) {
        return Err(Fault::new(Code::FileTooLarge, format!("a file of more than {most} bytes")));
    }
    let malformed = |_| Fault::value("file", "the form is malformed or ended before its end");
    let mut form = Multipart::from_request(request, &app)
        .await
        .map_err(|_| Fault::new(Code::WrongContentType, "expected a form with a boundary"))?;
    let (mut incoming, mut name, mut given, mut expires) = (None, String::new(), None, None);
    let mut n_fields = 0;
    while let Some(mut field) = next(form.next_field()).await?.map_err(malformed)? {
        n_fields += 1;
        if n_fields > 16 {
            return Err(Fault::value("file", "the form has more than 16 fields"));
        }
        let field_name = field.name().unwrap_or_default().to_string();
        if field_name == "file" {
            if incoming.is_some() {
                return Err(Fault::value("file", "one file at a time"));
            }
            name = field.file_name().unwrap_or("upload").to_string();
            let mut file = app.working()?.files()?.begin()?;
            while let Some(bytes) = next(field.chunk()).await?.map_err(malformed)? {
                file = write(&app, file, bytes).await?;
            }
            incoming = Some(file);
            continue;
        }
        let mut text = Vec::new();
        while let Some(bytes) = next(field.chunk()).await?.map_err(malformed)? {
            text.extend_from_slice(&bytes);
            if text.len() > 4096 {
                return Err(Fault::value(field_name, "a field of more than 4096 bytes"));
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        match field_name.as_str() {
            "purpose" => given = Some(text),
            "expires_after[seconds]" | "expires_after" => expires = text.parse().ok(),
            _ => {}
        }
    }
    let purpose = purpose(given.as_deref())?;
    let incoming = incoming.ok_or_else(|| Fault::value("file", "the form has no field `file`"))?;
    let upload = blocking(move || incoming.finish(&name, &purpose, keep(expires)?)).await?;
    ok(&upload.to_json())
}

/// The next piece of a form, which has to come in time.
async fn next<T>(piece: impl Future<Output = T>) -> Result<T, Fault> {
    let slow = |_| Fault::new(Code::BodyTooSlow, "the form came too slowly");
    tokio::time::timeout(super::limits::BODY_GRACE, piece).await.map_err(slow)
}

async fn takes(State(app): State<App>) -> Reply {
    let takes = app.looking()?.takes()?.clone();
    let list = blocking(move || Ok(takes.list().iter().map(|entry| entry.to_json()).collect::<Vec<_>>())).await?;
    ok(&json!({ "object": "list", "data": list, "has_more": false }))
}

async fn take(State(app): State<App>, Path(id): Path<String>) -> Reply {
    ok(&app.looking()?.takes()?.get(&id)?.to_json())
}

async fn ask_take(State(app): State<App>, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let (body, _kept) = with_json(&app, request, |body| Ok(body.to_value())).await?;
    let asked = blocking(move || {
        let text = body.to_string();
        desk.takes()?.ask(&desk, &Json::parse(text.as_bytes())?)
    });
    let (entry, is_ready) = asked.await?;
    let status = if is_ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(reply(status, &entry.to_json()))
}

async fn cancel_take(State(app): State<App>, Path(id): Path<String>) -> Reply {
    let entry = app.looking()?.takes()?.cancel(&id)?;
    // Until the step is over; not for long.
    let mut shown = entry.watch();
    let over = shown.wait_for(|shown| shown.status != Status::Reading);
    let _ = tokio::time::timeout(Duration::from_secs(5), over).await;
    ok(&entry.to_json())
}

/// What [`ask_take`] does for a take that there is, by its name.
async fn resume_take(State(app): State<App>, Path(id): Path<String>) -> Reply {
    let desk = app.working()?.clone();
    ok(&blocking(move || desk.takes()?.resume(&id)).await?.to_json())
}

async fn delete_take(State(app): State<App>, Path(id): Path<String>) -> Reply {
    let desk = app.looking()?.clone();
    let gone = id.clone();
    blocking(move || desk.takes()?.remove(&desk, &gone)).await?;
    ok(&json!({ "id": id, "object": "take", "deleted": true }))
}

async fn take_events(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Reply {
    let entry = app.looking()?.takes()?.get(&id)?;
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let (send, body) = stream();
    tokio::spawn(send_events(entry, seen, send));
    Ok(head("text/event-stream", body))
}

/// Sends how a take stands until it stands still. Who reads slowly gets the newest state, not all of them.
async fn send_events(entry: Arc<Entry>, seen: Option<u64>, send: tokio::sync::mpsc::Sender<axum::body::Bytes>) {
    let _ = MAX_EVENTS;
    let mut shown = entry.watch();
    let (mut last_status, mut last_sent) = (None, seen);
    loop {
        let now = shown.borrow_and_update().clone();
        let is_new = last_sent != Some(now.n) || last_status.is_none_or(|status| status != now.status);
        if is_new {
            let name = match now.status {
                Status::Ready => "done",
                Status::Failed => "error",
                status if last_status != Some(status) => "state",
                _ => "progress",
            };
            if send.send(event(Some(name), Some(now.n), &entry.to_json())).await.is_err() {
                return;
            }
            (last_status, last_sent) = (Some(now.status), Some(now.n));
        }
        if now.status.is_final() {
            return;
        }
        tokio::time::sleep(super::limits::PROGRESS_LEAST).await;
        tokio::select! {
            changed = shown.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(SILENCE) => if send.send(comment("reading")).await.is_err() { return },
            () = send.closed() => return,
        }
    }
}

async fn props(State(app): State<App>) -> Reply {
    let desk = app.looking()?;
    let (setup, hp) = (&desk.setup, desk.engine.text.hparams());
    let sampling = &setup.sampling;
    ok(&json!({
        "model_alias": desk.name(), "total_slots": setup.parallel,
        "modalities": { "vision": desk.engine.vision.is_some(), "video": desk.engine.vision.is_some(), "audio": false },
        "build_info": concat!("longtake-", env!("CARGO_PKG_VERSION")),
        "default_generation_settings": {
            "n_ctx": setup.session.n_ctx,
            "params": {
                "temperature": sampling.temp, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
                "repeat_penalty": sampling.repeat_penalty, "max_tokens": super::limits::OPEN_ANSWER,
            },
        },
        "longtake": {
            "layout": hp.layout.to_string(), "media_order": if setup.as_sent { "as-sent" } else { "video-first" },
            "files": setup.data.is_some(), "takes": setup.data.is_some(),
            "max_body": setup.max_body, "max_file": setup.rules.max_file, "quota": setup.rules.quota,
            "keep_seconds": setup.rules.keep.as_secs(), "parallel": setup.parallel, "queue": setup.queue,
        },
    }))
}

async fn slots(State(app): State<App>) -> Reply {
    let desk = app.looking()?;
    let slot = |(i, (n_past, n_ctx)): (usize, (usize, usize))| json!({ "id": i, "n_ctx": n_ctx, "n_past": n_past });
    ok(&desk.pool.slots().into_iter().enumerate().map(slot).collect())
}

async fn metrics(State(app): State<App>) -> Result<Response<Body>, Infallible> {
    let gauges = app.desk().map(|desk| desk.gauges()).unwrap_or_default();
    let mut response = Response::new(Body::from(app.0.metrics.text(&gauges)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
