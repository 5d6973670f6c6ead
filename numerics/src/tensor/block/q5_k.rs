//! Q5_K: 256 elements in 176 bytes: 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16, scales the scales |
//! | 2..4 | `dmin`, f16, scales the minima |
//! | 4..16 | 8 scales and 8 minima of 6 bits, see [`q4_k_scales`] |
//! | 16..48 | fifth bits: bit `k` of byte `i` belongs to element `32k + i` |
//! | 48..176 | lower four bits; 32 bytes for each 64 elements: byte `i` holds element `i` low and `i + 32` high |
//!
//! An element is `d * scale * code - dmin * minimum`.
#![forbid(unsafe_code)]

use super::affine::{Affine, AffineBlock};
use super::q4_k::put_nibbles;
use super::scale::{f16_at, pack_q4_k_scales, put_f16, q4_k_scales, weights};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q5_K;

const SEARCH: Affine = Affine { max_code: 31.0, max_scale: 63.0, stretch: (-1.5, 1.5, 13), starts: 3 };

impl Block for Q5_K {
    const TYPE: GgmlType = GgmlType::Q5_K;
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const MAX_ABS: f32 = 65504.0 * 63.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<176, 256>(src, dst);
        let (d, dmin) = (f16_at(src, 0), f16_at(src, 2));
        let (scales, mins) = q4_k_scales(src[4..16].try_into().expect("12 bytes"));
        let fifth = &src[16..48];
        let codes = src[48..].as_chunks::<32>().0;
        for (pair, out) in dst.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let (low, high) = out.split_at_mut(32);
            let (d0, m0) = (d * scales[2 * pair] as f32, dmin * mins[2 * pair] as f32);
            let (d1, m1) = (d * scales[2 * pair + 1] as f32, dmin * mins[2 * pair + 1] as f32);
            for i in 0..32 {
                let (a, b) = (fifth[i] >> (2 * pair) & 1, fifth[i] >> (2 * pair + 1) & 1);
                low[i] = d0 * (codes[pair][i] & 15 | a << 4) as f32 - m0;
                high[i] = d1 * (codes[pair][i] >> 4 | b << 4) as f32 - m1;
            }
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        let src = src.try_into().expect("one block of elements");
        let block: AffineBlock<8> = SEARCH.encode::<8, 32>(src, &weights(importance));
        dst.fill(0);
        put_f16(dst, 0, block.d);
        put_f16(dst, 2, block.dmin);
        dst[4..16].copy_from_slice(&pack_q4_k_scales(&block.scales, &block.mins));
        for (i, code) in block.codes.iter().enumerate() {
            dst[16 + i % 32] |= code >> 4 << (i / 32);
        }
        put_nibbles(&block.codes, &mut dst[48..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 176];
        bytes[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // d = 1, dmin = 0.5
        bytes[4 + 1] = 3; // scale 1
        bytes[4 + 5] = 6; // minimum 1
        bytes[4 + 11] = 0x05; // lower bits of scale 7 ...
        bytes[4 + 3] = 0x40; // ... and upper bits: 21
        bytes[48 + 2] = 0x70; // code 7 for element 34, in sub-block 1
        bytes[48 + 127] = 0x20; // code 2 for element 255
        bytes[16 + 2] = 1 << 1; // fifth bit of element 34: code 23
        let mut want = [0.0; 256];
        want[32..64].fill(-3.0);
        (want[34], want[255]) = (66.0, 42.0);
        let mut out = [9.0; 256];
        Q5_K::decode(&bytes, &mut out);
        assert_eq!(out, want);
    }
}
