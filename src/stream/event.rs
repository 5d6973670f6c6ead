//! What happens while a session works: a closed set of events, and the way to stop it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Probe;
use crate::{Error, ErrorKind, Result};

/// A step of progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A prompt begins.
    PromptStart {
        /// Its tokens.
        n_tokens: usize,
        /// So many of them are already in the cache.
        cached: usize,
    },
    /// Frame pairs behind the first `n_done` are in the vision tower. Sent every half second at most, so of small pairs perhaps
    /// never.
    Encoding {
        /// Which medium of the prompt, from 0.
        item: usize,
        /// Frame pairs that went through the tower.
        n_done: usize,
        /// Frame pairs of the medium.
        n_total: usize,
        /// This share of the work on those that are in the tower is done, 0 to 1.
        share: f32,
    },
    /// Another frame pair (or still image) went through the vision tower, or had been there before.
    Encoded {
        /// Which medium of the prompt, from 0.
        item: usize,
        /// Frame pairs that are done.
        n_done: usize,
        /// Frame pairs of the medium.
        n_total: usize,
        /// Whether this one equals an earlier one to the last bit, whose tokens it has without being encoded.
        is_reused: bool,
        /// Tokens of it that are left out, where that was asked for.
        n_left_out: usize,
        /// Whether that is all of them: nothing has changed, and it was not encoded.
        is_left_out: bool,
    },
    /// A medium is over, or what reads it was stopped: what it took on the whole, with what others had of the processor meanwhile.
    MediumRead {
        /// Which medium of the prompt, from 0.
        item: usize,
        /// Waiting for frames that were not decoded yet; the rest of decoding goes on beside other work.
        decoding: Duration,
        /// In the vision tower, or waiting for it.
        encoding: Duration,
    },
    /// More of the prompt is in the cache.
    Prefilled {
        /// Tokens of it that are there now.
        n_done: usize,
        /// Its tokens.
        n_total: usize,
    },
    /// More of a stream was seen.
    Streamed {
        /// Frame pairs that were seen.
        seen: usize,
        /// Those of them that are in the cache no more: the first ones, unless the past becomes thinner.
        forgotten: usize,
        /// Visual tokens of all pairs that are in the cache no more.
        n_gone: usize,
        /// Whether the last of them equals an earlier one to the last bit, whose tokens it has without being encoded.
        is_reused: bool,
        /// Tokens of it that are left out, where that was asked for.
        n_left_out: usize,
        /// Whether that is all of them: nothing has changed, and it was not encoded.
        is_left_out: bool,
    },
    /// What a stream has shown so far was saved: so many tokens; or why that did not work.
    Saved(std::result::Result<usize, String>),
    /// Damaged packets were skipped.
    Skipped {
        /// Which medium of the prompt, from 0.
        item: usize,
        /// How many.
        n_packets: usize,
    },
    /// Something is wrong with a medium, although it was read.
    Warning {
        /// Which medium of the prompt, from 0.
        item: usize,
        /// What it is, with the medium's name.
        message: String,
    },
    /// Something that a user should know and that is of no medium: a device that works more slowly than it could.
    Notice(String),
}

/// Where events go, the flag that asks the session to stop at the next step, who looks on, and who may go first.
pub struct Events<'a> {
    sink: &'a mut dyn FnMut(Event),
    cancel: &'a AtomicBool,
    probe: Option<&'a mut dyn Probe>,
    pass: Option<&'a mut dyn FnMut()>,
}

impl<'a> Events<'a> {
    /// Sends events to `sink` until `cancel` is set.
    pub fn new(sink: &'a mut dyn FnMut(Event), cancel: &'a AtomicBool) -> Events<'a> {
        Events { sink, cancel, probe: None, pass: None }
    }

    /// The same with somebody who looks on.
    #[must_use]
    pub fn with_probe(self, probe: &'a mut dyn Probe) -> Events<'a> {
        Events { probe: Some(probe), ..self }
    }

    /// The same with others who compute, too: `pass` is called before every step, of the model and of the vision tower, and may
    /// take its time.
    #[must_use]
    pub fn with_turns(self, pass: &'a mut dyn FnMut()) -> Events<'a> {
        Events { pass: Some(pass), ..self }
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
        let pass: Option<&mut dyn FnMut()> = match &mut self.pass {
            Some(pass) => Some(&mut **pass),
            None => None,
        };
        Events { sink: self.sink, cancel: &NEVER, probe: None, pass }
    }

    pub(super) fn send(&mut self, event: Event) {
        (self.sink)(event);
    }

    /// What comes before a step: others, and a look at the flag.
    ///
    /// # Errors
    /// `Cancelled` once the flag is set.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(pass) = &mut self.pass {
            pass();
        }
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::new(ErrorKind::Cancelled, "stopped on request"))
        } else {
            Ok(())
        }
    }
}
