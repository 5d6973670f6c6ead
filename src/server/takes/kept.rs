//! Takes that nobody asked for: what a conversation had read when it was let go ([`keep`](crate::server::keep)).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Entry, Note, Result, Status, Takes};
use crate::server::desk::Desk;
use crate::server::keep::Seen;
use crate::server::limits::MAX_ENTRIES;
use crate::server::metrics::Counter;
use crate::server::random::{id, now};
use crate::server::wire::{Code, Fault};
use crate::stream::Session;

impl Takes {
    /// Keeps the video that a conversation begins with, unless it is kept already. The conversation is over after that.
    ///
    /// # Errors
    /// A full store; a disk that refuses.
    pub(crate) fn keep(&self, desk: &Desk, seen: &Seen, session: &mut Session) -> Result<()> {
        let same = self.backlog.list().into_iter().find(|entry| entry.note.key == seen.key());
        match same.map(|entry| (entry.shown().status, entry)) {
            None => {}
            // One that was found damaged makes way.
            Some((Status::Failed, entry)) => self.remove(desk, &entry.id)?,
            Some((_, entry)) => {
                entry.last_used_at.store(now(), Ordering::Relaxed);
                return Ok(());
            }
        }
        if self.backlog.len() >= MAX_ENTRIES {
            return Err(Fault::new(
                Code::StorageFull,
                format!("the store holds `{MAX_ENTRIES}` takes, which is the most"),
            ));
        }
        let fault = |err: crate::Error| {
            eprintln!("error: {err}");
            Fault::from_error(&err)
        };
        self.make_room(desk, seen.n_bytes().map_err(fault)?)?;
        let id = id("take");
        let path = self.folder.join(format!("{id}.take"));
        let (key, name) = (seen.key().to_string(), seen.name().to_string());
        let request = serde_json::Value::Null;
        let note = Note { key, name, created_at: now(), request, plan: seen.plan().clone() };
        let entry = Arc::new(Entry::new(id.clone(), path.clone(), note, false, Status::Ready));
        // The note first: a take without one would be taken for one of `longtake watch`, and stay for ever.
        self.write(&entry, Status::Ready)?;
        match seen.write(session, &path).map_err(fault) {
            Ok(true) => {
                self.backlog.insert(id, entry);
                desk.metrics.add(Counter::TakesKept, 1);
                Ok(())
            }
            written => {
                let _ = fs::remove_file(self.folder.join(format!("{id}.json")));
                written.map(|_| ())
            }
        }
    }

    /// The video that a prompt begins with, known as `video` and lying at `path`, as it was kept under this key. Its take is checked
    /// whole when it is found for the first time, and one that is damaged is told of in the list and not used.
    pub(crate) fn find(&self, key: &str, (video, path): ([u8; 32], &Path)) -> Option<Seen> {
        let entry = self.backlog.list().into_iter().find(|entry| entry.note.key == key)?;
        if entry.shown().status != Status::Ready {
            return None;
        }
        let (take, name) = self.open(&entry.id).ok()?;
        Seen::again(take, (video, path), (key, &name)).ok().flatten()
    }
}
