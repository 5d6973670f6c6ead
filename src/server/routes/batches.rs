//! Batches.

use axum::extract::Request;
use serde_json::json;

use super::Id;
use crate::server::app::{App, Reply, blocking, ok, with_json};
use crate::server::wire::Json;

/// All batches.
pub(crate) async fn batches(app: App) -> Reply {
    let list = app.looking()?.batches()?.list();
    ok(&json!({ "object": "list", "data": list, "has_more": false }))
}

/// How one stands.
pub(crate) async fn batch(app: App, Id(id): Id) -> Reply {
    ok(&app.looking()?.batches()?.get(&id)?.to_json())
}

/// Begins one.
pub(crate) async fn ask_batch(app: App, request: Request) -> Reply {
    let desk = app.working()?.clone();
    let (body, _kept) = with_json(&app, request, |body| Ok(body.to_value())).await?;
    let asked = blocking(move || desk.batches()?.ask(&desk, &Json::parse(body.to_string().as_bytes())?));
    ok(&asked.await?.to_json())
}

/// Stops one.
pub(crate) async fn cancel_batch(app: App, Id(id): Id) -> Reply {
    let desk = app.looking()?.clone();
    ok(&blocking(move || desk.batches()?.cancel(&desk, &id)).await?.to_json())
}
