//! x86-64 tables.

mod attention_avx2;
mod attention_avx512;
pub mod avx2;
pub mod avx512;
mod matmul_avx2;
mod matmul_avx512;
mod ymm;

use super::Kernels;

/// Every table that this CPU can run, slowest first.
pub fn detect() -> impl Iterator<Item = &'static Kernels> {
    [avx2::detect(), matmul_avx2::detect_vnni(), avx512::detect(), matmul_avx512::detect()].into_iter().flatten()
}
