//! How the server stands.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::server::app::{App, Reply, ok};
use crate::server::desk::Desk;
use crate::server::limits::OPEN_ANSWER;
use crate::server::openapi;
use crate::server::reply::json as reply;

/// It lives.
pub(crate) async fn health() -> Reply {
    ok(&json!({ "status": "ok" }))
}

/// It takes work.
pub(crate) async fn ready(app: App) -> Reply {
    let not = |status: &str| Ok(reply(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": status })));
    match (app.is_draining(), app.desks().first()) {
        (true, _) => not("draining"),
        (false, None) => not("loading"),
        (false, Some(_)) => ok(&json!({ "status": "ok" })),
    }
}

/// Defaults and limits.
pub(crate) async fn props(app: App) -> Reply {
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
                "repeat_penalty": sampling.repeat_penalty, "max_tokens": OPEN_ANSWER,
            },
        },
        "longtake": {
            "layout": hp.layout.to_string(), "media_order": if setup.as_sent { "as-sent" } else { "video-first" },
            "files": setup.data.is_some(), "takes": setup.data.is_some(),
            "max_body": setup.max_body, "max_file": setup.rules.max_file, "quota": setup.rules.quota,
            "memory": desk.memory.to_json(), "linger_seconds": setup.linger.as_secs(),
            "keep_seconds": setup.rules.keep.as_secs(), "parallel": setup.parallel, "queue": setup.queue,
        },
    }))
}

/// How full conversations are.
pub(crate) async fn slots(app: App) -> Reply {
    let desk = app.looking()?;
    let slot = |(i, (n_past, n_ctx)): (usize, (usize, usize))| json!({ "id": i, "n_ctx": n_ctx, "n_past": n_past });
    ok(&desk.pool.slots().into_iter().enumerate().map(slot).collect())
}

/// Figures for Prometheus.
pub(crate) async fn metrics(app: App) -> Result<Response<Body>, Infallible> {
    let gauges = Desk::gauges(app.desks());
    let mut response = Response::new(Body::from(app.metrics().text(&gauges)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// What there is, for programs that read OpenAPI.
pub(crate) async fn openapi() -> Reply {
    ok(openapi::document())
}
