//! The inner loop of prefill, once for all vector instruction sets and all numbers: an outer product of two vectors of
//! weight rows with up to N tokens, whose sums stay in registers.

use std::marker::PhantomData;

use super::codes::CHUNK;
use super::ops::Tile;
use crate::kernels::attention::simd::Simd;

/// What a step of the inner loop does with a word of `V::L` rows and a word of one token.
///
/// # Safety
/// Every function needs the CPU features of the vectors.
pub(crate) trait Product<V: Simd> {
    /// The sums of `V::L` rows with one token.
    type Acc: Copy;
    /// Steps per 256 columns.
    const STEPS: usize;
    /// Whether weights are bytes that are 128 too large: sums then start from `Tile::x_sums` instead of 0.
    const EXCESS: bool;

    /// Sums that all start from `first`.
    unsafe fn start(first: i32) -> Self::Acc;
    /// acc + w · x.
    unsafe fn step(acc: Self::Acc, w: V::I, x: V::I) -> Self::Acc;
    unsafe fn to_f(acc: Self::Acc) -> V::F;
}

/// The step of integer products: `acc + w · x`, exactly.
pub(crate) trait Dot<V: Simd> {
    /// Columns per word: four for bytes (`w` with or without signs, see `Simd::EXCESS`), two for 16-bit numbers.
    const COLS: usize;

    /// # Safety
    /// The caller has the features of the vectors.
    unsafe fn dot(acc: V::I, w: V::I, x: V::I) -> V::I;
}

/// The `dot_i8` of the vectors.
pub(crate) struct Bytes;

/// The `dot_i16` of the vectors.
pub(crate) struct Pairs;

impl<V: Simd> Dot<V> for Bytes {
    const COLS: usize = 4;

    #[inline(always)]
    unsafe fn dot(acc: V::I, w: V::I, x: V::I) -> V::I {
        // SAFETY: as the caller promises.
        unsafe { V::dot_i8(acc, w, x) }
    }
}

impl<V: Simd> Dot<V> for Pairs {
    const COLS: usize = 2;

    #[inline(always)]
    unsafe fn dot(acc: V::I, w: V::I, x: V::I) -> V::I {
        // SAFETY: as the caller promises.
        unsafe { V::dot_i16(acc, w, x) }
    }
}

/// Products of integers.
pub(crate) struct Integers<D>(PhantomData<D>);

impl<V: Simd, D: Dot<V>> Product<V> for Integers<D> {
    type Acc = V::I;
    const STEPS: usize = CHUNK / D::COLS;
    const EXCESS: bool = D::COLS == 4 && V::EXCESS != 0;

    #[inline(always)]
    unsafe fn start(first: i32) -> V::I {
        // SAFETY: as the caller promises.
        unsafe { V::splat_i(first) }
    }

    #[inline(always)]
    unsafe fn step(acc: V::I, w: V::I, x: V::I) -> V::I {
        // SAFETY: as the caller promises.
        unsafe { D::dot(acc, w, x) }
    }

    #[inline(always)]
    unsafe fn to_f(acc: V::I) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::to_f(acc) }
    }
}

/// Products of floats.
pub(crate) struct Floats;

impl<V: Simd> Product<V> for Floats {
    type Acc = V::F;
    const STEPS: usize = CHUNK;
    const EXCESS: bool = false;

    #[inline(always)]
    unsafe fn start(_first: i32) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn step(acc: V::F, w: V::I, x: V::I) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::fma(V::as_f(w), V::as_f(x), acc) }
    }

    #[inline(always)]
    unsafe fn to_f(acc: V::F) -> V::F {
        acc
    }
}

/// out = [out +] x · wᵀ for rows of two vectors, FULL tokens at a time, or HALF where groups are small.
///
/// # Safety
/// - `t.check` has passed for a layout of `2 * V::L` rows in which `P` is the product of `t.panel.number`, with `n_chunks`
///   for its result.
/// - The caller has the features of `V` and `P`.
#[inline(always)]
pub(crate) unsafe fn tile<V: Simd, P: Product<V>, const FULL: usize, const HALF: usize>(
    t: Tile<'_>,
    n_chunks: usize,
    out: &mut [f32],
) {
    /// Steps per group up to which turning sums into floats costs so much that these stay in registers as well.
    const FEW: usize = 16;
    let fine = P::STEPS / t.panel.groups() <= FEW;
    let mut first = 0;
    while first < t.width {
        // SAFETY: each block is of tokens that are left; the rest as promised.
        unsafe {
            first += match t.width - first {
                n if !fine && n >= FULL => block::<V, P, FULL, false>(t, n_chunks, first, out),
                n if n >= HALF => block::<V, P, HALF, true>(t, n_chunks, first, out),
                n if n >= 2 => block::<V, P, 2, true>(t, n_chunks, first, out),
                _ => block::<V, P, 1, true>(t, n_chunks, first, out),
            };
        }
    }
}

