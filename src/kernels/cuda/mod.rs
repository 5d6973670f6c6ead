//! CUDA: the same operations on a GPU (cargo feature `cuda`).
//! In: rows and packed weights in the memory of a GPU. Out: rows there. The kernels are the `.cu` files beside this one, one
//! per operation; `build.rs` compiles them with nvcc for GPUs and, in front of `tests/cuda_emu`, with the C++ compiler of
//! the host, so that the very same sources run where there is no GPU.
//! Start reading at [`Gpu`], then `ops.rs`, which checks lengths and launches; `product.rs` chooses the kernel of a product,
//! `table.rs` tells kernels of several caches, `stream.rs` orders work and records it, `staging.rs` moves bytes between host and GPU.
//! `driver.rs` is the only file that calls NVIDIA's library, which is looked for at run time, and `emulated.rs` stands in
//! its place in tests.
//! On purpose absent here: layer order, positions (kernels see cos and sin), what a tensor is called.

mod attention;
mod delta;
mod driver;
#[cfg(feature = "cuda-emulation")]
mod emulated;
mod experts;
mod kernel;
mod memory;
mod ops;
mod product;
mod staging;
mod stream;
mod table;

pub use attention::{KvMem, KvPart, Sees, Sequences, WindowMem};
pub use delta::{DeltaMem, DeltaRowsMem};
pub use driver::{GpuInfo, gpus};
pub use experts::{ExpertsMem, PairMem, StackMem};
pub use memory::{Copy2d, Gpu, Mem, MemId};
pub use ops::{Rotation, TopMem};
pub use product::{DevMat, EpilogueMem, Input, QuantizedMem};
pub use staging::HostMem;
pub use stream::{GpuEvent, Graph, Stream};
pub use table::{CachedSeq, SeqTable};
