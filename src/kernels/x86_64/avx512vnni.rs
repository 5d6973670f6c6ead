//! AVX-512 with VNNI: the AVX-512 table with integer dot products in attention and in products with quantized weights.

use super::{attention_avx512, avx512, matmul_avx512};
use crate::kernels::Kernels;

pub static TABLE: Kernels = Kernels {
    name: "avx512vnni",
    int8: matmul_avx512::vnni::INT8,
    attend: attention_avx512::vnni::OPS,
    ..avx512::TABLE
};
