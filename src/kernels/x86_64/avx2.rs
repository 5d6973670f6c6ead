//! AVX2 with FMA and F16C.

use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

use super::attention_avx2::avx2::OPS as ATTEND;
use super::matmul_avx2::INT8;
use crate::kernels::Kernels;
use crate::kernels::body::{Isa, table};

pub struct Avx2;

impl Isa for Avx2 {
    const FMA: bool = true;

    #[inline(always)]
    fn dot_tile<const MR: usize, const NR: usize>(x: [&[f32]; MR], w: [&[f32]; NR], k: usize) -> [[f32; NR]; MR] {
        assert!(x.iter().chain(&w).all(|row| row.len() >= k));
        let whole = k / 8 * 8;
        let mut out = [[0f32; NR]; MR];
        // SAFETY: every row is at least `k` long and `at + 8 <= k`; only code compiled for AVX2 and FMA inlines this.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); NR]; MR];
            for at in (0..whole).step_by(8) {
                let b: [_; NR] = std::array::from_fn(|j| _mm256_loadu_ps(w[j].as_ptr().add(at)));
                for i in 0..MR {
                    let a = _mm256_loadu_ps(x[i].as_ptr().add(at));
                    for j in 0..NR {
                        acc[i][j] = _mm256_fmadd_ps(a, b[j], acc[i][j]);
                    }
                }
            }
            for i in 0..MR {
                for j in 0..NR {
                    let mut lanes = [0f32; 8];
                    _mm256_storeu_ps(lanes.as_mut_ptr(), acc[i][j]);
                    out[i][j] = lanes.iter().sum();
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

table!("avx2", Avx2, "avx2,fma,f16c");

/// The table, where the CPU has what it is compiled with.
pub fn detect() -> Option<&'static Kernels> {
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    found.then_some(&TABLE)
}
