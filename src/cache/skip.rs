//! How much of a long cache the decoding of a token could leave unread, with proof.
//!
//! Keys are taken in blocks. Of each block something small is kept that bounds the score of every key in it from above, for any
//! query. Blocks are read in the order of their bounds, until all that was not read provably has no more than a given share of the
//! softmax. Positions are in the keys already; what the bounds make of a pair of dimensions depends on whether it turns:
//!
//! - a pair that no position turns (HoPE's temporal pairs, the dimensions behind a partial rotary) is bounded by the smallest
//!   box around the block's keys;
//! - a pair that turns is bounded by its longest key, since a rotation changes no length: |q| |k|;
//! - [`Bound::Both`] takes for every pair the smaller of box and length, since both hold for the rotated keys, too.
//!
//! [`Bound::Mass`] is what no bound can beat: the true mass of each block.

/// What is kept of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Boxes of pairs that no position turns, lengths of the others.
    BoxAndLength,
    /// Of each pair, the smaller of both.
    Both,
    /// The mass itself: for comparison.
    Mass,
}

impl Bound {
    /// All of them.
    pub const ALL: [Bound; 3] = [Bound::BoxAndLength, Bound::Both, Bound::Mass];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Bound::BoxAndLength => "box and length",
            Bound::Both => "the smaller of both",
            Bound::Mass => "the mass itself",
        }
    }
}

/// How the dimensions of a head go together.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadPairs {
    /// Of each pair of dimensions, both, and whether positions turn it.
    pairs: Vec<(usize, usize, bool)>,
}

impl HeadPairs {
    /// Of a head of `d` dimensions, of which the first `2 * turns.len()` rotate as pairs (i, i + `turns.len()`) where `turns[i]`.
    ///
    /// # Panics
    /// Where these are more than `d`, or `d` is odd.
    pub fn new(d: usize, turns: &[bool]) -> HeadPairs {
        let n = turns.len();
        assert!(2 * n <= d && d.is_multiple_of(2), "{n} pairs in {d} dimensions");
        let rotary = turns.iter().enumerate().map(|(i, turns)| (i, i + n, *turns));
        HeadPairs { pairs: rotary.chain((2 * n..d).step_by(2).map(|i| (i, i + 1, false))).collect() }
    }

    /// Dimensions that no position turns.
    pub fn n_still(&self) -> usize {
        2 * self.pairs.iter().filter(|(.., turns)| !turns).count()
    }
}

/// What one query left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipped {
    /// Of each block, whether it was read.
    pub read: Vec<bool>,
    /// The largest share of the softmax that may have been left out, which was proven.
    pub bound: f64,
    /// The share that was left out.
    pub dropped: f64,
}

/// Logarithm of the sum of exponentials.
fn log_sum(xs: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = xs.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY { top } else { top + xs.map(|x| (x - top).exp()).sum::<f64>().ln() }
}

/// Blocks of keys, (n, d) in all and `block` in each but the last, as they are bounded.
pub struct Blocks<'a> {
    keys: &'a [f32],
    d: usize,
    block: usize,
    pairs: &'a HeadPairs,
    /// Of each block and pair: the smallest and the largest of both dimensions, and the longest key.
    kept: Vec<[f64; 5]>,
}

