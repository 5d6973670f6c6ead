//! Integer products with NEON: by widening products, by dot products of bytes (dotprod), and by matrix products of bytes
//! (i8mm). Weights and activations are signed here, so nothing has to be taken off the products.

use std::arch::aarch64::*;

use super::asm::{sdot, sdot_lane, smmla};
use super::lanes::{Pairs, transpose};
use crate::kernels::matmul::{CHUNK, Chunk, Int8Isa, Layout, RowChunk, Tile, Word, int8_ops};

/// Widening products.
pub struct Plain;

/// Dot products of bytes.
pub struct Dotprod;

/// Matrix products of bytes in panels; with few tokens as [`Dotprod`].
pub struct I8mm;

/// Weight rows per tile: two vectors of sums.
const ROWS: usize = 8;
/// Tokens whose sums are in registers, the integer ones and those in f32.
const FOUR: usize = 4;

/// What differs between them.
///
/// # Safety
/// Unsafe functions need the CPU features of their implementation.
pub trait Products {
    /// What one row contributes to a step.
    const WORD: Word;
    /// The products of sixteen bytes, added up to four sums.
    unsafe fn products(w: int8x16_t, x: int8x16_t) -> int32x4_t;
    /// Brings 256 columns of a multiple of four rows of bytes into words; the bits of `flip` change on the way.
    fn interleave(rows: &[[u8; CHUNK]], flip: u8, words: &mut [u32]);
    /// out(width, ROWS) += x · wᵀ. `Tile::check` has passed, with `n_groups` for its result.
    unsafe fn tile(t: Tile<'_>, n_groups: usize, out: &mut [f32]);
}

impl<P: Products> Int8Isa for P {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 12, token_step: FOUR, word: P::WORD };
    type Lanes = Pairs;
    type Acc = [float32x4_t; 2];

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Pairs>, x: &RowChunk, centered: bool) {
        // SAFETY: all offsets stay inside the fixed sizes of `RowChunk`; only code compiled for `P` inlines this.
        unsafe {
            // Codes that are not centered are at most 63, and so have a sign already.
            let flip = vdupq_n_u8(if centered { 0x80 } else { 0 });
            for k in 0..4 {
                let mut sums = [vdupq_n_s32(0); 4];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let w = vreinterpretq_s8_u8(veorq_u8(chunk.codes[2 * k + i / 2][i % 2], flip));
                    *sums = P::products(w, vld1q_s8(x.q.as_ptr().add(64 * k + 16 * i)));
                }
                // One lane per scale.
                let sums = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
                let scale = vmulq_f32(chunk.a[k / 2][k % 2], vld1q_f32(x.d.as_ptr().add(4 * k)));
                let acc = &mut acc[k % 2];
                *acc = vfmaq_f32(*acc, scale, vcvtq_f32_s32(sums));
                if !centered {
                    *acc = vfmaq_f32(*acc, chunk.b[k / 2][k % 2], vld1q_f32(x.s.as_ptr().add(4 * k)));
                }
            }
        }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> f32 {
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { vaddvq_f32(vaddq_f32(acc[0], acc[1])) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]) {
        <P as Products>::interleave(rows, 0x80, words);
    }

    #[inline(always)]
    fn interleave_tokens(tokens: &[[u8; CHUNK]], words: &mut [u32]) {
        <P as Products>::interleave(tokens, 0, words);
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_groups = t.check(&Self::LAYOUT, out);
        assert!(t.width.is_multiple_of(FOUR), "a tile of `{}` tokens", t.width);
        // SAFETY: checked; only code compiled for `P` inlines this.
        unsafe { P::tile(t, n_groups, out) }
    }
}

impl Products for Plain {
    const WORD: Word = Word::Pairs;

    #[inline(always)]
    unsafe fn products(w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // Magnitudes are at most 128 and 127: two products stay within 16 bits.
        // SAFETY: NEON, which all code for aarch64 has.
        unsafe { vpaddlq_s16(vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x)) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], flip: u8, words: &mut [u32]) {
        for_four_rows(rows, flip, |first, k, bytes| {
            // SAFETY: NEON, which all code for aarch64 has.
            let halves = unsafe {
                let pair = |v| vreinterpretq_s32_s16(v);
                [bytes.map(|v| pair(vmovl_s8(vget_low_s8(v)))), bytes.map(|v| pair(vmovl_high_s8(v)))]
            };
            for (half, pairs) in halves.into_iter().enumerate() {
                put_steps(transpose(pairs), words, rows.len(), k / 2 + 4 * half, first);
            }
        });
    }

    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { tile::<Plain>(t, n_groups, out) }
    }
}

impl Products for Dotprod {
    const WORD: Word = Word::Signed;

    #[inline(always)]
    unsafe fn products(w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has dotprod.
        unsafe { sdot(vdupq_n_s32(0), w, x) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], flip: u8, words: &mut [u32]) {
        for_four_rows(rows, flip, |first, k, bytes| {
            // SAFETY: NEON, which all code for aarch64 has.
            let quads = bytes.map(|v| unsafe { vreinterpretq_s32_s8(v) });
            put_steps(transpose(quads), words, rows.len(), k / 4, first);
        });
    }

    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { tile::<Dotprod>(t, n_groups, out) }
    }
}

