//! TQ1_0, TQ2_0, Q1_0, Q2_0: codes of one, two or three values under a single scale `d`, f16. An element is `d * code`.
//!
//! | TQ1_0: 256 in 54 | what |
//! |---|---|
//! | 0..32 | five ternary digits to a byte: byte `i` holds elements `i`, `i + 32`, ... of the first 160 |
//! | 32..48 | likewise elements `i`, `i + 16`, ... of the next 80 |
//! | 48..52 | four digits to a byte: elements `i`, `i + 4`, ... of the last 16 |
//! | 52..54 | `d` |
//!
//! A byte is ⌈256 / 243 times the number of its digits⌉, the first one most significant, so a multiplication by 3 brings the next
//! digit out at the top. Codes are the digits less one.
//!
//! | TQ2_0: 256 in 66 | what |
//! |---|---|
//! | 0..64 | four codes to a byte: for each 128 elements, bits `2j..2j + 2` of byte `i` are element `32 j + i`, plus one |
//! | 64..66 | `d` |
//!
//! | Q1_0: 128 in 18 | what |
//! |---|---|
//! | 0..2 | `d` |
//! | 2..18 | a bit for each element: 1 where it is set, else -1 |
//!
//! | Q2_0: 64 in 18 | what |
//! |---|---|
//! | 0..2 | `d` |
//! | 2..18 | two bits for each element, low ones first: -1, 0, 1, 2 |
#![forbid(unsafe_code)]

use super::coded::{Coded, coded_blocks};
use super::scale::f16_at;

coded_blocks! {
    /// The format as a type, see the module's words.
    TQ1_0 256 54;
    /// The format as a type, see the module's words.
    TQ2_0 256 66;
    /// The format as a type, see the module's words.
    Q1_0 128 18;
    /// The format as a type, see the module's words.
    Q2_0 64 18;
}

/// The ternary digit number `n` of a byte, the first one most significant, less one.
#[inline(always)]
fn digit(byte: u8, n: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as i8 - 1
}

impl Coded for TQ1_0 {
    const TOP: u8 = 1;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        scales.fill(f16_at(src, 52));
        // Where bytes begin, how many, where their elements begin.
        for (at, n, first, n_digits) in [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)] {
            for k in 0..n_digits {
                for i in 0..n {
                    codes[first + k * n + i] = digit(src[at + i], k);
                }
            }
        }
    }
}

impl Coded for TQ2_0 {
    const TOP: u8 = 2;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        scales.fill(f16_at(src, 64));
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (src[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) as i8 - 1;
        }
    }
}

impl Coded for Q1_0 {
    const TOP: u8 = 1;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        scales.fill(f16_at(src, 0));
        for (i, code) in codes.iter_mut().enumerate() {
            *code = 2 * (src[2 + i / 8] >> (i % 8) & 1) as i8 - 1;
        }
    }
}

impl Coded for Q2_0 {
    const TOP: u8 = 2;
    const WIDE: bool = true;

    #[inline(always)]
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        scales.fill(f16_at(src, 0));
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (src[2 + i / 4] >> (i % 4 * 2) & 3) as i8 - 1;
        }
    }
}
