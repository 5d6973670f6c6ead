//! AVX-512 (F, BW, VL, DQ).

use super::attention_avx512::plain::OPS as ATTEND;
use super::matmul_avx512::plain::INT8;
use crate::kernels::Kernels;
use crate::kernels::body::{Isa, table};

pub struct Avx512;

impl Isa for Avx512 {
    const FMA: bool = true;
}

table!("avx512", Avx512, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");

/// The table, where the CPU has what it is compiled with.
pub fn detect() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    found.then_some(&TABLE)
}
