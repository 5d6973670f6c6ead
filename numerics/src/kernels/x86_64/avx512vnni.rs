//! AVX-512 with VNNI: the AVX-512 table with integer dot products in attention and in products with quantized weights.

use super::{attention_avx512, avx512, matmul_avx512};
use crate::kernels::Kernels;
use crate::kernels::isa::Unproven;

pub(super) const UNPROVEN: Unproven<Kernels> = avx512::UNPROVEN
    .named("avx512vnni")
    .with_int8(matmul_avx512::vnni::INT8)
    .with_attention(attention_avx512::vnni::OPS);
