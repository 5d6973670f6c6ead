//! Q2_K: 256 elements in 84 bytes: 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | per sub-block: scale in the low, minimum in the high half |
//! | 16..80 | 2-bit codes; 32 bytes for each half of 128 elements: bits `2j..2j+2` of byte `i` belong to element `32j + i` |
//! | 80..82 | `d`, f16, scales the scales |
//! | 82..84 | `dmin`, f16, scales the minima |
//!
//! An element is `d * scale * code - dmin * minimum`.
#![forbid(unsafe_code)]

use super::scale::f16_at;
use super::{Block, sized};
use crate::gguf::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q2_K;

impl Block for Q2_K {
    const TYPE: GgmlType = GgmlType::Q2_K;
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const MAX_ABS: f32 = 65504.0 * 15.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<84, 256>(src, dst);
        let (d, dmin) = (f16_at(src, 80), f16_at(src, 82));
        for (sub, out) in dst.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * (src[sub] & 15) as f32;
            let min = dmin * (src[sub] >> 4) as f32;
            // Eight sub-blocks per half; two of them share a bit position.
            let (half, shift, side) = (sub / 8, sub / 2 % 4 * 2, sub % 2);
            let codes = &src[16 + half * 32 + side * 16..][..16];
            for i in 0..16 {
                out[i] = scale * (codes[i] >> shift & 3) as f32 - min;
            }
        }
    }

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
    }
}
