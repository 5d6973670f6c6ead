//! The table of block formats, and the two generic loops over it.
//!
//! A format is one file: its layout in words, a unit type that implements [`Block`], a test on bytes written by hand.
//! It becomes known to the program by one row in `with_block!`, the only place that turns a [`GgmlType`] into a Rust type.
//! Decoders are plain loops over 16 or 32 elements without branches, so that they vectorize wherever they are inlined.
//!
//! Formats that are codes and scales, and that are read but not made here, say only these (`coded`).
//!
//! The simple formats are packed as everyone packs them, byte for byte. The others have a search each, which minimizes the
//! squared error, weighted by importance where that is known: `affine` for formats with minima, `symmetric` for the rest.
#![forbid(unsafe_code)]

mod affine;
mod coded;
mod few_bits;
mod fp4;
mod grids;
mod iq1;
mod iq2;
mod iq3;
mod iq4_nl;
mod iq4_xs;
mod lanes;
mod plain_bf16;
mod plain_f16;
mod plain_f32;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scale;
mod symmetric;

pub use coded::{Coded, MAX_LEN, SUB};
pub use few_bits::{Q1_0, Q2_0, TQ1_0, TQ2_0};
pub use fp4::{MXFP4, NVFP4};
pub use iq1::{IQ1_M, IQ1_S};
pub use iq2::{IQ2_S, IQ2_XS, IQ2_XXS};
pub use iq3::{IQ3_S, IQ3_XXS};
pub use iq4_nl::{IQ4_NL, IQ4_VALUES};
pub use iq4_xs::IQ4_XS;
pub(crate) use lanes::largest;
pub use plain_bf16::BF16;
pub use plain_f16::{F16, f16_to_f32};
pub use plain_f32::F32;
pub use q2_k::Q2_K;
pub use q3_k::Q3_K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4_K;
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;
pub use scale::{q3_k_scales, q4_k_scales};
pub(crate) use {q4_0::encode_aligned as encode_aligned_q4_0, q5_0::encode_aligned as encode_aligned_q5_0};

use crate::ggml_type::GgmlType;
use crate::{Error, Result};

/// One element type: how many elements share how many bytes, and how to go from one to the other.
pub trait Block {
    /// The type in the file.
    const TYPE: GgmlType;
    /// Elements per block.
    const LEN: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// The largest magnitude that a block can hold; larger values have no scale that fits the format.
    const MAX_ABS: f32;
    /// Whether blocks are made here, and not only read.
    const IS_MADE: bool = true;

    /// Decodes one block: `src` (BYTES,) into `dst` (LEN,).
    ///
    /// # Panics
    /// When a length is wrong.
    fn decode(src: &[u8], dst: &mut [f32]);

    /// Encodes one block: `src` (LEN,) into `dst` (BYTES,). Every value is finite and at most `MAX_ABS` in magnitude.
    /// `importance` (LEN,) holds finite, non-negative weights of the squared error; formats without a search ignore it.
    ///
    /// # Panics
    /// When a length is wrong, and for a format that is not made here.
    fn encode(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) {
        let _ = (src, dst, importance);
        panic!("{} is not made here", Self::TYPE);
    }
}

/// Evaluates `$body` with `$B` naming the [`Block`] type of `$ty`: `with_block!(ty, B => dot_row::<B>(x, y))`.
/// The value is `Ok(body)`, or `Err` of kind `Unsupported` for a type that has no [`Block`].
macro_rules! with_block {
    ($ty:expr, $B:ident => $body:expr) => {
        $crate::tensor::block::with_block!(@rows $ty, $B, $body,
            F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS
            IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S TQ1_0 TQ2_0 Q1_0 Q2_0 MXFP4 NVFP4)
    };
    (@rows $ty:expr, $B:ident, $body:expr, $($name:ident)*) => {
        match $ty {
            $($crate::ggml_type::GgmlType::$name => {
                type $B = $crate::tensor::block::$name;
                Ok($body)
            })*
            other => Err($crate::Error::unsupported(format!("tensor type `{other}` cannot be computed with"))),
        }
    };
}
pub(crate) use with_block;

