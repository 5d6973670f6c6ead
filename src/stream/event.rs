//! What happens while a session works: a closed set of events, and the way to stop it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, Result};

/// A step of progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A prompt of so many tokens begins; `cached` of them are already in the cache.
    PromptStart { n_tokens: usize, cached: usize },
    /// Another frame pair (or still image) of medium `item` went through the vision tower.
    Encoded { item: usize, n_done: usize, n_total: usize },
    /// So many tokens of the prompt are in the cache now.
    Prefilled { n_done: usize, n_total: usize },
    /// Damaged packets were skipped in medium `item`.
    Skipped { item: usize, n_packets: usize },
}

/// Where events go, and the flag that asks the session to stop at the next step.
pub struct Events<'a> {
    sink: &'a mut dyn FnMut(Event),
    cancel: &'a AtomicBool,
}

impl<'a> Events<'a> {
    /// Sends events to `sink` until `cancel` is set.
    pub fn new(sink: &'a mut dyn FnMut(Event), cancel: &'a AtomicBool) -> Events<'a> {
        Events { sink, cancel }
    }

    /// The flag that asks to stop.
    pub(super) fn cancel(&self) -> &'a AtomicBool {
        self.cancel
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
