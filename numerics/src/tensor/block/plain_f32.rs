//! F32: four little-endian bytes per element, IEEE 754 single precision.
#![forbid(unsafe_code)]

use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
pub struct F32;

impl Block for F32 {
    const TYPE: GgmlType = GgmlType::F32;
    const LEN: usize = 1;
    const BYTES: usize = 4;
    const MAX_ABS: f32 = f32::MAX;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<4, 1>(src, dst);
        dst[0] = f32::from_le_bytes(*src);
    }

    #[inline(always)]
    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        dst.copy_from_slice(&src[0].to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number() {
        let mut out = [0.0];
        F32::decode(&[0, 0, 0xc0, 0xbf], &mut out);
        assert_eq!(out, [-1.5]);
    }
}
