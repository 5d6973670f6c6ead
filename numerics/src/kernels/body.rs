//! The operations, each written once in plain Rust that a compiler can vectorize. The tables compile these bodies for
//! their instruction sets; everything here is `inline(always)` so that it takes on the features of its caller.

use super::attention::simd::Simd;

/// What differs between instruction sets: whether multiply-add is one instruction.
pub(super) trait Isa {
    const FMA: bool;
}

/// Every instruction set with vectors.
impl<S: Simd> Isa for S {
    const FMA: bool = true;
}

#[inline(always)]
pub(super) fn mul_add<I: Isa>(a: f32, b: f32, c: f32) -> f32 {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to within 2 ulp for x <= 0 (softmax) and in the range of f32; below -87.3 it is 0. Cody-Waite reduction and a
/// polynomial of degree 6, without branches, so that it vectorizes.
#[inline(always)]
pub(super) fn exp<I: Isa>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.33, 88.37);
    let rounded = mul_add::<I>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = mul_add::<I>(n, -0.693_359_4, clamped);
    let r = mul_add::<I>(n, 2.121_944_4e-4, r);
    let p = mul_add::<I>(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = mul_add::<I>(p, r, 8.333_452e-3);
    let p = mul_add::<I>(p, r, 4.166_579_6e-2);
    let p = mul_add::<I>(p, r, 1.666_666_5e-1);
    let p = mul_add::<I>(p, r, 0.5);
    let p = mul_add::<I>(p * r, r, r) + 1.0;
    // The lowest bits of the rounded sum are those of n as an integer; a conversion would have to check its range.
    let scaled = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23) * p;
    if x < -87.33 { 0.0 } else { scaled }
}

#[inline(always)]
pub(super) fn sum_of<I: Isa>(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
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
pub(super) fn rms_norm<I: Isa>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of::<I>(x, |v| v * v) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * scale * w;
    }
}

#[inline(always)]
pub(super) fn layer_norm<I: Isa>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_of::<I>(x, |v| v) / n;
    let var = sum_of::<I>(x, |v| (v - mean) * (v - mean)) / n;
    let scale = 1.0 / (var + eps).sqrt();
    for (((o, v), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *o = (v - mean) * scale * w + b;
    }
}

#[inline(always)]
pub(super) fn silu_mul<I: Isa>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<I>(-*g)) * u;
    }
}

#[inline(always)]
pub(super) fn sigmoid_mul<I: Isa>(x: &mut [f32], gate: &[f32]) {
    for (x, g) in x.iter_mut().zip(gate) {
        *x /= 1.0 + exp::<I>(-*g);
    }
}

#[inline(always)]
pub(super) fn quick_gelu<I: Isa>(x: &mut [f32]) {
    for v in x {
        *v /= 1.0 + exp::<I>(-1.702 * *v);
    }
}

#[inline(always)]
pub(super) fn gelu_tanh<I: Isa>(x: &mut [f32]) {
    // 0.5 (1 + tanh(u)) is sigmoid(2 u).
    const TWICE: f32 = -2.0 * 0.797_884_6; // sqrt(2 / pi)
    for v in x {
        let u = *v * mul_add::<I>(0.044_715 * *v, *v, 1.0);
        *v /= 1.0 + exp::<I>(TWICE * u);
    }
}

/// Builds the table of an instruction set from the bodies: `table!(name, Isa, "features")`. The module has its integer
/// products in scope as `INT8`, its attention as `ATTEND` and its Gated DeltaNet as `DELTA`, each still unproven.
macro_rules! table {
    ($name:literal, $isa:ty $(, $features:literal)?) => {
        mod compiled {
            use super::*;
            use $crate::kernels::body;

            $(#[target_feature(enable = $features)])?
            pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                body::rms_norm::<$isa>(x, weight, eps, out)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
                body::layer_norm::<$isa>(x, weight, bias, eps, out)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
                body::silu_mul::<$isa>(gate, up)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
                body::sigmoid_mul::<$isa>(x, gate)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn quick_gelu(x: &mut [f32]) {
                body::quick_gelu::<$isa>(x)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn gelu_tanh(x: &mut [f32]) {
                body::gelu_tanh::<$isa>(x)
            }
        }

        use $crate::kernels::vector_fns::detected;
        pub(in $crate::kernels) const UNPROVEN: $crate::kernels::isa::Unproven<$crate::kernels::Kernels> =
            $crate::kernels::isa::Unproven::new($crate::kernels::Kernels {
            name: $name,
            features: concat!($($features)?),
            rms_norm: |x, w, eps, out| detected!(compiled::rms_norm(x, w, eps, out)),
            layer_norm: |x, w, b, eps, out| detected!(compiled::layer_norm(x, w, b, eps, out)),
            silu_mul: |gate, up| detected!(compiled::silu_mul(gate, up)),
            sigmoid_mul: |x, gate| detected!(compiled::sigmoid_mul(x, gate)),
            quick_gelu: |x| detected!(compiled::quick_gelu(x)),
            gelu_tanh: |x| detected!(compiled::gelu_tanh(x)),
            int8: $crate::kernels::scalar_matmul::PLAIN,
            attend: $crate::kernels::attention::SCALAR,
            delta: $crate::kernels::delta::SCALAR,
        })
        .with_int8(INT8)
        .with_attention(ATTEND)
        .with_delta(DELTA);
    };
}
pub(super) use table;
