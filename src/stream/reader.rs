//! Media on their way into a context: what the decoding stage says goes through the vision tower and comes out as rows of the
//! language model, pair by pair. One loop for files and streams. A tower on a device is a group ahead of whoever takes the rows,
//! and encodes while they are read; it waits for nobody: where nothing is decoded yet, what it has is taken at once. Pairs that were
//! there before ([`repeats`](super::repeats)) do not go through it, nor do those in which nothing has changed, where somebody wants
//! these left out ([`left_out`](super::left_out)).

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::decode::{Decoded, Next, Stage};
use super::left_out::{Chooser, Kept, Sieve, Sifting};
use super::repeats::{From, Repeats};
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

/// A pair that left the tower, or did not go there.
pub(super) struct Encoded<'a> {
    /// Its number.
    pub pair: usize,
    /// Its tokens; none where nothing of it is read, or the cache holds all that is.
    pub rows: &'a [f32],
    /// Whether they are those of an earlier pair.
    pub is_reused: bool,
    /// Which of its tokens are read.
    pub kept: &'a Kept,
}

/// A pair on its way: where its tokens come from, and which of them are read.
type Coming = (From, Kept);

/// Takes a pair: its place to put words around it, too.
pub(super) type TakePair<'a> = dyn FnMut(Encoded<'_>, &mut Events<'_>) -> Result<ControlFlow<()>> + 'a;

/// Time in which a medium was waited for.
#[derive(Default)]
struct Took {
    decoding: Cell<Duration>,
    encoding: Cell<Duration>,
}

/// Does `work` and adds what it takes to `time`.
fn timed<T>(time: &Cell<Duration>, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    time.set(time.get() + began.elapsed());
    done
}

/// Reads a medium to its end, and tells what it took.
///
/// # Errors
/// Pairs that come out of turn, a tower that fails, cancellation; what `take` says.
pub(super) fn read(
    tower: &VisionTower,
    medium: Medium,
    sifting: Option<Sifting<'_>>,
    stage: &mut Stage<'_>,
    events: &mut Events<'_>,
    take: &mut TakePair<'_>,
) -> Result<ReadEnd> {
    let took = Took::default();
    let end = read_pairs(tower, (medium, sifting), (stage, &took), events, take);
    let (decoding, encoding) = (took.decoding.get(), took.encoding.get());
    events.send(Event::MediumRead { item: medium.item, decoding, encoding });
    end
}

