//! Replies: refusals with their headers, JSON, and bodies that are sent as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use http_body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use super::wire::{Code, Fault};

impl IntoResponse for Fault {
    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self.to_json());
        let headers = response.headers_mut();
        let again = if self.code.is_passing() { "true" } else { "false" };
        headers.insert("x-should-retry", HeaderValue::from_static(again));
        if let Some(seconds) = self.retry_after.or(self.code.is_passing().then_some(1)) {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.code == Code::InvalidApiKey {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The sender of a body that is sent as it comes, and the body. Few pieces wait: who reads slowly is waited for by the sender
/// of this body alone. The sender hears when nobody reads any more ([`mpsc::Sender::closed`]).
pub(super) fn stream() -> (mpsc::Sender<Bytes>, Body) {
    let (send, receive) = mpsc::channel(16);
    (send, Body::new(Stream(receive)))
}

/// The reading end.
struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// An event of a stream: a name, where it has one, and a line of JSON.
pub(super) fn event(name: Option<&str>, id: Option<u64>, data: &Value) -> Bytes {
    let mut text = String::new();
    if let Some(name) = name {
        text.push_str(&format!("event: {name}\n"));
    }
    if let Some(id) = id {
        text.push_str(&format!("id: {id}\n"));
    }
    text.push_str(&format!("data: {data}\n\n"));
    text.into()
}

/// A comment of a stream, which clients skip.
pub(super) fn comment(words: &str) -> Bytes {
    format!(": {words}\n\n").into()
}

/// The end of a stream of chunks.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
