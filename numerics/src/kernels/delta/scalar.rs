//! The definition of the operations.

use super::{DeltaOps, DeltaProduct, DeltaStep, Keep, rows};
use crate::kernels::scalar::Scalar;

/// The operations for any machine.
pub(crate) const OPS: DeltaOps = DeltaOps {
    features: "",
    conv: rows::conv::<Scalar>,
    unit: rows::unit::<Scalar>,
    step,
    product,
    transpose,
    decay,
    blend: rows::blend::<Scalar>,
};

fn step(step: &DeltaStep<'_>, state: &mut [f32], out: &mut [f32]) {
    step.check(state, out);
    let (d_v, decay) = (out.len(), step.g.exp());
    // What the matrix says of the key, in `out`.
    out.fill(0.0);
    for (row, k) in state.chunks_exact(d_v).zip(step.k) {
        out.iter_mut().zip(row).for_each(|(o, s)| *o += s * k);
    }
    out.iter_mut().zip(step.v).for_each(|(o, v)| *o = step.beta * (v - decay * *o));
    for (row, k) in state.chunks_exact_mut(d_v).zip(step.k) {
        row.iter_mut().zip(&*out).for_each(|(s, o)| *s = decay * *s + k * o);
    }
    out.fill(0.0);
    for (row, q) in state.chunks_exact(d_v).zip(step.q) {
        out.iter_mut().zip(row).for_each(|(o, s)| *o += s * q);
    }
}

fn product(p: &DeltaProduct<'_>, keep: Keep<'_>, out: &mut [f32]) {
    p.check(keep, out);
    for (i, out) in out.chunks_mut(p.ldo).take(p.n_rows).enumerate() {
        let out = &mut out[..p.n_cols];
        match keep {
            Keep::Nothing => out.fill(0.0),
            _ => out.iter_mut().for_each(|o| *o *= keep.of(i)),
        }
        for (t, a) in p.a[i * p.lda..][..p.n_steps].iter().enumerate() {
            out.iter_mut().zip(&p.b[t * p.ldb..]).for_each(|(o, b)| *o += a * b);
        }
    }
}

fn transpose(x: &[f32], (n_rows, n_cols): (usize, usize), out: &mut [f32]) {
    assert!(x.len() == n_rows * n_cols && out.len() == x.len());
    for (i, row) in x.chunks_exact(n_cols).enumerate() {
        row.iter().enumerate().for_each(|(j, x)| out[j * n_rows + i] = *x);
    }
}

fn decay(row: &mut [f32], factor: f32, exponents: &[f32]) {
    for (x, e) in row.iter_mut().zip(exponents) {
        *x *= factor * if *e < -126.0 { 0.0 } else { e.exp2() };
    }
}