/// Decodes whole blocks: `src` holds exactly `dst.len()` elements. Inlines into its caller, to be compiled there with the
/// caller's instruction set.
///
/// # Panics
/// When `dst` is not a whole number of blocks or the lengths disagree.
#[inline(always)]
pub fn dequantize_blocks<B: Block>(src: &[u8], dst: &mut [f32]) {
    assert!(
        dst.len().is_multiple_of(B::LEN)
            && src.len().is_multiple_of(B::BYTES)
            && src.len() / B::BYTES == dst.len() / B::LEN,
        "{} bytes are not {} elements of {}",
        src.len(),
        dst.len(),
        B::TYPE
    );
    for (block, out) in src.chunks_exact(B::BYTES).zip(dst.chunks_exact_mut(B::LEN)) {
        B::decode(block, out);
    }
}

/// Decodes whole blocks: `src` holds `dst.len()` elements of type `ty`.
///
/// # Panics
/// When the lengths disagree (a broken promise of the caller).
///
/// # Errors
/// `Unsupported` for a type without a decoder.
pub fn dequantize_row(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<()> {
    with_block!(ty, B => dequantize_blocks::<B>(src, dst))
}

/// Encodes `src` as blocks of type `ty` into `dst`, replacing its content range exactly (`dst.len()` = row bytes).
/// `importance`, one non-negative weight per column, steers the search of K and IQ4 formats.
///
/// F32, F16 and BF16 convert whatever they get, as IEEE rounding says. The other formats need numbers that they can hold.
///
/// # Panics
/// When the lengths disagree (a broken promise of the caller).
///
/// # Errors
/// `Unsupported` for a type without an encoder; `BadInput` naming the index for a value that is NaN, infinite or too
/// large for the format, and for an importance that is negative, NaN or infinite.
pub fn quantize_row(ty: GgmlType, src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) -> Result<()> {
    with_block!(ty, B => quantize_blocks::<B>(src, dst, importance))?
}

/// Whether [`quantize_row`] knows `ty`.
pub fn can_quantize(ty: GgmlType) -> bool {
    with_block!(ty, B => B::IS_MADE).unwrap_or(false)
}

/// Whether [`dequantize_row`] knows `ty`.
pub fn can_dequantize(ty: GgmlType) -> bool {
    with_block!(ty, B => B::LEN > 0).is_ok()
}

fn quantize_blocks<B: Block>(src: &[f32], dst: &mut [u8], importance: Option<&[f32]>) -> Result<()> {
    if !B::IS_MADE {
        return Err(Error::unsupported(format!("tensors of type `{}` are read, but not made", B::TYPE)));
    }
    assert_eq!(B::TYPE.row_bytes(src.len()), Some(dst.len()), "bytes for {} elements of {}", src.len(), B::TYPE);
    let is_float = B::LEN == 1;
    // No range contains a NaN.
    if let Some(i) = src.iter().position(|x| !is_float && !(-B::MAX_ABS..=B::MAX_ABS).contains(x)) {
        let (x, ty, max) = (src[i], B::TYPE, B::MAX_ABS);
        return Err(Error::bad_input(format!("value `{x}` at index {i}: {ty} holds finite numbers up to {max:e}")));
    }
    if let Some(weights) = importance {
        assert_eq!(weights.len(), src.len(), "one importance per column");
        if let Some(i) = weights.iter().position(|w| !(0.0..=f32::MAX).contains(w)) {
            let w = weights[i];
            return Err(Error::bad_input(format!("importance `{w}` at index {i}: expected a finite number from 0")));
        }
    }
    for (i, (x, block)) in src.chunks_exact(B::LEN).zip(dst.chunks_exact_mut(B::BYTES)).enumerate() {
        B::encode(x, block, importance.map(|w| &w[i * B::LEN..][..B::LEN]));
    }
    Ok(())
}

/// The slices of [`Block::decode`] as arrays, which lets the compiler see their lengths.
#[inline(always)]
fn sized<'a, const BYTES: usize, const LEN: usize>(
    src: &'a [u8],
    dst: &'a mut [f32],
) -> (&'a [u8; BYTES], &'a mut [f32; LEN]) {
    // Fixed messages: formatting code would be inlined into every kernel.
    let src = src.try_into().expect("one block of bytes");
    let dst = dst.try_into().expect("one block of elements");
    (src, dst)
}
