//! Frame pairs that were there before: slides, screens, a camera that looks at a wall.
//!
//! The vision tower never mixes frame pairs, so a pair whose patch rows equal an earlier pair's, bit for bit, has that pair's
//! tokens, bit for bit, and does not go through the tower again. A hash finds the earlier pair and a comparison of all bytes
//! decides. What is kept for that is bounded: the pixels and tokens of the last [`MOST_PAIRS`] different pairs, or of as many
//! as go into [`MOST_BYTES`], and of one at least; [`n_bytes`] counts it in plans. How many pairs will be found nobody knows
//! before they are decoded, so plans count every one as encoded.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use xxhash_rust::xxh3::xxh3_64;

use crate::media::Grid;
use crate::model::VisionHParams;

/// Different pairs that are kept.
const MOST_PAIRS: usize = 16;
/// Bytes that are kept, where that is more than one pair.
const MOST_BYTES: usize = 8 << 20;
/// Smaller pairs always go through the tower: kernels have other ways with few rows, which may add in another order, so that tokens
/// depend on how many pairs go together. They are also soon done.
const LEAST_PATCHES: usize = 64;
const LEAST_TOKENS: usize = 16;

/// How many pairs of `grid` are kept, of `n_pairs` in all: the last one finds what is kept of the others.
fn n_kept(hp: &VisionHParams, grid: Grid, n_pairs: usize) -> usize {
    let (n_patches, merged) = (grid.h * grid.w, hp.merge * hp.merge);
    if n_patches < LEAST_PATCHES || n_patches / merged < LEAST_TOKENS {
        return 0;
    }
    (MOST_BYTES / pair_bytes(hp, grid)).clamp(1, MOST_PAIRS).min(n_pairs.saturating_sub(1))
}

/// Bytes of a pair's pixels and tokens.
fn pair_bytes(hp: &VisionHParams, grid: Grid) -> usize {
    let n_patches = grid.h * grid.w;
    (n_patches * hp.n_patch_values() + n_patches / (hp.merge * hp.merge) * hp.n_out_values()) * size_of::<f32>()
}

/// Bytes that are kept while `n_pairs` pairs of `grid` are read.
pub(super) fn n_bytes(hp: &VisionHParams, grid: Grid, n_pairs: usize) -> usize {
    n_kept(hp, grid, n_pairs) * pair_bytes(hp, grid)
}

/// A pair that was seen.
pub(super) struct Pair {
    hash: u64,
    pixels: Vec<f32>,
    /// Its tokens, once they left the tower.
    rows: OnceCell<Vec<f32>>,
}

/// Where the tokens of a pair come from.
pub(super) enum From {
    /// The tower; they are kept while somebody has a use for them.
    Tower(Weak<Pair>),
    /// An earlier pair.
    Earlier(Rc<Pair>),
    /// Nobody needs them.
    Nowhere,
}

impl From {
    /// The tokens of this pair: an earlier one's, or the next `n` values that left the tower; none that nobody needs.
    pub(super) fn rows<'a>(&'a self, n: usize, encoded: &mut &'a [f32]) -> &'a [f32] {
        match self {
            From::Nowhere => &[],
            From::Earlier(pair) => pair.rows.get().expect("pairs are taken in order"),
            From::Tower(kept) => {
                let rows;
                (rows, *encoded) = encoded.split_at(n);
                if let Some(pair) = kept.upgrade() {
                    pair.rows.get_or_init(|| rows.to_vec());
                }
                rows
            }
        }
    }

    /// Whether they are an earlier pair's.
    pub(super) fn is_earlier(&self) -> bool {
        matches!(self, From::Earlier(_))
    }
}

/// The pairs of one medium that are kept, the one that was seen last behind the others.
pub(super) struct Repeats {
    n_kept: usize,
    /// Values of a pair's pixels.
    n_values: usize,
    kept: VecDeque<Rc<Pair>>,
}

impl Repeats {
    /// For `n_pairs` pairs of `grid`, or nobody knows how many.
    pub(super) fn new(hp: &VisionHParams, grid: Grid, n_pairs: Option<usize>) -> Repeats {
        let n_kept = n_kept(hp, grid, n_pairs.unwrap_or(usize::MAX));
        Repeats { n_kept, n_values: grid.h * grid.w * hp.n_patch_values(), kept: VecDeque::new() }
    }

    /// Takes the pairs out of `pixels` that were there before; says of every pair where its tokens will come from.
    pub(super) fn take_out(&mut self, pixels: &mut Vec<f32>) -> Vec<From> {
        let (n, mut n_left) = (self.n_values, 0);
        let mut pairs = Vec::with_capacity(pixels.len() / n);
        for start in (0..pixels.len()).step_by(n) {
            let from = self.look_up(&pixels[start..start + n]);
            if !from.is_earlier() {
                pixels.copy_within(start..start + n, n_left);
                n_left += n;
            }
            pairs.push(from);
        }
        pixels.truncate(n_left);
        pairs
    }

    fn look_up(&mut self, pixels: &[f32]) -> From {
        if self.n_kept == 0 {
            return From::Tower(Weak::new());
        }
        let bytes: &[u8] = bytemuck::cast_slice(pixels);
        let hash = xxh3_64(bytes);
        let is_same = |pair: &Rc<Pair>| pair.hash == hash && bytemuck::cast_slice::<f32, u8>(&pair.pixels) == bytes;
        if let Some(pair) = self.kept.iter().rposition(is_same).and_then(|at| self.kept.remove(at)) {
            self.kept.push_back(Rc::clone(&pair));
            return From::Earlier(pair);
        }
        if self.kept.len() == self.n_kept {
            // Nothing is kept beyond the bound: what waits for its tokens to be taken stays, and the new one does not.
            let Some(oldest) = self.kept.iter().position(|pair| Rc::strong_count(pair) == 1) else {
                return From::Tower(Weak::new());
            };
            self.kept.remove(oldest);
        }
        let pair = Rc::new(Pair { hash, pixels: pixels.to_vec(), rows: OnceCell::new() });
        self.kept.push_back(Rc::clone(&pair));
        From::Tower(Rc::downgrade(&pair))
    }
}
