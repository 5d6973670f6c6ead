//! IQ4_NL: 32 elements in 18 bytes; codes choose from sixteen unevenly spaced values, denser around zero.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | 4-bit codes: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * IQ4_VALUES[code]`.
#![forbid(unsafe_code)]

use super::scale::{f16_at, put_f16, weights};
use super::symmetric::{self, Grid};
use super::{Block, sized};
use crate::ggml_type::GgmlType;

/// What the sixteen codes of IQ4_NL and IQ4_XS stand for.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The format as a type, see the module's words.
#[allow(non_camel_case_types)]
pub struct IQ4_NL;

impl Block for IQ4_NL {
    const TYPE: GgmlType = GgmlType::IQ4_NL;
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const MAX_ABS: f32 = 65504.0 * 113.0;

    #[inline(always)]
    fn decode(src: &[u8], dst: &mut [f32]) {
        let (src, dst) = sized::<18, 32>(src, dst);
        decode_codes(f16_at(src, 0), &src[2..], dst);
    }

    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        let src = src.try_into().expect("one block of elements");
        let block = symmetric::encode_single::<Values, 32>(src, &weights(importance));
        put_f16(dst, 0, block.d);
        put_codes(&mut dst[2..], |i| block.value::<Values>(0, src[i]));
    }
}

/// 16 bytes of codes into 32 elements.
#[inline(always)]
pub(super) fn decode_codes(scale: f32, codes: &[u8], dst: &mut [f32]) {
    let (low, high) = dst.split_at_mut(16);
    for i in 0..16 {
        low[i] = scale * IQ4_VALUES[(codes[i] & 15) as usize] as f32;
        high[i] = scale * IQ4_VALUES[(codes[i] >> 4) as usize] as f32;
    }
}

/// [`IQ4_VALUES`] for the search.
pub(super) struct Values;

impl Grid for Values {
    const ENDS: (f32, f32) = (IQ4_VALUES[0] as f32, IQ4_VALUES[15] as f32);
    const STRETCH: f32 = 16.0;
    const STEPS: usize = 17;

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        // Walks up the values, passing one whenever `y` is beyond the middle: selects, no branches, so it vectorizes.
        let mut value = IQ4_VALUES[0] as f32;
        for pair in IQ4_VALUES.windows(2) {
            let (low, high) = (pair[0] as f32, pair[1] as f32);
            value = if y > (low + high) / 2.0 { high } else { value };
        }
        value
    }
}

/// Writes 32 codes, given as values, into 16 bytes.
pub(super) fn put_codes(dst: &mut [u8], value: impl Fn(usize) -> f32) {
    let code = |i| {
        let value = value(i) as i8;
        IQ4_VALUES.iter().filter(|v| **v < value).count() as u8
    };
    for (i, byte) in dst[..16].iter_mut().enumerate() {
        *byte = code(i) | code(i + 16) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let mut bytes = [0x88; 18]; // code 8 stands for 1
        bytes[..2].copy_from_slice(&[0x00, 0x38]); // d = 0.5
        bytes[2] = 0xf0; // element 0 has code 0, element 16 has code 15
        let mut want = [0.5; 32];
        (want[0], want[16]) = (-63.5, 56.5);
        let mut out = [9.0; 32];
        IQ4_NL::decode(&bytes, &mut out);
        assert_eq!(out, want);
        let mut again = [0; 18];
        IQ4_NL::encode(&want, &mut again, None);
        assert_eq!(again, bytes);
    }
}
