//! Kernels: those for CPUs, which are in the crate `numerics`, and what this package adds to them.
//! Start reading at `numerics/src/kernels/mod.rs`, or at `cuda` for GPUs. [`openh264`] and [`share_heaps`] stand apart: C
//! libraries whose own interfaces are called here because this is the room that may.

#[cfg(feature = "cuda")]
pub mod cuda;
mod heap;
pub mod openh264;

pub use heap::share_heaps;
pub use longtake_numerics::kernels::*;
