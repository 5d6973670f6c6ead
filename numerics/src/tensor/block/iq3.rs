//! IQ3_XXS and IQ3_S: 256 elements in 98 and 110 bytes: groups of four are points of a grid with signs, 32 elements share a
//! scale of four bits. `d`, f16, stands at byte 0.
//!
//! | IQ3_XXS | what |
//! |---|---|
//! | 2..66 | for each four elements the number of a point |
//! | 66..98 | for each 32 elements a u32: four times 7 bits of signs of eight, then the scale |
//!
//! An element of it is `d * (0.5 + scale) / 2 * coordinate`, with its sign.
//!
//! | IQ3_S | what |
//! |---|---|
//! | 2..66 | for each four elements the lower eight bits of the number of a point |
//! | 66..74 | for each 32 elements a byte: the ninth bits of eight numbers |
//! | 74..106 | for each eight elements their signs, bit `i` for element `i` |
//! | 106..110 | for each 64 elements a byte: the scale of the first half in its low, of the second in its high four bits |
//!
//! An element of it is `d * (1 + 2 * scale) * coordinate`, with its sign.
#![forbid(unsafe_code)]

use super::coded::{Coded, coded_blocks};
use super::grids::{self, signs};
use super::iq2::put_point;
use super::scale::{f16_at, u32_at};

coded_blocks! {
    /// The format as a type, see the module's words.
    IQ3_XXS 256 98;
    /// The format as a type, see the module's words.
    IQ3_S 256 110;
}

impl Coded for IQ3_XXS {
    const TOP: u8 = 62;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        let d = f16_at(src, 0);
        let subs = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
        for (sub, (codes, scales)) in subs.enumerate() {
            let rest = u32_at(src, 66 + 4 * sub);
            *scales = [d * (0.5 + (rest >> 28) as f32) * 0.5; 2];
            for (k, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let signs = signs((rest >> (7 * (k / 2)) & 127) as u8) >> (4 * (k % 2));
                put_point(&grids::IQ3_XXS[src[2 + 8 * sub + k] as usize], signs, codes);
            }
        }
    }
}

impl Coded for IQ3_S {
    const TOP: u8 = 15;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        let d = f16_at(src, 0);
        let subs = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
        for (sub, (codes, scales)) in subs.enumerate() {
            let scale = src[106 + sub / 2] >> (4 * (sub % 2)) & 15;
            *scales = [d * f32::from(1 + 2 * scale); 2];
            for (k, codes) in codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let number = usize::from(src[2 + 8 * sub + k]) | usize::from(src[66 + sub] >> k & 1) << 8;
                let signs = src[74 + 4 * sub + k / 2] >> (4 * (k % 2));
                put_point(&grids::IQ3_S[number], signs, codes);
            }
        }
    }
}
