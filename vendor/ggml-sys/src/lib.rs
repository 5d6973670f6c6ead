//! A real ggml and llama.cpp for the tests and benches of Longtake: an independent judge of formats, products and logits, and
//! a speed peer that runs in the same process. Nothing here is needed to run Longtake.
//! In: packed rows, activations, GGUF files. Out: what ggml makes of them.
//! Start reading at [`quantize`], [`MatMul`] and [`Context`]; [`sys`] holds the C functions as bindgen writes them.
//! The sources are those of the crate `llama-cpp-sys-2`, compiled for the CPU that `RUSTFLAGS=-Ctarget-cpu` names; without it
//! ggml uses AVX2 at most, which is enough for a judge and unfair to a peer ([`missing_features`]).

mod graph;
mod llama;
mod rows;
mod state;
pub mod sys;
mod system;

// Brings the compiled libraries.
use llama_cpp_sys_2 as _;

pub use graph::MatMul;
pub use llama::{Context, ContextOptions, Logits, Model};
pub use rows::{TypeId, convert, dequantize, dot, quantize, row_bytes, valid_rows};
pub use state::repeated;
pub use system::{Error, Result, missing_features, system_info};
