//! The libraries for C: everything is in `longtake::ffi`.

pub use engine::ffi::*;