impl Products for I8mm {
    const WORD: Word = Word::Octets;

    #[inline(always)]
    unsafe fn products(w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the table of i8mm asks for dotprod as well.
        unsafe { Dotprod::products(w, x) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], flip: u8, words: &mut [u32]) {
        let width = rows.len();
        for_four_rows(rows, flip, |first, k, bytes| {
            for pair in 0..2 {
                // SAFETY: NEON, which all code for aarch64 has.
                let octets = unsafe {
                    let (a, b) = (vreinterpretq_s64_s8(bytes[2 * pair]), vreinterpretq_s64_s8(bytes[2 * pair + 1]));
                    [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
                };
                for (i, octets) in octets.into_iter().enumerate() {
                    let at = ((k / 8 + i) * width + first + 2 * pair) * 2;
                    put(octets, &mut words[at..at + 4]);
                }
            }
        });
    }

    /// # Safety
    /// As the trait says.
    #[inline(always)]
    unsafe fn tile(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
        // Sums of two tokens (first and second half of a vector) and two rows.
        type Blocks<V> = [[V; ROWS / 2]; FOUR / 2];
        for (quad, out) in out.as_chunks_mut::<{ FOUR * ROWS }>().0.iter_mut().enumerate() {
            // SAFETY: `w` and `x` advance by ROWS and `width` words per step, two steps at a time: groups are whole octets.
            // `check` has compared all lengths. The caller has i8mm.
            unsafe {
                let mut sums: Blocks<float32x4_t> = [[vdupq_n_f32(0.0); ROWS / 2]; FOUR / 2];
                let (mut w, mut x) = (t.w.as_ptr().cast::<i8>(), t.x.as_ptr().add(2 * FOUR * quad).cast::<i8>());
                for g in 0..n_groups {
                    let mut acc: Blocks<int32x4_t> = [[vdupq_n_s32(0); ROWS / 2]; FOUR / 2];
                    for _ in 0..t.group_steps / 2 {
                        let x01 = vld1q_s8(x);
                        let x23 = vld1q_s8(x.add(16));
                        for i in 0..ROWS / 2 {
                            let w = vld1q_s8(w.add(16 * i));
                            acc[0][i] = smmla(acc[0][i], x01, w);
                            acc[1][i] = smmla(acc[1][i], x23, w);
                        }
                        w = w.add(8 * ROWS);
                        x = x.add(8 * t.width);
                    }
                    let d = vld1q_f32(t.x_scales.as_ptr().add(g * t.width + FOUR * quad));
                    let d = [vzip1q_f32(d, d), vzip2q_f32(d, d)];
                    for i in 0..ROWS / 2 {
                        let s = vld1_f32(t.w_scales.as_ptr().add(g * ROWS + 2 * i));
                        let s = vcombine_f32(s, s);
                        for j in 0..FOUR / 2 {
                            sums[j][i] = vfmaq_f32(sums[j][i], vcvtq_f32_s32(acc[j][i]), vmulq_f32(s, d[j]));
                        }
                    }
                }
                let by_token = |sums: [float32x4_t; ROWS / 2]| {
                    let v = sums.map(|v| vreinterpretq_f64_f32(v));
                    let first = [vzip1q_f64(v[0], v[1]), vzip1q_f64(v[2], v[3])];
                    let second = [vzip2q_f64(v[0], v[1]), vzip2q_f64(v[2], v[3])];
                    [first, second].map(|rows| rows.map(|v| vreinterpretq_f32_f64(v)))
                };
                let ([t0, t1], [t2, t3]) = (by_token(sums[0]), by_token(sums[1]));
                add_to([t0, t1, t2, t3], out);
            }
        }
    }
}

/// A register block of products with a lane.
///
/// # Safety
/// As [`Products`].
trait Step {
    /// acc(4, ROWS) += a step: ROWS words of weights at `w`, four of tokens at `x`.
    unsafe fn step(acc: &mut Sums<int32x4_t>, w: *const u32, x: *const u32);
}

/// (4, ROWS): vectors of four weight rows.
type Sums<V> = [[V; 2]; FOUR];

impl Step for Plain {
    #[inline(always)]
    unsafe fn step(acc: &mut Sums<int32x4_t>, w: *const u32, x: *const u32) {
        macro_rules! token {
            ($w:ident, $x:ident, $acc:expr, $first:literal, $second:literal) => {
                $acc[0] = vmlal_laneq_s16::<$first>($acc[0], vget_low_s16($w.0), $x);
                $acc[1] = vmlal_high_laneq_s16::<$first>($acc[1], $w.0, $x);
                $acc[0] = vmlal_laneq_s16::<$second>($acc[0], vget_low_s16($w.1), $x);
                $acc[1] = vmlal_high_laneq_s16::<$second>($acc[1], $w.1, $x);
            };
        }
        // SAFETY: the caller vouches for the words.
        unsafe {
            // The first, and the second, columns of eight rows.
            let (w, x) = (vld2q_s16(w.cast()), vld1q_s16(x.cast()));
            token!(w, x, acc[0], 0, 1);
            token!(w, x, acc[1], 2, 3);
            token!(w, x, acc[2], 4, 5);
            token!(w, x, acc[3], 6, 7);
        }
    }
}

impl Step for Dotprod {
    #[inline(always)]
    unsafe fn step(acc: &mut Sums<int32x4_t>, w: *const u32, x: *const u32) {
        // SAFETY: the caller vouches for the words, and has dotprod.
        unsafe {
            let x = vld1q_s8(x.cast());
            for half in 0..2 {
                let w = vld1q_s8(w.add(4 * half).cast());
                acc[0][half] = sdot_lane::<0>(acc[0][half], w, x);
                acc[1][half] = sdot_lane::<1>(acc[1][half], w, x);
                acc[2][half] = sdot_lane::<2>(acc[2][half], w, x);
                acc[3][half] = sdot_lane::<3>(acc[3][half], w, x);
            }
        }
    }
}

/// [`Products::tile`], four tokens at a time: with three loads per step the products set the pace, and neither kind of sums
/// leaves the registers.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn tile<P: Step>(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
    for (quad, out) in out.as_chunks_mut::<{ FOUR * ROWS }>().0.iter_mut().enumerate() {
        // SAFETY: `w` and `x` advance by ROWS and `width` words per step, `group_steps` times per group, which `check` has
        // compared with their lengths, like those of the scales. The caller has the features of `P`.
        unsafe {
            let mut sums: Sums<float32x4_t> = [[vdupq_n_f32(0.0); 2]; FOUR];
            let (mut w, mut x) = (t.w.as_ptr(), t.x.as_ptr().add(FOUR * quad));
            for g in 0..n_groups {
                let mut acc: Sums<int32x4_t> = [[vdupq_n_s32(0); 2]; FOUR];
                for _ in 0..t.group_steps {
                    P::step(&mut acc, w, x);
                    w = w.add(ROWS);
                    x = x.add(t.width);
                }
                let s = t.w_scales.as_ptr().add(g * ROWS);
                let s = [vld1q_f32(s), vld1q_f32(s.add(4))];
                for (it, acc) in acc.into_iter().enumerate() {
                    let d = *t.x_scales.as_ptr().add(g * t.width + FOUR * quad + it);
                    for half in 0..2 {
                        let scale = vmulq_n_f32(s[half], d);
                        sums[it][half] = vfmaq_f32(sums[it][half], vcvtq_f32_s32(acc[half]), scale);
                    }
                }
            }
            add_to(sums, out);
        }
    }
}

