//! What all handlers share: who may come in, what a body is, where the desk is. None of them knows a socket.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use serde_json::Value;
use tokio::sync::watch;

use super::body::{Kept, Room};
use super::desk::Desk;
use super::guard::{Asker, Door, Guard, check_type};
use super::limits::MAX_BODIES;
use super::memory::Memory;
use super::metrics::Metrics;
use super::page;
use super::random::id;
use super::reply::json as reply;
use super::routes;
use super::setup::Setup;
use super::wire::{Code, Fault, Json};

/// What handlers give.
pub(crate) type Reply = Result<Response<Body>, Fault>;

/// What handlers see: all that there is, and whose request it is.
#[derive(Clone)]
pub(crate) struct App {
    shared: Arc<Shared>,
    /// The key that was shown, by its number.
    key: usize,
}

struct Shared {
    setup: Arc<Setup>,
    guard: Guard,
    metrics: Arc<Metrics>,
    memory: Memory,
    bodies: Room,
    /// One for all, or of each key its own.
    desks: OnceLock<Vec<Arc<Desk>>>,
    is_draining: watch::Sender<bool>,
}

impl App {
    /// An application that is loading; `is_local` for a socket that is a file.
    pub(crate) fn new(setup: Arc<Setup>, is_local: bool) -> App {
        let guard = Guard::new(&setup.keys, &setup.hosts, &setup.origins, is_local);
        let (is_draining, _) = watch::channel(false);
        let metrics = Arc::new(Metrics::default());
        let memory = Memory::new(setup.limits.memory);
        let shared = Shared {
            setup,
            guard,
            metrics,
            bodies: Room::new(MAX_BODIES, memory.clone()),
            memory,
            desks: OnceLock::new(),
            is_draining,
        };
        App { shared: Arc::new(shared), key: 0 }
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// What is held of memory.
    pub(crate) fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    /// The model is here.
    pub(crate) fn ready(&self, desks: Vec<Arc<Desk>>) {
        let _ = self.shared.desks.set(desks);
    }

    /// All desks, once there are any.
    pub(crate) fn desks(&self) -> &[Arc<Desk>] {
        self.shared.desks.get().map_or(&[], Vec::as_slice)
    }

    /// No new work from now on.
    pub(crate) fn drain(&self) {
        self.shared.is_draining.send_replace(true);
    }

    /// Whether the server is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        *self.shared.is_draining.borrow()
    }

    /// The desk for a request that only asks.
    ///
    /// # Errors
    /// `loading`.
    pub(crate) fn looking(&self) -> Result<&Arc<Desk>, Fault> {
        let desks = self.desks();
        let own = if desks.len() > 1 { desks.get(self.key) } else { desks.first() };
        own.ok_or_else(|| Fault::new(Code::Loading, "the model is being loaded").after(5))
    }

    /// The desk for a request that is work.
    ///
    /// # Errors
    /// `loading`, `draining`.
    pub(crate) fn working(&self) -> Result<&Arc<Desk>, Fault> {
        if self.is_draining() {
            return Err(Fault::new(Code::Draining, "the server is about to end").after(10));
        }
        self.looking()
    }

    /// The routes.
    pub(crate) fn router(self) -> Router {
        let mut router = Router::new();
        for route in routes::TABLE.iter().filter(|route| (route.is_there)(&self.shared.setup)) {
            router = router.route(route.path, (route.methods)());
        }
        if self.shared.setup.page {
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

/// The key that a request showed, by its number.
#[derive(Clone, Copy)]
struct Key(usize);

impl FromRequestParts<App> for App {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<App, Infallible> {
        let key = parts.extensions.get().map_or(0, |Key(key)| *key);
        Ok(App { key, ..app.clone() })
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

/// The route of a request, from the fixed list: labels of figures are few.
fn route(path: Option<&MatchedPath>) -> &'static str {
    let path = path.map_or("", MatchedPath::as_str);
    let known = routes::TABLE.iter().map(|route| route.path).chain(["/"]).find(|known| *known == path);
    known.unwrap_or("other")
}

/// Comes before every handler: who asks, and may he; and after it: what was answered, how fast.
async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    let route = route(request.extensions().get());
    let door = door(request.uri().path(), &app.shared.setup);
    let checked = app.shared.guard.check(request.method(), request.uri(), request.headers(), door);
    let is_preflight = request.method() == Method::OPTIONS;
    let (mut response, page) = match checked {
        Err(fault) => (fault.into_response(), None),
        Ok(Asker { page: Some(page), .. }) if is_preflight => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE"));
            let names = HeaderValue::from_static("authorization, content-type, last-event-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            (response, Some(page))
        }
        Ok(asker) => {
            request.extensions_mut().insert(Key(asker.key));
            (next.run(request).await, asker.page)
        }
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
    app.shared.metrics.request(route, response.status().as_u16(), began.elapsed());
    response
}

/// Refusals that a framework made are told not to be tried again, too.
fn headers_of(response: &mut Response<Body>) {
    response.headers_mut().entry("x-should-retry").or_insert(HeaderValue::from_static("false"));
}

/// Reads a JSON body and makes something of it while it is there.
///
/// # Errors
/// A body that is not JSON, too large, too slow; what is wrong with what is made of it.
pub(crate) async fn with_json<T>(
    app: &App,
    request: Request,
    make: impl FnOnce(&Json<'_>) -> Result<T, Fault>,
) -> Result<(T, Kept), Fault> {
    let (parts, body) = request.into_parts();
    check_type(&parts.headers, "application/json")?;
    let held = app.shared.bodies.read(&parts.headers, body, app.shared.setup.max_body).await?;
    let made = make(&Json::parse(&held.bytes)?)?;
    Ok((made, held.room))
}

/// Work that reads files: not on the threads that answer sockets.
///
/// # Errors
/// Those of the work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Fault::new(Code::InternalError, "a fault of the program; its log says where")))
}

/// A reply of status 200.
///
/// # Errors
/// None; handlers give results.
pub(crate) fn ok(value: &Value) -> Reply {
    Ok(reply(StatusCode::OK, value))
}
