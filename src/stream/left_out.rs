//! Visual tokens of a video that are left out where somebody asks for it. Those that stay stand where they would stand anyway, and so
//! does what follows; words that tell time stay all.
//!
//! Before the vision tower, what has not changed (`--dedup`): a token whose pixels are as they were when a token of its place was read
//! last is left out, and a frame pair of which nothing is left does not go through the tower.
//!
//! Behind it, all but a share of each pair (`--keep-share`): those tokens stay whose features differ most from the ones of the pair before,
//! by the cosine of both, the first of equals; as Efficient Video Sampling does (arXiv 2510.14624), with a budget for each pair
//! instead of one for the video, so that the number of tokens is known before anything is decoded and every pair is done with as
//! soon as it has left the tower. The first pair stays whole, in a stream also the next one when that was forgotten.
//!
//! A token's pixels are as they were when in none of its patches the mean absolute difference, over both frames of the pair and all
//! colours, is more than a limit in 8-bit steps. They are compared with those of the token that was read last, not with the pair
//! before: what changes slowly is read again as soon as it has changed by the limit, however long that took. One picture is kept
//! for that. The first pair is read whole, and so is what stood in pairs that a stream has forgotten.
//!
//! This is decided pair by pair as frames are decoded, so that a video is gone through once and a stream can be of any length. How
//! many tokens have changed nobody knows before; plans count all of them, which is the most.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::PairText;
use crate::media::Grid;
use crate::model::VisionHParams;
use crate::random::Rng;

/// Largest limit: nothing differs by more.
pub(super) const MOST_STEPS: f32 = 255.0;

/// Which visual tokens of a video are left out, behind its first pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LeaveOut {
    /// Those whose pixels have changed by at most so many 8-bit steps since the token of their place was read last.
    Unchanged(f32),
    /// This share of them, drawn with this seed: what a way to choose has to beat.
    Random(f64, u64),
    /// This share of them, evenly spread: likewise.
    Evenly(f64),
}

/// How many of a pair's `n` tokens stay where a share of them does; at least one.
fn n_kept(share: f32, n: usize) -> usize {
    ((f64::from(share) * n as f64) as usize).clamp(1, n.max(1))
}

/// How many of the `n` tokens of pair `pair` of a video are read at most.
pub(super) fn most(pair: usize, n: usize, share: Option<f32>) -> usize {
    share.filter(|_| pair > 0).map_or(n, |share| n_kept(share, n))
}

/// How many that is in all of `n_pairs`.
pub(super) fn most_of_all(n_pairs: usize, n: usize, share: Option<f32>) -> usize {
    most(0, n, share) + n_pairs.saturating_sub(1) * most(1, n, share)
}

/// How a medium is sifted.
#[derive(Clone)]
pub(super) struct Sifting<'t> {
    /// What is left out before the tower.
    pub what: Option<LeaveOut>,
    /// Which share of the tokens of a pair stays behind it.
    pub keep: Option<f32>,
    /// Tokens of the medium that the cache holds already: groups that they hold whole need not be encoded.
    pub n_known: usize,
    /// What stands around its pairs, which is among these tokens.
    pub text: Option<&'t PairText>,
    /// What stood in pairs of a stream before this one may have been forgotten.
    pub n_forgotten: Arc<AtomicUsize>,
}

/// Which tokens of a pair are read: all of them, or those that are marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept(Option<Vec<bool>>);

impl Kept {
    /// All of them.
    pub(super) const ALL: Kept = Kept(None);

    /// The marks, unless all are read.
    pub(super) fn marks(&self) -> Option<&[bool]> {
        self.0.as_deref()
    }

    /// How many of `n` tokens.
    pub(super) fn n_of(&self, n: usize) -> usize {
        self.0.as_ref().map_or(n, |marks| marks.iter().filter(|kept| **kept).count())
    }
}