/// out(4, ROWS) += sums.
#[inline(always)]
fn add_to(sums: Sums<float32x4_t>, out: &mut [f32; FOUR * ROWS]) {
    for (v, out) in sums.as_flattened().iter().zip(out.as_chunks_mut::<4>().0) {
        // SAFETY: four floats each.
        unsafe { vst1q_f32(out.as_mut_ptr(), vaddq_f32(vld1q_f32(out.as_ptr()), *v)) };
    }
}

/// Calls `each` with the number of the first row, the first column and the bytes, for sixteen columns of four rows after
/// another.
#[inline(always)]
fn for_four_rows(rows: &[[u8; CHUNK]], flip: u8, mut each: impl FnMut(usize, usize, [int8x16_t; 4])) {
    let (fours, rest) = rows.as_chunks::<4>();
    assert!(rest.is_empty(), "`{}` rows are not a multiple of four", rows.len());
    for (i, rows) in fours.iter().enumerate() {
        for k in (0..CHUNK).step_by(16) {
            // SAFETY: sixteen bytes of 256.
            let bytes = |row: &[u8; CHUNK]| unsafe {
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(row[k..k + 16].as_ptr()), vdupq_n_u8(flip)))
            };
            each(4 * i, k, [bytes(&rows[0]), bytes(&rows[1]), bytes(&rows[2]), bytes(&rows[3])]);
        }
    }
}

/// Stores four steps of four rows from `first` on, into words (steps, width).
#[inline(always)]
fn put_steps(steps: [int32x4_t; 4], words: &mut [u32], width: usize, step: usize, first: usize) {
    for (i, v) in steps.into_iter().enumerate() {
        let at = (step + i) * width + first;
        put(v, &mut words[at..at + 4]);
    }
}

#[inline(always)]
fn put(v: int32x4_t, words: &mut [u32]) {
    let words: &mut [u32; 4] = words.try_into().expect("four words");
    // SAFETY: four words.
    unsafe { vst1q_s32(words.as_mut_ptr().cast(), v) };
}

/// Operations of the table without more than NEON.
pub mod plain {
    use super::*;

    int8_ops!(Plain, "neon");
}

/// With dotprod.
pub mod dotprod {
    use super::*;

    int8_ops!(Dotprod, "neon,dotprod");
}

/// With i8mm.
pub mod i8mm {
    use super::*;

    int8_ops!(I8mm, "neon,dotprod,i8mm");
}
