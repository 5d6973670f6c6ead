//! Quantized weights as unsigned codes: every block format brings 256 weights of a row into one common form, in which a
//! weight is `a * code + b` with one `a` and one `b` per 16 columns. Products and panels start from that form, so a format
//! is one function here. Plain loops over fixed sizes: they vectorize wherever they are inlined.

use crate::tensor::block::{
    Block, IQ4_NL, IQ4_VALUES, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, f16_to_f32,
    q3_k_scales,
};

/// Columns per chunk.
pub const CHUNK: usize = 256;
/// Columns that share an `a` and a `b`.
pub const SUB: usize = 16;

/// 256 consecutive weights of a row: weight `i` is `a[i / 16] * codes[i] + b[i / 16]`.
#[repr(C, align(64))]
pub struct Chunk {
    pub codes: [u8; CHUNK],
    pub a: [f32; CHUNK / SUB],
    pub b: [f32; CHUNK / SUB],
}

impl Chunk {
    pub const ZERO: Chunk = Chunk { codes: [0; CHUNK], a: [0.0; CHUNK / SUB], b: [0.0; CHUNK / SUB] };
}

/// A block format whose weights are codes with a scale.
pub trait Codes: Block {
    /// The largest code; the smallest is 0.
    const MAX_CODE: u8;
    /// Codes are signed bytes plus 128, and `b` is `-128 * a`: kernels that multiply signed bytes may leave `b` out.
    const CENTERED: bool = false;
    /// Codes from [`unpack`](Codes::unpack) are indices into this table, which holds the real ones.
    const TABLE: Option<&'static [u8; 16]> = None;
    /// Columns per scale of a panel, see `panel.rs`: 32, 64, 128 or 256.
    const GROUP: usize;

    /// Brings the blocks of 256 columns into the common form.
    ///
    /// # Panics
    /// When `src` is not that long.
    fn unpack(src: &[u8], out: &mut Chunk);
}

/// Evaluates `$body` with `$F` naming the [`Codes`] type of `$ty`; `None` for a type that has none.
macro_rules! with_codes {
    ($ty:expr, $F:ident => $body:expr) => {
        $crate::kernels::matmul::codes::with_codes!(@rows $ty, $F, $body,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS)
    };
    (@rows $ty:expr, $F:ident, $body:expr, $($name:ident)*) => {
        match $ty {
            $($crate::gguf::GgmlType::$name => {
                type $F = $crate::tensor::block::$name;
                Some($body)
            })*
            _ => None,
        }
    };
}
pub(in crate::kernels) use with_codes;

/// IQ4 values plus 128.
const IQ4_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (IQ4_VALUES[i] as i16 + 128) as u8;
        i += 1;
    }
    codes
};

impl Codes for Q4_0 {
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<18, 8>(src);
        halves(blocks, 2, &mut out.codes);
        per_32(out, &f16s(blocks, 0), |d| (d, -8.0 * d));
    }
}

impl Codes for Q4_1 {
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<20, 8>(src);
        halves(blocks, 4, &mut out.codes);
        let (d, m) = (f16s(blocks, 0), f16s(blocks, 2));
        per_32(out, &zip(d, m), |pair| pair);
    }
}

impl Codes for Q5_0 {
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<22, 8>(src);
        halves(blocks, 6, &mut out.codes);
        fifth_bits(blocks, 2, &mut out.codes);
        per_32(out, &f16s(blocks, 0), |d| (d, -16.0 * d));
    }
}

impl Codes for Q5_1 {
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<24, 8>(src);
        halves(blocks, 8, &mut out.codes);
        fifth_bits(blocks, 4, &mut out.codes);
        let (d, m) = (f16s(blocks, 0), f16s(blocks, 2));
        per_32(out, &zip(d, m), |pair| pair);
    }
}

impl Codes for Q8_0 {
    const MAX_CODE: u8 = 255;
    const CENTERED: bool = true;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<34, 8>(src);
        for (block, codes) in blocks.iter().zip(out.codes.as_chunks_mut::<32>().0) {
            for i in 0..32 {
                codes[i] = block[2 + i] ^ 0x80;
            }
        }
        per_32(out, &f16s(blocks, 0), |d| (d, -128.0 * d));
    }
}

impl Codes for IQ4_NL {
    const MAX_CODE: u8 = IQ4_CODES[15];
    const CENTERED: bool = true;
    const TABLE: Option<&'static [u8; 16]> = Some(&IQ4_CODES);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let blocks = blocks::<18, 8>(src);
        halves(blocks, 2, &mut out.codes);
        per_32(out, &f16s(blocks, 0), |d| (d, -128.0 * d));
    }
}