/// The pixels that were read last at every place of a medium.
pub(super) struct Sieve<'t> {
    what: LeaveOut,
    how: Sifting<'t>,
    random: Rng,
    /// 8-bit steps of a pixel value of 1 in each channel.
    steps: [f32; 3],
    /// Values of a patch in one channel, and patches of a token.
    n_channel: usize,
    n_patches: usize,
    n_tokens: usize,
    pixels: Vec<f32>,
    /// The pair in which the token of each place was read last.
    read: Vec<usize>,
    /// The next pair.
    pair: usize,
}

impl<'t> Sieve<'t> {
    /// For pairs of `grid`, unless nothing is left out before the tower.
    pub(super) fn new(hp: &VisionHParams, grid: Grid, how: Sifting<'t>) -> Option<Sieve<'t>> {
        let what = how.what?;
        let n_patches = hp.merge * hp.merge;
        let n_tokens = grid.h * grid.w / n_patches;
        let seed = if let LeaveOut::Random(_, seed) = what { seed } else { 0 };
        Some(Sieve {
            what,
            how,
            random: Rng::new(seed),
            steps: hp.image_std.map(|std| std * 255.0),
            n_channel: hp.n_patch_values() / 3,
            n_patches,
            n_tokens,
            pixels: Vec::new(),
            read: vec![0; n_tokens],
            pair: 0,
        })
    }

    /// Values of a pair's pixels.
    fn n_values(&self) -> usize {
        self.n_tokens * self.n_patches * 3 * self.n_channel
    }

    /// Says of the pairs in `pixels`, which are a group, what is read of them, and takes those out that need not be encoded: of
    /// which nothing is read, and all where the cache holds all that is read. Of every pair: what is read, and whether it is
    /// still there.
    pub(super) fn take_out(&mut self, pixels: &mut Vec<f32>) -> Vec<(Kept, bool)> {
        let n = self.n_values();
        let kept: Vec<Kept> = pixels.chunks_exact(n).map(|pair| self.keep(pair)).collect();
        let first = self.pair - kept.len();
        let around = |pair: usize| self.how.text.map_or(0, |text| text.n_tokens(pair, 0));
        let n_read: usize = kept.iter().enumerate().map(|(i, kept)| kept.n_of(self.n_tokens) + around(first + i)).sum();
        let is_known = n_read <= self.how.n_known;
        self.how.n_known = self.how.n_known.saturating_sub(n_read);
        let mut n_left = 0;
        let pairs: Vec<(Kept, bool)> = kept
            .into_iter()
            .enumerate()
            .map(|(i, kept)| {
                let stays = !is_known && kept.n_of(self.n_tokens) > 0;
                if stays {
                    pixels.copy_within(i * n..(i + 1) * n, n_left);
                    n_left += n;
                }
                (kept, stays)
            })
            .collect();
        pixels.truncate(n_left);
        pairs
    }

    /// What is read of the next pair.
    fn keep(&mut self, pixels: &[f32]) -> Kept {
        let pair = self.pair;
        self.pair += 1;
        if self.pixels.is_empty() {
            self.pixels = pixels.to_vec();
            return Kept::ALL;
        }
        let marks: Vec<bool> = match self.what {
            LeaveOut::Unchanged(limit) => self.changed(pixels, limit),
            LeaveOut::Random(share, _) => (0..self.n_tokens).map(|_| self.random.unit() >= share).collect(),
            LeaveOut::Evenly(share) => {
                let first = (pair - 1) * self.n_tokens;
                let n_kept = |n: usize| (n as f64 * (1.0 - share)) as usize;
                (first..first + self.n_tokens).map(|at| n_kept(at + 1) > n_kept(at)).collect()
            }
        };
        if marks.iter().all(|kept| *kept) { Kept::ALL } else { Kept(Some(marks)) }
    }
}

impl Sieve<'_> {
    /// Which tokens of the pair before the next one have changed.
    fn changed(&mut self, pixels: &[f32], limit: f32) -> Vec<bool> {
        let (pair, n_forgotten) = (self.pair - 1, self.how.n_forgotten.load(Ordering::Relaxed));
        let n = self.n_patches * 3 * self.n_channel;
        let both = self.pixels.chunks_exact_mut(n).zip(pixels.chunks_exact(n)).zip(&mut self.read);
        let (steps, n_channel) = (self.steps, self.n_channel);
        let is_read = |((before, now), read): ((&mut [f32], &[f32]), &mut usize)| {
            let is_read = *read < n_forgotten || largest_change(before, now, n_channel, steps) > limit;
            if is_read {
                before.copy_from_slice(now);
                *read = pair;
            }
            is_read
        };
        both.map(is_read).collect()
    }
}

