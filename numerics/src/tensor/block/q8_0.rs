//! Q8_0: 32 elements in 34 bytes, symmetric.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..34 | codes, i8 |
//!
//! An element is `d * code`. Codes are rounded half away from zero with the scale as it was before its own rounding.
#![forbid(unsafe_code)]

use super::scale::{f16_at, put_f16, reciprocal};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q8_0;

impl Block for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const MAX_ABS: f32 = 65504.0 * 127.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<34, 32>(src, dst);
        let d = f16_at(src, 0);
        for i in 0..32 {
            dst[i] = d * (src[2 + i] as i8) as f32;
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        let d = src.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
        let inverse = reciprocal(d);
        put_f16(dst, 0, d);
        for (x, code) in src.iter().zip(&mut dst[2..]) {
            *code = (x * inverse).round() as i8 as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        (bytes[2], bytes[33]) = (0x81, 3); // -127 and 3
        let mut want = [0.0; 32];
        (want[0], want[31]) = (-63.5, 1.5);
        let mut out = [9.0; 32];
        Q8_0::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 34];
        Q8_0::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
