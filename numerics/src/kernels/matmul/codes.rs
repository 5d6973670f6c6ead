//! Quantized weights as unsigned codes: every block format brings 256 weights of a row into one common form, in which a
//! weight is `a * code + b` with one `a` and one `b` per 16 columns. Products and panels start from that form, so a format
//! is one function here, written with the few vector operations of [`Lanes`].

use super::lanes::Lanes;
use super::ops::MAX_CODE;
use crate::tensor::block::{
    Block, Coded, IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_VALUES, IQ4_XS, MXFP4, NVFP4, Q1_0,
    Q2_0, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TQ1_0, TQ2_0,
};

/// Columns per chunk.
pub const CHUNK: usize = 256;
/// Columns that share an `a` and a `b`.
pub(crate) const SUB: usize = 16;

/// 256 consecutive weights of a row: weight `i` is `a[i / 16] * codes[i] + b[i / 16]`.
pub(crate) struct Chunk<L: Lanes> {
    pub codes: [L::Bytes; CHUNK / 32],
    pub a: [L::Floats; 2],
    pub b: [L::Floats; 2],
}

impl<L: Lanes> Clone for Chunk<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Lanes> Copy for Chunk<L> {}

/// A block format whose weights are codes with a scale.
pub(crate) trait Codes: Block {
    /// The largest code; the smallest is 0.
    const MAX_CODE: u8;
    /// Codes are multiplied as they are: they are small enough, and activations, which then have one scale per chunk, are not
    /// rounded more than in a panel of rounded weights, or than the blocks of the format are made for.
    const NARROW: bool = Self::MAX_CODE <= MAX_CODE && (Self::GROUP == CHUNK || Self::LEN == CHUNK);
    /// The code of the weight 0, where all groups have the same: `b` is `-ZERO * a`.
    const ZERO: Option<u8> = None;
    /// Codes are signed bytes plus 128: kernels that multiply signed bytes may leave `b` out.
    const CENTERED: bool = matches!(Self::ZERO, Some(128));
    /// Codes from [`unpack`](Codes::unpack) are indices into this table, which holds the real ones.
    const TABLE: Option<&'static [u8; 16]> = None;
    /// `a` and `b` are the same for 32 columns.
    const WIDE: bool = true;
    /// Columns per scale of a panel, see `panel.rs`: 32, 64, 128 or 256.
    const GROUP: usize;

    /// Brings the blocks of 256 columns into the common form.
    ///
    /// # Panics
    /// When `src` is not that long.
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L>;
}

/// Evaluates `$body` with `$F` naming the [`Codes`] type of `$ty`; `None` for a type that has none.
macro_rules! with_codes {
    ($ty:expr, $F:ident => $body:expr) => {
        $crate::kernels::matmul::codes::with_codes!(@rows $ty, $F, $body,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS
            IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S TQ1_0 TQ2_0 Q1_0 Q2_0 MXFP4 NVFP4)
    };
    (@rows $ty:expr, $F:ident, $body:expr, $($name:ident)*) => {
        match $ty {
            $($crate::ggml_type::GgmlType::$name => {
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
    const ZERO: Option<u8> = Some(8);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<18, 8>(src);
        let d = f16s::<L, 18>(blocks, 0);
        per_32(halves::<L, 18>(blocks, 2), d, L::mul(d, -8.0))
    }
}

impl Codes for Q4_1 {
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<20, 8>(src);
        per_32(halves::<L, 20>(blocks, 4), f16s::<L, 20>(blocks, 0), f16s::<L, 20>(blocks, 2))
    }
}

impl Codes for Q5_0 {
    const MAX_CODE: u8 = 31;
    const ZERO: Option<u8> = Some(16);
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<22, 8>(src);
        let codes = fifth_bits::<L, 22>(blocks, 2, halves::<L, 22>(blocks, 6));
        let d = f16s::<L, 22>(blocks, 0);
        per_32(codes, d, L::mul(d, -16.0))
    }
}

impl Codes for Q5_1 {
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<24, 8>(src);
        let codes = fifth_bits::<L, 24>(blocks, 4, halves::<L, 24>(blocks, 8));
        per_32(codes, f16s::<L, 24>(blocks, 0), f16s::<L, 24>(blocks, 2))
    }
}

