//! AVX-512 with VNNI, the integer dot products.

use super::attention_avx512::OPS_VNNI as ATTEND;
use super::avx512::Avx512;
use crate::kernels::Kernels;
use crate::kernels::body::table;

table!("avx512vnni", Avx512, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

/// The table, where the CPU has what it is compiled with.
pub fn detect() -> Option<&'static Kernels> {
    (super::avx512::detect().is_some() && is_x86_feature_detected!("avx512vnni")).then_some(&TABLE)
}
