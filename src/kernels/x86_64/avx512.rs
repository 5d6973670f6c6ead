//! AVX-512 (F, BW, VL, DQ).

use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps};

use super::attention_avx512::plain::OPS as ATTEND;
use super::matmul_avx2::INT8;
use crate::kernels::Kernels;
use crate::kernels::body::{Isa, table};

pub struct Avx512;

impl Isa for Avx512 {
    const FMA: bool = true;

    #[inline(always)]
    fn dot_tile<const MR: usize, const NR: usize>(x: [&[f32]; MR], w: [&[f32]; NR], k: usize) -> [[f32; NR]; MR] {
        assert!(x.iter().chain(&w).all(|row| row.len() >= k));
        let whole = k / 16 * 16;
        let mut out = [[0f32; NR]; MR];
        // SAFETY: every row is at least `k` long and `at + 16 <= k`; only code compiled for AVX-512F inlines this.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); NR]; MR];
            for at in (0..whole).step_by(16) {
                let b: [_; NR] = std::array::from_fn(|j| _mm512_loadu_ps(w[j].as_ptr().add(at)));
                for i in 0..MR {
                    let a = _mm512_loadu_ps(x[i].as_ptr().add(at));
                    for j in 0..NR {
                        acc[i][j] = _mm512_fmadd_ps(a, b[j], acc[i][j]);
                    }
                }
            }
            for i in 0..MR {
                for j in 0..NR {
                    out[i][j] = _mm512_reduce_add_ps(acc[i][j]);
                }
            }
        }
        for at in whole..k {
            for i in 0..MR {
                for j in 0..NR {
                    out[i][j] += x[i][at] * w[j][at];
                }
            }
        }
        out
    }
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
