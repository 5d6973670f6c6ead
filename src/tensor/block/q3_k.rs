//! Q3_K: 256 elements in 110 bytes: 16 sub-blocks of 16, each with a signed 6-bit scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | third bits: bit `k` of byte `i` belongs to element `32k + i` |
//! | 32..96 | lower two bits; 32 bytes for each half of 128 elements: bits `2j..2j+2` of byte `i` belong to element `32j + i` |
//! | 96..108 | 16 scales of 6 bits, see [`q3_k_scales`] |
//! | 108..110 | `d`, f16 |
//!
//! An element is `d * (scale - 32) * (code - 4)`.
#![forbid(unsafe_code)]

use super::scale::{f16_at, q3_k_scales};
use super::{Block, sized};
use crate::gguf::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q3_K;

impl Block for Q3_K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const MAX_ABS: f32 = 65504.0 * 32.0 * 4.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<110, 256>(src, dst);
        let d = f16_at(src, 108);
        let scales = q3_k_scales(src[96..108].try_into().expect("12 bytes"));
        for (sub, out) in dst.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * (scales[sub] as i32 - 32) as f32;
            let (half, shift, side) = (sub / 8, sub / 2 % 4 * 2, sub % 2);
            let codes = &src[32 + half * 32 + side * 16..][..16];
            let third = &src[side * 16..][..16];
            for i in 0..16 {
                let code = codes[i] >> shift & 3 | (third[i] >> (sub / 2) & 1) << 2;
                out[i] = scale * (code as i32 - 4) as f32;
            }
        }
    }

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
    }
}
