//! Gated DeltaNet: a layer that keeps, instead of a row per token, one matrix per head, and corrects it token by token.
//! In: the projections of a batch and the [`DeltaState`] that the tokens before left. Out: one row per token, and the state
//! with these tokens in it.
//! Start reading at [`delta()`]. First every head of queries, keys and values goes through its convolution (`rows.rs`), then every
//! value head through its tokens: one at a time (`DeltaOps::step`) or up to 64 at once (`chunk.rs`), which is the same sum in an
//! order that consists of matrix products. `scalar.rs` defines the operations; `vector.rs` has them for vectors.
//! On purpose absent here: projections, the order of heads in a checkpoint, which tokens a state has seen.

mod chunk;
mod ops;
pub(super) mod rows;
mod scalar;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod vector;

pub(super) use ops::delta_ops;
pub use ops::{DeltaOps, DeltaProduct, DeltaStep, Keep};
pub(super) use scalar::OPS as SCALAR;

use std::sync::OnceLock;

use super::disjoint::{SharedMat, SharedSlice};
use super::scratch::Carve;
use super::{Kernels, scratch, threads};
use crate::{Error, Result};
use chunk::Chunk;

/// Inputs of the convolution: the token's own and those of the three before.
pub const CONV_KERNEL: usize = 4;
/// What sizes of heads have to be multiples of: whole vectors of every instruction set.
pub const DELTA_ALIGN: usize = 16;
/// Tokens that are computed at once, at most. Products within such a group grow with its square, those with the state are shared
/// by it.
pub const DELTA_CHUNK: usize = 64;
/// Up to so many tokens are computed one after the other.
const FEW: usize = 1;
/// Elements of a batch that are worth a task of the convolution.
const TASK: usize = 1 << 14;
/// What is added to a sum of squares before its root: fixed in all models, unlike that of the norms.
const UNIT_EPS: f32 = 1e-6;

/// Sizes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeltaShape {
    /// Heads of queries and of keys.
    pub n_head_k: usize,
    /// Heads of values: head `j` uses keys and queries of head `j % n_head_k`.
    pub n_head_v: usize,
    /// Elements per head of keys.
    pub d_k: usize,
    /// Elements per head of values.
    pub d_v: usize,
}

impl DeltaShape {
    /// Columns of queries, and of keys.
    pub fn key_dim(&self) -> usize {
        self.n_head_k * self.d_k
    }

    /// Columns of queries, keys and values together, all of which go through the convolution.
    pub fn conv_dim(&self) -> usize {
        2 * self.key_dim() + self.value_dim()
    }

    /// Columns of values.
    pub fn value_dim(&self) -> usize {
        self.n_head_v * self.d_v
    }

    /// Floats of the convolution's part of a state.
    pub fn n_inputs(&self) -> usize {
        (CONV_KERNEL - 1) * self.conv_dim()
    }

    /// Floats of the matrices of a state.
    pub fn n_matrix(&self) -> usize {
        self.n_head_v * self.d_k * self.d_v
    }

    /// Floats of a state.
    pub fn n_state(&self) -> usize {
        self.n_inputs() + self.n_matrix()
    }

    /// What a piece of the channels is: its first column, its width, and what its rows are scaled to, for the queries, the keys
    /// and the values of all heads.
    fn piece(&self, i: usize) -> (usize, usize, Option<f32>) {
        let DeltaShape { n_head_k, d_k, d_v, .. } = *self;
        match i {
            i if i < n_head_k => (i * d_k, d_k, Some(1.0 / (d_k as f32).sqrt())),
            i if i < 2 * n_head_k => (i * d_k, d_k, Some(1.0)),
            i => (2 * n_head_k * d_k + (i - 2 * n_head_k) * d_v, d_v, None),
        }
    }
}

/// The small tensors of a layer.
#[derive(Debug, Clone, Copy)]
pub struct DeltaWeights<'a> {
    /// (CONV_KERNEL, n_channels), the factor of the oldest input first.
    pub conv: &'a [f32],
    /// (n_head_v): below 0, what log-decays are multiplied by.
    pub a: &'a [f32],
    /// (n_head_v): added to `alpha` before the softplus.
    pub dt_bias: &'a [f32],
    /// (d_v): what normalized outputs are multiplied by.
    pub norm: &'a [f32],
    /// What keeps that norm from dividing by zero.
    pub norm_eps: f32,
}

