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

use super::affine::{Affine, AffineBlock};
use super::scale::{f16_at, put_f16, weights};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q2_K;

const SEARCH: Affine = Affine { max_code: 3.0, max_scale: 15.0, stretch: (-1.0, 1.5, 11), starts: 4 };

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

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        let src = src.try_into().expect("one block of elements");
        let block: AffineBlock<16> = SEARCH.encode::<16, 16>(src, &weights(importance));
        dst.fill(0);
        for (byte, (scale, min)) in dst.iter_mut().zip(block.scales.iter().zip(block.mins)) {
            *byte = scale | min << 4;
        }
        for (i, code) in block.codes.iter().enumerate() {
            dst[16 + i / 128 * 32 + i % 32] |= code << (i / 32 % 4 * 2);
        }
        put_f16(dst, 80, block.d);
        put_f16(dst, 82, block.dmin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 84];
        bytes[80..].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // d = 1, dmin = 0.5
        bytes[3] = 0x42; // sub-block 3: scale 2, minimum 4
        bytes[8] = 0x05; // sub-block 8, the first of the second half: scale 5
        bytes[16 + 17] = 3 << 2; // code 3 for element 32 + 17, in sub-block 3
        bytes[16 + 32] = 1; // code 1 for element 128
        let mut want = [0.0; 256];
        want[48..64].fill(-2.0);
        (want[49], want[128]) = (4.0, 5.0);
        let mut out = [9.0; 256];
        Q2_K::decode(&bytes, &mut out);
        assert_eq!(out, want);
    }
}
