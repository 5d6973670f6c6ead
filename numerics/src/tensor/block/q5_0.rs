//! Q5_0: 32 elements in 22 bytes, symmetric.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..6 | fifth bits, little-endian u32: bit `i` belongs to element `i` |
//! | 6..22 | lower four bits: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * (code - 16)`. `d` may be negative: the element with the largest magnitude gets code 0.
#![forbid(unsafe_code)]

use super::scale::{f16_at, put_f16, reciprocal, signed_extreme, u32_at};
use super::{Block, sized, symmetric};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q5_0;

impl Block for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const MAX_ABS: f32 = 65504.0 * 16.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<22, 32>(src, dst);
        let (d, fifth) = (f16_at(src, 0), u32_at(src, 2));
        let (low, high) = dst.split_at_mut(16);
        for i in 0..16 {
            let (a, b) = ((src[6 + i] & 15) as u32, (src[6 + i] >> 4) as u32);
            low[i] = d * ((a | (fifth >> i & 1) << 4) as i32 - 16) as f32;
            high[i] = d * ((b | (fifth >> (i + 16) & 1) << 4) as i32 - 16) as f32;
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        let d = signed_extreme(src) / -16.0;
        let inverse = reciprocal(d);
        put_f16(dst, 0, d);
        // In f64 the product is exact, as it is in the fused multiply-add that this format is usually packed with.
        let code = |x: f32| ((x as f64 * inverse as f64 + 16.5) as u8).min(31);
        put_codes_5(&mut dst[2..], |i| code(src[i]));
    }
}

/// Encodes whole blocks with aligned scales (see [`symmetric::aligned`]): bytes of the same format, chosen with more care. Inlines
/// into its caller, to be compiled there with the caller's instruction set.
#[inline(always)]
pub(crate) fn encode_aligned(src: &[f32], dst: &mut [u8]) {
    for (x, to) in src.as_chunks::<32>().0.iter().zip(dst.as_chunks_mut::<22>().0) {
        let (d, values) = symmetric::aligned::<16>(x, [-16.0, -17.0, -16.5, -15.5, -15.0, -14.5]);
        put_f16(to, 0, d);
        put_codes_5(&mut to[2..], |i| (values[i] as i32 + 16) as u8);
    }
}

/// Writes 32 codes of five bits as four bytes of fifth bits and 16 bytes of halves; shared with Q5_1.
pub(super) fn put_codes_5(dst: &mut [u8], code: impl Fn(usize) -> u8) {
    let mut fifth = 0u32;
    for i in 0..16 {
        let (a, b) = (code(i), code(i + 16));
        dst[4 + i] = a & 15 | b << 4;
        fifth |= (a as u32 >> 4) << i | (b as u32 >> 4) << (i + 16);
    }
    dst[..4].copy_from_slice(&fifth.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0; 22];
        bytes[..2].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        bytes[2..6].fill(0xff); // codes from 16 on, that is elements from 0 on
        bytes[2] = 0xfe; // but element 0 has code 0
        bytes[6] = 0xf0; // element 16 has code 31
        bytes[21] = 0x9a; // element 15 has code 26, element 31 has code 25
        let mut want = [0.0; 32];
        (want[0], want[16], want[15], want[31]) = (-8.0, 7.5, 5.0, 4.5);
        let mut out = [9.0; 32];
        Q5_0::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 22];
        Q5_0::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
