//! The inner loop of prefill for codes as they are ([`Word::Codes`](super::Word::Codes)), where a machine multiplies
//! unsigned bytes with signed ones into sums of 16 bits.
//!
//! Instructions for 32 products, loads aside: one multiplies, one adds in 16 bits as long as that is exact (codes up to 15
//! eight times, up to 31 four times, up to 63 twice), and then one multiplies by the integer scale of the group, which
//! widens to 32 bits at once, and one adds. That is 2.25 instructions for codes of four bits, 2.5 for six; 16-bit pairs take
//! four. Offsets are two instructions per pair of groups.

use super::codes::CHUNK;
use super::ops::{Number, Tile};
use crate::kernels::attention::simd::Simd;

/// Products of bytes in 16 bits.
///
/// # Safety
/// As [`Simd`].
pub(crate) trait Narrow: Simd {
    /// For every 16 bits the sum of two products of unsigned bytes of `w` with signed ones of `x`, if it fits.
    unsafe fn products(w: Self::I, x: Self::I) -> Self::I;
    /// Sums of 16 bits.
    unsafe fn add16(a: Self::I, b: Self::I) -> Self::I;
}

/// Steps per 256 columns.
const STEPS: usize = CHUNK / 4;

/// out = [out +] x · wᵀ for rows of two vectors, FULL tokens at a time, then HALF.
///
/// # Safety
/// - `t.check` has passed for a layout of `2 * V::L` rows, with `n_chunks` for its result, and the panel is of codes.
/// - The caller has the features of `V`.
#[inline(always)]
pub(crate) unsafe fn tile<V: Narrow, const FULL: usize, const HALF: usize>(
    t: Tile<'_>,
    n_chunks: usize,
    out: &mut [f32],
) {
    let Number::Codes { max, .. } = t.panel.number else { unreachable!("a panel of codes") };
    // SAFETY: as the caller promises; steps and groups are those of the panel.
    unsafe {
        match (t.panel.group, max) {
            (32, ..=15) => tokens::<V, 8, 8, FULL, HALF>(t, n_chunks, out),
            (32, ..=31) => tokens::<V, 8, 4, FULL, HALF>(t, n_chunks, out),
            (16, ..=31) => tokens::<V, 4, 4, FULL, HALF>(t, n_chunks, out),
            (16, ..=63) => tokens::<V, 4, 2, FULL, HALF>(t, n_chunks, out),
            other => unreachable!("no format has {other:?}"),
        }
    }
}

/// The same for groups of GROUP steps, of which SUM add up in 16 bits.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn tokens<V: Narrow, const GROUP: usize, const SUM: usize, const FULL: usize, const HALF: usize>(
    t: Tile<'_>,
    n_chunks: usize,
    out: &mut [f32],
) {
    let mut first = 0;
    while first < t.width {
        // SAFETY: each block is of tokens that are left; the rest as promised.
        unsafe {
            first += match t.width - first {
                n if n >= FULL => block::<V, GROUP, SUM, FULL>(t, n_chunks, first, out),
                n if n >= HALF => block::<V, GROUP, SUM, HALF>(t, n_chunks, first, out),
                _ => block::<V, GROUP, SUM, 1>(t, n_chunks, first, out),
            };
        }
    }
}

/// The tokens `first..first + N`; N is the result.
///
/// # Safety
/// As for [`tokens`], and the tokens exist.
#[inline(always)]
unsafe fn block<V: Narrow, const GROUP: usize, const SUM: usize, const N: usize>(
    t: Tile<'_>,
    n_chunks: usize,
    first: usize,
    out: &mut [f32],
) -> usize {
    let (rows, groups) = (2 * V::L, STEPS / GROUP);
    // What `Layout::w_words` and `x_words` say, known to the compiler.
    let (w_words, x_words) = ((STEPS + groups / 2 * 3).next_multiple_of(16), STEPS + groups / 2);
    let affine = matches!(t.panel.number, Number::Codes { affine: true, .. });
    // SAFETY: a chunk of weights is `w_words` rows of `rows` words, of which the first STEPS are codes and the next `groups`
    // and `groups / 2` scales and offsets; a chunk of a token is `x_words` words; `check` has compared these with the lengths,
    // like those of the scales and of `out`, whose rows are `ldo` long.
    unsafe {
        let out = out.as_mut_ptr().add(first * t.ldo);
        for c in 0..n_chunks {
            t.soon.iter().for_each(|soon| soon.ask((c, n_chunks), first..first + N));
            let mut w = t.w.as_ptr().add(c * w_words * rows).cast::<i32>();
            let mut x = t.x.as_ptr().add((c * t.width + first) * x_words).cast::<i32>();
            let scales = w.add(STEPS * rows);
            let offsets = scales.add(groups * rows);
            let mut low = [[V::zero_i(); 2]; N];
            for k in 0..groups / 2 {
                let offsets = [V::load_i(offsets.add(k * rows)), V::load_i(offsets.add(k * rows + V::L))];
                for (it, low) in low.iter_mut().enumerate() {
                    let sums = V::splat_i(*x.add(it * x_words + STEPS + k));
                    *low = [V::dot_i16(low[0], offsets[0], sums), V::dot_i16(low[1], offsets[1], sums)];
                }
            }
            let mut acc = if affine { [[V::zero_i(); 2]; N] } else { low };
            for k in 0..groups {
                for _ in 0..GROUP / SUM {
                    let mut sums = [[V::zero_i(); 2]; N];
                    for i in 0..SUM {
                        let (w0, w1) = (V::load_i(w), V::load_i(w.add(V::L)));
                        for (it, sums) in sums.iter_mut().enumerate() {
                            let x = V::splat_i(*x.add(it * x_words));
                            let products = [V::products(w0, x), V::products(w1, x)];
                            *sums = if i == 0 {
                                products
                            } else {
                                [V::add16(sums[0], products[0]), V::add16(sums[1], products[1])]
                            };
                        }
                        w = w.add(rows);
                        x = x.add(1);
                    }
                    for half in 0..2 {
                        let scales = V::load_i(scales.add(k * rows + half * V::L));
                        for (acc, sums) in acc.iter_mut().zip(&sums) {
                            acc[half] = V::dot_i16(acc[half], sums[half], scales);
                        }
                    }
                }
            }
            for half in 0..2 {
                let units = t.w_scales.as_ptr().add(2 * c * rows + half * V::L);
                let (scale, offset) = (V::load(units), V::load(units.add(rows)));
                for it in 0..N {
                    let at = out.add(it * t.ldo + half * V::L);
                    let before = if t.fresh && c == 0 { V::splat(0.0) } else { V::load(at) };
                    let (high, low) = (V::to_f(acc[it][half]), V::to_f(low[it][half]));
                    // Where panels are not affine, the second unit is 0.
                    let sum = V::fma(high, scale, V::mul(low, offset));
                    let token = V::splat(*t.x_scales.as_ptr().add(c * t.width + first + it));
                    V::store(at, V::fma(sum, token, before));
                }
            }
        }
    }
    N
}
