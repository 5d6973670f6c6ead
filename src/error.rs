//! One error type for the whole library: what kind of fault, what happened, and where.
#![forbid(unsafe_code)]

pub(crate) use longtake_numerics::error::Context;
pub use longtake_numerics::error::{Error, ErrorKind, Result};
