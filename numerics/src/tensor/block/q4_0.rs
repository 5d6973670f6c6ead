//! Q4_0: 32 elements in 18 bytes, symmetric.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | 4-bit codes: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * (code - 8)`. `d` may be negative: the element with the largest magnitude gets code 0, the end of
//! the range that reaches further.
#![forbid(unsafe_code)]

use super::scale::{f16_at, put_f16, reciprocal, signed_extreme};
use super::{Block, sized, symmetric};
use crate::ggml_type::GgmlType;

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct Q4_0;

impl Block for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const MAX_ABS: f32 = 65504.0 * 8.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<18, 32>(src, dst);
        let d = f16_at(src, 0);
        let (low, high) = dst.split_at_mut(16);
        for i in 0..16 {
            low[i] = d * ((src[2 + i] & 15) as i32 - 8) as f32;
            high[i] = d * ((src[2 + i] >> 4) as i32 - 8) as f32;
        }
    }

    fn encode(src: &[f32], dst: &mut [u8], _importance: Option<&[f32]>) {
        let d = signed_extreme(src) / -8.0;
        let inverse = reciprocal(d);
        put_f16(dst, 0, d);
        // In f64 the product is exact, as it is in the fused multiply-add that this format is usually packed with.
        let code = |x: f32| ((x as f64 * inverse as f64 + 8.5) as u8).min(15);
        for i in 0..16 {
            dst[2 + i] = code(src[i]) | code(src[i + 16]) << 4;
        }
    }
}

/// Encodes whole blocks with aligned scales (see [`symmetric::aligned`]): bytes of the same format, chosen with more care. Inlines
/// into its caller, to be compiled there with the caller's instruction set.
#[inline(always)]
pub(crate) fn encode_aligned(src: &[f32], dst: &mut [u8]) {
    for (x, to) in src.as_chunks::<32>().0.iter().zip(dst.as_chunks_mut::<18>().0) {
        let (d, values) = symmetric::aligned::<8>(x, [-8.0, -9.0, -8.5, -7.5, -7.0, -6.5]);
        put_f16(to, 0, d);
        for i in 0..16 {
            to[2 + i] = (values[i] as i32 + 8) as u8 | ((values[i + 16] as i32 + 8) as u8) << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0x88; 18];
        bytes[..2].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        bytes[2] = 0xf0; // element 0 has code 0, element 16 has code 15
        bytes[17] = 0x9a; // element 15 has code 10, element 31 has code 9
        let mut want = [0.0; 32];
        (want[0], want[16], want[15], want[31]) = (-4.0, 3.5, 1.0, 0.5);
        let mut out = [9.0; 32];
        Q4_0::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 18];
        Q4_0::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
