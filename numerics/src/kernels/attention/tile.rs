//! A tile of queries against a range of keys, for any vector instruction set.
//!
//! Keys and values are unpacked block by block into panels that one register-blocked product serves: a dword of the
//! panel holds one f32 or two 16-bit integers (four bytes for `dot_i8`) of the contracted dimension, vectors run over
//! keys for the scores and over columns for the values, and the other operand is broadcast from its row.
//!
//! A few rows of queries against floats go another way (`stored.rs`). F32 caches are computed in f32 where that is asked for. All
//! others use 16-bit fixed point, which has the rate of a bf16
//! dot product and three to four more bits: a query row and a key are scaled to 12 bits each (so that their products sum
//! without overflow), a column of values to 12 bits within its block of keys, and the probabilities of a row to as many of
//! 15 bits as their sum leaves room for. Where there is a byte dot product, quantized keys keep their own bytes and queries get one byte per
//! element, with a scale per 32.

// Loops over a register block run over several arrays at once, and have to be unrolled.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::keys::Keys;
use super::product::{Between, InF32, InI16, Unit, product};
use super::simd::Simd;
use super::softmax::softmax;
use super::unpack::{self, BLOCK, KeyUnit, V_LIMIT, ValueUnit};
use super::values::Values;
use super::{AttentionTile, Partial, stored};
use crate::kernels::prefetch;
use crate::kernels::scratch::Carve;

/// Bytes per line of a cache.
const LINE: usize = 64;
/// Rows per register block.
pub(super) const ROWS: usize = 6;
/// Up to this many rows, so little work goes into a block of keys and values that it should stay in the first-level cache.
const FEW_ROWS: usize = 16;
/// Keys per block for few rows, at least: whole panels.
const FEW_KEYS: usize = 32;
/// What the sum of a row's 16-bit probabilities must not exceed: times `V_LIMIT` it fits an i32, roundings included.
const P_LIMIT: f32 = (i32::MAX / V_LIMIT - BLOCK as i32) as f32;

/// Floats that [`tile`] needs for working memory.
pub(crate) fn room<S: Simd>(t: &AttentionTile<'_>, rows: usize) -> usize {
    if stored::serves::<S>(t, rows) {
        return stored::ROOM;
    }
    let (n_block, dv, unit) = (t.d.div_ceil(32), t.d.next_multiple_of(S::L), KeyUnit::of::<S>(t.type_k, t.exact));
    let dk = unit.row_dwords::<S>(t.d);
    let pieces = [rows * dk, rows * n_block, rows * n_block, rows * dv, ROWS * BLOCK, ROWS * BLOCK];
    Carve::room(&pieces) + Keys::room::<S>(unit, t.type_k, t.d) + Values::room(t.type_v, dv, t.d)
}

/// What [`tile`] calls, each compiled for an instruction set, whose features the CPU must have. They are functions of their own
/// because one that has them all in it takes the compiler half a minute.
pub(crate) struct Pieces {
    /// `Keys::unpack`
    pub keys: unsafe fn(&mut Keys<'_>, &AttentionTile<'_>, usize, usize),
    /// `Values::unpack`
    pub values: unsafe fn(&mut Values<'_>, &AttentionTile<'_>, usize, usize),
    /// `Step::run` for 1 row, 2 rows, …
    pub steps: [unsafe fn(&Step<'_>, Rows<'_>, &[usize]); ROWS],
    /// The same of `stored.rs`.
    pub stored: [unsafe fn(&stored::Step<'_>, stored::Rows<'_>); ROWS],
}

