//! x86-64 tables.

mod attention_avx2;
mod attention_avx512;
mod avx2;
mod avx512;
mod avx512vnni;
mod matmul_avx2;
mod matmul_avx512;
mod ymm;

use super::detect::ask_cpu;
#[cfg(not(test))]
use super::{Kernels, isa::Unproven};

/// Every table, slowest first.
#[cfg(not(test))]
pub(super) static TABLES: [&Unproven<Kernels>; 4] =
    [&avx2::UNPROVEN, &matmul_avx2::vnni::UNPROVEN, &avx512::UNPROVEN, &avx512vnni::UNPROVEN];

ask_cpu!(is_x86_feature_detected:
    "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni");
