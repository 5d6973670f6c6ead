//! Products with NEON: by widening products, by dot products of bytes (dotprod), and by matrix products of bytes (i8mm).
//! Bytes of weights and activations are signed here, so nothing has to be taken off their products.

use std::arch::aarch64::*;

use super::asm::{sdot, smmla};
use super::attention::Neon as V;
use super::lanes::Pairs as NeonLanes;
use crate::ggml_type::GgmlType;
use crate::kernels::matmul::codes::Codes;
use crate::kernels::matmul::tile::{self, Bytes, Floats, Integers, Pairs};
use crate::kernels::matmul::{Chunk, FloatRows, Int8Isa, Layout, Number, RowChunk, Tile, Word, float, int8_ops};

/// Widening products: panels of 16-bit pairs.
pub(crate) struct Plain;

/// Dot products of bytes.
pub(crate) struct Dotprod;

/// Matrix products of bytes in panels; with few tokens as [`Dotprod`].
pub(crate) struct I8mm;

/// Tokens of which two vectors of rows fill 24 of the 32 registers.
const TOKENS: usize = 12;

/// Weight rows per tile: two vectors.
const ROWS: usize = 8;

/// What differs between them.
///
/// # Safety
/// Unsafe functions need the CPU features of their implementation.
pub(crate) trait Products {
    /// The words of 8-bit integers.
    const INT8: Word;
    /// Four sums, and to them the products of sixteen bytes.
    unsafe fn products(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
    /// out = [out +] x · wᵀ of 8-bit integers. `Tile::check` has passed, with `n_chunks` for its result.
    unsafe fn tile(t: Tile<'_>, n_chunks: usize, out: &mut [f32]);
}

impl Products for Plain {
    const INT8: Word = Word::Pairs;

    #[inline(always)]
    unsafe fn products(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // Magnitudes are at most 128 and 127: two products stay within 16 bits.
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { vpadalq_s16(sums, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x)) }
    }

    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_chunks: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { tile::tile::<V<false>, Integers<Pairs>, TOKENS, { TOKENS / 2 }>(t, n_chunks, out) }
    }
}

impl Products for Dotprod {
    const INT8: Word = Word::Signed;

    #[inline(always)]
    unsafe fn products(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has dotprod.
        unsafe { sdot(sums, w, x) }
    }

    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_chunks: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { tile::tile::<V<true>, Integers<Bytes>, TOKENS, { TOKENS / 2 }>(t, n_chunks, out) }
    }
}

impl Products for I8mm {
    const INT8: Word = Word::Octets;

    #[inline(always)]
    unsafe fn products(sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the table of i8mm asks for dotprod as well.
        unsafe { Dotprod::products(sums, w, x) }
    }

    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_chunks: usize, out: &mut [f32]) {
        let mut first = 0;
        while first < t.width {
            // SAFETY: each block is of tokens that are left; the caller's promise.
            first += unsafe {
                match t.width - first {
                    1 => octets::<1, 1>(t, n_chunks, first, out),
                    2 | 3 => octets::<1, 2>(t, n_chunks, first, out),
                    _ => octets::<2, 4>(t, n_chunks, first, out),
                }
            };
        }
    }
}

impl<P: Products> Int8Isa for P {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 2 * TOKENS, int8: P::INT8, codes: false };
    type Lanes = NeonLanes;
    type Chunks = Chunk<NeonLanes>;
    type Acc = [float32x4_t; 2];

    #[inline(always)]
    fn chunks(row: Chunk<NeonLanes>, _: Chunk<NeonLanes>) -> Chunk<NeonLanes> {
        row
    }

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    fn dot<F: Codes>(acc: &mut Self::Acc, chunk: &Chunk<NeonLanes>, x: &RowChunk) {
        // Vectors of 16 columns that share their scales.
        let n = if F::WIDE { 2 } else { 1 };
        // SAFETY: all offsets stay inside the fixed sizes of `RowChunk`; only code compiled for `P` inlines this.
        unsafe {
            // Codes that are not centered are at most 63, and so have a sign already.
            let flip = vdupq_n_u8(if F::CENTERED { 0x80 } else { 0 });
            for k in 0..4 / n {
                let mut sums = [vdupq_n_s32(0); 4];
                for (i, sums) in sums.iter_mut().enumerate() {
                    for v in (4 * k + i) * n..(4 * k + i + 1) * n {
                        let w = vreinterpretq_s8_u8(veorq_u8(chunk.codes[v / 2][v % 2], flip));
                        *sums = P::products(*sums, w, vld1q_s8(x.q.as_ptr().add(16 * v)));
                    }
                }
                // One lane per scale.
                let sums = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
                let four = |all: [[float32x4_t; 2]; 2]| {
                    if F::WIDE { vuzp1q_f32(all[k][0], all[k][1]) } else { all[k / 2][k % 2] }
                };
                let pair = |p: *const f32| [vld1q_f32(p), vld1q_f32(p.add(4))];
                let at = |p: *const f32| [pair(p), pair(p.add(8))];
                let scale = vmulq_f32(four(chunk.a), four(at(x.d.as_ptr())));
                let acc = &mut acc[k % 2];
                *acc = vfmaq_f32(*acc, scale, vcvtq_f32_s32(sums));
                if !F::CENTERED {
                    let s = at(x.s.as_ptr());
                    let s = if F::WIDE { vpaddq_f32(s[k][0], s[k][1]) } else { s[k / 2][k % 2] };
                    *acc = vfmaq_f32(*acc, four(chunk.b), s);
                }
            }
        }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> [f32; 2] {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { [vaddvq_f32(vaddq_f32(acc[0], acc[1])), 0.0] }
    }

    #[inline(always)]
    fn transpose(rows: &[u32], len: usize, out: &mut [u32]) {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { tile::transpose::<V<false>>(rows, len, out) }
    }

    #[inline(always)]
    fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { float::dot::<V<false>>(ty, d, out) }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n = t.check(&Self::LAYOUT, out);
        // SAFETY: checked for these products; only code compiled for `P` inlines this.
        unsafe {
            match t.panel.number {
                Number::F32 => tile::tile::<V<false>, Floats, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Int16 => tile::tile::<V<false>, Integers<Pairs>, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Int8 => P::tile(t, n, out),
                Number::Codes { .. } => unreachable!("not in this layout"),
            }
        }
    }
}

