//! IQ4_NL: 32 elements in 18 bytes; codes choose from sixteen unevenly spaced values, denser around zero.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `d`, f16 |
//! | 2..18 | 4-bit codes: byte `i` holds element `i` in its low and element `i + 16` in its high half |
//!
//! An element is `d * IQ4_VALUES[code]`.
#![forbid(unsafe_code)]

use super::scale::f16_at;
use super::{Block, sized};
use crate::gguf::GgmlType;

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

    fn encode(_src: &[f32], _dst: &mut [u8], _importance: Option<&[f32]>) {
        todo!()
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
