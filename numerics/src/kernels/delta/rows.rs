//! What is done to single rows, in plain Rust that a compiler can vectorize: see [`DeltaOps`](super::DeltaOps).

use super::UNIT_EPS;
use crate::kernels::body::{Isa, exp, mul_add, sum_of};

#[inline(always)]
pub(crate) fn conv<I: Isa>(taps: [&[f32]; 4], inputs: [&[f32]; 4], x: &mut [f32]) {
    let n = x.len();
    let ([a, b, c, d], [p, q, r, s]) = (taps.map(|tap| &tap[..n]), inputs.map(|input| &input[..n]));
    for i in 0..n {
        let sum = mul_add::<I>(d[i], s[i], mul_add::<I>(c[i], r[i], mul_add::<I>(b[i], q[i], a[i] * p[i])));
        x[i] = sum / (1.0 + exp::<I>(-sum));
    }
}

#[inline(always)]
pub(crate) fn unit<I: Isa>(x: &mut [f32], length: f32) {
    let scale = length / (sum_of::<I>(x, |v| v * v) + UNIT_EPS).sqrt();
    x.iter_mut().for_each(|v| *v *= scale);
}

#[inline(always)]
pub(crate) fn blend<I: Isa>(y: &mut [f32], kept: f32, x: &[f32], factor: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = mul_add::<I>(*x, factor, *y * kept);
    }
}
