//! The decoding stage: a thread that turns frames into patch rows, a group of frame pairs ahead of the vision tower.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::MediaPlan;
use crate::{Error, Result};

/// Groups that may wait between the stages. With the one being decoded and the one being encoded, three are in memory; a slow
/// model holds the decoder back, whatever the length of the video.
const WAITING: usize = 1;

/// What the decoding stage says; after a failure it says nothing more.
pub enum Decoded {
    /// The patch rows of the next pairs, from `first` on.
    Pixels {
        first: usize,
        pixels: Vec<f32>,
    },
    Failed(Error),
}

/// Decodes the pairs from `start` on in groups of `group`, on a thread of its own, while `consume` takes them. When `consume`
/// returns early or `cancel` is set, decoding ends with the present frame.
pub fn decode<R>(
    plan: &mut MediaPlan,
    start: usize,
    group: usize,
    cancel: &AtomicBool,
    consume: impl FnOnce(&mut dyn Iterator<Item = Decoded>) -> R,
) -> R {
    let n_pairs = plan.n_pairs();
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(WAITING);
        let gone = &gone;
        scope.spawn(move || {
            for first in (start..n_pairs).step_by(group) {
                let n = group.min(n_pairs - first);
                let stopped = || cancel.load(Ordering::Relaxed) || gone.load(Ordering::Relaxed);
                let decoded = match pixels(plan, first, n, &stopped) {
                    Ok(Some(pixels)) => Decoded::Pixels { first, pixels },
                    Ok(None) => return,
                    Err(error) => Decoded::Failed(error),
                };
                let failed = matches!(decoded, Decoded::Failed(_));
                if send.send(decoded).is_err() || failed {
                    return;
                }
            }
        });
        let result = consume(&mut receive.into_iter());
        gone.store(true, Ordering::Relaxed);
        result
    })
}

/// The patch rows of some pairs; `None` when told to stop.
fn pixels(plan: &mut MediaPlan, first: usize, n: usize, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<f32>>> {
    let mut pixels = Vec::new();
    for pair in first..first + n {
        if stopped() {
            return Ok(None);
        }
        plan.pixels(pair, &mut pixels)?;
    }
    Ok(Some(pixels))
}