/// The tokens `first..first + N`; N is the result. Where KEEP is set, the f32 sums of a chunk stay in registers; else they
/// go through `out`, so that twice as many tokens fit.
///
/// # Safety
/// As for [`tile`], and the tokens exist.
#[inline(always)]
unsafe fn block<V: Simd, P: Product<V>, const N: usize, const KEEP: bool>(
    t: Tile<'_>,
    n_chunks: usize,
    first: usize,
    out: &mut [f32],
) -> usize {
    let (rows, groups) = (2 * V::L, t.panel.groups());
    let group_steps = P::STEPS / groups;
    let mut w = t.w.as_ptr().cast::<i32>();
    // SAFETY: `w` advances by `rows` words per step and `x` by one, over the steps of a token's chunk, all of which `check`
    // has compared with their lengths, like those of the scales and of `out`, whose rows are `ldo` long.
    unsafe {
        let out = out.as_mut_ptr().add(first * t.ldo);
        for c in 0..n_chunks {
            t.soon.iter().for_each(|soon| soon.ask((c, n_chunks), first..first + N));
            let chunk = t.x.as_ptr().add((c * t.width + first) * P::STEPS).cast::<i32>();
            let mut sums = [[V::splat(0.0); 2]; N];
            if KEEP && (c > 0 || !t.fresh) {
                for (it, sums) in sums.iter_mut().enumerate() {
                    *sums = [V::load(out.add(it * t.ldo)), V::load(out.add(it * t.ldo + V::L))];
                }
            }
            for g in 0..groups {
                let mut x = chunk.add(g * group_steps);
                let group = c * groups + g;
                let mut acc = [[P::start(0); 2]; N];
                if P::EXCESS {
                    for (it, acc) in acc.iter_mut().enumerate() {
                        *acc = [P::start(*t.x_sums.as_ptr().add(group * t.width + first + it)); 2];
                    }
                }
                for _ in 0..group_steps {
                    let w0 = V::load_i(w);
                    let w1 = V::load_i(w.add(V::L));
                    for (it, acc) in acc.iter_mut().enumerate() {
                        let x = V::splat_i(*x.add(it * P::STEPS));
                        *acc = [P::step(acc[0], w0, x), P::step(acc[1], w1, x)];
                    }
                    w = w.add(rows);
                    x = x.add(1);
                }
                for half in 0..2 {
                    let s = V::load(t.w_scales.as_ptr().add(group * rows + half * V::L));
                    for (it, acc) in acc.iter().enumerate() {
                        let at = out.add(it * t.ldo + half * V::L);
                        let before = if KEEP {
                            sums[it][half]
                        } else if t.fresh && group == 0 {
                            V::splat(0.0)
                        } else {
                            V::load(at)
                        };
                        let scale = V::splat(*t.x_scales.as_ptr().add(group * t.width + first + it));
                        let sum = V::fma(P::to_f(acc[half]), V::mul(s, scale), before);
                        if KEEP {
                            sums[it][half] = sum;
                        } else {
                            V::store(at, sum);
                        }
                    }
                }
            }
            if KEEP {
                for (it, sums) in sums.iter().enumerate() {
                    V::store(out.add(it * t.ldo), sums[0]);
                    V::store(out.add(it * t.ldo + V::L), sums[1]);
                }
            }
        }
    }
    N
}

/// Rows of `len` words become columns, as [`Int8Isa::transpose`](super::Int8Isa::transpose) says.
///
/// # Panics
/// When there are rows or words that do not fill vectors.
///
/// # Safety
/// The caller has the features of `V`.
#[inline(always)]
pub(crate) unsafe fn transpose<V: Simd>(rows: &[u32], len: usize, out: &mut [u32]) {
    let n = rows.len() / len;
    assert!(n.is_multiple_of(V::L) && len.is_multiple_of(V::L) && rows.len() == n * len && out.len() == rows.len());
    for i in (0..n).step_by(V::L) {
        for j in (0..len).step_by(V::L) {
            // SAFETY: squares of L by L words lie inside both, as checked; features as the caller promises.
            unsafe {
                V::transpose(rows[i * len + j..].as_ptr().cast(), len, out[j * n + i..].as_mut_ptr().cast(), n);
            }
        }
    }
}
