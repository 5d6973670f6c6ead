//! What happens while a call works, told to a function of the caller's.

use std::ffi::c_void;

use crate::Cancel;
use crate::stream::Event;

/// What is being done.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lt_stage {
    /// A prompt of `total` tokens begins; `done` of them were read before.
    LT_PROMPT = 0,
    /// `done` of `total` frame pairs of medium `item` went through the vision tower.
    LT_FRAMES = 1,
    /// `done` of `total` tokens were read.
    LT_TOKENS = 2,
    /// `done` damaged packets were skipped in medium `item`.
    LT_SKIPPED = 3,
    /// Time goes by: nothing new to tell, a moment to stop.
    LT_WORKING = 4,
}

/// A step of progress.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct lt_progress {
    /// What is being done.
    pub stage: lt_stage,
    /// Which medium, counted from 0.
    pub item: u32,
    /// How much of it is done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
}

/// Told of each step, on the thread of the call that works; `progress` is good until it returns. Anything but 0 stops the work,
/// which then ends with `LT_CANCELLED`. It may call `lt_chat_cancel`; every other call with the same handle is `LT_BUSY`.
pub type lt_progress_fn = Option<unsafe extern "C" fn(user: *mut c_void, progress: *const lt_progress) -> i32>;

/// A function of the caller's with what it is given.
pub(super) struct Listener {
    function: unsafe extern "C" fn(*mut c_void, *const lt_progress) -> i32,
    user: *mut c_void,
}

// SAFETY: the pointer is only given back to the caller, who promised that the function may be called from any thread that makes
// calls with the handle.
unsafe impl Send for Listener {}

impl Listener {
    /// Who listens, if anybody.
    ///
    /// # Safety
    /// `function` may be called with `user` for as long as the handle is used, from each thread that uses it.
    pub(super) unsafe fn new(function: lt_progress_fn, user: *mut c_void) -> Option<Listener> {
        function.map(|function| Listener { function, user })
    }

    /// Tells of `event`; the listener may stop the work.
    pub(super) fn tell(&self, event: &Event, cancel: &Cancel) {
        let progress = lt_progress::of(event);
        // SAFETY: the promise of `new`; `progress` lives until the function returns.
        if unsafe { (self.function)(self.user, &raw const progress) } != 0 {
            cancel.cancel();
        }
    }
}

impl lt_progress {
    fn of(event: &Event) -> lt_progress {
        let (stage, item, done, total) = match *event {
            Event::PromptStart { n_tokens, cached } => (lt_stage::LT_PROMPT, 0, cached, n_tokens),
            Event::Encoded { item, n_done, n_total, .. } => (lt_stage::LT_FRAMES, item, n_done, n_total),
            Event::Prefilled { n_done, n_total } => (lt_stage::LT_TOKENS, 0, n_done, n_total),
            Event::Skipped { item, n_packets } => (lt_stage::LT_SKIPPED, item, n_packets, 0),
            Event::Encoding { item, n_done, n_total, .. } => (lt_stage::LT_WORKING, item, n_done, n_total),
            Event::Streamed { .. }
            | Event::MediumRead { .. }
            | Event::Saved(_)
            | Event::Warning { .. }
            | Event::Notice(_) => (lt_stage::LT_WORKING, 0, 0, 0),
        };
        lt_progress { stage, item: item as u32, done: done as u64, total: total as u64 }
    }
}