/// What a layer remembers of the tokens before.
#[derive(Debug)]
pub struct DeltaState<'a> {
    /// (CONV_KERNEL - 1, n_channels): the last inputs of the convolution, oldest first.
    pub conv: &'a mut [f32],
    /// (n_head_v, d_k, d_v)
    pub matrix: &'a mut [f32],
}

impl<'a> DeltaState<'a> {
    /// The two parts of a state of [`DeltaShape::n_state`] floats.
    ///
    /// # Panics
    /// When there are more or fewer.
    pub fn of(shape: &DeltaShape, state: &'a mut [f32]) -> DeltaState<'a> {
        assert_eq!(state.len(), shape.n_state(), "floats of a state");
        let (conv, matrix) = state.split_at_mut(shape.n_inputs());
        DeltaState { conv, matrix }
    }
}

/// The projections of `n` tokens.
#[derive(Debug)]
pub struct DeltaRows<'a> {
    /// (n, n_channels): queries, keys, values; changed on the way.
    pub qkv: &'a mut [f32],
    /// (n, n_value): gates of the output.
    pub z: &'a [f32],
    /// (n, n_head_v), before the sigmoid.
    pub beta: &'a [f32],
    /// (n, n_head_v), before the softplus.
    pub alpha: &'a [f32],
}

/// out(n, n_value) = norm(o) * silu(z), where for every token and value head, S being its matrix of the state:
/// q, k, v = silu(convolution), q and k of unit length, q / sqrt(d_k); S = e^g S, with g = a * softplus(alpha + dt_bias);
/// S += k ⊗ sigmoid(beta) (v - Sᵀ k); o = Sᵀ q.
///
/// # Errors
/// A row that is not finite: a model with broken weights. The state is then lost.
///
/// # Panics
/// When the lengths disagree, or heads are no multiples of [`DELTA_ALIGN`].
pub fn delta(
    kernels: &Kernels,
    shape: &DeltaShape,
    weights: DeltaWeights<'_>,
    state: DeltaState<'_>,
    rows: DeltaRows<'_>,
    out: &mut [f32],
) -> Result<()> {
    let DeltaShape { n_head_k, n_head_v, d_k, d_v } = *shape;
    let (n_channels, n_value) = (shape.conv_dim(), shape.value_dim());
    let n = out.len() / n_value;
    assert!(d_k.is_multiple_of(DELTA_ALIGN) && d_v.is_multiple_of(DELTA_ALIGN), "heads are whole vectors");
    assert!(n_head_v.is_multiple_of(n_head_k) && out.len() == n * n_value && rows.z.len() == out.len());
    assert!(rows.qkv.len() == n * n_channels && rows.beta.len() == n * n_head_v && rows.alpha.len() == n * n_head_v);
    assert!(weights.conv.len() == CONV_KERNEL * n_channels && weights.norm.len() == d_v);
    assert!(weights.a.len() == n_head_v && weights.dt_bias.len() == n_head_v);
    assert!(state.conv.len() == shape.n_inputs() && state.matrix.len() == shape.n_matrix());
    if n == 0 {
        return Ok(());
    }
    convolve(kernels, shape, weights.conv, state.conv, rows.qkv);
    let (qkv, matrix) = (&*rows.qkv, &SharedSlice::new(state.matrix));
    let out = &SharedMat::new(out, n_value);
    let broken = OnceLock::new();
    let chunk = Chunk { ops: &kernels.delta, d_k, d_v };
    threads::for_each(n_head_v, |j| {
        let (k_at, v_at) = ((n_head_k + j % n_head_k) * d_k, 2 * n_head_k * d_k + j * d_v);
        let q_at = k_at - n_head_k * d_k;
        // SAFETY: matrices of different heads do not overlap.
        let s = unsafe { matrix.get(j * d_k * d_v..(j + 1) * d_k * d_v) };
        let most = n.min(DELTA_CHUNK);
        let room = Carve::room(&[most * d_v, 2 * d_v, most, most]) + if n > FEW { chunk.room() } else { 0 };
        scratch::with(room, |buffer| {
            let mut from = Carve::new(buffer);
            let (o, rest) = (from.take(most * d_v), from.take(2 * d_v));
            let (beta, g) = (from.take(most), from.take(most));
            let mut work = (n > FEW).then(|| chunk.work(&mut from));
            for first in (0..n).step_by(DELTA_CHUNK) {
                let len = most.min(n - first);
                for (i, it) in (first..first + len).enumerate() {
                    beta[i] = sigmoid(rows.beta[it * n_head_v + j]);
                    g[i] = weights.a[j] * softplus(rows.alpha[it * n_head_v + j] + weights.dt_bias[j]);
                }
                let (o, beta, g) = (&mut o[..len * d_v], &beta[..len], &g[..len]);
                let part = |at: usize| &qkv[first * n_channels + at..];
                let (q, k, v) = (part(q_at), part(k_at), part(v_at));
                match &mut work {
                    Some(work) if len > FEW => {
                        chunk.run(work, &chunk::Head { q, k, v, ld: n_channels, beta, g }, s, o);
                    }
                    _ => {
                        for (i, o) in o.chunks_exact_mut(d_v).enumerate() {
                            let [q, k] = [q, k].map(|x| &x[i * n_channels..][..d_k]);
                            let v = &v[i * n_channels..][..d_v];
                            let step = DeltaStep { q, k, v, beta: beta[i], g: g[i] };
                            (kernels.delta.step)(&step, s, o);
                        }
                    }
                }
                for (i, o) in o.chunks_exact(d_v).enumerate() {
                    let (gated, normed) = rest.split_at_mut(d_v);
                    gated.copy_from_slice(&rows.z[(first + i) * n_value + j * d_v..][..d_v]);
                    (kernels.rms_norm)(o, weights.norm, weights.norm_eps, normed);
                    (kernels.silu_mul)(gated, normed);
                    if !gated.iter().all(|x| x.is_finite()) {
                        let message = format!("what value head {j} remembers is not finite: the weights are broken");
                        let _ = broken.set(Error::format(message)); // the first is enough
                    }
                    // SAFETY: only this task writes columns of this head.
                    unsafe { out.write(first + i, j * d_v, gated) };
                }
            }
        });
    });
    broken.into_inner().map_or(Ok(()), Err)
}

