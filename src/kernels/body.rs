//! The operations, each written once in plain Rust that a compiler can vectorize. The tables compile these bodies for
//! their instruction sets; everything here is `inline(always)` so that it takes on the features of its caller.

use super::Nt;
use super::attention::simd::Simd;
use crate::gguf::GgmlType;
use crate::tensor::block::{dequantize_blocks, with_block};

/// What differs between instruction sets: how rows are multiplied, and whether multiply-add is one instruction.
pub trait Isa {
    const FMA: bool;
    /// Sum over k of `x[i][k] * w[j][k]` for MR rows of x and NR rows of w, all at least `k` long.
    fn dot_tile<const MR: usize, const NR: usize>(x: [&[f32]; MR], w: [&[f32]; NR], k: usize) -> [[f32; NR]; MR];
}

/// Every instruction set with vectors.
// Loops over a register block run over several arrays at once, and have to be unrolled.
#[allow(clippy::needless_range_loop)]
impl<S: Simd> Isa for S {
    const FMA: bool = true;

    #[inline(always)]
    fn dot_tile<const MR: usize, const NR: usize>(x: [&[f32]; MR], w: [&[f32]; NR], k: usize) -> [[f32; NR]; MR] {
        assert!(x.iter().chain(&w).all(|row| row.len() >= k));
        let whole = k / S::L * S::L;
        let mut out = [[0f32; NR]; MR];
        // SAFETY: every row is at least `k` long and `at + L <= k`; only code compiled for the instruction set inlines this.
        unsafe {
            let mut acc = [[S::splat(0.0); NR]; MR];
            for at in (0..whole).step_by(S::L) {
                let mut b = [S::splat(0.0); NR];
                for j in 0..NR {
                    b[j] = S::load(w[j].as_ptr().add(at));
                }
                for i in 0..MR {
                    let a = S::load(x[i].as_ptr().add(at));
                    for j in 0..NR {
                        acc[i][j] = S::fma(a, b[j], acc[i][j]);
                    }
                }
            }
            for i in 0..MR {
                for j in 0..NR {
                    out[i][j] = S::sum_of(acc[i][j]);
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

#[inline(always)]
pub fn mul_add<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `Isa::dot_tile` for L lanes, in plain Rust.
#[inline(always)]
pub fn dot_tile_lanes<I: Isa, const L: usize, const MR: usize, const NR: usize>(
    x: [&[f32]; MR],
    w: [&[f32]; NR],
    k: usize,
) -> [[f32; NR]; MR] {
    let mut acc = [[[0f32; L]; NR]; MR];
    let whole = k / L * L;
    for at in (0..whole).step_by(L) {
        for i in 0..MR {
            let a: &[f32; L] = x[i][at..at + L].try_into().expect("L long");
            for j in 0..NR {
                let b: &[f32; L] = w[j][at..at + L].try_into().expect("L long");
                for l in 0..L {
                    acc[i][j][l] = mul_add::<I>(a[l], b[l], acc[i][j][l]);
                }
            }
        }
    }
    let mut out = [[0f32; NR]; MR];
    for i in 0..MR {
        for j in 0..NR {
            let tail: f32 = (whole..k).map(|at| x[i][at] * w[j][at]).sum();
            out[i][j] = acc[i][j].iter().sum::<f32>() + tail;
        }
    }
    out
}

/// Calls a closure-like macro with MR x NR tiles covering (m, n).
#[inline(always)]
pub fn gemm_nt<I: Isa>(a: Nt<'_>, out: &mut [f32]) {
    let mut i = 0;
    while i < a.m {
        i += match a.m - i {
            1 => nt_rows::<I, 1>(a, i, out),
            2 | 3 => nt_rows::<I, 2>(a, i, out),
            _ => nt_rows::<I, 4>(a, i, out),
        };
    }
}

#[inline(always)]
fn nt_rows<I: Isa, const MR: usize>(a: Nt<'_>, i: usize, out: &mut [f32]) -> usize {
    let x: [&[f32]; MR] = std::array::from_fn(|r| &a.x[(i + r) * a.ldx..][..a.k]);
    let mut j = 0;
    while j < a.n {
        j += if a.n - j >= 4 { nt_tile::<I, MR, 4>(a, x, i, j, out) } else { nt_tile::<I, MR, 1>(a, x, i, j, out) };
    }
    MR
}

#[inline(always)]
fn nt_tile<I: Isa, const MR: usize, const NR: usize>(
    a: Nt<'_>,
    x: [&[f32]; MR],
    i: usize,
    j: usize,
    out: &mut [f32],
) -> usize {
    let w: [&[f32]; NR] = std::array::from_fn(|c| &a.w[(j + c) * a.ldw..][..a.k]);
    let tile = I::dot_tile(x, w, a.k);
    for (r, sums) in tile.iter().enumerate() {
        let row = &mut out[(i + r) * a.ldo + j..][..NR];
        for (o, s) in row.iter_mut().zip(sums) {
            *o = if a.accumulate { *o + s } else { *s };
        }
    }
    NR
}

/// e^x to within 2 ulp for x <= 0 (softmax) and in the range of f32; below -87.3 it is 0. Cody-Waite reduction and a
/// polynomial of degree 6, without branches, so that it vectorizes.
#[inline(always)]
pub fn exp<I: Isa>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.33, 88.37);
    let n = mul_add::<I>(clamped, std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = mul_add::<I>(n, -0.693_359_4, clamped);
    let r = mul_add::<I>(n, 2.121_944_4e-4, r);
    let p = mul_add::<I>(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = mul_add::<I>(p, r, 8.333_452e-3);
    let p = mul_add::<I>(p, r, 4.166_579_6e-2);
    let p = mul_add::<I>(p, r, 1.666_666_5e-1);
    let p = mul_add::<I>(p, r, 0.5);
    let p = mul_add::<I>(p * r, r, r) + 1.0;
    let scaled = f32::from_bits(((n as i32 + 127) as u32) << 23) * p;
    if x < -87.33 { 0.0 } else { scaled }
}

#[inline(always)]
fn sum_of<I: Isa>(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (whole, tail) = x.as_chunks::<16>();
    for c in whole {
        for l in 0..16 {
            lanes[l] += term(c[l]);
        }
    }
    lanes.iter().sum::<f32>() + tail.iter().map(|v| term(*v)).sum::<f32>()
}

#[inline(always)]
pub fn rms_norm<I: Isa>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of::<I>(x, |v| v * v) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * scale * w;
    }
}

#[inline(always)]
pub fn layer_norm<I: Isa>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of::<I>(x, |v| v) / n;
    let var = sum_of::<I>(x, |v| (v - mean) * (v - mean)) / n;
    let scale = 1.0 / (var + eps).sqrt();
    for (((o, v), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *o = (v - mean) * scale * w + b;
    }
}

#[inline(always)]
pub fn silu_mul<I: Isa>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<I>(-*g)) * u;
    }
}

