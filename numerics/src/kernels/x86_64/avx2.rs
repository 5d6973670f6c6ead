//! AVX2 with FMA and F16C.

use super::attention_avx2::Avx2;
use super::attention_avx2::plain::OPS as ATTEND;
use super::matmul_avx2::plain::INT8;
use crate::kernels::body::table;
use crate::kernels::delta::delta_ops;

delta_ops!(Avx2<false>, "avx2,fma,f16c");
table!("avx2", Avx2<false>, "avx2,fma,f16c");
