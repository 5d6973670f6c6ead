//! Matrix products against packed weights.
//! In: rows of f32 activations, packed rows of weights. Out: rows of f32.
//! Start reading at [`matmul`], then [`Activations`]: several matrices share one input, which is brought into the form of
//! their products once. A few tokens (decode) take weights as they lie in memory, in `dot.rs` where they are quantized and
//! `float.rs` where they are not. For many (prefill), `panel.rs` brings tiles of rows into panels of 8-bit or 16-bit
//! integers or floats, or of the formats' own codes, and `tile.rs` and `tile_codes.rs` multiply those; what follows a product is done on the tile ([`Epilogue`]). A format is
//! one function in `codes.rs`; an instruction set is one [`Int8Isa`].

mod activations;
pub(super) mod codes;
pub(super) mod dot;
pub(super) mod float;
pub(super) mod lanes;
mod ops;
pub(super) mod panel;
pub(super) mod tile;
#[cfg(target_arch = "x86_64")]
pub(super) mod tile_codes;

pub use activations::{Activations, Epilogue, Gelu, Stacked, TokenGroup};
pub use codes::CHUNK;
pub(super) use codes::Chunk;
pub use dot::{DotRows, RowChunk};
pub use float::FloatRows;
pub(super) use ops::{Int8Isa, int8_ops};
pub use ops::{Int8Ops, Layout, Number, PackRows, Panel, QuantizeTile, Tile, Word, panel_group};

use super::Kernels;
use crate::tensor::MatView;

/// Up to this many tokens the weights are used as they lie, and of quantized ones each token gets what it gets alone, bit for bit;
/// beyond, unpacking them into a panel pays.
pub const MAX_DOT_TOKENS: usize = 8;

/// out(n_tokens, w.n_rows) = x(n_tokens, w.n_cols) · wᵀ, for weights of any type with a decoder. Several products of one
/// input share its quantized form through [`Activations`].
///
/// # Panics
/// When the lengths disagree.
pub fn matmul(kernels: &Kernels, w: MatView<'_>, x: &[f32], out: &mut [f32]) {
    matmul_with(kernels, w, x, Epilogue::default(), out);
}

/// The same with a [`Epilogue`].
///
/// # Panics
/// When the lengths disagree.
pub fn matmul_with(kernels: &Kernels, w: MatView<'_>, x: &[f32], epilogue: Epilogue<'_>, out: &mut [f32]) {
    Activations::new(kernels, x, w.n_cols()).matmul_with(w, epilogue, out);
}
