//! Tensors: checked bytes get meaning. One file per block format under [`block`]: its layout in words, dequantize, quantize.
//! In: bytes of a row and its [`GgmlType`](crate::ggml_type::GgmlType). Out: f32 values, or bytes again.
//! Start reading at [`dequantize_row`]. These scalar routines are the definition that every fast kernel is judged by.
//! On purpose absent here: matrix products, threads.
#![forbid(unsafe_code)]

pub mod block;
mod cache_type;
mod hadamard;
mod view;

pub use block::{can_dequantize, can_quantize, dequantize_row, quantize_row};
pub use cache_type::{CACHE_TYPES, CacheType};
pub use hadamard::{hadamard, hadamard_run};
pub use view::MatView;
