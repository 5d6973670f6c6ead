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

use super::scale::{f16_at, pack_q3_k_scales, put_f16, q3_k_scales, split, weights};
use super::symmetric::{self, Uniform};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q3_K;

impl Block for Q3_K {
    const TYPE: GgmlType = GgmlType::Q3_K;
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const MAX_ABS: f32 = 65504.0 * 31.0 * 3.0;

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

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        type Codes = Uniform<4>;
        let src: &[f32; 256] = src.try_into().expect("one block of elements");
        let (x, w) = (split(src), split(&weights(importance)));
        let block = symmetric::encode::<Codes, 16, 16>(&x, &w, 32.0);
        dst.fill(0);
        for (i, x) in src.iter().enumerate() {
            let code = (block.value::<Codes>(i / 16, *x) + 4.0) as u8;
            dst[32 + i / 128 * 32 + i % 32] |= (code & 3) << (i / 32 % 4 * 2);
            dst[i % 32] |= code >> 2 << (i / 32);
        }
        let scales = block.scales.map(|scale| (scale + 32) as u8);
        dst[96..108].copy_from_slice(&pack_q3_k_scales(&scales));
        put_f16(dst, 108, block.d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 110];
        bytes[108..].copy_from_slice(&[0x00, 0x3c]); // d = 1
        bytes[..32].fill(0xff); // all codes have their third bit: 4, which is 0
        bytes[96..104].fill(0x00);
        bytes[104..108].fill(0xaa); // all scales are 32, which is 0
        bytes[96 + 3] = 5; // lower bits of scale 3: 37, which is 5
        bytes[96] = 0xf0; // lower bits of scale 8 ...
        bytes[104] = 0xba; // ... and upper bits 3: 63, which is 31
        bytes[17] = 0xfd; // no third bit for element 32 + 17, in sub-block 3 ...
        bytes[32 + 17] = 1 << 2; // ... and code 1, which is -3
        bytes[32 + 32] = 3; // code 7, which is 3, for element 128
        let mut want = [0.0; 256];
        (want[49], want[128]) = (-15.0, 93.0);
        let mut out = [9.0; 256];
        Q3_K::decode(&bytes, &mut out);
        assert_eq!(out, want);
    }
}
