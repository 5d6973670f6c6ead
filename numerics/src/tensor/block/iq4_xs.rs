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

use super::iq4_nl::{Values, decode_codes, put_codes};
use super::scale::{f16_at, put_f16, split, weights};
use super::symmetric;
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct IQ4_XS;

impl Block for IQ4_XS {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const MAX_ABS: f32 = 65504.0 * 31.0 * 113.0;

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

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        let src: &[f32; 256] = src.try_into().expect("one block of elements");
        let (x, w) = (split(src), split(&weights(importance)));
        let block = symmetric::encode::<Values, 8, 32>(&x, &w, 32.0);
        dst.fill(0);
        put_f16(dst, 0, block.d);
        let mut upper = 0u16;
        for (sub, scale) in block.scales.iter().enumerate() {
            let scale = (scale + 32) as u8;
            upper |= (scale as u16 >> 4) << (2 * sub);
            dst[4 + sub / 2] |= (scale & 15) << (sub % 2 * 4);
            put_codes(&mut dst[8 + 16 * sub..], |i| block.value::<Values>(sub, x[sub][i]));
        }
        dst[2..4].copy_from_slice(&upper.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0x88; 136]; // code 8 stands for 1
        bytes[..2].copy_from_slice(&[0x00, 0x3c]); // d = 1
        bytes[2..4].copy_from_slice(&0x6aaau16.to_le_bytes()); // upper bits 2, but 1 for sub-block 7 ...
        bytes[4..8].copy_from_slice(&[0, 0, 0, 0xf0]); // ... with lower bits 15: all scales are 0, but -1 in the last
        bytes[8 + 7 * 16] = 0xf0; // its element 0 has code 0, its element 16 code 15
        let mut want = [0.0; 256];
        want[224..].fill(-1.0);
        (want[224], want[240]) = (127.0, -113.0);
        let mut out = [9.0; 256];
        IQ4_XS::decode(&bytes, &mut out);
        assert_eq!(out, want);
    }
}
