//! MXFP4 and NVFP4: elements are floats of four bits (sign, two of exponent, one of mantissa) under a scale that is a small float.
//! Codes are twice these floats, so the scales are half of what the bytes say.
//!
//! | MXFP4: 32 in 17 | what |
//! |---|---|
//! | 0 | the exponent of the scale, a power of two: `e - 127` |
//! | 1..17 | 4-bit floats: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! | NVFP4: 64 in 36 | what |
//! |---|---|
//! | 0..4 | scales of 16 elements: unsigned floats of four bits of exponent (bias 7) and three of mantissa; 127 counts as 0 |
//! | 4..36 | for each 16 elements eight bytes: byte `i` holds element `i` in its low and element `i + 8` in its high half |
#![forbid(unsafe_code)]

use super::coded::{Coded, coded_blocks};

coded_blocks! {
    /// The format as a type, see the module's words.
    MXFP4 32 17;
    /// The format as a type, see the module's words.
    NVFP4 64 36;
}

/// Twice the float of four bits.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Codes whose halves lie `codes.len() / 2` apart.
#[inline(always)]
fn put_codes(packed: &[u8], codes: &mut [i8]) {
    let (low, high) = codes.split_at_mut(packed.len());
    for ((packed, low), high) in packed.iter().zip(low).zip(high) {
        (*low, *high) = (DOUBLED[(packed & 15) as usize], DOUBLED[(packed >> 4) as usize]);
    }
}

impl Coded for MXFP4 {
    const TOP: u8 = 12;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        // Half of 2^(e - 127); the two smallest are subnormal.
        let bits = if src[0] < 2 { 0x0020_0000 << src[0] } else { (u32::from(src[0]) - 1) << 23 };
        scales.fill(f32::from_bits(bits));
        put_codes(&src[1..17], codes);
    }
}

impl Coded for NVFP4 {
    const TOP: u8 = 12;
    const WIDE: bool = false;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        for (k, (codes, scale)) in codes.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
            let (exponent, mantissa) = (i32::from(src[k] >> 3 & 15), f32::from(src[k] & 7));
            let whole = match (src[k], exponent) {
                (0 | 127, _) => 0.0,
                (_, 0) => mantissa / 512.0,
                // Powers of two from 2^-6 to 2^8.
                (_, exponent) => (1.0 + mantissa / 8.0) * f32::from_bits(((exponent + 120) as u32) << 23),
            };
            *scale = whole * 0.5;
            put_codes(&src[4 + 8 * k..][..8], codes);
        }
    }
}
