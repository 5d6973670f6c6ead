//! A few rows of queries, as in decoding, against floats as they are stored.
//!
//! Unpacking keys and values into panels pays with many rows of queries. With few, each stored vector is better brought to f32 in
//! registers and used at once for all rows, which leaves little to do but reading; products and sums are those of f32.

// Loops over a register block run over several arrays at once, and have to be unrolled.
#![allow(clippy::needless_range_loop)]

use super::simd::Simd;
use super::softmax::softmax;
use super::tile::{ROWS, rows_at_once};
use super::unpack::{BF16, BLOCK, F16, F32, Float};
use super::{AttentionTile, Partial};
use crate::ggml_type::GgmlType;
use crate::kernels::prefetch;

/// Up to this many rows of queries.
const MAX_ROWS: usize = 8;
/// Keys per register block of scores: as many sums come out of registers at once.
const KEYS: usize = 4;
/// Floats that [`tile`] needs for working memory.
pub(super) const ROOM: usize = ROWS * BLOCK;
/// How many bytes ahead memory is asked for.
const AHEAD: usize = 4096;

/// Whether this is the way for so many rows of queries.
pub(super) fn serves<S: Simd>(t: &AttentionTile<'_>, rows: usize) -> bool {
    let is_float = |ty| matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
    rows <= MAX_ROWS && t.d.is_multiple_of(S::L) && is_float(t.type_k) && is_float(t.type_v)
}

/// See [`AttentionOps::tile`](super::AttentionOps).
///
/// # Safety
/// The CPU has the features of `S`, for which `steps` are compiled; [`serves`] has said so; `buffer` holds [`ROOM`] floats.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(
    t: &AttentionTile<'_>,
    out: Partial<'_>,
    buffer: &mut [f32],
    steps: &[unsafe fn(&Step<'_>, Rows<'_>); ROWS],
) {
    let (d, rows) = (t.d, out.max.len());
    assert!(serves::<S>(t, rows) && buffer.len() >= ROOM);
    out.sums.fill(0.0);
    out.max.fill(f32::NEG_INFINITY);
    out.sum.fill(0.0);
    for j0 in (0..t.n_keys).step_by(BLOCK) {
        let n = BLOCK.min(t.n_keys - j0);
        let mut r = 0;
        while r < rows {
            let mr = rows_at_once(rows - r);
            let step = Step { t, j0, n, r };
            let operands = Rows {
                q: &t.q[r * d..][..mr * d],
                scores: &mut *buffer,
                sums: &mut out.sums[r * d..][..mr * d],
                max: &mut out.max[r..][..mr],
                sum: &mut out.sum[r..][..mr],
            };
            if t.seen(r + mr - 1) > j0 {
                // SAFETY: the caller's promise.
                unsafe { steps[mr - 1](&step, operands) };
            }
            r += mr;
        }
    }
}

/// The `n` keys and values from `j0` on, for the rows from `r` on.
pub(crate) struct Step<'a> {
    t: &'a AttentionTile<'a>,
    j0: usize,
    n: usize,
    r: usize,
}

/// MR rows of queries and what belongs to them.
pub(crate) struct Rows<'a> {
    /// (MR, d)
    q: &'a [f32],
    /// (MR, BLOCK)
    scores: &'a mut [f32],
    /// (MR, d)
    sums: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl Step<'_> {
    /// Scores, softmax, and the weighted sum of values.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `d` is a whole number of vectors.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd, const MR: usize>(&self, rows: Rows<'_>) {
        let (t, d, n) = (self.t, self.t.d, self.n);
        let k = &t.k[self.j0 * t.row_k()..][..n * t.row_k()];
        let v = &t.v[self.j0 * t.row_v()..][..n * t.row_v()];
        assert!(rows.q.len() == MR * d && rows.sums.len() == MR * d && rows.scores.len() >= MR * BLOCK && n <= BLOCK);
        let mut seen = [0; MR];
        for i in 0..MR {
            seen[i] = t.seen(self.r + i).saturating_sub(self.j0).min(n);
        }
        // SAFETY: the caller's promise, and the lengths checked above.
        unsafe {
            match t.type_k {
                GgmlType::F32 => scores::<S, F32, MR>(rows.q, d, k, rows.scores),
                GgmlType::F16 => scores::<S, F16, MR>(rows.q, d, k, rows.scores),
                _ => scores::<S, BF16, MR>(rows.q, d, k, rows.scores),
            }
            let whole = n.next_multiple_of(S::L);
            let weights = softmax::<S, MR>(rows.scores.as_mut_ptr(), whole, seen, [1.0; MR], rows.max, rows.sum);
            let factors = [weights.old, weights.new];
            match t.type_v {
                GgmlType::F32 => add_values::<S, F32, MR>(rows.scores, factors, d, v, rows.sums),
                GgmlType::F16 => add_values::<S, F16, MR>(rows.scores, factors, d, v, rows.sums),
                _ => add_values::<S, BF16, MR>(rows.scores, factors, d, v, rows.sums),
            }
        }
    }
}

