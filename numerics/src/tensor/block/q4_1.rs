//! Q4_1: 32 elements in 20 bytes, with an offset.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..4 | `m`, f16, the smallest element |
//! | 4..20 | 4-bit codes: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * code + m`.
#![forbid(unsafe_code)]

use super::scale::{f16_at, min_max, put_f16, reciprocal};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q4_1;

impl Block for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const MAX_ABS: f32 = 65504.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<20, 32>(src, dst);
        let (d, m) = (f16_at(src, 0), f16_at(src, 2));
        let (low, high) = dst.split_at_mut(16);
        for i in 0..16 {
            low[i] = d * (src[4 + i] & 15) as f32 + m;
            high[i] = d * (src[4 + i] >> 4) as f32 + m;
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        let (min, max) = min_max(src);
        let d = (max - min) / 15.0;
        let inverse = reciprocal(d);
        put_f16(dst, 0, d);
        put_f16(dst, 2, min);
        let code = |x: f32| (((x - min) * inverse + 0.5) as u8).min(15);
        for i in 0..16 {
            dst[4 + i] = code(src[i]) | code(src[i + 16]) << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xc0]); // d = 0.5, m = -2
        bytes[4] = 0xf0; // element 16 has code 15
        bytes[19] = 0x9a; // element 15 has code 10, element 31 has code 9
        let mut want = [-2.0; 32];
        (want[16], want[15], want[31]) = (5.5, 3.0, 2.5);
        let mut out = [9.0; 32];
        Q4_1::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 20];
        Q4_1::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
