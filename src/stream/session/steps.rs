//! What goes into the cache, step by step, and who hears of it.

use std::time::{Duration, Instant};

use crate::Result;
use crate::media::Grid;
use crate::stream::{Event, Events, MediaKind};

/// A medium on its way into the cache.
#[derive(Clone, Copy)]
pub(super) struct Medium {
    /// Its number among all media, for events.
    pub item: usize,
    pub kind: MediaKind,
    /// In patches.
    pub grid: Grid,
    /// Tokens per frame pair.
    pub per_pair: usize,
    /// The first pair that is wanted, of so many.
    pub start: usize,
    pub n_pairs: usize,
}

/// Time between two words about one group of frame pairs.
const SAY: Duration = Duration::from_millis(500);

/// What the vision tower calls with its steps while it has the pairs of a medium from `n_done` on: it tells of them where they
/// take long, and stops it where that is wanted.
pub(super) fn watch_steps<'a, 'e>(
    medium: Medium,
    n_done: usize,
    events: &'a mut Events<'e>,
) -> impl FnMut(usize, usize) -> Result<()> + use<'a, 'e> {
    let mut said = Instant::now();
    move |n_steps, n_all| {
        events.check()?;
        if said.elapsed() >= SAY && n_steps < n_all {
            said = Instant::now();
            let share = n_steps as f32 / n_all as f32;
            events.send(Event::Encoding { item: medium.item, n_done, n_total: medium.n_pairs, share });
        }
        Ok(())
    }
}
