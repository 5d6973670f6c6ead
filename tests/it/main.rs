//! Everything above the unit tests: one binary, a module per room.

mod common;

mod convert;
mod gguf;
mod kernels;
mod kernels_attention;
mod media;
mod model;
mod position;
mod tensor;
mod text;
