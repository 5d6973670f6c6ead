//! Uploads.

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Multipart, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use serde_json::{Value, json};

use super::Id;
use crate::server::answer::head;
use crate::server::app::{App, Reply, blocking, ok};
use crate::server::body::{Pace, declared};
use crate::server::guard::check_type;
use crate::server::limits::BODY_GRACE;
use crate::server::metrics::Counter;
use crate::server::reply::stream;
use crate::server::store::{Incoming, Upload};
use crate::server::wire::{Code, Fault};

/// All uploads.
pub(crate) async fn files(app: App) -> Reply {
    let list: Vec<Value> = app.looking()?.files()?.list().iter().map(Upload::to_json).collect();
    ok(&json!({ "object": "list", "data": list, "has_more": false }))
}

/// What is known of one.
pub(crate) async fn file(app: App, Id(id): Id) -> Reply {
    ok(&app.looking()?.files()?.look(&id)?.to_json())
}

/// Forgets one; its bytes go once nothing needs them.
pub(crate) async fn delete_file(app: App, Id(id): Id) -> Reply {
    app.looking()?.files()?.remove(&id)?;
    ok(&json!({ "id": id, "object": "file", "deleted": true }))
}

/// The lines of a batch's file, and of no other: who uploaded a video has it.
pub(crate) async fn content(app: App, Id(id): Id) -> Reply {
    let upload = app.looking()?.files()?.get(&id)?;
    if upload.kind != "text" {
        return Err(Fault::new(Code::FileNotFound, "only files of batches are given back"));
    }
    let mut file = std::fs::File::open(upload.blob().path())
        .map_err(|_| Fault::new(Code::FileNotFound, "the file cannot be read"))?;
    let n_bytes = upload.n_bytes;
    let (send, body) = stream();
    // It is read as fast as the client takes it.
    tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n @ 1..) = std::io::Read::read(&mut file, &mut piece) {
            if send.blocking_send(Bytes::copy_from_slice(&piece[..n])).is_err() {
                return;
            }
        }
        drop(upload);
    });
    let mut reply = head("application/jsonl", body);
    // What breaks off is then no whole file.
    reply.headers_mut().insert(CONTENT_LENGTH, n_bytes.into());
    Ok(reply)
}

/// Takes the bytes of an upload as they come.
async fn receive(app: &App, headers: &HeaderMap, body: &mut Body) -> Result<Incoming, Fault> {
    let desk = app.working()?;
    let most = desk.setup.rules.max_file;
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
async fn write(app: &App, mut incoming: Incoming, bytes: Bytes) -> Result<Incoming, Fault> {
    app.metrics().add(Counter::UploadedBytes, bytes.len() as u64);
    blocking(move || incoming.write(&bytes).map(|()| incoming)).await
}

const PURPOSES: [&str; 4] = ["user_data", "vision", "video", "batch"];

/// What an upload is for, where it says so.
fn purpose(given: Option<&str>) -> Result<String, Fault> {
    match given {
        None => Ok("user_data".to_string()),
        Some(given) if PURPOSES.contains(&given) => Ok(given.to_string()),
        Some(_) => Err(Fault::value("purpose", format!("`purpose` is none of {}", PURPOSES.join(", ")))),
    }
}

/// What stands behind the path of an upload.
#[derive(serde::Deserialize)]
pub(crate) struct UploadQuery {
    filename: Option<String>,
    purpose: Option<String>,
    expires_after: Option<u64>,
}

/// `curl -T`: the body is the file.
pub(crate) async fn upload_raw(app: App, query: Result<Query<UploadQuery>, QueryRejection>, request: Request) -> Reply {
    let Query(query) = query.map_err(|_| Fault::value("expires_after", "the query is malformed"))?;
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
pub(crate) async fn upload_form(app: App, request: Request) -> Reply {
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
    tokio::time::timeout(BODY_GRACE, piece).await.map_err(slow)
}
