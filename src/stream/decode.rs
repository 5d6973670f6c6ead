//! The decoding stage: a thread that turns frames into patch rows, a group of frame pairs ahead of the vision tower.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use super::repeats;
use crate::kernels::threads;
use crate::media::Grid;
use crate::model::VisionTower;
use crate::{Error, Result};

/// Groups that may wait between the stages. With the one being decoded and the one being encoded, three are in memory; a slow
/// model holds the decoder back, whatever the length of the video.
const WAITING: usize = 1;

/// Time between looks at the flag that says stop.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Bytes of frames of `grid` on their way through decoding stage and vision tower, `group` pairs at a time of `n_pairs` in all, and
/// of those that are kept to find them again.
pub(super) fn n_bytes(tower: &VisionTower, group: usize, n_pairs: usize, grid: Grid) -> usize {
    let group = group.min(n_pairs);
    let kept = repeats::n_bytes(tower.hparams(), grid, n_pairs);
    let pixels = group * grid.h * grid.w * tower.hparams().n_patch_values() * size_of::<f32>();
    (WAITING + 2).min(n_pairs.div_ceil(group.max(1))) * pixels + tower.n_bytes(group, grid.h, grid.w) + kept
}

/// Asks for the memory of these stages once, where a refusal is an error and not yet the end of the process.
///
/// # Errors
/// Memory that the system refuses.
pub(super) fn probe(tower: &VisionTower, group: usize, n_pairs: usize, grid: Grid) -> Result<()> {
    let (n_bytes, pairs) = (n_bytes(tower, group, n_pairs, grid), group.min(n_pairs));
    let refused =
        |_| Error::limit(format!("{n_bytes} bytes for {pairs} x {}x{} patches cannot be had", grid.h, grid.w));
    Vec::<u8>::new().try_reserve_exact(n_bytes).map_err(refused)
}

/// What the decoding stage says; after a failure it says nothing more.
pub(super) enum Decoded {
    /// The patch rows of the next pairs, from `first` on.
    Pixels {
        first: usize,
        pixels: Vec<f32>,
    },
    Failed(Error),
}

/// What there is to take.
pub(super) enum Next {
    Decoded(Decoded),
    /// Nothing at the moment.
    NotYet,
    /// Nothing any more.
    Over,
}

/// The decoding stage, for who takes what it says.
pub(super) struct Stage<'a> {
    said: Receiver<Decoded>,
    cancel: &'a AtomicBool,
    stopper: Arc<AtomicBool>,
}

impl<'a> Stage<'a> {
    /// A stage that says what comes through `said`, and sets `stopper` soon after `cancel`.
    pub(super) fn new(said: Receiver<Decoded>, cancel: &'a AtomicBool, stopper: Arc<AtomicBool>) -> Stage<'a> {
        Stage { said, cancel, stopper }
    }

    /// Waits for what comes next.
    pub(super) fn next(&mut self) -> Next {
        loop {
            match self.said.recv_timeout(LOOK_UP) {
                Ok(decoded) => return Next::Decoded(decoded),
                // The decoder says something, if only that it was stopped, or goes.
                Err(RecvTimeoutError::Timeout) => {
                    self.stopper.fetch_or(self.cancel.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Disconnected) => return Next::Over,
            }
        }
    }

    /// What is there already.
    pub(super) fn try_next(&mut self) -> Next {
        match self.said.try_recv() {
            Ok(decoded) => Next::Decoded(decoded),
            Err(TryRecvError::Empty) => Next::NotYet,
            Err(TryRecvError::Disconnected) => Next::Over,
        }
    }
}

/// What is decoded: frame pairs in order.
pub(super) trait Pairs: Send {
    /// Whether what was decoded of a group counts when the rest of it does not come: a stream cannot be read again, a file
    /// can, and then keeps its groups.
    const KEEPS_PARTS: bool;

    /// A flag that makes [`Pairs::next`] give up soon, for decoders that wait for others and do not look at `stopped`.
    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        None
    }

    /// Appends the patch rows of pair `pair`, which comes after the one of the call before, to `out`; false at the end, or
    /// when `stopped` says so.
    ///
    /// # Errors
    /// A frame that cannot be decoded.
    fn next(&mut self, pair: usize, out: &mut Vec<f32>, stopped: &dyn Fn() -> bool) -> Result<bool>;
}

/// Decodes the pairs from `start` on in groups of `group`, on a thread of its own, while `consume` takes them. When `consume`
/// returns early or `cancel` is set, decoding ends with the present frame, or at once where the decoder only waits.
pub(super) fn decode<P: Pairs, R>(
    pairs: &mut P,
    start: usize,
    group: usize,
    cancel: &AtomicBool,
    consume: impl FnOnce(&mut Stage<'_>) -> R,
) -> R {
    let gone = AtomicBool::new(false);
    let stopper = pairs.stopper().unwrap_or_default();
    std::thread::scope(|scope| {
        let (send, receive) = bounded(WAITING);
        let gone = &gone;
        let refused = send.clone();
        let spawned = threads::builder("decoder").spawn_scoped(scope, move || {
            let stopped = || cancel.load(Ordering::Relaxed) || gone.load(Ordering::Relaxed);
            for first in (start..).step_by(group) {
                let mut pixels = Vec::new();
                let (n, failure) = group_of(pairs, first..first + group, &mut pixels, &stopped);
                let is_part = n < group;
                // Whoever listened may be gone.
                if n > 0
                    && (failure.is_none() && !stopped() || P::KEEPS_PARTS)
                    && send.send(Decoded::Pixels { first, pixels }).is_err()
                {
                    return;
                }
                if let Some(error) = failure {
                    send.send(Decoded::Failed(error)).ok();
                }
                if is_part {
                    return;
                }
            }
        });
        if let Err(err) = spawned {
            // Nobody has said anything yet, so there is room for this.
            refused.try_send(Decoded::Failed(err.into())).ok();
        }
        drop(refused);
        let mut stage = Stage::new(receive, cancel, Arc::clone(&stopper));
        let result = consume(&mut stage);
        gone.store(true, Ordering::Relaxed);
        stopper.store(true, Ordering::Relaxed);
        drop(stage);
        result
    })
}

/// Decodes some pairs into `out`: how many came, and what went wrong after them.
fn group_of(
    pairs: &mut impl Pairs,
    wanted: Range<usize>,
    out: &mut Vec<f32>,
    stopped: &dyn Fn() -> bool,
) -> (usize, Option<Error>) {
    for pair in wanted.clone() {
        match if stopped() { Ok(false) } else { pairs.next(pair, out, stopped) } {
            Ok(true) => {}
            Ok(false) => return (pair - wanted.start, None),
            Err(error) => return (pair - wanted.start, Some(error)),
        }
    }
    (wanted.len(), None)
}