/// The features of the pair before, at every place.
pub(super) struct Chooser {
    n_keep: usize,
    /// Values of a token's own, and with what taps add.
    n_embd: usize,
    n_values: usize,
    before: Vec<f32>,
    /// The pair that was read whole last.
    whole: usize,
    n_forgotten: Arc<AtomicUsize>,
}

impl Chooser {
    /// For rows of a tower, `per_pair` for each pair, unless all of them stay.
    pub(super) fn new(hp: &VisionHParams, per_pair: usize, how: &Sifting<'_>) -> Option<Chooser> {
        let (n_embd, n_values) = (hp.n_embd_out, hp.n_out_values());
        let n_forgotten = Arc::clone(&how.n_forgotten);
        Some(Chooser {
            n_keep: n_kept(how.keep?, per_pair),
            n_embd,
            n_values,
            before: Vec::new(),
            whole: 0,
            n_forgotten,
        })
    }

    /// Of the tokens `kept` of pair `pair`, with these rows, those that stay.
    pub(super) fn choose(&mut self, pair: usize, rows: &[f32], kept: &Kept) -> Kept {
        if rows.is_empty() {
            return kept.clone();
        }
        let is_whole = pair == 0 || self.whole < self.n_forgotten.load(Ordering::Relaxed);
        let chosen = if is_whole { kept.clone() } else { self.largest(rows, kept) };
        if is_whole {
            self.whole = pair;
        }
        self.before.clear();
        self.before.extend_from_slice(rows);
        chosen
    }

    fn largest(&self, rows: &[f32], kept: &Kept) -> Kept {
        let tokens = rows.chunks_exact(self.n_values);
        let n = tokens.len();
        if kept.n_of(n) <= self.n_keep {
            return kept.clone();
        }
        let mut before = self.before.chunks_exact(self.n_values);
        // Whoever goes on in the middle has no pair before; what is chosen of its first is in the cache already.
        let distance =
            |row: &[f32]| before.next().map_or(0.0, |old| distance(&old[..self.n_embd], &row[..self.n_embd]));
        let distances: Vec<f32> = tokens.map(distance).collect();
        let mut order: Vec<usize> = (0..n).filter(|i| kept.marks().is_none_or(|marks| marks[*i])).collect();
        order.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]));
        let mut marks = vec![false; n];
        order.into_iter().take(self.n_keep).for_each(|i| marks[i] = true);
        Kept(Some(marks))
    }
}

/// One less the cosine between two rows; of rows without a direction 0.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let sizes = (dot(a, a) * dot(b, b)).sqrt();
    if sizes > 0.0 { 1.0 - dot(a, b) / sizes } else { 0.0 }
}

/// The largest mean absolute difference of a patch, in 8-bit steps; `n` values in each of three channels.
fn largest_change(before: &[f32], now: &[f32], n: usize, steps: [f32; 3]) -> f32 {
    let patch = |(before, now): (&[f32], &[f32])| {
        let channels = before.chunks_exact(n).zip(now.chunks_exact(n)).zip(steps);
        let sum = |((before, now), steps): ((&[f32], &[f32]), f32)| {
            steps * before.iter().zip(now).map(|(a, b)| (a - b).abs()).sum::<f32>()
        };
        channels.map(sum).sum::<f32>() / (3 * n) as f32
    };
    before.chunks_exact(3 * n).zip(now.chunks_exact(3 * n)).map(patch).fold(0.0, f32::max)
}
