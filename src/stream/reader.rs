//! Media on their way into a context: what the decoding stage says goes through the vision tower and comes out as rows of the
//! language model, pair by pair. One loop for files and streams. A tower on a device is a group ahead of whoever takes the rows,
//! and encodes while they are read; it waits for nobody: where nothing is decoded yet, what it has is taken at once.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::decode::{Decoded, Next, Stage};
use super::{Event, Events, MediaKind};
use crate::media::Grid;
use crate::model::{Encoding, Trace, VisionTower};
use crate::{Error, Result};

/// A medium that is read.
#[derive(Clone, Copy)]
pub(super) struct Medium {
    /// Its number among all media, for events.
    pub item: usize,
    pub kind: MediaKind,
    /// In patches.
    pub grid: Grid,
    /// Tokens per frame pair.
    pub per_pair: usize,
    /// The first pair that is wanted.
    pub start: usize,
    /// All of its pairs; those of a stream are not known.
    pub n_pairs: Option<usize>,
}

/// Why reading ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// The medium is over.
    Over,
    /// Whoever takes the rows wants no more.
    Enough,
    /// It is damaged from here on; what came before was taken.
    Failed(Error),
}

/// Takes the rows of a pair, whose number is given: its place to put words around it, too.
pub(super) type TakePair<'a> = dyn FnMut(usize, &[f32], &mut Events<'_>) -> Result<ControlFlow<()>> + 'a;

/// Reads a medium to its end.
///
/// # Errors
/// Pairs that come out of turn, a tower that fails, cancellation; what `take` says.
pub(super) fn read(
    tower: &VisionTower,
    medium: Medium,
    stage: &mut Stage<'_>,
    events: &mut Events<'_>,
    take: &mut TakePair<'_>,
) -> Result<ReadEnd> {
    let Medium { kind, grid: Grid { h, w, .. }, .. } = medium;
    let values_per_pair = h * w * tower.hparams().n_patch_values();
    let is_tracing = events.probe().is_some_and(|probe| probe.is_tracing());
    // The first pair that was not decoded, and what the tower has on a device.
    let (mut wanted, mut ahead) = (medium.start, None::<Encoding<'_>>);
    let mut rows_of = Rows { medium, n_out: tower.hparams().n_out_values(), next: medium.start, take };
    let failure = loop {
        let next = if ahead.is_some() { stage.try_next() } else { stage.next() };
        let pixels = match next {
            Next::Decoded(Decoded::Pixels { first, pixels }) if first == wanted => pixels,
            Next::Decoded(Decoded::Pixels { first, .. }) => {
                return Err(Error::mismatch(format!("frame pair {first} came instead of {wanted}")));
            }
            Next::Decoded(Decoded::Failed(error)) => break Some(error),
            Next::NotYet => {
                events.check()?;
                let rows = ahead.take().map(Encoding::finish).transpose()?.unwrap_or_default();
                if rows_of.are_taken(&rows, events)?.is_break() {
                    return Ok(ReadEnd::Enough);
                }
                continue;
            }
            Next::Over => break None,
        };
        wanted += pixels.len() / values_per_pair;
        events.check()?;
        let before = ahead.take().map(Encoding::finish).transpose()?;
        if !is_tracing {
            ahead = tower.begin(&pixels, h, w)?;
        }
        // Pixels that have left are not kept while the model reads.
        let pixels = ahead.is_none().then_some(pixels);
        if let Some(rows) = before
            && rows_of.are_taken(&rows, events)?.is_break()
        {
            return Ok(ReadEnd::Enough);
        }
        if let Some(pixels) = pixels {
            let mut trace = is_tracing.then(Trace::default);
            let rows = {
                let mut step = watch_steps(medium, rows_of.next, events);
                tower.encode_in_steps(&pixels, h, w, trace.as_mut(), &mut step)?
            };
            if let (Some(probe), Some(trace)) = (events.probe(), trace) {
                probe.media(kind, &pixels, trace.vit_stages, &rows);
            }
            drop(pixels);
            if rows_of.are_taken(&rows, events)?.is_break() {
                return Ok(ReadEnd::Enough);
            }
        }
    };
    if let Some(last) = ahead
        && rows_of.are_taken(&last.finish()?, events)?.is_break()
    {
        return Ok(ReadEnd::Enough);
    }
    match (failure, medium.n_pairs) {
        (Some(error), _) => Ok(ReadEnd::Failed(error)),
        // The stage ends early only when it is told to.
        (None, Some(n_pairs)) if rows_of.next < n_pairs => {
            events.check()?;
            Err(Error::mismatch(format!("decoding ended after {} of {n_pairs} frame pairs", rows_of.next)))
        }
        (None, _) => Ok(ReadEnd::Over),
    }
}

/// Rows on their way to who takes them.
struct Rows<'a, 't> {
    medium: Medium,
    /// Values of a visual token.
    n_out: usize,
    /// The first pair that was not taken.
    next: usize,
    take: &'a mut TakePair<'t>,
}

impl Rows<'_, '_> {
    /// Hands over the rows of some pairs one by one, so that those that wait never outgrow a step by much.
    fn are_taken(&mut self, rows: &[f32], events: &mut Events<'_>) -> Result<ControlFlow<()>> {
        for rows in rows.chunks_exact(self.medium.per_pair * self.n_out) {
            self.next += 1;
            if (self.take)(self.next - 1, rows, events)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Time between two words about one group of frame pairs.
const SAY: Duration = Duration::from_millis(500);

/// What the vision tower calls with its steps while it has the pairs of a medium from `n_done` on: it tells of them where they
/// take long, and stops it where that is wanted.
fn watch_steps<'a, 'e>(
    medium: Medium,
    n_done: usize,
    events: &'a mut Events<'e>,
) -> impl FnMut(usize, usize) -> Result<()> + use<'a, 'e> {
    let mut said = Instant::now();
    move |n_steps, n_all| {
        events.check()?;
        let Some(n_total) = medium.n_pairs else { return Ok(()) };
        if said.elapsed() >= SAY && n_steps < n_all {
            said = Instant::now();
            let share = n_steps as f32 / n_all as f32;
            events.send(Event::Encoding { item: medium.item, n_done, n_total, share });
        }
        Ok(())
    }
}
