//! CUDA: the same operations on a card (cargo feature `cuda`).
//! In: rows and packed weights in the memory of a card. Out: rows there. The kernels are the `.cu` files beside this one, one
//! per operation; `build.rs` compiles them with nvcc for cards and, in front of `tests/cuda_emu`, with the C++ compiler of
//! the host, so that the very same sources run where there is no card.
//! Start reading at [`Card`], then `ops.rs`, which checks lengths and launches; `product.rs` chooses the kernel of a product,
//! `stream.rs` orders work and records it, `staging.rs` moves bytes between host and card.
//! `driver.rs` is the only file that calls NVIDIA's library, which is looked for at run time, and `emulated.rs` stands in
//! its place in tests.
//! On purpose absent here: layer order, positions (kernels see cos and sin), what a tensor is called.

mod attention;
mod delta;
mod driver;
#[cfg(feature = "cuda-emulation")]
mod emulated;
mod kernel;
mod memory;
mod ops;
mod product;
mod staging;
mod stream;

pub use attention::{KvMem, Sees, Sequences, WindowMem};
pub use delta::{DeltaMem, DeltaRowsMem};
pub use driver::{CardInfo, cards};
pub use memory::{Card, Copy2d, Mem, MemId};
pub use ops::{Rotation, TopMem};
pub use product::{DevMat, EpilogueMem, Input, QuantizedMem};
pub use staging::HostMem;
pub use stream::{Event, Graph, Stream};
