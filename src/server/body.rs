//! Bodies: never more than their cap, never slower than their rate, all together never more than there is room for.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::{BODY_GRACE, MIN_BODY_RATE};
use super::memory::Memory;
use super::wire::{Code, Fault};
use crate::stream::{Hold, Holder};

/// Permits are of so many bytes, since a semaphore counts in 32 bits.
const UNIT: usize = 4 << 10;

/// Room for the bodies of all requests that are in memory.
#[derive(Clone)]
pub(super) struct Room {
    permits: Arc<Semaphore>,
    memory: Memory,
}

/// A body, and its room, which is free again when this is dropped.
pub(super) struct Held {
    pub bytes: Vec<u8>,
    pub room: Kept,
}

/// Room that a request has, for its body and for what is decoded from it, until its media are on disk.
#[derive(Default)]
pub(super) struct Kept(Vec<(OwnedSemaphorePermit, Hold)>);

impl Room {
    /// Room for so many bytes, which count as memory, too.
    pub(super) fn new(n_bytes: usize, memory: Memory) -> Room {
        Room { permits: Arc::new(Semaphore::new(n_bytes.div_ceil(UNIT))), memory }
    }

    fn take(&self, n_bytes: usize) -> Result<(OwnedSemaphorePermit, Hold), Fault> {
        let n = u32::try_from(n_bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let full = || {
            Fault::new(Code::TooManyBytes, "the requests that are being read fill all memory there is for them")
                .after(2)
        };
        let permit = self.permits.clone().try_acquire_many_owned(n).map_err(|_| full())?;
        let n_bytes = n_bytes as u64;
        let hold = self.memory.try_hold(Holder::Bodies, n_bytes).or_else(|_| {
            // Conversations are let go for it, which may take a moment.
            tokio::task::block_in_place(|| self.memory.hold(Holder::Bodies, n_bytes))
        });
        Ok((permit, hold.map_err(|_| full())?))
    }

    /// Reads a body of at most `most` bytes into memory.
    ///
    /// # Errors
    /// `body_too_large`, `body_too_slow`, `too_many_bytes`.
    pub(super) async fn read(&self, headers: &HeaderMap, body: Body, most: u64) -> Result<Held, Fault> {
        let declared = declared(headers)?;
        let too_large =
            || Fault::new(Code::BodyTooLarge, format!("a body of more than {most} bytes: upload videos to /v1/files"));
        if declared.is_some_and(|n| n > most) {
            return Err(too_large());
        }
        let mut held = Held { bytes: Vec::new(), room: Kept::default() };
        // Room for all that was declared, or for what comes; memory only as it comes.
        let mut has_room = 0;
        if let Some(n) = declared {
            held.room.0.push(self.take(n as usize)?);
            has_room = n as usize;
        }
        let mut pace = Pace::new();
        let mut body = body;
        while let Some(piece) = pace.next(&mut body).await? {
            if (held.bytes.len() + piece.len()) as u64 > most {
                return Err(too_large());
            }
            if held.bytes.len() + piece.len() > has_room {
                let more = piece.len().max(64 << 10);
                held.room.0.push(self.take(more)?);
                has_room += more;
            }
            held.bytes.extend_from_slice(&piece);
        }
        Ok(held)
    }
}

/// The length that a request declares.
///
/// # Errors
/// One that is no number.
pub(super) fn declared(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(value) = headers.get("content-length") else { return Ok(None) };
    let n = value.to_str().ok().and_then(|text| text.parse().ok());
    n.map(Some).ok_or_else(|| Fault::new(Code::LengthRequired, "the length of the body is no number"))
}

/// How fast a body comes.
pub(super) struct Pace {
    began: Instant,
    n_bytes: u64,
}

impl Pace {
    /// It begins now.
    pub(super) fn new() -> Pace {
        Pace { began: Instant::now(), n_bytes: 0 }
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// `body_too_slow`; a client that left.
    pub(super) async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Fault> {
        let slow =
            || Fault::new(Code::BodyTooSlow, format!("the body came slower than {MIN_BODY_RATE} bytes a second"));
        loop {
            let until = self.began + BODY_GRACE + std::time::Duration::from_secs(self.n_bytes / MIN_BODY_RATE);
            let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx));
            let frame = tokio::time::timeout_at(until.into(), frame).await.map_err(|_| slow())?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(Fault::new(Code::InvalidJson, "the body ended before its end")),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.n_bytes += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}
