//! Formats that are read and not made here: small whole numbers, `codes`, with a scale for each 16 elements.
//!
//! A format says once what its codes and scales are ([`Coded`]); the decoder and the form that kernels compute with follow.
#![forbid(unsafe_code)]

use super::Block;

/// Elements that share a scale.
pub const SUB: usize = 16;
/// The largest block.
pub const MAX_LEN: usize = 256;

/// A format of codes and scales: an element is `scale * code`.
pub trait Coded: Block {
    /// The largest magnitude of a code.
    const TOP: u8;
    /// A scale holds for 32 elements at least.
    const WIDE: bool;

    /// What one block holds: `src` (BYTES,) into `codes` (LEN,) and `scales` (LEN / 16,).
    ///
    /// # Panics
    /// When a length is wrong.
    fn expand(src: &[u8], codes: &mut [i8], scales: &mut [f32]);
}

/// Decodes one block.
#[inline(always)]
pub(super) fn decode<C: Coded>(src: &[u8], dst: &mut [f32]) {
    assert_eq!(dst.len(), C::LEN, "one block of elements");
    let (mut codes, mut scales) = ([0; MAX_LEN], [0.0; MAX_LEN / SUB]);
    C::expand(src, &mut codes[..C::LEN], &mut scales[..C::LEN / SUB]);
    for ((dst, codes), scale) in dst.chunks_exact_mut(SUB).zip(codes.chunks_exact(SUB)).zip(scales) {
        for (x, code) in dst.iter_mut().zip(codes) {
            *x = scale * f32::from(*code);
        }
    }
}

/// Formats of codes and scales as [`Block`]s: type, elements, bytes.
macro_rules! coded_blocks {
    ($($(#[$doc:meta])* $name:ident $len:literal $bytes:literal;)*) => {$(
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        pub struct $name;

        impl $crate::tensor::block::Block for $name {
            const TYPE: $crate::ggml_type::GgmlType = $crate::ggml_type::GgmlType::$name;
            const LEN: usize = $len;
            const BYTES: usize = $bytes;
            const MAX_ABS: f32 = 0.0;
            const IS_MADE: bool = false;

            #[inline(always)]
            fn decode(src: &[u8], dst: &mut [f32]) {
                $crate::tensor::block::coded::decode::<$name>(src, dst);
            }
        }
    )*};
}
pub(super) use coded_blocks;