/// The products of the N tokens from `first` on, PAIRS pairs of them (or a single one, which counts twice); N is the
/// result. Sums of two tokens and two rows share a vector: integer ones of a group, and those in f32.
///
/// # Safety
/// - `t.check` has passed for octets, with `n_chunks` for its result; the tokens exist, and `first` is even.
/// - The caller has i8mm.
#[inline(always)]
unsafe fn octets<const PAIRS: usize, const N: usize>(
    t: Tile<'_>,
    n_chunks: usize,
    first: usize,
    out: &mut [f32],
) -> usize {
    const STEPS: usize = 64;
    const BYTES: usize = 8;
    let groups = t.panel.groups();
    let mut w = t.w.as_ptr().cast::<i8>();
    // SAFETY: `w` advances by an octet of ROWS rows, `x` by one of each token, over whole groups, all of which `check` has
    // compared with their lengths, like those of the scales and of `out`, whose rows are `ldo` long.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); ROWS / 2]; PAIRS];
        for c in 0..n_chunks {
            let chunk = t.x.as_ptr().add((c * t.width + first) * STEPS).cast::<i8>();
            for g in 0..groups {
                let mut acc = [[vdupq_n_s32(0); ROWS / 2]; PAIRS];
                for octet in g * STEPS / 2 / groups..(g + 1) * STEPS / 2 / groups {
                    let mut x = [vdupq_n_s8(0); PAIRS];
                    for (pair, x) in x.iter_mut().enumerate() {
                        *x = if N == 1 {
                            let alone = vld1_s8(chunk.add(octet * BYTES));
                            vcombine_s8(alone, alone)
                        } else {
                            vld1q_s8(chunk.add(pair * 8 * STEPS + octet * 2 * BYTES))
                        };
                    }
                    for i in 0..ROWS / 2 {
                        let w = vld1q_s8(w.add(i * 2 * BYTES));
                        for (acc, x) in acc.iter_mut().zip(x) {
                            acc[i] = smmla(acc[i], x, w);
                        }
                    }
                    w = w.add(ROWS * BYTES);
                }
                let group = c * groups + g;
                for (pair, (sums, acc)) in sums.iter_mut().zip(acc).enumerate() {
                    let d = t.x_scales.as_ptr().add(group * t.width + first + 2 * pair);
                    let d = vcombine_f32(vld1_dup_f32(d), vld1_dup_f32(d.add(if N == 1 { 0 } else { 1 })));
                    for i in 0..ROWS / 2 {
                        let s = vld1_f32(t.w_scales.as_ptr().add(group * ROWS + 2 * i));
                        let scale = vmulq_f32(vcombine_f32(s, s), d);
                        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(acc[i]), scale);
                    }
                }
            }
        }
        for it in 0..N {
            for half in 0..2 {
                let (a, b) = (sums[it / 2][2 * half], sums[it / 2][2 * half + 1]);
                let sums = if it % 2 == 0 {
                    vcombine_f32(vget_low_f32(a), vget_low_f32(b))
                } else {
                    vcombine_f32(vget_high_f32(a), vget_high_f32(b))
                };
                let to = out.as_mut_ptr().add((first + it) * t.ldo + half * 4);
                let before = if t.fresh { vdupq_n_f32(0.0) } else { vld1q_f32(to) };
                vst1q_f32(to, vaddq_f32(before, sums));
            }
        }
    }
    N
}

/// Operations of the table without more than NEON.
pub(crate) mod plain {
    use super::*;

    int8_ops!(Plain, "neon");
}

/// With dotprod.
pub(crate) mod dotprod {
    use super::*;

    int8_ops!(Dotprod, "neon,dotprod");
}

/// With i8mm.
pub(crate) mod i8mm {
    use super::*;

    int8_ops!(I8mm, "neon,dotprod,i8mm");
}