impl Codes for Q8_0 {
    const MAX_CODE: u8 = 255;
    const ZERO: Option<u8> = Some(128);
    const GROUP: usize = 32;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<34, 8>(src);
        let one = |block: &[u8; 34]| L::xor(L::bytes(block[2..].try_into().expect("32 bytes")), 0x80);
        let mut codes = [one(&blocks[0]); 8];
        for (codes, block) in codes.iter_mut().zip(blocks) {
            *codes = one(block);
        }
        let d = f16s::<L, 34>(blocks, 0);
        per_32(codes, d, L::mul(d, -128.0))
    }
}

impl Codes for IQ4_NL {
    const MAX_CODE: u8 = IQ4_CODES[15];
    const ZERO: Option<u8> = Some(128);
    const TABLE: Option<&'static [u8; 16]> = Some(&IQ4_CODES);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let blocks = blocks::<18, 8>(src);
        let d = f16s::<L, 18>(blocks, 0);
        per_32(halves::<L, 18>(blocks, 2), d, L::mul(d, -128.0))
    }
}

impl Codes for IQ4_XS {
    const MAX_CODE: u8 = IQ4_CODES[15];
    const ZERO: Option<u8> = Some(128);
    const TABLE: Option<&'static [u8; 16]> = Some(&IQ4_CODES);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<136, 1>(src);
        let codes = halves::<L, 16>(block[8..].as_chunks::<16>().0.try_into().expect("8 sub-blocks"), 0);
        // Eight scales at a time: nibbles, and pairs of bits, move apart into bytes; then 32 is taken off each.
        let spread = |v: u64, by: u32, mask: u64| (v | v << by) & mask;
        let lower = spread(word(block, 4) as u64, 16, 0x0000_ffff_0000_ffff);
        let lower = spread(spread(lower, 8, 0x00ff_00ff_00ff_00ff), 4, 0x0f0f_0f0f_0f0f_0f0f);
        let upper = spread(u16::from_le_bytes([block[2], block[3]]) as u64, 24, 0x0000_00ff_0000_00ff);
        let upper = spread(spread(upper, 12, 0x000f_000f_000f_000f), 6, 0x0303_0303_0303_0303);
        let scales = bytemuck::cast(less_32(lower | upper << 4).to_le_bytes());
        let a = L::mul(L::from_i8(scales), f16::<L>(block, 0));
        per_32(codes, a, L::mul(a, -128.0))
    }
}

impl Codes for Q4_K {
    const MAX_CODE: u8 = 15;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<144, 1>(src);
        let (a, b) = affine_k::<L>(block);
        per_32(nibbles_64::<L>(&block[16..]), a, b)
    }
}

impl Codes for Q5_K {
    const MAX_CODE: u8 = 31;
    const GROUP: usize = 128;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<176, 1>(src);
        let mut codes = nibbles_64::<L>(&block[48..]);
        let fifth = L::bytes(block[16..48].try_into().expect("32 bytes"));
        for (k, codes) in codes.iter_mut().enumerate() {
            *codes = L::or(*codes, L::shift_and(fifth, k as i32, 4, 0x10));
        }
        let (a, b) = affine_k::<L>(block);
        per_32(codes, a, b)
    }
}

