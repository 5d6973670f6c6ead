//! Convert: a Hugging Face checkpoint folder becomes a text GGUF and a projector GGUF; any GGUF becomes a smaller one.
//! In: safetensors and JSON files, a family description from `converters/`. Out: files written through [`GgufWriter`].
//! Start reading at `convert` and `quantize`.
//! On purpose absent here: the model's arithmetic.
//!
//! [`GgufWriter`]: crate::gguf::GgufWriter
#![forbid(unsafe_code)]

pub mod hf_tokenizer;
