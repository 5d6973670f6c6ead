//! Longtake answers questions about hours of video on your own machine.
//!
//! The modules stand in reading order, which is also the order in which data flows: bytes on disk become tensors,
//! tensors meet kernels, positions and the cache, the model reads frames and words, and the front doors print answers.
//! Imports run one way only: a room imports rooms above it in this list. `docs/ARCHITECTURE.md` is the map.
//!
//! Programs enter through [`api`]:
//!
//! ```standalone_crate
#![doc = include_str!("../examples/ask_video.rs")]
//! ```
#![deny(missing_docs, unreachable_pub)]

/// Notes for people, in place of the standard library's macros of these names: those panic when nobody reads stderr any more,
/// as behind `2>&1 | head`, which is no reason to stop.
#[cfg(feature = "cli")]
macro_rules! eprint {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stderr(), $($words)*);
    }};
}
#[cfg(feature = "cli")]
macro_rules! eprintln {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

// What is hidden from the docs is no promise: parts of the program that its tests and benches look into.
pub mod error;
#[doc(hidden)]
pub use longtake_numerics::random;
#[doc(hidden)]
pub mod files;
pub mod gguf;
#[doc(inline)]
pub use longtake_numerics::{position, tensor};
pub mod kernels;
pub mod cache;
pub mod model;
pub mod media;
pub mod text;
pub mod stream;
#[cfg(feature = "convert")]
pub mod convert;
#[cfg(feature = "demo")]
#[doc(hidden)]
pub mod drawn;
pub mod api;
#[cfg(feature = "ffi")]
pub mod ffi;
#[cfg(feature = "eval")]
#[doc(hidden)]
pub mod eval;
#[cfg(feature = "server")]
pub(crate) mod server;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use api::{Answer, Cancel, Chat, ChatOptions, Frames, Longtake, OpenOptions};
pub use error::{Error, ErrorKind, Result};