impl Codes for Q6_K {
    const MAX_CODE: u8 = 63;
    const WIDE: bool = false;
    const ZERO: Option<u8> = Some(32);
    const GROUP: usize = 64;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<210, 1>(src);
        let mut codes = [L::bytes(block[..32].try_into().expect("32 bytes")); 8];
        for half in 0..2 {
            let at = |from: usize| L::bytes(block[from..from + 32].try_into().expect("32 bytes"));
            let (low, high, upper) = (at(64 * half), at(64 * half + 32), at(128 + 32 * half));
            let lower = [L::and(low, 15), L::and(high, 15), L::shift_and(low, 4, 0, 15), L::shift_and(high, 4, 0, 15)];
            for (k, lower) in lower.into_iter().enumerate() {
                codes[4 * half + k] = L::or(lower, L::shift_and(upper, 2 * k as i32, 4, 0x30));
            }
        }
        let d = f16::<L>(block, 208);
        let scales: &[u8; 16] = block[192..208].try_into().expect("16 scales");
        let a = signed_scales::<L>(scales, d);
        Chunk { codes, a, b: times::<L>(a, -32.0) }
    }
}

impl Codes for Q3_K {
    const MAX_CODE: u8 = 7;
    const WIDE: bool = false;
    const ZERO: Option<u8> = Some(4);
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<110, 1>(src);
        let third = L::bytes(block[..32].try_into().expect("32 bytes"));
        let mut codes = pairs_128::<L>(&block[32..96]);
        for (k, codes) in codes.iter_mut().enumerate() {
            *codes = L::or(*codes, L::shift_and(third, k as i32, 2, 0x04));
        }
        // The layout that `q3_k_scales` tells, eight scales at a time; then 32 is taken off each.
        let (low, upper) = (word(block, 96) as u64 | (word(block, 100) as u64) << 32, word(block, 104) as u64);
        let half = |low: u64, upper: u64| {
            let upper = upper & 0x0303_0303 | (upper >> 2 & 0x0303_0303) << 32;
            less_32(low & 0x0f0f_0f0f_0f0f_0f0f | upper << 4)
        };
        let scales = (half(low, upper) as u128 | (half(low >> 4, upper >> 4) as u128) << 64).to_le_bytes();
        let a = signed_scales::<L>(&scales, f16::<L>(block, 108));
        Chunk { codes, a, b: times::<L>(a, -4.0) }
    }
}

impl Codes for Q2_K {
    const MAX_CODE: u8 = 3;
    const WIDE: bool = false;
    const GROUP: usize = 256;

    #[inline(always)]
    fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
        let [block] = blocks::<84, 1>(src);
        let (d, dmin) = (f16::<L>(block, 80), f16::<L>(block, 82));
        let packed = u128::from_le_bytes(block[..16].try_into().expect("16 bytes"));
        const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
        let half = |v: u64, by: f32| L::mul(L::from_u8(v.to_le_bytes()), by);
        let halves = |v: u128, by: f32| [half(v as u64, by), half((v >> 64) as u64, by)];
        let (a, b) = (halves(packed & LOW, d), halves(packed >> 4 & LOW, -dmin));
        Chunk { codes: pairs_128::<L>(&block[16..80]), a, b }
    }
}

/// Formats that say what their codes and scales are. Where a scale holds for 32 columns, panels hold the codes themselves.
macro_rules! coded {
    ($($name:ident)*) => {$(
        impl Codes for $name {
            const MAX_CODE: u8 = if <$name as Coded>::WIDE { u8::MAX } else { 2 * <$name as Coded>::TOP };
            const CENTERED: bool = <$name as Coded>::WIDE;
            const WIDE: bool = <$name as Coded>::WIDE;
            const GROUP: usize = 32;

            #[inline(always)]
            fn unpack<L: Lanes>(src: &[u8]) -> Chunk<L> {
                expanded::<L, $name>(src)
            }
        }
    )*};
}
coded!(IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S TQ1_0 TQ2_0 Q1_0 Q2_0 MXFP4 NVFP4);

