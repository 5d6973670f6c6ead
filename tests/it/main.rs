//! Everything above the unit tests: one binary, a module per room.

mod common;

mod cli;

mod convert;
mod gguf;
mod kernels;
mod kernels_attention;
mod kernels_matmul;
mod media;
mod model;
mod position;
mod stream;
mod tensor;
mod text;
