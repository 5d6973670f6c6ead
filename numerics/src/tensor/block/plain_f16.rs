//! F16: two little-endian bytes per element, IEEE 754 half precision: 1 sign, 5 exponent, 10 fraction bits.
//!
//! The conversion to f32 is spelled out here rather than taken from a crate, because it has to inline into vector
//! kernels: a call that asks the CPU what it can do, once per element, does not. The other direction is rarer and rounds
//! to nearest, ties to even; values from 65520 on become infinite.
#![forbid(unsafe_code)]

use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
pub struct F16;

impl Block for F16 {
    const TYPE: GgmlType = GgmlType::F16;
    const LEN: usize = 1;
    const BYTES: usize = 2;
    const MAX_ABS: f32 = 65504.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<2, 1>(src, dst);
        dst[0] = f16_to_f32(u16::from_le_bytes(*src));
    }

    #[inline(always)]
    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        dst.copy_from_slice(&half::f16::from_f32(src[0]).to_le_bytes());
    }
}

/// The value of the half-precision number with these bits; exact for every pattern, a NaN keeps its payload.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    /// f32 2^-14, the smallest normal f16: its exponent field is 113.
    const SMALLEST_NORMAL: u32 = 113 << 23;
    let sign = (bits as u32 & 0x8000) << 16;
    let magnitude = (bits as u32 & 0x7fff) << 13;
    // Exponents differ by a bias of 127 - 15 = 112. A subnormal becomes 2^-14 * (1 + fraction), less 2^-14.
    let normal = magnitude + (112 << 23);
    let subnormal = (f32::from_bits(magnitude + SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL)).to_bits();
    let special = magnitude | 0x7f80_0000;
    // All three are computed and one selected, so that a loop over this has no branches.
    let finite = if magnitude < 0x0400 << 13 { subnormal } else { normal };
    f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { special } else { finite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_agrees_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32_const());
            if theirs.is_nan() {
                assert!(ours.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#06x}");
            }
        }
    }
}
