//! Q6_K: 256 elements in 210 bytes: 16 sub-blocks of 16, each with an i8 scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..128 | lower four bits; 64 bytes for each half of 128 elements: byte `i` holds element `i` low and `i + 64` high |
//! | 128..192 | upper two bits; 32 bytes for each half: bits `2j..2j+2` of byte `i` belong to element `32j + i` |
//! | 192..208 | scales, i8 |
//! | 208..210 | `d`, f16 |
//!
//! An element is `d * scale * (code - 32)`.
#![forbid(unsafe_code)]

use super::scale::f16_at;
use super::{Block, sized};
use crate::gguf::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q6_K;

impl Block for Q6_K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const MAX_ABS: f32 = 65504.0 * 128.0 * 32.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<210, 256>(src, dst);
        let d = f16_at(src, 208);
        for (sub, out) in dst.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * (src[192 + sub] as i8) as f32;
            // Eight sub-blocks per half: the first four read low nibbles, the last four high ones.
            let (half, quarter, side) = (sub / 8, sub / 2 % 4, sub % 2);
            let lower = &src[half * 64 + sub % 4 * 16..][..16];
            let upper = &src[128 + half * 32 + side * 16..][..16];
            let (nibble, pair) = (quarter / 2 * 4, quarter * 2);
            for i in 0..16 {
                let code = lower[i] >> nibble & 15 | (upper[i] >> pair & 3) << 4;
                out[i] = scale * (code as i32 - 32) as f32;
            }
        }
    }

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
    }
}