impl<'a> Blocks<'a> {
    /// Looks at all keys.
    ///
    /// # Panics
    /// Keys that are not whole, blocks of nothing.
    pub fn new(keys: &'a [f32], d: usize, block: usize, pairs: &'a HeadPairs) -> Blocks<'a> {
        assert!(block > 0 && keys.len().is_multiple_of(d) && pairs.pairs.len() * 2 == d);
        let mut kept = Vec::with_capacity(keys.len().div_ceil(block * d) * pairs.pairs.len());
        for keys in keys.chunks(block * d) {
            for &(i, j, _) in &pairs.pairs {
                let empty = [f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY, 0.0];
                kept.push(keys.chunks_exact(d).fold(empty, |[a, b, c, e, most], key| {
                    let (x, y) = (f64::from(key[i]), f64::from(key[j]));
                    [a.min(x), b.max(x), c.min(y), e.max(y), most.max(x.hypot(y))]
                }));
            }
        }
        Blocks { keys, d, block, pairs, kept }
    }

    /// Keys of block `i`.
    fn n_keys(&self, i: usize) -> usize {
        self.block.min(self.keys.len() / self.d - i * self.block)
    }

    /// No key of block `i` has a larger product with `q`.
    fn product(&self, i: usize, q: &[f32], bound: Bound) -> f64 {
        let n = self.pairs.pairs.len();
        let terms = self.pairs.pairs.iter().zip(&self.kept[i * n..][..n]);
        terms
            .map(|(&(i, j, turns), &[a, b, c, e, longest])| {
                let (x, y) = (f64::from(q[i]), f64::from(q[j]));
                let (in_box, by_length) = ((x * a).max(x * b) + (y * c).max(y * e), x.hypot(y) * longest);
                match bound {
                    Bound::BoxAndLength if turns => by_length,
                    Bound::BoxAndLength => in_box,
                    Bound::Both | Bound::Mass => in_box.min(by_length),
                }
            })
            .sum()
    }

    /// What the query `q` leaves out of all keys, so that at most the share `limit` of its softmax is lost.
    pub fn skip(&self, q: &[f32], bound: Bound, limit: f64) -> Skipped {
        let scale = 1.0 / (self.d as f64).sqrt();
        let score = |key: &[f32]| scale * q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
        let masses: Vec<f64> = self
            .keys
            .chunks(self.block * self.d)
            .map(|keys| log_sum(keys.chunks_exact(self.d).map(score).collect::<Vec<_>>().iter().copied()))
            .collect();
        let at_most: Vec<f64> = match bound {
            Bound::Mass => masses.clone(),
            _ => (0..masses.len()).map(|i| scale * self.product(i, q, bound) + (self.n_keys(i) as f64).ln()).collect(),
        };
        let mut order: Vec<usize> = (0..masses.len()).collect();
        order.sort_by(|a, b| at_most[*b].total_cmp(&at_most[*a]));
        // The bound of all that follow, the last first.
        let mut rest = vec![f64::NEG_INFINITY; order.len() + 1];
        for at in (0..order.len()).rev() {
            rest[at] = log_sum([rest[at + 1], at_most[order[at]]].iter().copied());
        }
        let share = |dropped: f64, kept: f64| 1.0 / (1.0 + (kept - dropped).exp());
        let (mut read, mut known, mut at) = (vec![false; order.len()], f64::NEG_INFINITY, 0);
        while at < order.len() && (known == f64::NEG_INFINITY || share(rest[at], known) > limit) {
            read[order[at]] = true;
            known = log_sum([known, masses[order[at]]].iter().copied());
            at += 1;
        }
        let left = log_sum(order[at..].iter().map(|i| masses[*i]));
        let of = |dropped: f64| if dropped == f64::NEG_INFINITY { 0.0 } else { share(dropped, known) };
        Skipped { read, bound: of(rest[at]), dropped: of(left) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    const D: usize = 16;

    /// Keys that are drawn, those of a model in little (an offset all share, a slow drift, a turning part), and such as deceive
    /// bounds: one key of each block as far out as its length allows, in the direction that the query likes least.
    fn keys(kind: usize, n: usize, rng: &mut Rng) -> Vec<f32> {
        let mut keys = rng.vec(n * D);
        for (i, key) in keys.chunks_exact_mut(D).enumerate() {
            match kind {
                0 => {}
                1 => {
                    let angle = i as f32 * 0.37;
                    key.iter_mut().enumerate().for_each(|(j, k)| *k = 0.3 * *k + (j as f32 - 7.0) * 0.4);
                    (key[0], key[8]) = (2.0 * angle.cos(), 2.0 * angle.sin());
                }
                _ if i % 8 == 3 => key.iter_mut().for_each(|k| *k = -5.0 * k.abs()),
                _ => {}
            }
        }
        keys
    }

    #[test]
    fn what_is_left_out_is_never_more_than_what_was_proven() {
        let pairs =
            [HeadPairs::new(D, &[true; 8]), HeadPairs::new(D, &[true, true, false, false]), HeadPairs::new(D, &[])];
        assert_eq!(pairs.each_ref().map(HeadPairs::n_still), [0, 12, 16]);
        for seed in 0..60u64 {
            let mut rng = Rng::new(seed);
            let (kind, n, block) = (rng.below(3), 1 + rng.below(300), 1 + rng.below(40));
            let (keys, q) = (keys(kind, n, &mut rng), rng.vec(D).iter().map(|q| q * 3.0).collect::<Vec<_>>());
            let pairs = &pairs[rng.below(3)];
            let blocks = Blocks::new(&keys, D, block, pairs);
            for limit in [0.0, 1e-3, 0.3] {
                let [simple, both, mass] = Bound::ALL.map(|bound| blocks.skip(&q, bound, limit));
                for skipped in [&simple, &both, &mass] {
                    assert!(
                        skipped.dropped <= skipped.bound * (1.0 + 1e-9) && skipped.bound <= limit,
                        "seed {seed}: {skipped:?}"
                    );
                    assert!(skipped.read.contains(&true), "seed {seed}");
                }
                let n_read = |skipped: &Skipped| skipped.read.iter().filter(|read| **read).count();
                assert!(n_read(&both) <= n_read(&simple) && n_read(&mass) <= n_read(&both), "seed {seed}");
            }
            // A product is never above its bound.
            for (i, keys) in keys.chunks(block * D).enumerate() {
                for key in keys.chunks_exact(D) {
                    let product: f64 = q.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    for bound in [Bound::BoxAndLength, Bound::Both] {
                        assert!(product <= blocks.product(i, &q, bound) + 1e-9, "seed {seed}, block {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn equal_keys_are_all_read_and_one_that_stands_out_is_enough() {
        let pairs = HeadPairs::new(D, &[]);
        let mut keys = vec![0.0f32; 64 * D];
        let q = vec![1.0f32; D];
        let skipped = Blocks::new(&keys, D, 8, &pairs).skip(&q, Bound::Both, 0.1);
        // Eight equal blocks: each has more than a tenth.
        assert_eq!(skipped.read.iter().filter(|read| **read).count(), 8);
        keys[20 * D..21 * D].fill(50.0);
        let skipped = Blocks::new(&keys, D, 8, &pairs).skip(&q, Bound::Both, 1e-6);
        assert_eq!(skipped.read.iter().position(|read| *read), Some(2));
        assert_eq!(skipped.read.iter().filter(|read| **read).count(), 1);
    }
}