/// See [`AttentionOps::tile`](super::AttentionOps). No closure in here or below holds vector operations: it would be
/// compiled without the features of the caller.
///
/// # Safety
/// The CPU has the features of `S`, for which the pieces are compiled.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd>(t: &AttentionTile<'_>, out: Partial<'_>, buffer: &mut [f32], pieces: &Pieces) {
    t.check(&out);
    let (d, rows) = (t.d, out.max.len());
    if stored::serves::<S>(t, rows) {
        // SAFETY: the caller's promise.
        return unsafe { stored::tile::<S>(t, out, buffer, &pieces.stored) };
    }
    let (keys_as, values_as) = (KeyUnit::of::<S>(t.type_k, t.exact), ValueUnit::of(t.type_v, t.exact));
    let n_block = d.div_ceil(32);
    let dk = keys_as.row_dwords::<S>(d);
    let dv = d.next_multiple_of(S::L);
    let mut from = Carve::new(buffer);
    let (q, q_scale, q_sum) = (from.take(rows * dk), from.take(rows * n_block), from.take(rows * n_block));
    let sums = from.take(rows * dv);
    let mut keys = Keys::new::<S>(keys_as, t.type_k, d, &mut from);
    let mut values = Values::new(values_as, t.type_v, dv, d, &mut from);
    let (scores, probs) = (from.take(ROWS * BLOCK), from.take(ROWS * BLOCK));
    unpack::queries::<S>(keys_as, t.q, d, q, q_scale, q_sum);
    sums.fill(0.0);
    out.max.fill(f32::NEG_INFINITY);
    out.sum.fill(0.0);
    let at_once = if rows <= FEW_ROWS { keys.width::<S>().max(FEW_KEYS) } else { BLOCK };
    for j0 in (0..t.n_keys).step_by(at_once) {
        let n = at_once.min(t.n_keys - j0);
        // SAFETY: the caller's promise; `check` compared the lengths of the stored rows with `n_keys`.
        unsafe {
            (pieces.keys)(&mut keys, t, j0, n);
            (pieces.values)(&mut values, t, j0, n);
        }
        let next = (j0 + n).min(t.n_keys)..(j0 + n + at_once).min(t.n_keys);
        let mut r = 0;
        while r < rows {
            let mr = rows_at_once(rows - r);
            let last = t.seen(r + mr - 1).saturating_sub(j0);
            if last > 0 {
                let soon = |data, row_bytes| Soon::share(data, row_bytes, &next, (r..r + mr, rows));
                let soon = [soon(t.k, t.row_k()), soon(t.v, t.row_v())];
                let step = Step { keys: &keys, values: &values, n, dk, dv, n_block, soon };
                let operands = Rows {
                    q: &q[r * dk..][..mr * dk],
                    q_scale: &q_scale[r * n_block..][..mr * n_block],
                    q_sum: &q_sum[r * n_block..][..mr * n_block],
                    scores: &mut *scores,
                    probs: &mut *probs,
                    sums: &mut sums[r * dv..][..mr * dv],
                    max: &mut out.max[r..][..mr],
                    sum: &mut out.sum[r..][..mr],
                };
                let seen: [usize; ROWS] = std::array::from_fn(|i| t.seen(r + i).saturating_sub(j0).min(n));
                // SAFETY: the caller's promise.
                unsafe { pieces.steps[mr - 1](&step, operands, &seen[..mr]) };
            }
            r += mr;
        }
    }
    for (row, sums) in out.sums.chunks_exact_mut(d).zip(sums.chunks_exact(dv)) {
        row.copy_from_slice(&sums[..d]);
    }
}

/// How many of the rows that are left make up a register block: 7 rows are 4 and 3 rather than 6 and 1.
pub(super) fn rows_at_once(left: usize) -> usize {
    left.div_ceil(left.div_ceil(ROWS))
}

/// One block of unpacked keys and values.
pub(crate) struct Step<'a> {
    keys: &'a Keys<'a>,
    values: &'a Values<'a>,
    /// Keys in the block.
    n: usize,
    dk: usize,
    dv: usize,
    n_block: usize,
    /// Keys and values of the next block.
    soon: [Soon; 2],
}

/// Stored rows that the next block wants: asked for little by little while there is something to compute, so that memory
/// is never idle.
#[derive(Clone, Copy)]
struct Soon {
    at: *const u8,
    n_lines: usize,
    per_step: usize,
}