fn read_pairs(
    tower: &VisionTower,
    (medium, sifting): (Medium, Option<Sifting<'_>>),
    (stage, took): (&mut Stage<'_>, &Took),
    events: &mut Events<'_>,
    take: &mut TakePair<'_>,
) -> Result<ReadEnd> {
    let Medium { kind, grid: Grid { h, w, .. }, .. } = medium;
    let values_per_pair = h * w * tower.hparams().n_patch_values();
    let is_tracing = events.probe().is_some_and(|probe| probe.is_tracing());
    // The first pair that was not decoded, and what the tower has on a device.
    let (mut wanted, mut ahead) = (medium.start, None::<(Encoding<'_>, Vec<Coming>)>);
    // Who looks on sees every pair.
    let n_searched = if is_tracing { Some(0) } else { medium.n_pairs.map(|n| n.saturating_sub(medium.start)) };
    let mut repeats = Repeats::new(tower.hparams(), medium.grid, n_searched);
    let chooser = sifting.as_ref().and_then(|how| Chooser::new(tower.hparams(), medium.per_pair, how));
    let mut sieve = sifting.and_then(|how| Sieve::new(tower.hparams(), medium.grid, how));
    let n_values = medium.per_pair * tower.hparams().n_out_values();
    let mut rows_of = Rows { n_values, next: medium.start, chooser, take };
    let finish = |(encoding, pairs): (Encoding<'_>, Vec<Coming>)| {
        timed(&took.encoding, || encoding.finish()).map(|rows| (rows, pairs))
    };
    let failure = loop {
        let next = if ahead.is_some() { stage.try_next() } else { timed(&took.decoding, || stage.next()) };
        let mut pixels = match next {
            Next::Decoded(Decoded::Pixels { first, pixels }) if first == wanted => pixels,
            Next::Decoded(Decoded::Pixels { first, .. }) => {
                return Err(Error::mismatch(format!("frame pair {first} came instead of {wanted}")));
            }
            Next::Decoded(Decoded::Failed(error)) => break Some(error),
            Next::NotYet => {
                events.check()?;
                let (rows, pairs) = ahead.take().map(finish).transpose()?.unwrap_or_default();
                if rows_of.are_taken(&rows, &pairs, events)?.is_break() {
                    return Ok(ReadEnd::Enough);
                }
                continue;
            }
            Next::Over => break None,
        };
        wanted += pixels.len() / values_per_pair;
        events.check()?;
        let pairs = coming(sieve.as_mut(), &mut repeats, &mut pixels);
        let before = ahead.take().map(finish).transpose()?;
        let mut here = Some((pixels, pairs));
        if !is_tracing && let Some((pixels, pairs)) = here.take_if(|(pixels, _)| !pixels.is_empty()) {
            // Pixels that have left are not kept while the model reads.
            match timed(&took.encoding, || tower.begin(&pixels, h, w))? {
                Some(encoding) => ahead = Some((encoding, pairs)),
                None => here = Some((pixels, pairs)),
            }
        }
        if let Some((rows, pairs)) = before
            && rows_of.are_taken(&rows, &pairs, events)?.is_break()
        {
            return Ok(ReadEnd::Enough);
        }
        if let Some((pixels, pairs)) = here {
            let mut trace = is_tracing.then(Trace::default);
            let rows = if pixels.is_empty() {
                Vec::new()
            } else {
                let mut step = watch_steps(medium, rows_of.next, events);
                timed(&took.encoding, || tower.encode_in_steps(&pixels, h, w, trace.as_mut(), &mut step))?
            };
            if let (Some(probe), Some(trace)) = (events.probe(), trace) {
                probe.media(kind, &pixels, trace.vit_stages, &rows);
            }
            drop(pixels);
            if rows_of.are_taken(&rows, &pairs, events)?.is_break() {
                return Ok(ReadEnd::Enough);
            }
        }
    };
    if let Some((rows, pairs)) = ahead.map(finish).transpose()?
        && rows_of.are_taken(&rows, &pairs, events)?.is_break()
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

/// Of the pairs in `pixels`, takes out those that need not go through the tower.
fn coming(sieve: Option<&mut Sieve<'_>>, repeats: &mut Repeats, pixels: &mut Vec<f32>) -> Vec<Coming> {
    let Some(sieve) = sieve else {
        return repeats.take_out(pixels).into_iter().map(|from| (from, Kept::ALL)).collect();
    };
    let pairs = sieve.take_out(pixels);
    let mut left = repeats.take_out(pixels).into_iter();
    let from = |(kept, stays): (Kept, bool)| (if stays { left.next() } else { None }.unwrap_or(From::Nowhere), kept);
    pairs.into_iter().map(from).collect()
}

/// Rows on their way to who takes them.
struct Rows<'a, 't> {
    /// Values of a pair's tokens.
    n_values: usize,
    /// The first pair that was not taken.
    next: usize,
    /// Who says which of a pair's tokens stay, where not all do.
    chooser: Option<Chooser>,
    take: &'a mut TakePair<'t>,
}

impl Rows<'_, '_> {
    /// Hands over the rows of some pairs one by one, so that those that wait never outgrow a step by much. `encoded` are those that
    /// went through the tower.
    fn are_taken<'a>(
        &mut self,
        mut encoded: &'a [f32],
        pairs: &'a [Coming],
        events: &mut Events<'_>,
    ) -> Result<ControlFlow<()>> {
        for (from, kept) in pairs {
            let (pair, rows) = (self.next, from.rows(self.n_values, &mut encoded));
            self.next += 1;
            let chosen = self.chooser.as_mut().map(|chooser| chooser.choose(pair, rows, kept));
            let kept = chosen.as_ref().unwrap_or(kept);
            if (self.take)(Encoded { pair, rows, is_reused: from.is_earlier(), kept }, events)?.is_break() {
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