#[inline(always)]
fn expanded<L: Lanes, C: Coded>(src: &[u8]) -> Chunk<L> {
    let (mut codes, mut scales) = ([0i8; CHUNK], [0f32; CHUNK / SUB]);
    let blocks = codes.chunks_exact_mut(C::LEN).zip(scales.chunks_exact_mut(C::LEN / SUB));
    for (block, (codes, scales)) in src.chunks_exact(C::BYTES).zip(blocks) {
        C::expand(block, codes, scales);
    }
    let offset = if C::WIDE { 128 } else { C::TOP };
    let codes = codes.map(|code| (code as u8).wrapping_add(offset));
    let bytes = codes.as_chunks::<32>().0;
    let a = [L::floats(&scales.as_chunks().0[0]), L::floats(&scales.as_chunks().0[1])];
    Chunk { codes: std::array::from_fn(|k| L::bytes(&bytes[k])), a, b: times::<L>(a, -f32::from(offset)) }
}

/// The blocks of 256 columns.
#[inline(always)]
fn blocks<const BYTES: usize, const N: usize>(src: &[u8]) -> &[[u8; BYTES]; N] {
    src.as_chunks::<BYTES>().0.try_into().expect("256 columns")
}

/// A chunk whose `a` and `b` come per 32 columns.
#[inline(always)]
fn per_32<L: Lanes>(codes: [L::Bytes; 8], a: L::Floats, b: L::Floats) -> Chunk<L> {
    Chunk { codes, a: L::twice(a), b: L::twice(b) }
}

#[inline(always)]
fn times<L: Lanes>(v: [L::Floats; 2], by: f32) -> [L::Floats; 2] {
    [L::mul(v[0], by), L::mul(v[1], by)]
}

