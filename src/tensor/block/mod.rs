//! The table of block formats.

use crate::Result;
use crate::gguf::GgmlType;

/// Decodes whole blocks: `src` holds `dst.len()` elements of type `ty`.
///
/// # Panics
/// When the lengths disagree (a broken promise of the caller).
///
/// # Errors
/// `Unsupported` for a type without a decoder.
pub fn dequantize_row(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<()> {
    let _ = (ty, src, dst);
    todo!()
}

/// Encodes `src` as blocks of type `ty` into `dst`, replacing its content range exactly (`dst.len()` = row bytes).
/// `importance`, one non-negative weight per column, steers the search of K and IQ4 formats.
pub fn quantize_row(ty: GgmlType, src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) -> Result<()> {
    let _ = (ty, src, dst, importance);
    todo!()
}

/// Whether [`quantize_row`] knows `ty`.
pub fn can_quantize(ty: GgmlType) -> bool {
    let _ = ty;
    todo!()
}