/// out(MR, BLOCK) = q(MR, d) · kᵀ, for the rows of d elements that `k` holds.
///
/// # Safety
/// The CPU has the features of `S`; `d` is a whole number of vectors; `q` and `out` are as long as that says, `k` has no more
/// than BLOCK rows.
#[inline(always)]
unsafe fn scores<S: Simd, K: Float, const MR: usize>(q: &[f32], d: usize, k: &[u8], out: &mut [f32]) {
    let row = d * K::BYTES;
    let n = k.len() / row;
    for j in (0..n).step_by(KEYS) {
        let k = k[j * row..].as_ptr();
        prefetch::read(k.wrapping_add(AHEAD), KEYS * row);
        let mut at = |r: usize| (q[r * d..].as_ptr(), out[r * BLOCK + j..].as_mut_ptr());
        // SAFETY: the caller's promise; the keys that are chosen are left, and the rows are there.
        unsafe {
            // Sums, keys and a query fit the registers.
            if S::REGISTERS == 32 {
                score_rows::<S, K, MR>(at(0), d, k, n - j);
                continue;
            }
            for r in (0..MR / 2 * 2).step_by(2) {
                score_rows::<S, K, 2>(at(r), d, k, n - j);
            }
            if MR % 2 == 1 {
                score_rows::<S, K, 1>(at(MR - 1), d, k, n - j);
            }
        }
    }
}

/// The same for the next of `left` keys and MR rows.
///
/// # Safety
/// As `scores`, with pointers to the first query and score.
#[inline(always)]
unsafe fn score_rows<S: Simd, K: Float, const MR: usize>(
    at: (*const f32, *mut f32),
    d: usize,
    k: *const u8,
    left: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match left {
            1 => score_keys::<S, K, MR, 1>(at, d, k),
            2 => score_keys::<S, K, MR, 2>(at, d, k),
            3 => score_keys::<S, K, MR, 3>(at, d, k),
            _ => score_keys::<S, K, MR, KEYS>(at, d, k),
        }
    }
}

/// The same for NK keys; four scores are written of each row.
///
/// # Safety
/// As `score_rows`, which has chosen NK keys that are there.
#[inline(always)]
unsafe fn score_keys<S: Simd, K: Float, const MR: usize, const NK: usize>(
    (q, out): (*const f32, *mut f32),
    d: usize,
    k: *const u8,
) {
    // SAFETY: the caller's promise. Rows of BLOCK scores have room for four from a multiple of four on.
    unsafe {
        let mut acc = [[S::splat(0.0); KEYS]; MR];
        for c in (0..d).step_by(S::L) {
            let mut keys = [S::splat(0.0); NK];
            for i in 0..NK {
                keys[i] = K::load::<S>(k.add((i * d + c) * K::BYTES));
            }
            for r in 0..MR {
                let q = S::load(q.add(r * d + c));
                for i in 0..NK {
                    acc[r][i] = S::fma(keys[i], q, acc[r][i]);
                }
            }
        }
        for r in 0..MR {
            S::store_sums(acc[r], out.add(r * BLOCK));
        }
    }
}

/// `sums(MR, d) = sums * factors[0] + probs(MR, BLOCK) · v * factors[1]`, for the rows of d elements that `v` holds.
///
/// # Safety
/// As `scores`.
#[inline(always)]
unsafe fn add_values<S: Simd, V: Float, const MR: usize>(
    probs: &[f32],
    factors: [[f32; MR]; 2],
    d: usize,
    v: &[u8],
    sums: &mut [f32],
) {
    let most = match (S::REGISTERS, MR) {
        (32, 1 | 2) => 8,
        (32, _) | (_, 1 | 2) => 4,
        _ => 2,
    };
    let mut c = 0;
    while c < d {
        // SAFETY: the caller's promise; so many vectors are left.
        unsafe {
            let (p, v, sums) = (probs.as_ptr(), &v[c * V::BYTES..], &mut sums[c..]);
            c += S::L
                * match (d - c) / S::L {
                    8.. if most == 8 => add_columns::<S, V, MR, 8>(p, factors, d, v, sums),
                    4.. if most >= 4 => add_columns::<S, V, MR, 4>(p, factors, d, v, sums),
                    2.. => add_columns::<S, V, MR, 2>(p, factors, d, v, sums),
                    _ => add_columns::<S, V, MR, 1>(p, factors, d, v, sums),
                };
        }
    }
}

/// The same for the first NV vectors of columns; NV is the result.
///
/// # Safety
/// As `add_values`, from whose values and sums the columns before are cut off.
#[inline(always)]
unsafe fn add_columns<S: Simd, V: Float, const MR: usize, const NV: usize>(
    probs: *const f32,
    factors: [[f32; MR]; 2],
    d: usize,
    v: &[u8],
    sums: &mut [f32],
) -> usize {
    let row = d * V::BYTES;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for j in 0..v.len().div_ceil(row) {
            let v = v.as_ptr().add(j * row);
            prefetch::read(v.wrapping_add(AHEAD), NV * S::L * V::BYTES);
            let mut values = [S::splat(0.0); NV];
            for i in 0..NV {
                values[i] = V::load::<S>(v.add(i * S::L * V::BYTES));
            }
            for r in 0..MR {
                let p = S::splat(*probs.add(r * BLOCK + j));
                for i in 0..NV {
                    acc[r][i] = S::fma(values[i], p, acc[r][i]);
                }
            }
        }
        for r in 0..MR {
            let (old, new) = (S::splat(factors[0][r]), S::splat(factors[1][r]));
            for i in 0..NV {
                let sum = sums.as_mut_ptr().add(r * d + i * S::L);
                S::store(sum, S::fma(acc[r][i], new, S::mul(S::load(sum), old)));
            }
        }
    }
    NV
}
