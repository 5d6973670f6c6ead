//! What happens while a session works: a closed set of events, and the way to stop it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Probe;
use crate::{Error, ErrorKind, Result};

/// A step of progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A prompt of so many tokens begins; `cached` of them are already in the cache.
    PromptStart { n_tokens: usize, cached: usize },
    /// Frame pairs of medium `item` behind the first `n_done` are in the vision tower, and this share of the work on them is
    /// done. Sent every half second at most, so of small pairs perhaps never.
    Encoding { item: usize, n_done: usize, n_total: usize, share: f32 },
    /// Another frame pair (or still image) of medium `item` went through the vision tower.
    Encoded { item: usize, n_done: usize, n_total: usize },
    /// So many tokens of the prompt are in the cache now.
    Prefilled { n_done: usize, n_total: usize },
    /// So many frame pairs of a stream were seen; the first `forgotten` of them are in the cache no more.
    Streamed { seen: usize, forgotten: usize },
    /// What a stream has shown so far was saved: so many tokens; or why that did not work.
    Saved(std::result::Result<usize, String>),
    /// Damaged packets were skipped in medium `item`.
    Skipped { item: usize, n_packets: usize },
    /// Something is wrong with medium `item`, although it was read; the message names it.
    Warning { item: usize, message: String },
}

/// Where events go, the flag that asks the session to stop at the next step, and who looks on.
pub struct Events<'a> {
    sink: &'a mut dyn FnMut(Event),
    cancel: &'a AtomicBool,
    probe: Option<&'a mut dyn Probe>,
}

impl<'a> Events<'a> {
    /// Sends events to `sink` until `cancel` is set.
    pub fn new(sink: &'a mut dyn FnMut(Event), cancel: &'a AtomicBool) -> Events<'a> {
        Events { sink, cancel, probe: None }
    }

    /// The same with somebody who looks on.
    #[must_use]
    pub fn with_probe(self, probe: &'a mut dyn Probe) -> Events<'a> {
        Events { probe: Some(probe), ..self }
    }

    /// Who looks on.
    pub(super) fn probe(&mut self) -> Option<&mut dyn Probe> {
        match &mut self.probe {
            Some(probe) => Some(&mut **probe),
            None => None,
        }
    }

    /// The flag that asks to stop.
    pub(super) fn cancel(&self) -> &'a AtomicBool {
        self.cancel
    }

    /// The same without the flag: for what is done after the stop.
    pub(super) fn unstoppable(&mut self) -> Events<'_> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Events { sink: self.sink, cancel: &NEVER, probe: None }
    }

    pub(super) fn send(&mut self, event: Event) {
        (self.sink)(event);
    }

    /// # Errors
    /// `Cancelled` once the flag is set.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::new(ErrorKind::Cancelled, "stopped on request"))
        } else {
            Ok(())
        }
    }
}
