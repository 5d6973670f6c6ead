//! The softmax of a block of scores, on top of what was made of the blocks before.

use super::simd::Simd;
use super::unpack::BLOCK;

/// What a block of keys counts for, row by row.
pub(super) struct Weights<const MR: usize> {
    /// Factor for what was summed before.
    pub old: [f32; MR],
    /// Factor for what this block adds.
    pub new: [f32; MR],
    /// Sum of the block's probabilities.
    pub sum: [f32; MR],
}

/// Turns MR rows of `n` scores each, at distance `BLOCK`, into 2^(score * scale - their largest), and brings `max` and `sum` of the
/// rows up to date. Row `i` sees the first `seen[i]` of its scores; the others become 0.
///
/// # Safety
/// The CPU has the features of `S`; `n` is a whole number of vectors, at most `BLOCK`, and `scores` holds the rows.
#[inline(always)]
pub(super) unsafe fn softmax<S: Simd, const MR: usize>(
    scores: *mut f32,
    n: usize,
    seen: [usize; MR],
    scale: [f32; MR],
    max: &mut [f32],
    sum: &mut [f32],
) -> Weights<MR> {
    const { assert!(MR <= 8) };
    assert!(max.len() == MR && sum.len() == MR);
    // Factors of all rows in one or two vectors; rows that see nothing of the block keep what they have.
    let (mut tops, mut factors) = ([0f32; MR], [0f32; 16]);
    let mut weights = Weights { old: [1.0; MR], new: [0.0; MR], sum: [0.0; MR] };
    // SAFETY: the caller's promise; `factors` holds whole vectors.
    unsafe {
        for i in 0..MR {
            if seen[i] > 0 {
                tops[i] = top_score::<S>(scores.add(i * BLOCK), seen[i], n) * scale[i];
                let top = max[i].max(tops[i]);
                (factors[i], factors[8 + i]) = (max[i] - top, tops[i] - top);
                max[i] = top;
            }
        }
        for at in (0..16).step_by(S::L) {
            let x = S::exp2(S::load(factors.as_ptr().add(at)));
            S::store(factors.as_mut_ptr().add(at), x);
        }
        for i in 0..MR {
            let row = scores.add(i * BLOCK);
            if seen[i] == 0 {
                std::slice::from_raw_parts_mut(row, n).fill(0.0);
                continue;
            }
            (weights.old[i], weights.new[i]) = (factors[i], factors[8 + i]);
            weights.sum[i] = exponentials::<S>(row, scale[i], tops[i], n);
            sum[i] = sum[i] * weights.old[i] + weights.sum[i] * weights.new[i];
        }
    }
    weights
}

/// The largest of the first `seen` of `n` scores; the others become -inf.
///
/// # Safety
/// The CPU has the features of `S`; `row` holds `n` floats, whole vectors.
#[inline(always)]
unsafe fn top_score<S: Simd>(row: *mut f32, seen: usize, n: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut top = S::splat(f32::NEG_INFINITY);
        for j in (0..n).step_by(S::L) {
            let mut x = S::load(row.add(j));
            if j + S::L > seen {
                x = S::keep_first(x, seen.saturating_sub(j));
                S::store(row.add(j), x);
            }
            top = S::max(top, x);
        }
        S::max_of(top)
    }
}

/// Replaces scores by 2^(score * scale - top) and returns their sum.
///
/// # Safety
/// As `top_score`.
#[inline(always)]
unsafe fn exponentials<S: Simd>(row: *mut f32, scale: f32, top: f32, n: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let (scale, top) = (S::splat(scale), S::splat(-top));
        let mut sum = S::splat(0.0);
        for j in (0..n).step_by(S::L) {
            let p = S::exp2(S::fma(S::load(row.add(j)), scale, top));
            S::store(row.add(j), p);
            sum = S::add(sum, p);
        }
        S::sum_of(sum)
    }
}
