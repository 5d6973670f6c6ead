//! Takes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;

use super::Id;
use crate::server::answer::head;
use crate::server::app::{App, Reply, blocking, ok, with_json};
use crate::server::limits::{PROGRESS_LEAST, SILENCE};
use crate::server::reply::{comment, event, json as reply, stream};
use crate::server::takes::{Entry, Status};
use crate::server::wire::Json;

/// All takes.
pub(crate) async fn takes(app: App) -> Reply {
    let takes = app.looking()?.takes()?.clone();
    let list = blocking(move || Ok(takes.list().iter().map(|entry| entry.to_json()).collect::<Vec<_>>())).await?;
    ok(&json!({ "object": "list", "data": list, "has_more": false }))
}

/// How one stands.
pub(crate) async fn take(app: App, Id(id): Id) -> Reply {
    ok(&app.looking()?.takes()?.get(&id)?.to_json())
}

/// Reads a video into a take, or goes on with the one that there is.
pub(crate) async fn ask_take(app: App, request: Request) -> Reply {
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

/// Pauses one.
pub(crate) async fn cancel_take(app: App, Id(id): Id) -> Reply {
    let entry = app.looking()?.takes()?.cancel(&id)?;
    // Until the step is over; not for long.
    let mut shown = entry.watch();
    let over = shown.wait_for(|shown| shown.status != Status::Reading);
    let _ = tokio::time::timeout(Duration::from_secs(5), over).await;
    ok(&entry.to_json())
}

/// What [`ask_take`] does for a take that there is, by its name.
pub(crate) async fn resume_take(app: App, Id(id): Id) -> Reply {
    let desk = app.working()?.clone();
    ok(&blocking(move || desk.takes()?.resume(&id)).await?.to_json())
}

/// Removes one.
pub(crate) async fn delete_take(app: App, Id(id): Id) -> Reply {
    let desk = app.looking()?.clone();
    let gone = id.clone();
    blocking(move || desk.takes()?.remove(&desk, &gone)).await?;
    ok(&json!({ "id": id, "object": "take", "deleted": true }))
}

/// How one goes, until it stands still.
pub(crate) async fn take_events(app: App, Id(id): Id, headers: HeaderMap) -> Reply {
    let entry = app.looking()?.takes()?.get(&id)?;
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let (send, body) = stream();
    tokio::spawn(send_events(entry, seen, send));
    Ok(head("text/event-stream", body))
}

/// Sends how a take stands until it stands still. Who reads slowly gets the newest state, not all of them.
async fn send_events(entry: Arc<Entry>, seen: Option<u64>, send: mpsc::Sender<Bytes>) {
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
        tokio::time::sleep(PROGRESS_LEAST).await;
        tokio::select! {
            changed = shown.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(SILENCE) => if send.send(comment("reading")).await.is_err() { return },
            () = send.closed() => return,
        }
    }
}
