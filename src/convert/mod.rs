//! Convert: a Hugging Face checkpoint folder becomes a text GGUF and a projector GGUF; any GGUF becomes a smaller one.
//! In: safetensors and JSON files, a family description from `converters/`. Out: files written through [`GgufWriter`].
//! Start reading at [`convert()`] and [`quantize()`].
//! On purpose absent here: the model's arithmetic.
//!
//! Neither needs more memory than the largest tensor it writes, and neither executes anything from the files it reads.
//!
//! [`GgufWriter`]: crate::gguf::GgufWriter
#![forbid(unsafe_code)]

mod checkpoint;
mod derive;
mod encode;
mod expr;
mod family;
mod file_type;
mod files;
mod from_hf;
pub mod hf_tokenizer;
mod imatrix;
mod like;
mod names;
mod packed;
mod plan;
mod preprocessor;
mod progress;
mod quantize;
mod safetensors;
mod staged;
mod values;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use file_type::FileType;
pub use from_hf::{ConvertOptions, ConvertReport, OutputFile, convert};
pub use progress::Progress;
pub use quantize::{QuantizeOptions, QuantizeReport, TensorReport, quantize};
