//! Q4_K: 256 elements in 144 bytes: 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16, scales the scales |
//! | 2..4 | `dmin`, f16, scales the minima |
//! | 4..16 | 8 scales and 8 minima of 6 bits, see [`q4_k_scales`] |
//! | 16..144 | 4-bit codes; 32 bytes for each 64 elements: byte `i` holds element `i` in its low and `i + 32` in its high half |
//!
//! An element is `d * scale * code - dmin * minimum`.
#![forbid(unsafe_code)]

use super::scale::{f16_at, q4_k_scales};
use super::{Block, sized};
use crate::gguf::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q4_K;

impl Block for Q4_K {
    const TYPE: GgmlType = GgmlType::Q4_K;
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const MAX_ABS: f32 = 65504.0 * 63.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<144, 256>(src, dst);
        let (d, dmin) = (f16_at(src, 0), f16_at(src, 2));
        let (scales, mins) = q4_k_scales(src[4..16].try_into().expect("12 bytes"));
        let codes = src[16..].as_chunks::<32>().0;
        for (pair, out) in dst.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let (low, high) = out.split_at_mut(32);
            let (d0, m0) = (d * scales[2 * pair] as f32, dmin * mins[2 * pair] as f32);
            let (d1, m1) = (d * scales[2 * pair + 1] as f32, dmin * mins[2 * pair + 1] as f32);
            for i in 0..32 {
                low[i] = d0 * (codes[pair][i] & 15) as f32 - m0;
                high[i] = d1 * (codes[pair][i] >> 4) as f32 - m1;
            }
        }
    }

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
    }
}
