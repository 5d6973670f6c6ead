//! GGUF: bytes on disk become named, typed, bounds-checked ranges.
//! In: a path or bytes. Out: [`Gguf`] (metadata and tensor ranges) and [`GgufWriter`].
//! Start reading at [`Gguf::open`], which maps and calls the pure [`parse`](parse::parse); every cap stands in [`limits`].
//! On purpose absent here: what the tensors mean, and anything that executes. No path found in a file is ever opened.

mod foreign;
pub mod keys;
pub mod limits;
pub mod parse;
mod reader;
mod split;
mod storage;
mod mmap;
mod signals;
mod value;
mod tensor_info;
mod writer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use keys::Metadata;
#[doc(inline)]
pub use longtake_numerics::{GgmlType, ggml_type};
pub use mmap::FileCopy;
pub use reader::{Gguf, GgufOptions};
pub use signals::{catch_file_signals, check_nothing_lost};
pub use split::SPLIT_KEYS;
pub use tensor_info::TensorInfo;
pub use value::{Array, Value, ValueType};
pub use writer::GgufWriter;
