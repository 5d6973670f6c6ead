//! Q5_1: 32 elements in 24 bytes, with an offset.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16, the smallest element |
//! | 4..8 | fifth bits, little-endian u32: bit `i` belongs to element `i` |
//! | 8..24 | lower four bits: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * code + m`.
#![forbid(unsafe_code)]

use super::q5_0::put_codes_5;
use super::scale::{f16_at, min_max, put_f16, reciprocal, u32_at};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q5_1;

impl Block for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const MAX_ABS: f32 = 65504.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<24, 32>(src, dst);
        let (d, m, fifth) = (f16_at(src, 0), f16_at(src, 2), u32_at(src, 4));
        let (low, high) = dst.split_at_mut(16);
        for i in 0..16 {
            let (a, b) = ((src[8 + i] & 15) as u32, (src[8 + i] >> 4) as u32);
            low[i] = d * (a | (fifth >> i & 1) << 4) as i32 as f32 + m;
            high[i] = d * (b | (fifth >> (i + 16) & 1) << 4) as i32 as f32 + m;
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        let (min, max) = min_max(src);
        let d = (max - min) / 31.0;
        let inverse = reciprocal(d);
        put_f16(dst, 0, d);
        put_f16(dst, 2, min);
        let code = |x: f32| (((x - min) * inverse + 0.5) as u8).min(31);
        put_codes_5(&mut dst[4..], |i| code(src[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xc0]); // d = 0.5, m = -2
        bytes[6] = 1; // fifth bit of element 16
        bytes[8] = 0xf0; // element 16 has code 31
        bytes[23] = 0x9a; // element 15 has code 10, element 31 has code 9
        let mut want = [-2.0; 32];
        (want[16], want[15], want[31]) = (13.5, 3.0, 2.5);
        let mut out = [9.0; 32];
        Q5_1::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 24];
        Q5_1::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