#[inline(always)]
fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The f16 at byte `at`.
#[inline(always)]
fn f16<L: Lanes>(block: &[u8], at: usize) -> f32 {
    L::f16(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The f16 at byte `at` of eight blocks.
#[inline(always)]
fn f16s<L: Lanes, const BYTES: usize>(blocks: &[[u8; BYTES]; 8], at: usize) -> L::Floats {
    let mut bits = [0; 8];
    for (bits, block) in bits.iter_mut().zip(blocks) {
        *bits = u16::from_le_bytes([block[at], block[at + 1]]);
    }
    L::f16s(bits)
}

/// Eight numbers below 64, less 32, as signed bytes.
#[inline(always)]
fn less_32(bytes: u64) -> u64 {
    // With the top bit set no byte borrows from its neighbour.
    ((bytes | 0x8080_8080_8080_8080) - 0x2020_2020_2020_2020) ^ 0x8080_8080_8080_8080
}

/// Sixteen scales, i8, times `d`.
#[inline(always)]
fn signed_scales<L: Lanes>(scales: &[u8; 16], d: f32) -> [L::Floats; 2] {
    let [low, high]: [[i8; 8]; 2] = bytemuck::cast(*scales);
    [L::mul(L::from_i8(low), d), L::mul(L::from_i8(high), d)]
}

/// Codes of blocks of 32: from byte `at`, byte `i` holds element `i` in its low and `i + 16` in its high half.
#[inline(always)]
fn halves<L: Lanes, const BYTES: usize>(blocks: &[[u8; BYTES]; 8], at: usize) -> [L::Bytes; 8] {
    let one = |block: &[u8; BYTES]| L::halves(block[at..at + 16].try_into().expect("16 bytes"));
    let mut codes = [one(&blocks[0]); 8];
    for (codes, block) in codes.iter_mut().zip(blocks) {
        *codes = one(block);
    }
    codes
}

/// Adds the fifth bits of Q5_0 and Q5_1, bit `i` of the u32 at byte `at` for element `i`.
#[inline(always)]
fn fifth_bits<L: Lanes, const BYTES: usize>(
    blocks: &[[u8; BYTES]; 8],
    at: usize,
    mut codes: [L::Bytes; 8],
) -> [L::Bytes; 8] {
    for (codes, block) in codes.iter_mut().zip(blocks) {
        *codes = L::or(*codes, L::bits(word(block, at), 16));
    }
    codes
}

/// Codes of Q4_K and Q5_K: 32 bytes for each 64 elements, byte `i` holds element `i` low and `i + 32` high.
#[inline(always)]
fn nibbles_64<L: Lanes>(src: &[u8]) -> [L::Bytes; 8] {
    let src: &[[u8; 32]; 4] = src.as_chunks::<32>().0.try_into().expect("128 bytes");
    let mut codes = [L::bytes(&src[0]); 8];
    for (k, src) in src.iter().enumerate() {
        let both = L::bytes(src);
        codes[2 * k] = L::and(both, 15);
        codes[2 * k + 1] = L::shift_and(both, 4, 0, 15);
    }
    codes
}

/// Two-bit codes of Q2_K and Q3_K: 32 bytes per 128 elements, bits `2j..2j + 2` of byte `i` are element `32 j + i`.
#[inline(always)]
fn pairs_128<L: Lanes>(src: &[u8]) -> [L::Bytes; 8] {
    let src: &[[u8; 32]; 2] = src.as_chunks::<32>().0.try_into().expect("64 bytes");
    let mut codes = [L::bytes(&src[0]); 8];
    for (half, src) in src.iter().enumerate() {
        let four = L::bytes(src);
        for j in 0..4 {
            codes[4 * half + j] = L::shift_and(four, 2 * j as i32, 0, 3);
        }
    }
    codes
}

/// `a` and `b` of Q4_K and Q5_K per 32 columns, from the first 16 bytes of the block: the layout that `q4_k_scales` tells,
/// four six-bit numbers at a time.
#[inline(always)]
fn affine_k<L: Lanes>(block: &[u8]) -> (L::Floats, L::Floats) {
    let (first, second, third) = (word(block, 4), word(block, 8), word(block, 12));
    let scales = [first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | first >> 2 & 0x3030_3030];
    let mins = [second & 0x3f3f_3f3f, third >> 4 & 0x0f0f_0f0f | second >> 2 & 0x3030_3030];
    let floats = |w: [u32; 2], by: f32| L::mul(L::from_u8((w[0] as u64 | (w[1] as u64) << 32).to_le_bytes()), by);
    (floats(scales, f16::<L>(block, 0)), floats(mins, -f16::<L>(block, 2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml_type::GgmlType;
    use crate::kernels::matmul::lanes::Plain;
    use crate::random::Rng;
    use crate::tensor::block::dequantize_row;

    /// Any bytes are a block; what the common form says must be what the decoder says, bit for bit.
    #[test]
    fn chunks_hold_what_the_decoders_say() {
        fn check<F: Codes>(ty: GgmlType) {
            for seed in 0..40u64 {
                let n_bytes = ty.row_bytes(CHUNK).unwrap();
                let mut rng = Rng::new(seed);
                let bytes: Vec<u8> = (0..n_bytes).map(|_| rng.below(256) as u8).collect();
                let mut want = [0f32; CHUNK];
                let chunk = F::unpack::<Plain>(&bytes);
                let mut codes = chunk.codes.concat();
                if let Some(table) = F::TABLE {
                    codes.iter_mut().for_each(|code| *code = table[*code as usize]);
                }
                let (a, b) = (chunk.a.concat(), chunk.b.concat());
                dequantize_row(ty, &bytes, &mut want).unwrap();
                for i in 0..CHUNK {
                    let (a, b) = (a[i / SUB], b[i / SUB]);
                    if !a.is_finite() || !b.is_finite() {
                        continue; // a random f16 may be infinite; both ways then give no number
                    }
                    assert!(codes[i] <= F::MAX_CODE);
                    assert!(F::ZERO.is_none_or(|zero| b == -(zero as f32) * a));
                    let centered = a * (codes[i] as i32 - 128) as f32; // b may be too fine for a sum
                    let got = if F::CENTERED { centered } else { a * codes[i] as f32 + b };
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
