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

use super::scale::{f16_at, put_f16, split, weights};
use super::symmetric::{self, Uniform};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q6_K;

impl Block for Q6_K {
    const TYPE: GgmlType = GgmlType::Q6_K;
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const MAX_ABS: f32 = 65504.0 * 127.0 * 31.0;

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

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        type Codes = Uniform<32>;
        let src: &[f32; 256] = src.try_into().expect("one block of elements");
        let (x, w) = (split(src), split(&weights(importance)));
        let block = symmetric::encode::<Codes, 16, 16>(&x, &w, 128.0);
        dst.fill(0);
        for (i, x) in src.iter().enumerate() {
            let code = (block.value::<Codes>(i / 16, *x) + 32.0) as u8;
            dst[i / 128 * 64 + i % 64] |= (code & 15) << (i / 64 % 2 * 4);
            dst[128 + i / 128 * 32 + i % 32] |= code >> 4 << (i / 32 % 4 * 2);
        }
        for (scale, out) in block.scales.iter().zip(&mut dst[192..]) {
            *out = *scale as u8;
        }
        put_f16(dst, 208, block.d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 210];
        bytes[208..].copy_from_slice(&[0x00, 0x3c]); // d = 1
        bytes[128..192].fill(0xaa); // upper bits 2: all codes are 32, which is 0
        bytes[192..208].fill(1);
        bytes[192 + 5] = 0xfe; // scale -2 for sub-block 5
        bytes[20] = 0x70; // lower bits 7 for element 64 + 20, in sub-block 5: code 39, which is 7
        bytes[64 + 63] = 0x04; // lower bits 4 for element 128 + 63 ...
        bytes[160 + 31] = 0xa2; // ... and upper bits 0: code 4, which is -28
        let mut want = [0.0; 256];
        (want[84], want[191]) = (-14.0, -28.0);
        let mut out = [9.0; 256];
        Q6_K::decode(&bytes, &mut out);
        assert_eq!(out, want);
    }
}
