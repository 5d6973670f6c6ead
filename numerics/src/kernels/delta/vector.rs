//! The operations for any vector instruction set: see [`DeltaOps`](super::DeltaOps). No closure in here holds vector operations: it
//! would be compiled without the features of the caller.

// Loops over a register block run over several arrays at once, and have to be unrolled.
#![allow(clippy::needless_range_loop)]

use super::{DELTA_ALIGN, DeltaProduct, DeltaStep, Keep};
use crate::kernels::attention::product::{InF32, product as block};
use crate::kernels::attention::simd::Simd;

/// Rows per register block.
const ROWS: usize = 6;
/// Vectors of columns of a matrix that a step goes through at once: both of its passes then find them in the first-level cache.
const COLUMNS: usize = 4;

/// `n` cut into blocks of at most `most`, as even as can be: the size of the next one.
#[inline(always)]
fn even(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most))
}

/// # Safety
/// The CPU has the features of `S`.
///
/// # Panics
/// When rows leave their memory.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd>(p: &DeltaProduct<'_>, keep: Keep<'_>, out: &mut [f32]) {
    p.check(keep, out);
    let most = if S::REGISTERS == 32 { 4 } else { 2 };
    let mut left = p.n_cols / S::L;
    let mut col = 0;
    while left > 0 {
        let nv = even(left, most);
        let mut row = 0;
        while row < p.n_rows {
            let mr = even(p.n_rows - row, ROWS);
            // SAFETY: the caller's promise; the block lies inside all operands, as `check` found.
            unsafe {
                match nv {
                    1 => rows::<S, 1>(p, keep, out, row, mr, col),
                    2 => rows::<S, 2>(p, keep, out, row, mr, col),
                    3 => rows::<S, 3>(p, keep, out, row, mr, col),
                    _ => rows::<S, 4>(p, keep, out, row, mr, col),
                }
            }
            row += mr;
        }
        col += nv * S::L;
        left -= nv;
    }
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows<S: Simd, const NV: usize>(
    p: &DeltaProduct<'_>,
    keep: Keep<'_>,
    out: &mut [f32],
    row: usize,
    mr: usize,
    col: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match mr {
            1 => tile::<S, 1, NV>(p, keep, out, row, col),
            2 => tile::<S, 2, NV>(p, keep, out, row, col),
            3 => tile::<S, 3, NV>(p, keep, out, row, col),
            4 => tile::<S, 4, NV>(p, keep, out, row, col),
            5 => tile::<S, 5, NV>(p, keep, out, row, col),
            _ => tile::<S, ROWS, NV>(p, keep, out, row, col),
        }
    }
}

/// Rows `row..row + MR` of NV vectors of columns from `col` on.
///
/// # Safety
/// The CPU has the features of `S`; `p.check` has passed, and these rows and columns are some of the output's.
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    p: &DeltaProduct<'_>,
    keep: Keep<'_>,
    out: &mut [f32],
    row: usize,
    col: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (p.a.as_ptr().add(row * p.lda).cast(), p.b.as_ptr().add(col).cast());
        let acc = block::<S, InF32, MR, NV>(a, p.lda, b, p.ldb, p.n_steps, &mut ());
        for r in 0..MR {
            let to = out.as_mut_ptr().add((row + r) * p.ldo + col);
            let kept = S::splat(keep.of(row + r));
            for v in 0..NV {
                let to = to.add(v * S::L);
                // What is not kept may be anything.
                let sum = if let Keep::Nothing = keep { acc[r][v] } else { S::fma(S::load(to), kept, acc[r][v]) };
                S::store(to, sum);
            }
        }
    }
}

