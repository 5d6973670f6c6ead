//! A take of the store: what was asked for, and how it stands.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::job::Progress;
use crate::server::random::now;
use crate::server::wire::Fault;
use crate::stream::Take;

/// One of them.
pub(crate) struct Entry {
    pub id: String,
    pub(super) path: PathBuf,
    pub(super) note: Note,
    /// Written by `longtake watch`: not ours to change.
    pub(super) is_foreign: bool,
    pub(super) show: watch::Sender<Shown>,
    pub(super) cancel: AtomicBool,
    pub(super) opened: Mutex<Option<Arc<Take>>>,
    pub(super) last_used_at: AtomicU64,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(super) struct Note {
    /// Says whether another request is for the same take.
    pub(super) key: String,
    pub(super) name: String,
    pub(super) created_at: u64,
    /// The body of the request.
    pub(super) request: Value,
    pub(super) plan: Value,
}

/// How a take stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub status: Status,
    pub progress: Progress,
    /// What is wrong, of one that failed.
    pub error: Option<Fault>,
    /// Grows with every change.
    pub n: u64,
}

/// In which state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Queued,
    Reading,
    Paused,
    Ready,
    Failed,
}

impl Status {
    /// As it is spelt.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Reading => "reading",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Failed => "failed",
        }
    }

    /// Whether nothing happens until somebody asks.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Status::Paused | Status::Ready | Status::Failed)
    }
}

impl Entry {
    pub(super) fn new(id: String, path: PathBuf, note: Note, is_foreign: bool, status: Status) -> Entry {
        let (show, _) = watch::channel(Shown { status, progress: Progress::default(), error: None, n: 0 });
        let last_used_at = AtomicU64::new(now());
        let (cancel, opened) = (AtomicBool::new(false), Mutex::default());
        Entry { id, path, note, is_foreign, show, cancel, opened, last_used_at }
    }

    /// Hears of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Shown> {
        self.show.subscribe()
    }

    /// How it stands.
    pub(crate) fn shown(&self) -> Shown {
        self.show.borrow().clone()
    }

    pub(super) fn set(&self, status: Status, error: Option<Fault>) {
        self.show.send_modify(|shown| {
            shown.n += 1;
            (shown.status, shown.error) = (status, error);
        });
    }

    /// As clients see it.
    pub(crate) fn to_json(&self) -> Value {
        let Shown { status, progress, error, .. } = self.shown();
        let bytes = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        json!({
            "id": self.id, "object": "take", "status": status.name(), "name": self.note.name, "plan": self.note.plan,
            "progress": (status != Status::Ready).then(|| progress.to_json()),
            "source": { "file_id": self.note.request["file_id"], "filename": self.note.name },
            "created_at": self.note.created_at, "bytes": bytes, "last_used_at": self.last_used_at.load(Ordering::Relaxed),
            "error": error.map(|fault| fault.to_json()["error"].clone()), "read_only": self.is_foreign,
        })
    }
}

impl Note {
    pub(super) fn to_json(&self, status: Status) -> Value {
        json!({
            "key": self.key, "name": self.name, "created_at": self.created_at, "request": self.request, "plan": self.plan,
            "status": status.name(),
        })
    }

    pub(super) fn from_json(note: &Value) -> Option<(Note, Status)> {
        let text = |key: &str| note[key].as_str().map(str::to_string);
        let status = match note["status"].as_str()? {
            "ready" => Status::Ready,
            "paused" => Status::Paused,
            "failed" => Status::Failed,
            // Killed while it was read.
            _ => Status::Queued,
        };
        let (request, plan) = (note["request"].clone(), note["plan"].clone());
        let created_at = note["created_at"].as_u64()?;
        Some((Note { key: text("key")?, name: text("name")?, created_at, request, plan }, status))
    }
}
