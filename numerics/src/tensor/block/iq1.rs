//! IQ1_S and IQ1_M: 256 elements in 50 and 56 bytes: groups of eight are points of a grid of -1, 0 and 1, moved by an eighth up or
//! down. Scales have three bits.
//!
//! | IQ1_S | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..34 | for each eight elements the lower eight bits of the number of a point |
//! | 34..50 | for each 32 elements a u16: four times the upper three bits; the scale, three bits; down when the top bit is set |
//!
//! | IQ1_M | what |
//! |---|---|
//! | 0..32 | for each eight elements the lower eight bits of the number of a point |
//! | 32..48 | for each eight elements four bits, low ones first: the upper three bits; down when the fourth is set |
//! | 48..56 | four u16: for each 64 elements four scales of 16, low ones first; their top bits together are `d`, f16, low ones first |
//!
//! An element is `d * (2 * scale + 1) * (coordinate ± 1/8)`; codes are eighths.
#![forbid(unsafe_code)]

use super::coded::{Coded, coded_blocks};
use super::grids;
use super::plain_f16::f16_to_f32;
use super::scale::f16_at;

coded_blocks! {
    /// The format as a type, see the module's words.
    IQ1_S 256 50;
    /// The format as a type, see the module's words.
    IQ1_M 256 56;
}

#[inline(always)]
fn put_point(number: usize, is_down: bool, codes: &mut [i8]) {
    let shift = if is_down { -1 } else { 1 };
    for (code, coordinate) in codes.iter_mut().zip(&grids::IQ1[number]) {
        *code = 8 * coordinate + shift;
    }
}

/// The scale of eighths.
#[inline(always)]
fn scale_of(d: f32, three_bits: u16) -> f32 {
    d * f32::from(2 * (three_bits & 7) + 1) * 0.125
}

#[inline(always)]
fn u16_at(src: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([src[at], src[at + 1]])
}

impl Coded for IQ1_S {
    const TOP: u8 = 9;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        let d = f16_at(src, 0);
        let subs = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales.as_chunks_mut::<2>().0);
        for (sub, (codes, scales)) in subs.enumerate() {
            let upper = u16_at(src, 34 + 2 * sub);
            *scales = [scale_of(d, upper >> 12); 2];
            for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let number = usize::from(src[2 + 4 * sub + k]) | usize::from(upper >> (3 * k) & 7) << 8;
                put_point(number, upper >> 15 == 1, codes);
            }
        }
    }
}

impl Coded for IQ1_M {
    const TOP: u8 = 9;
    const WIDE: bool = false;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        let packed: [u16; 4] = std::array::from_fn(|i| u16_at(src, 48 + 2 * i));
        let d = f16_to_f32((0..4).fold(0, |bits, i| bits | packed[i] >> 12 << (4 * i)));
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = scale_of(d, packed[i / 4] >> (3 * (i % 4)));
        }
        for (k, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let upper = src[32 + k / 2] >> (4 * (k % 2));
            put_point(usize::from(src[k]) | usize::from(upper & 7) << 8, upper >> 3 & 1 == 1, codes);
        }
    }
}
