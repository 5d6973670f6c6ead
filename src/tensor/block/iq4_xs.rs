//! IQ4_XS: 256 elements in 136 bytes: 8 sub-blocks of 32 coded like IQ4_NL, each with a signed 6-bit scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | upper two bits of the scales, little-endian u16: bits `2k..2k+2` belong to sub-block `k` |
//! | 4..8 | lower four bits of the scales: byte `i` holds sub-block `2i` in its low and `2i + 1` in its high half |
//! | 8..136 | 16 bytes of codes per sub-block: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * (scale - 32) * IQ4_VALUES[code]`.
#![forbid(unsafe_code)]

use super::iq4_nl::decode_codes;
use super::scale::f16_at;
use super::{Block, sized};
use crate::gguf::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct IQ4_XS;

impl Block for IQ4_XS {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const MAX_ABS: f32 = 65504.0 * 32.0 * 113.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<136, 256>(src, dst);
        let d = f16_at(src, 0);
        let upper = u16::from_le_bytes([src[2], src[3]]);
        let codes = src[8..].as_chunks::<16>().0;
        for (sub, out) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let lower = src[4 + sub / 2] >> (sub % 2 * 4) & 15;
            let scale = lower as i32 | ((upper >> (2 * sub) & 3) as i32) << 4;
            decode_codes(d * (scale - 32) as f32, &codes[sub], out);
        }
    }

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
    }
}
