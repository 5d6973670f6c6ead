//! The few vector operations that unpacking a block format takes, so that each format is written once for all machines.

use crate::tensor::block::f16_to_f32;

/// Vectors of 32 bytes and of 8 floats. Every operation is per lane.
pub(crate) trait Lanes {
    type Bytes: Copy;
    type Floats: Copy;

    fn bytes(src: &[u8; 32]) -> Self::Bytes;
    fn put_bytes(v: Self::Bytes, dst: &mut [u8; 32]);
    /// The low halves of 16 bytes, then their high halves.
    fn halves(src: &[u8; 16]) -> Self::Bytes;
    /// `value` where the bit of that number is set, else 0.
    fn bits(word: u32, value: u8) -> Self::Bytes;
    fn and(v: Self::Bytes, mask: u8) -> Self::Bytes;
    fn or(v: Self::Bytes, w: Self::Bytes) -> Self::Bytes;
    fn xor(v: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Shifts so that bit `from` lands on bit `to`, then takes the bits of `mask`, which have all come from their own byte.
    fn shift_and(v: Self::Bytes, from: i32, to: i32, mask: u8) -> Self::Bytes;
    /// What the table holds for each index below 16.
    fn lookup(v: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;

    fn floats(src: &[f32; 8]) -> Self::Floats;
    fn put_floats(v: Self::Floats, dst: &mut [f32; 8]);
    fn f16(bits: u16) -> f32;
    fn f16s(bits: [u16; 8]) -> Self::Floats;
    fn from_u8(src: [u8; 8]) -> Self::Floats;
    fn from_i8(src: [i8; 8]) -> Self::Floats;
    fn mul(v: Self::Floats, by: f32) -> Self::Floats;
    /// Each lane twice: lanes 0 to 3, lanes 4 to 7.
    fn twice(v: Self::Floats) -> [Self::Floats; 2];
    /// For each lane the largest magnitude that `a * code + b` has in its group of `n` lanes (2, 4, 8 or 16), with codes
    /// from 0 to `max`. What is not finite counts as the largest.
    fn range(a: [Self::Floats; 2], b: [Self::Floats; 2], max: f32, n: usize) -> [Self::Floats; 2];
    /// 127 / v, or 0 where that is not finite.
    fn inverse(v: Self::Floats) -> Self::Floats;
    /// `a` and `b`, times `scale`, for [`requantize`](Lanes::requantize): numbers of 16 bits with eight for the fraction,
    /// rounded to even, in both halves of a word. To `b` come half a step, so that the cut rounds, and 128 steps; where it
    /// is `centered`, it is -128 of the rounded `a`.
    fn fixed_point(a: Self::Floats, b: Self::Floats, scale: Self::Floats, centered: bool) -> [[u32; 8]; 2];
    /// The upper bytes of the 16-bit numbers `a * code + b`, of which `a` and `b` hold one in each half for each 16 codes.
    fn requantize(codes: Self::Bytes, a: [u32; 2], b: [u32; 2]) -> Self::Bytes;

    /// The largest magnitude, as bits; what is not finite counts as the largest.
    fn top(x: &[[f32; 32]]) -> u32;
    /// x * inverse, rounded to even, as signed bytes; the results lie within them.
    fn quantize(x: &[f32; 32], inverse: f32) -> Self::Bytes;
    /// The sums of each half of the signed bytes.
    fn sums(v: Self::Bytes) -> [i32; 2];
    /// The sum of signed bytes.
    fn total(v: &[[u8; 32]]) -> i32;
}

/// Plain Rust.
pub(crate) struct Plain;

impl Lanes for Plain {
    type Bytes = [u8; 32];
    type Floats = [f32; 8];

    #[inline(always)]
    fn bytes(src: &[u8; 32]) -> [u8; 32] {
        *src
    }

    #[inline(always)]
    fn put_bytes(v: [u8; 32], dst: &mut [u8; 32]) {
        *dst = v;
    }

    #[inline(always)]
    fn halves(src: &[u8; 16]) -> [u8; 32] {
        std::array::from_fn(|i| if i < 16 { src[i] & 15 } else { src[i - 16] >> 4 })
    }

    #[inline(always)]
    fn bits(word: u32, value: u8) -> [u8; 32] {
        std::array::from_fn(|i| if word >> i & 1 == 1 { value } else { 0 })
    }

    #[inline(always)]
    fn and(v: [u8; 32], mask: u8) -> [u8; 32] {
        v.map(|v| v & mask)
    }

    #[inline(always)]
    fn or(v: [u8; 32], w: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| v[i] | w[i])
    }

    #[inline(always)]
    fn xor(v: [u8; 32], mask: u8) -> [u8; 32] {
        v.map(|v| v ^ mask)
    }

    #[inline(always)]
    fn shift_and(v: [u8; 32], from: i32, to: i32, mask: u8) -> [u8; 32] {
        v.map(|v| (if from >= to { v >> (from - to) } else { v << (to - from) }) & mask)
    }

    #[inline(always)]
    fn lookup(v: [u8; 32], table: &[u8; 16]) -> [u8; 32] {
        v.map(|v| table[(v & 15) as usize])
    }

    #[inline(always)]
    fn floats(src: &[f32; 8]) -> [f32; 8] {
        *src
    }

    #[inline(always)]
    fn put_floats(v: [f32; 8], dst: &mut [f32; 8]) {
        *dst = v;
    }

    #[inline(always)]
    fn f16(bits: u16) -> f32 {
        f16_to_f32(bits)
    }

    #[inline(always)]
    fn f16s(bits: [u16; 8]) -> [f32; 8] {
        bits.map(f16_to_f32)
    }

    #[inline(always)]
    fn from_u8(src: [u8; 8]) -> [f32; 8] {
        src.map(|v| v as f32)
    }

    #[inline(always)]
    fn from_i8(src: [i8; 8]) -> [f32; 8] {
        src.map(|v| v as f32)
    }

    #[inline(always)]
    fn mul(v: [f32; 8], by: f32) -> [f32; 8] {
        v.map(|v| v * by)
    }

    #[inline(always)]
    fn twice(v: [f32; 8]) -> [[f32; 8]; 2] {
        [std::array::from_fn(|i| v[i / 2]), std::array::from_fn(|i| v[4 + i / 2])]
    }

    #[inline(always)]
    fn range(a: [[f32; 8]; 2], b: [[f32; 8]; 2], max: f32, n: usize) -> [[f32; 8]; 2] {
        let (a, b) = (a.as_flattened(), b.as_flattened());
        let mut out = [[0.0; 8]; 2];
        for (g, out) in out.as_flattened_mut().chunks_exact_mut(n).enumerate() {
            let lanes = g * n..(g + 1) * n;
            let top = lanes.map(|k| magnitude(b[k]).max(magnitude(a[k] * max + b[k]))).max();
            out.fill(f32::from_bits(top.unwrap_or(0)));
        }
        out
    }

    #[inline(always)]
    fn inverse(v: [f32; 8]) -> [f32; 8] {
        v.map(inverse_of)
    }

    #[inline(always)]
    fn fixed_point(a: [f32; 8], b: [f32; 8], scale: [f32; 8], centered: bool) -> [[u32; 8]; 2] {
        let mut out = [[0; 8]; 2];
        for i in 0..8 {
            let fixed = |v: f32| (v * scale[i] * 256.0 + ROUND).to_bits() as u16;
            let a = fixed(a[i]);
            let b = if centered { a.wrapping_mul(128).wrapping_neg() } else { fixed(b[i]) };
            let twice = |v: u16| v as u32 | (v as u32) << 16;
            (out[0][i], out[1][i]) = (twice(a), twice(b.wrapping_add(0x8080)));
        }
        out
    }

    #[inline(always)]
    fn requantize(codes: [u8; 32], a: [u32; 2], b: [u32; 2]) -> [u8; 32] {
        std::array::from_fn(|i| {
            let (a, b) = (a[i / 16] as u16, b[i / 16] as u16);
            (a.wrapping_mul(codes[i] as u16).wrapping_add(b) >> 8) as u8
        })
    }

    #[inline(always)]
    fn top(x: &[[f32; 32]]) -> u32 {
        x.as_flattened().iter().fold(0, |top, x| top.max(magnitude(*x)))
    }

    #[inline(always)]
    fn quantize(x: &[f32; 32], inverse: f32) -> [u8; 32] {
        x.map(|x| (x * inverse + ROUND).to_bits() as u8)
    }

    #[inline(always)]
    fn sums(v: [u8; 32]) -> [i32; 2] {
        let sum = |v: &[u8]| v.iter().map(|v| *v as i8 as i32).sum();
        [sum(&v[..16]), sum(&v[16..])]
    }

    #[inline(always)]
    fn total(v: &[[u8; 32]]) -> i32 {
        v.as_flattened().iter().map(|v| *v as i8 as i32).sum()
    }
}

/// 1.5 * 2^23: adding it rounds to the nearest even integer, which is then in the lowest bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// 127 / x, or 0 where that is not finite.
#[inline(always)]
pub(crate) fn inverse_of(x: f32) -> f32 {
    ratio(127.0, x)
}

/// a / x, or 0 where that is not finite.
#[inline(always)]
pub(crate) fn ratio(a: f32, x: f32) -> f32 {
    let inverse = a / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Magnitudes as integers order like numbers, infinity and NaN last.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}
