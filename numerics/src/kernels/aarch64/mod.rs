//! aarch64 tables: NEON, which every such CPU has, with dot products of bytes (dotprod) and with matrix products of bytes
//! (i8mm). `asm.rs` holds the instructions that Rust has no stable name for.

mod asm;
mod attention;
mod lanes;
mod matmul;
mod neon;

use super::detect::ask_cpu;
#[cfg(not(test))]
use super::{Kernels, isa::Unproven};

/// Every table, slowest first.
#[cfg(not(test))]
pub(super) static TABLES: [&Unproven<Kernels>; 3] = [&neon::UNPROVEN, &neon::DOT, &neon::I8MM];

ask_cpu!(is_aarch64_feature_detected: "neon" "dotprod" "i8mm");