impl Soon {
    /// What some rows of queries, of all that there are, ask for of the stored rows `next`.
    fn share(data: &[u8], row_bytes: usize, next: &Range<usize>, (rows, of): (Range<usize>, usize)) -> Soon {
        let n_lines = (next.len() * row_bytes).div_ceil(LINE);
        let lines = rows.start * n_lines / of..rows.end * n_lines / of;
        let at = data.as_ptr().wrapping_add(next.start * row_bytes + lines.start * LINE);
        Soon { at, n_lines: lines.len(), per_step: 0 }
    }

    /// The same, over `steps` steps.
    fn over(self, steps: usize) -> Soon {
        Soon { per_step: self.n_lines.div_ceil(steps.max(1)), ..self }
    }
}

impl Between for Soon {
    #[inline(always)]
    fn step(&mut self) {
        let n = self.per_step.min(self.n_lines);
        self.n_lines -= n;
        for _ in 0..n {
            prefetch::later(self.at, 1);
            self.at = self.at.wrapping_add(LINE);
        }
    }
}

/// MR rows of queries and what belongs to them.
pub(crate) struct Rows<'a> {
    /// (MR, dk) dwords
    q: &'a [f32],
    /// (MR, n_block); only the first of a row unless the keys are bytes
    q_scale: &'a [f32],
    /// (MR, n_block) integers
    q_sum: &'a [f32],
    /// (MR, BLOCK)
    scores: &'a mut [f32],
    /// (MR, BLOCK) dwords
    probs: &'a mut [f32],
    /// (MR, dv)
    sums: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl Step<'_> {
    /// Scores, softmax, and the weighted sum of values, for MR rows that see so many keys of the block.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd, const MR: usize>(&self, rows: Rows<'_>, seen: &[usize]) {
        let (dk, dv, nb) = (self.dk, self.dv, self.n_block);
        const { assert!(MR <= 8) };
        assert!(rows.q.len() == MR * dk && rows.sums.len() == MR * dv && rows.scores.len() >= MR * BLOCK);
        assert!(rows.probs.len() >= MR * BLOCK && rows.q_scale.len() == MR * nb && rows.q_sum.len() == MR * nb);
        let (q, scores) = (rows.q.as_ptr().cast::<i32>(), rows.scores.as_mut_ptr());
        // SAFETY: the caller's promise. Operand lengths are checked above; panels are whole (`Keys` and `Values` pad them
        // to BLOCK keys and to dv columns), and scores and probabilities have room for BLOCK keys a row.
        unsafe {
            match self.keys.unit {
                KeyUnit::F32 => self.scores::<S, InF32, MR>(q, scores),
                KeyUnit::I16 | KeyUnit::Codes => self.scores::<S, InI16, MR>(q, scores),
                KeyUnit::I8 => self.scores_i8::<S, MR>(q, rows.q_scale.as_ptr(), rows.q_sum.as_ptr().cast(), scores),
            }
            let n = self.n.next_multiple_of(2 * S::L);
            let scale = |i: usize| if self.keys.unit.is_pairs() { rows.q_scale[i * nb] } else { 1.0 };
            let seen: [usize; MR] = seen.try_into().expect("MR rows");
            let weights = softmax::<S, MR>(scores, n, seen, std::array::from_fn(scale), rows.max, rows.sum);
            let (old, mut new) = (weights.old, weights.new);
            for i in 0..MR {
                if seen[i] == 0 {
                    // A row of probabilities must exist: the product below takes MR of them.
                    rows.probs[i * BLOCK..][..n].fill(0.0);
                } else if self.values.unit == ValueUnit::I16 {
                    let scale = (P_LIMIT / weights.sum[i]).min(32767.0);
                    let probs = rows.probs.as_mut_ptr().add(i * BLOCK).cast::<i32>();
                    fixed_point::<S>(scores.add(i * BLOCK), scale, n, probs);
                    new[i] /= scale;
                }
            }
            let probs = rows.probs.as_ptr().cast::<i32>();
            match self.values.unit {
                ValueUnit::F32 => self.add_values::<S, InF32, MR>(scores.cast(), n, [&old, &new], rows.sums),
                ValueUnit::I16 => self.add_values::<S, InI16, MR>(probs, n / 2, [&old, &new], rows.sums),
            }
        }
    }

    /// scores(MR, BLOCK) = q · keys, to be multiplied by the scale of the query row.
    ///
    /// # Safety
    /// As `run`, which checked the lengths.
    #[inline(always)]
    unsafe fn scores<S: Simd, U: Unit<S>, const MR: usize>(&self, q: *const i32, scores: *mut f32) {
        let width = unpack::panel_width::<S>();
        let mut soon = self.soon[0].over(self.n.div_ceil(width) * self.dk);
        for (p, j) in (0..self.n).step_by(width).enumerate() {
            // SAFETY: panel `p` is whole, and so are the columns from `j` on.
            unsafe {
                let panel = self.keys.panels.as_ptr().cast::<i32>().add(p * width * self.dk);
                if S::REGISTERS == 32 {
                    self.score_panel::<S, U, MR, 4>(q, panel, j, scores, &mut soon);
                } else {
                    self.score_panel::<S, U, MR, 2>(q, panel, j, scores, &mut soon);
                }
            }
        }
    }

    /// # Safety
    /// As `scores`.
    #[inline(always)]
    unsafe fn score_panel<S: Simd, U: Unit<S>, const MR: usize, const NV: usize>(
        &self,
        q: *const i32,
        panel: *const i32,
        j: usize,
        scores: *mut f32,
        soon: &mut Soon,
    ) {
        // SAFETY: `scores` chose a whole panel of NV vectors.
        unsafe {
            let acc = product::<S, U, MR, NV>(q, self.dk, panel, NV * S::L, self.dk, soon);
            for v in 0..NV {
                let at = j + v * S::L;
                let scale = S::load(self.keys.scales.as_ptr().add(at));
                for r in 0..MR {
                    let x = U::to_f(acc[r][v]);
                    let x = if U::SCALED { S::mul(x, scale) } else { x };
                    S::store(scores.add(r * BLOCK + at), x);
                }
            }
        }
    }

    /// The same from bytes, block by block of 32 elements, complete with the scales of the query.
    ///
    /// # Safety
    /// As `scores`.
    #[inline(always)]
    unsafe fn scores_i8<S: Simd, const MR: usize>(
        &self,
        q: *const i32,
        q_scale: *const f32,
        q_sum: *const i32,
        scores: *mut f32,
    ) {
        const NV: usize = 2;
        let width = NV * S::L;
        let mut soon = self.soon[0].over(self.n.div_ceil(width) * 8 * self.n_block);
        for (p, j) in (0..self.n).step_by(width).enumerate() {
            // SAFETY: panel `p` is whole; a block has eight dwords a row, one scale and one sum.
            unsafe {
                let panel = self.keys.panels.as_ptr().cast::<i32>().add(p * width * self.dk);
                let mut total = [[S::splat(0.0); NV]; MR];
                for block in 0..self.n_block {
                    let mut acc = [[S::zero_i(); NV]; MR];
                    for r in 0..MR {
                        acc[r] = [S::splat_i(*q_sum.add(r * self.n_block + block)); NV];
                    }
                    for t in block * 8..block * 8 + 8 {
                        soon.step();
                        let mut w = [S::zero_i(); NV];
                        for v in 0..NV {
                            w[v] = S::load_i(panel.add(t * width + v * S::L));
                        }
                        for r in 0..MR {
                            let x = S::splat_i(*q.add(r * self.dk + t));
                            for v in 0..NV {
                                acc[r][v] = S::dot_i8(acc[r][v], w[v], x);
                            }
                        }
                    }
                    for v in 0..NV {
                        let scale = S::load(self.keys.scales.as_ptr().add(block * BLOCK + j + v * S::L));
                        for r in 0..MR {
                            let scale = S::mul(scale, S::splat(*q_scale.add(r * self.n_block + block)));
                            total[r][v] = S::fma(S::to_f(acc[r][v]), scale, total[r][v]);
                        }
                    }
                }
                for r in 0..MR {
                    for v in 0..NV {
                        S::store(scores.add(r * BLOCK + j + v * S::L), total[r][v]);
                    }
                }
            }
        }
    }

    /// `sums = sums * factors[0] + probs · values * factors[1]`, row by row.
    ///
    /// # Safety
    /// As `run`, which checked the lengths.
    #[inline(always)]
    unsafe fn add_values<S: Simd, U: Unit<S>, const MR: usize>(
        &self,
        probs: *const i32,
        steps: usize,
        factors: [&[f32; MR]; 2],
        sums: &mut [f32],
    ) {
        let most = if S::REGISTERS == 32 { 4 } else { 2 };
        let mut left = self.dv / S::L;
        let mut at = 0;
        let mut soon = self.soon[1].over(left.div_ceil(most) * steps);
        while left > 0 {
            // 5 vectors are 3 and 2 rather than 4 and 1.
            let nv = left.div_ceil(left.div_ceil(most));
            // SAFETY: `nv` vectors from column `at` on lie within dv columns.
            unsafe {
                match nv {
                    1 => self.add_columns::<S, U, MR, 1>(probs, steps, factors, sums, at, &mut soon),
                    2 => self.add_columns::<S, U, MR, 2>(probs, steps, factors, sums, at, &mut soon),
                    3 => self.add_columns::<S, U, MR, 3>(probs, steps, factors, sums, at, &mut soon),
                    _ => self.add_columns::<S, U, MR, 4>(probs, steps, factors, sums, at, &mut soon),
                }
            }
            at += nv * S::L;
            left -= nv;
        }
    }

    /// # Safety
    /// As `add_values`.
    #[inline(always)]
    unsafe fn add_columns<S: Simd, U: Unit<S>, const MR: usize, const NV: usize>(
        &self,
        probs: *const i32,
        steps: usize,
        factors: [&[f32; MR]; 2],
        sums: &mut [f32],
        at: usize,
        soon: &mut Soon,
    ) {
        // SAFETY: `add_values` chose columns within dv.
        unsafe {
            let values = self.values.panel.as_ptr().cast::<i32>().add(at);
            let acc = product::<S, U, MR, NV>(probs, BLOCK, values, self.dv, steps, soon);
            for v in 0..NV {
                let scale = S::load(self.values.scales.as_ptr().add(at + v * S::L));
                for r in 0..MR {
                    let sum = sums.as_mut_ptr().add(r * self.dv + at + v * S::L);
                    let new = S::splat(factors[1][r]);
                    let weight = if U::SCALED { S::mul(scale, new) } else { new };
                    let before = S::mul(S::load(sum), S::splat(factors[0][r]));
                    S::store(sum, S::fma(U::to_f(acc[r][v]), weight, before));
                }
            }
        }
    }
}

/// Probabilities as 16-bit integers, vectors paired as the values are.
///
/// # Safety
/// The CPU has the features of `S`; `row` holds `n` floats, whole pairs of vectors; `to` has room for n / 2 dwords.
#[inline(always)]
unsafe fn fixed_point<S: Simd>(row: *const f32, scale: f32, n: usize, to: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = S::splat(scale);
        for j in (0..n).step_by(2 * S::L) {
            let low = S::to_i(S::mul(S::load(row.add(j)), scale));
            let high = S::to_i(S::mul(S::load(row.add(j + S::L)), scale));
            S::store_i(to.add(j / 2), S::pair(low, high));
        }
    }
}
