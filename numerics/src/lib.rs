//! The numbers of Longtake: block formats, positions, kernels. Rooms of the house like those of the package `longtake`, which
//! shows them under the same names and is the one to use; a crate of their own, because every build there is needs them the
//! same, and they are what takes longest to optimise.
//! Imports run one way only: a room imports rooms above it in this list.
#![deny(missing_docs, unreachable_pub)]

pub mod error;
#[doc(hidden)]
pub mod random;
pub mod ggml_type;
pub mod tensor;
pub mod position;
#[cfg_attr(test, allow(dead_code))] // tables that unit tests do without (kernels/detect.rs)
pub mod kernels;

pub use error::{Error, ErrorKind, Result};
pub use ggml_type::GgmlType;
