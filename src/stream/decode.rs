//! The decoding stage: a thread that turns frames into patch rows, a group of frame pairs ahead of the vision tower.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::MediaPlan;
use crate::media::Grid;
use crate::model::VisionTower;
use crate::{Error, Result};

/// Groups that may wait between the stages. With the one being decoded and the one being encoded, three are in memory; a slow
/// model holds the decoder back, whatever the length of the video.
const WAITING: usize = 1;

/// Time between looks at the flag that says stop.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Bytes of frames of `grid` on their way through decoding stage and vision tower, `pairs` at a time.
pub fn n_bytes(tower: &VisionTower, pairs: usize, grid: Grid) -> usize {
    let pixels = pairs * grid.h * grid.w * tower.hparams().n_patch_values() * size_of::<f32>();
    (WAITING + 2) * pixels + tower.n_bytes(pairs, grid.h, grid.w)
}

/// Asks for the memory of these stages once, where a refusal is an error and not yet the end of the process.
///
/// # Errors
/// Memory that the system refuses.
pub fn probe(tower: &VisionTower, pairs: usize, grid: Grid) -> Result<()> {
    let n_bytes = n_bytes(tower, pairs, grid);
    let refused =
        |_| Error::limit(format!("{n_bytes} bytes for {pairs} x {}x{} patches cannot be had", grid.h, grid.w));
    Vec::<u8>::new().try_reserve_exact(n_bytes).map_err(refused)
}

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
/// returns early or `cancel` is set, decoding ends with the present frame, or at once where the decoder only waits.
pub fn decode<R>(
    plan: &mut MediaPlan,
    start: usize,
    group: usize,
    cancel: &AtomicBool,
    consume: impl FnOnce(&mut dyn Iterator<Item = Decoded>) -> R,
) -> R {
    let n_pairs = plan.n_pairs();
    let gone = AtomicBool::new(false);
    let stopper = plan.stopper().unwrap_or_default();
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
        let mut stage = std::iter::from_fn(|| {
            loop {
                match receive.recv_timeout(LOOK_UP) {
                    Ok(decoded) => return Some(decoded),
                    // The decoder says something, if only that it was stopped, or goes.
                    Err(RecvTimeoutError::Timeout) => {
                        stopper.fetch_or(cancel.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        });
        let result = consume(&mut stage);
        gone.store(true, Ordering::Relaxed);
        stopper.store(true, Ordering::Relaxed);
        drop(receive);
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