impl Codes for IQ4_XS {
    const MAX_CODE: u8 = IQ4_CODES[15];
    const CENTERED: bool = true;
    const TABLE: Option<&'static [u8; 16]> = Some(&IQ4_CODES);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<136, 1>(src);
        let d = f16_at(block, 0);
        let upper = u16::from_le_bytes([block[2], block[3]]);
        halves(block[8..].as_chunks::<16>().0.try_into().expect("8 sub-blocks"), 0, &mut out.codes);
        let mut scales = [0.0; 8];
        for (sub, scale) in scales.iter_mut().enumerate() {
            let lower = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
            *scale = d * ((lower as i32 | ((upper >> (2 * sub) & 3) as i32) << 4) - 32) as f32;
        }
        per_32(out, &scales, |a| (a, -128.0 * a));
    }
}

impl Codes for Q4_K {
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<144, 1>(src);
        nibbles_64(&block[16..], &mut out.codes);
        affine_k(block, out);
    }
}

impl Codes for Q5_K {
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<176, 1>(src);
        nibbles_64(&block[48..], &mut out.codes);
        let fifth: &[u8; 32] = block[16..48].try_into().expect("32 bytes");
        for (sub, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for i in 0..32 {
                codes[i] |= (fifth[i] >> sub & 1) << 4;
            }
        }
        affine_k(block, out);
    }
}

impl Codes for Q6_K {
    const MAX_CODE: u8 = 63;
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<210, 1>(src);
        for (half, out) in out.codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let lower: &[u8; 64] = block[half * 64..][..64].try_into().expect("64 bytes");
            let upper: &[u8; 32] = block[128 + half * 32..][..32].try_into().expect("32 bytes");
            for i in 0..32 {
                out[i] = lower[i] & 15 | (upper[i] & 3) << 4;
                out[i + 32] = lower[i + 32] & 15 | (upper[i] >> 2 & 3) << 4;
                out[i + 64] = lower[i] >> 4 | (upper[i] >> 4 & 3) << 4;
                out[i + 96] = lower[i + 32] >> 4 | (upper[i] >> 6) << 4;
            }
        }
        let d = f16_at(block, 208);
        for sub in 0..16 {
            out.a[sub] = d * (block[192 + sub] as i8) as f32;
            out.b[sub] = -32.0 * out.a[sub];
        }
    }
}

impl Codes for Q3_K {
    const MAX_CODE: u8 = 7;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<110, 1>(src);
        let third: &[u8; 32] = block[..32].try_into().expect("32 bytes");
        pairs_128(&block[32..96], &mut out.codes);
        for (k, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for i in 0..32 {
                codes[i] |= (third[i] >> k & 1) << 2;
            }
        }
        let d = f16_at(block, 108);
        let scales = q3_k_scales(block[96..108].try_into().expect("12 bytes"));
        for sub in 0..16 {
            out.a[sub] = d * (scales[sub] as i32 - 32) as f32;
            out.b[sub] = -4.0 * out.a[sub];
        }
    }
}

impl Codes for Q2_K {
    const MAX_CODE: u8 = 3;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack(src: &[u8], out: &mut Chunk) {
        let [block] = blocks::<84, 1>(src);
        pairs_128(&block[16..80], &mut out.codes);
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for sub in 0..16 {
            out.a[sub] = d * (block[sub] & 15) as i32 as f32;
            out.b[sub] = -(dmin * (block[sub] >> 4) as i32 as f32);
        }
    }
}

/// The blocks of 256 columns.
#[inline(always)]
fn blocks<const BYTES: usize, const N: usize>(src: &[u8]) -> &[[u8; BYTES]; N] {
    src.as_chunks::<BYTES>().0.try_into().expect("256 columns")
}

#[inline(always)]
fn f16_at(src: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([src[at], src[at + 1]]))
}

/// The f16 at byte `at` of eight blocks; all eight are converted at once.
#[inline(always)]
fn f16s<const BYTES: usize>(blocks: &[[u8; BYTES]; 8], at: usize) -> [f32; 8] {
    let mut bits = [0; 8];
    for (bits, block) in bits.iter_mut().zip(blocks) {
        *bits = u16::from_le_bytes([block[at], block[at + 1]]);
    }
    let mut values = [0.0; 8];
    for (value, bits) in values.iter_mut().zip(bits) {
        *value = f16_to_f32(bits);
    }
    values
}

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8]) -> [(f32, f32); 8] {
    let mut out = [(0.0, 0.0); 8];
    for i in 0..8 {
        out[i] = (a[i], b[i]);
    }
    out
}

/// Sets `a` and `b` from one value per 32 columns.
#[inline(always)]
fn per_32<T: Copy>(out: &mut Chunk, values: &[T; 8], a_b: impl Fn(T) -> (f32, f32)) {
    for (k, value) in values.iter().enumerate() {
        let (a, b) = a_b(*value);
        (out.a[2 * k], out.a[2 * k + 1]) = (a, a);
        (out.b[2 * k], out.b[2 * k + 1]) = (b, b);
    }
}