/// # Safety
/// The CPU has the features of `S`.
///
/// # Panics
/// When lengths disagree.
#[inline(always)]
pub(crate) unsafe fn step<S: Simd>(step: &DeltaStep<'_>, state: &mut [f32], out: &mut [f32]) {
    step.check(state, out);
    let decay = step.g.exp();
    let mut left = out.len() / S::L;
    let mut col = 0;
    while left > 0 {
        let nv = even(left, COLUMNS);
        // SAFETY: the caller's promise; these columns are some of the matrix's.
        unsafe {
            match nv {
                1 => columns::<S, 1>(step, decay, state, out, col),
                2 => columns::<S, 2>(step, decay, state, out, col),
                3 => columns::<S, 3>(step, decay, state, out, col),
                _ => columns::<S, COLUMNS>(step, decay, state, out, col),
            }
        }
        col += nv * S::L;
        left -= nv;
    }
}

/// A step of NV vectors of columns from `col` on: they have nothing to do with others.
///
/// # Safety
/// The CPU has the features of `S`; `step.check` has passed, and the columns are some of the matrix's.
#[inline(always)]
unsafe fn columns<S: Simd, const NV: usize>(
    step: &DeltaStep<'_>,
    decay: f32,
    state: &mut [f32],
    out: &mut [f32],
    col: usize,
) {
    let d_v = out.len();
    // SAFETY: the caller's promise.
    unsafe {
        let s = state.as_mut_ptr().add(col);
        let mut said = [S::splat(0.0); NV];
        for (i, k) in step.k.iter().enumerate() {
            let k = S::splat(*k);
            for v in 0..NV {
                said[v] = S::fma(k, S::load(s.add(i * d_v + v * S::L)), said[v]);
            }
        }
        let (beta, kept, forgotten) = (S::splat(step.beta), S::splat(decay), S::splat(-decay));
        let mut new = [S::splat(0.0); NV];
        for v in 0..NV {
            let value = S::load(step.v.as_ptr().add(col + v * S::L));
            new[v] = S::mul(beta, S::fma(forgotten, said[v], value));
        }
        let mut sums = [S::splat(0.0); NV];
        for (i, (k, q)) in step.k.iter().zip(step.q).enumerate() {
            let (k, q) = (S::splat(*k), S::splat(*q));
            for v in 0..NV {
                let at = s.add(i * d_v + v * S::L);
                let x = S::fma(k, new[v], S::mul(kept, S::load(at)));
                S::store(at, x);
                sums[v] = S::fma(q, x, sums[v]);
            }
        }
        for v in 0..NV {
            S::store(out.as_mut_ptr().add(col + v * S::L), sums[v]);
        }
    }
}

/// # Safety
/// The CPU has the features of `S`.
///
/// # Panics
/// When lengths disagree, or rows or columns do not fill vectors.
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(x: &[f32], (n_rows, n_cols): (usize, usize), out: &mut [f32]) {
    assert!(x.len() == n_rows * n_cols && out.len() == x.len());
    assert!(n_rows.is_multiple_of(DELTA_ALIGN) && n_cols.is_multiple_of(DELTA_ALIGN));
    for i in (0..n_rows).step_by(S::L) {
        for j in (0..n_cols).step_by(S::L) {
            // SAFETY: the caller's promise; squares of L by L lie inside both.
            unsafe {
                let from = x.as_ptr().add(i * n_cols + j).cast();
                S::transpose(from, n_cols, out.as_mut_ptr().add(j * n_rows + i).cast(), n_rows);
            }
        }
    }
}

/// # Safety
/// The CPU has the features of `S`.
///
/// # Panics
/// When lengths disagree, or do not fill vectors.
#[inline(always)]
pub(crate) unsafe fn decay<S: Simd>(row: &mut [f32], factor: f32, exponents: &[f32]) {
    assert!(row.len() == exponents.len() && row.len().is_multiple_of(DELTA_ALIGN));
    // SAFETY: the caller's promise; whole vectors of both.
    unsafe {
        let factor = S::splat(factor);
        for i in (0..row.len()).step_by(S::L) {
            let at = row.as_mut_ptr().add(i);
            let power = S::exp2(S::load(exponents.as_ptr().add(i)));
            S::store(at, S::mul(S::load(at), S::mul(factor, power)));
        }
    }
}