#[inline(always)]
pub fn quick_gelu<I: Isa>(x: &mut [f32]) {
    for v in x {
        *v /= 1.0 + exp::<I>(-1.702 * *v);
    }
}

/// Decodes whole blocks of `ty`; types without a decoder were refused when the model was loaded.
#[inline(always)]
pub fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) {
    with_block!(ty, B => dequantize_blocks::<B>(src, dst)).expect("the loader accepts only types with a decoder");
}

/// Builds the table of an instruction set from the bodies: `table!(name, Isa, "features")`. The module has its integer
/// products in scope as `INT8` and its attention as `ATTEND`.
macro_rules! table {
    ($name:literal, $isa:ty $(, $features:literal)?) => {
        mod compiled {
            use super::*;
            use $crate::gguf::GgmlType;
            use $crate::kernels::{Nt, body};

            $(#[target_feature(enable = $features)])?
            pub fn dequantize(ty: GgmlType, src: &[u8], dst: &mut [f32]) {
                body::dequantize(ty, src, dst)
            }
            $(#[target_feature(enable = $features)])?
            pub fn gemm_nt(a: Nt<'_>, out: &mut [f32]) {
                body::gemm_nt::<$isa>(a, out)
            }
            $(#[target_feature(enable = $features)])?
            pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                body::rms_norm::<$isa>(x, weight, eps, out)
            }
            $(#[target_feature(enable = $features)])?
            pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
                body::layer_norm::<$isa>(x, weight, bias, eps, out)
            }
            $(#[target_feature(enable = $features)])?
            pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
                body::silu_mul::<$isa>(gate, up)
            }
            $(#[target_feature(enable = $features)])?
            pub fn quick_gelu(x: &mut [f32]) {
                body::quick_gelu::<$isa>(x)
            }
        }

        use $crate::kernels::vector_fns::detected;
        pub(in $crate::kernels) static TABLE: $crate::kernels::Kernels = $crate::kernels::Kernels {
            name: $name,
            features: concat!($($features)?),
            dequantize: |ty, src, dst| detected!(compiled::dequantize(ty, src, dst)),
            gemm_nt: |a, out| detected!(compiled::gemm_nt(a, out)),
            rms_norm: |x, w, eps, out| detected!(compiled::rms_norm(x, w, eps, out)),
            layer_norm: |x, w, b, eps, out| detected!(compiled::layer_norm(x, w, b, eps, out)),
            silu_mul: |gate, up| detected!(compiled::silu_mul(gate, up)),
            quick_gelu: |x| detected!(compiled::quick_gelu(x)),
            int8: INT8,
            attend: ATTEND,
        };
    };
}
pub(super) use table;