/// Codes of blocks of 32: from byte `at`, byte `i` holds element `i` in its low and `i + 16` in its high half.
#[inline(always)]
fn halves<const BYTES: usize>(blocks: &[[u8; BYTES]; 8], at: usize, codes: &mut [u8; CHUNK]) {
    for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<32>().0) {
        for i in 0..16 {
            codes[i] = block[at + i] & 15;
            codes[i + 16] = block[at + i] >> 4;
        }
    }
}

/// Adds the fifth bits of Q5_0 and Q5_1, bit `i` of the u32 at byte `at` for element `i`.
#[inline(always)]
fn fifth_bits<const BYTES: usize>(blocks: &[[u8; BYTES]; 8], at: usize, codes: &mut [u8; CHUNK]) {
    for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<32>().0) {
        for (eight, codes) in block[at..at + 4].iter().zip(codes.as_chunks_mut::<8>().0) {
            // Each byte of the product holds all eight bits; each keeps its own, which the sum moves to bit 7.
            let spread = eight.to_owned() as u64 * 0x0101_0101_0101_0101 & 0x8040_2010_0804_0201;
            let bits = (spread & 0x7f7f_7f7f_7f7f_7f7f) + 0x7f7f_7f7f_7f7f_7f7f | spread;
            let fifth = (bits >> 3 & 0x1010_1010_1010_1010).to_le_bytes();
            for i in 0..8 {
                codes[i] |= fifth[i];
            }
        }
    }
}

/// Codes of Q4_K and Q5_K: 32 bytes for each 64 elements, byte `i` holds element `i` low and `i + 32` high.
#[inline(always)]
fn nibbles_64(src: &[u8], codes: &mut [u8; CHUNK]) {
    for (src, codes) in src.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
        for i in 0..32 {
            codes[i] = src[i] & 15;
            codes[i + 32] = src[i] >> 4;
        }
    }
}

/// Two-bit codes of Q2_K and Q3_K: 32 bytes per 128 elements, bits `2j..2j + 2` of byte `i` are element `32 j + i`.
#[inline(always)]
fn pairs_128(src: &[u8], codes: &mut [u8; CHUNK]) {
    for (src, codes) in src.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for i in 0..32 {
            codes[i] = src[i] & 3;
            codes[i + 32] = src[i] >> 2 & 3;
            codes[i + 64] = src[i] >> 4 & 3;
            codes[i + 96] = src[i] >> 6;
        }
    }
}

/// Scales and minima of Q4_K and Q5_K, from the first 16 bytes of the block: the layout that `q4_k_scales` tells, four
/// six-bit numbers at a time.
#[inline(always)]
fn affine_k(block: &[u8], out: &mut Chunk) {
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (first, second, third) = (word(4), word(8), word(12));
    let scales = [first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | first >> 2 & 0x3030_3030];
    let mins = [second & 0x3f3f_3f3f, third >> 4 & 0x0f0f_0f0f | second >> 2 & 0x3030_3030];
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let bytes = |w: [u32; 2]| (w[0] as u64 | (w[1] as u64) << 32).to_le_bytes();
    let (scales, mins) = (bytes(scales), bytes(mins));
    let mut pairs = [(0.0, 0.0); 8];
    for i in 0..8 {
        pairs[i] = (d * scales[i] as i32 as f32, -(dmin * mins[i] as i32 as f32));
    }
    per_32(out, &pairs, |pair| pair);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;
    use crate::tensor::block::dequantize_row;

    /// Any bytes are a block; what the common form says must be what the decoder says, bit for bit.
    #[test]
    fn chunks_hold_what_the_decoders_say() {
        fn check<F: Codes>(ty: GgmlType) {
            for seed in 0..40u64 {
                let n_bytes = ty.row_bytes(CHUNK).unwrap();
                let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                let bytes: Vec<u8> = (0..n_bytes)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (state >> 56) as u8
                    })
                    .collect();
                let (mut chunk, mut want) = (Chunk::ZERO, [0f32; CHUNK]);
                F::unpack(&bytes, &mut chunk);
                if let Some(table) = F::TABLE {
                    chunk.codes.iter_mut().for_each(|code| *code = table[*code as usize]);
                }
                dequantize_row(ty, &bytes, &mut want).unwrap();
                for i in 0..CHUNK {
                    let (a, b) = (chunk.a[i / SUB], chunk.b[i / SUB]);
                    if !a.is_finite() || !b.is_finite() {
                        continue; // a random f16 may be infinite; both ways then give no number
                    }
                    assert!(chunk.codes[i] <= F::MAX_CODE);
                    assert!(!F::CENTERED || b == -128.0 * a);
                    let centered = a * (chunk.codes[i] as i32 - 128) as f32; // b may be too fine for a sum
                    let got = if F::CENTERED { centered } else { a * chunk.codes[i] as f32 + b };
                    assert_eq!(got, want[i], "{ty} seed {seed} element {i}");
                }
            }
        }
        for id in 0..64 {
            let Ok(ty) = GgmlType::from_id(id) else { continue };
            let _ = with_codes!(ty, F => check::<F>(ty));
        }
    }
}
