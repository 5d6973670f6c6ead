//! AVX-512 (F, BW, VL, DQ).

use super::attention_avx512::Avx512;
use super::attention_avx512::plain::OPS as ATTEND;
use super::matmul_avx512::plain::INT8;
use crate::kernels::body::table;
use crate::kernels::delta::delta_ops;

delta_ops!(Avx512<false>, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
table!("avx512", Avx512<false>, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
