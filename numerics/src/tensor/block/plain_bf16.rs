//! BF16: two little-endian bytes per element, the upper half of an f32: 1 sign, 8 exponent, 7 fraction bits.
//!
//! Decoding is exact. Encoding rounds to nearest, ties to even; a NaN stays a NaN and is made quiet, since dropping the
//! lower half of its payload could otherwise turn it into an infinity.
#![forbid(unsafe_code)]

use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
pub struct BF16;

impl Block for BF16 {
    const TYPE: GgmlType = GgmlType::BF16;
    const LEN: usize = 1;
    const BYTES: usize = 2;
    const MAX_ABS: f32 = f32::MAX;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<2, 1>(src, dst);
        dst[0] = f32::from_bits((u16::from_le_bytes(*src) as u32) << 16);
    }

    #[inline(always)]
    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        dst.copy_from_slice(&half::bf16::from_f32(src[0]).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_half_of_an_f32() {
        let mut out = [0.0];
        BF16::decode(&[0xc0, 0xbf], &mut out);
        assert_eq!(out, [-1.5]);
        let mut bytes = [0; 2];
        // Halfway between two neighbours: the even one.
        BF16::encode(&[1.0 + 1.0 / 256.0], &mut bytes, None);
        assert_eq!(bytes, [0x80, 0x3f]);
        BF16::encode(&[f32::from_bits(0x7f80_0001)], &mut bytes, None);
        assert_eq!(bytes, [0xc0, 0x7f]);
    }
}
