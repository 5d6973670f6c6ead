//! AVX-512 with VNNI: the AVX-512 table with integer dot products in attention and in products with quantized weights.

use super::attention_avx512::vnni;
use super::avx512;
use super::matmul_avx512::INT8;
use crate::kernels::Kernels;

pub static TABLE: Kernels = Kernels { name: "avx512vnni", int8: INT8, attend: vnni::OPS, ..avx512::TABLE };
