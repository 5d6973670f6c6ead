//! AVX2 with FMA and F16C.

use super::attention_avx2::avx2::OPS as ATTEND;
use super::matmul_avx2::INT8;
use crate::kernels::Kernels;
use crate::kernels::body::{Isa, table};

pub struct Avx2;

impl Isa for Avx2 {
    const FMA: bool = true;
}

table!("avx2", Avx2, "avx2,fma,f16c");

/// The table, where the CPU has what it is compiled with.
pub fn detect() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    found.then_some(&TABLE)
}