/// The convolution of all channels over the tokens of `qkv` and those before, in place; heads of queries and keys get unit length.
fn convolve(kernels: &Kernels, shape: &DeltaShape, taps: &[f32], conv: &mut [f32], qkv: &mut [f32]) {
    const PAST: usize = CONV_KERNEL - 1;
    let n_channels = shape.conv_dim();
    let n = qkv.len() / n_channels;
    let n_pieces = 2 * shape.n_head_k + shape.n_head_v;
    let per_task = (TASK * n_pieces / (n * n_channels)).clamp(1, n_pieces);
    let (past, rows) = (&SharedSlice::new(conv), &SharedSlice::new(qkv));
    threads::for_each(n_pieces.div_ceil(per_task), |task| {
        for i in task * per_task..n_pieces.min((task + 1) * per_task) {
            let (first, width, length) = shape.piece(i);
            let taps: [&[f32]; CONV_KERNEL] = std::array::from_fn(|t| &taps[t * n_channels + first..][..width]);
            scratch::with(CONV_KERNEL * width, |buffer| {
                // The last inputs take turns: that of token `it` is number `it % CONV_KERNEL`.
                let mut parts = buffer.chunks_exact_mut(width);
                let ring: [&mut [f32]; CONV_KERNEL] = std::array::from_fn(|_| parts.next().expect("as many parts"));
                let columns = |row: usize| row * n_channels + first..row * n_channels + first + width;
                for t in 0..PAST {
                    // SAFETY: only this task touches columns of this piece, here and below, and one slice of them at a time.
                    ring[t + 1].copy_from_slice(unsafe { past.get(columns(t)) });
                }
                for it in 0..n {
                    // SAFETY: as above.
                    let x = unsafe { rows.get(columns(it)) };
                    ring[it % CONV_KERNEL].copy_from_slice(x);
                    let inputs = std::array::from_fn(|t| &*ring[(it + 1 + t) % CONV_KERNEL]);
                    (kernels.delta.conv)(taps, inputs, x);
                    if let Some(length) = length {
                        (kernels.delta.unit)(x, length);
                    }
                }
                for t in 0..PAST {
                    // SAFETY: as above.
                    unsafe { past.get(columns(t)) }.copy_from_slice(ring[(n + 1 + t) % CONV_KERNEL]);
                }
            });
        }
    });
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x)
fn softplus(x: f32) -> f32 {
    // Beyond, e^-x is below the last bit.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
