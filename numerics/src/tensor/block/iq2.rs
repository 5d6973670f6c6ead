//! IQ2_XXS, IQ2_XS, IQ2_S: 256 elements in 66, 74 and 82 bytes: groups of eight are points of a grid with signs, 16 or 32
//! elements share a scale of four bits. In every one `d`, f16, stands at byte 0 and an element is
//! `d * (0.5 + scale) / 4 * coordinate`, with its sign.
//!
//! | IQ2_XXS | what |
//! |---|---|
//! | 2..66 | for each 32 elements two u32: four numbers of points, 8 bits each; four times 7 bits of signs, then the scale |
//!
//! | IQ2_XS | what |
//! |---|---|
//! | 2..66 | for each eight elements a u16: the number of a point, 9 bits; 7 bits of signs |
//! | 66..74 | for each 32 elements a byte: the scale of the first half in its low, of the second in its high four bits |
//!
//! | IQ2_S | what |
//! |---|---|
//! | 2..34 | for each eight elements the lower eight bits of the number of a point |
//! | 34..66 | their signs, bit `i` for element `i` |
//! | 66..74 | for each 32 elements a byte: the upper two bits of four numbers |
//! | 74..82 | scales as those of IQ2_XS |
#![forbid(unsafe_code)]

use super::coded::{Coded, coded_blocks};
use super::grids::{self, signs};
use super::scale::{f16_at, u32_at};

coded_blocks! {
    /// The format as a type, see the module's words.
    IQ2_XXS 256 66;
    /// The format as a type, see the module's words.
    IQ2_XS 256 74;
    /// The format as a type, see the module's words.
    IQ2_S 256 82;
}

/// A point with its signs as codes.
#[inline(always)]
pub(super) fn put_point<const D: usize>(point: &[i8; D], signs: u8, codes: &mut [i8]) {
    for (i, code) in codes[..D].iter_mut().enumerate() {
        *code = if signs >> i & 1 == 1 { -point[i] } else { point[i] };
    }
}

/// Scales of 16 elements, two to a byte.
#[inline(always)]
fn put_scales(d: f32, packed: &[u8], scales: &mut [f32]) {
    for (packed, scales) in packed.iter().zip(scales.as_chunks_mut::<2>().0) {
        *scales = [packed & 15, packed >> 4].map(|scale| d * (0.5 + f32::from(scale)) * 0.25);
    }
}

impl Coded for IQ2_XXS {
    const TOP: u8 = 43;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        let d = f16_at(src, 0);
        let subs = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
        for (sub, (codes, scales)) in subs.enumerate() {
            let (points, rest) = (&src[2 + 8 * sub..][..4], u32_at(src, 6 + 8 * sub));
            *scales = [d * (0.5 + (rest >> 28) as f32) * 0.25; 2];
            for (k, point) in points.iter().enumerate() {
                let signs = signs((rest >> (7 * k) & 127) as u8);
                put_point(&grids::IQ2_XXS[*point as usize], signs, &mut codes[8 * k..]);
            }
        }
    }
}

impl Coded for IQ2_XS {
    const TOP: u8 = 43;
    const WIDE: bool = false;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        for (codes, packed) in codes.as_chunks_mut::<8>().0.iter_mut().zip(src[2..66].as_chunks::<2>().0) {
            let packed = u16::from_le_bytes(*packed);
            put_point(&grids::IQ2_XS[(packed & 511) as usize], signs((packed >> 9) as u8), codes);
        }
        put_scales(f16_at(src, 0), &src[66..74], scales);
    }
}

impl Coded for IQ2_S {
    const TOP: u8 = 43;
    const WIDE: bool = false;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let upper = usize::from(src[66 + k / 4] >> (2 * (k % 4)) & 3);
            put_point(&grids::IQ2_S[usize::from(src[2 + k]) | upper << 8], src[34 + k], codes);
        }
        put_scales(f16_at(src, 0), &src[74..82], scales);
    }
}
