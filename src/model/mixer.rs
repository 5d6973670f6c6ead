//! What mixes tokens in a layer of the language model: attention over keys and values, or a recurrence over a state. The weights,
//! by name; what is done with them is in `decoder.rs`.

use super::HParams;
use super::device::{Device, Linear, Norm};
use super::host::Host;
use super::hparams::LayerKind;
use super::weights::Loader;
use crate::kernels::CONV_KERNEL;
use crate::{Error, Result};

/// The first half of a layer.
pub(super) enum Mixer<D: Device> {
    Attention(Attention<D>),
    Recurrent(DeltaNet<D>),
}

/// Attention. Matrices are (rows, columns) = (outputs, inputs).
pub(super) struct Attention<D: Device> {
    /// (n_head * d, n_embd); of each head (2 * d), a query and a gate, where the spec has gates.
    pub q: Linear<D>,
    /// (n_head_kv * d, n_embd)
    pub k: Linear<D>,
    pub v: Linear<D>,
    /// (n_embd, n_head * d)
    pub output: Linear<D>,
    /// Norms of each head of queries and of keys, (d), where the spec has them.
    pub norms: Option<(Norm<D>, Norm<D>)>,
}

/// Gated DeltaNet: see [`DeltaShape`](crate::kernels::DeltaShape) for the sizes.
pub(super) struct DeltaNet<D: Device> {
    /// Queries, keys, values: (conv_dim, n_embd).
    pub qkv: Linear<D>,
    /// What gates the output: (value_dim, n_embd).
    pub gate: Linear<D>,
    /// (CONV_KERNEL, conv_dim), the factors of the oldest token first: transposed, so that channels are side by side.
    pub conv: D::Vec,
    /// How fast the state fades, (n_head_v): below 0, times a step that `alpha` and `dt` give.
    pub a: D::Vec,
    pub dt: D::Vec,
    /// How much is written, and the step: (n_head_v, n_embd) each.
    pub beta: Linear<D>,
    pub alpha: Linear<D>,
    /// The norm of each head of the output, (d_v).
    pub norm: D::Vec,
    /// (n_embd, value_dim)
    pub out: Linear<D>,
}

impl Mixer<Host> {
    /// That of layer `il`, or `None` where a matrix is missing.
    pub(super) fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<Mixer<Host>> {
        match hp.kinds[il] {
            LayerKind::Attention => Attention::load(load, hp, il).map(Mixer::Attention),
            LayerKind::Recurrent => DeltaNet::load(load, hp, il).map(Mixer::Recurrent),
        }
    }

    /// A copy on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Mixer<D>> {
        let on = |linear: &Linear<Host>| linear.on::<D>(home, what);
        Ok(match self {
            Mixer::Attention(Attention { q, k, v, output, norms }) => {
                let norm = |norm: &Norm<Host>| norm.on::<D>(home, what);
                let norms = norms.as_ref().map(|(q, k)| Ok::<_, Error>((norm(q)?, norm(k)?))).transpose()?;
                Mixer::Attention(Attention { q: on(q)?, k: on(k)?, v: on(v)?, output: on(output)?, norms })
            }
            Mixer::Recurrent(DeltaNet { qkv, gate, conv, a, dt, beta, alpha, norm, out }) => {
                let vec = |vec: &[f32]| D::vec(home, vec, what);
                Mixer::Recurrent(DeltaNet {
                    qkv: on(qkv)?,
                    gate: on(gate)?,
                    conv: vec(conv)?,
                    a: vec(a)?,
                    dt: vec(dt)?,
                    beta: on(beta)?,
                    alpha: on(alpha)?,
                    norm: vec(norm)?,
                    out: on(out)?,
                })
            }
        })
    }
}

impl<D: Device> Mixer<D> {
    /// All of its matrices.
    pub(super) fn linears(&self) -> Vec<&Linear<D>> {
        match self {
            Mixer::Attention(Attention { q, k, v, output, .. }) => vec![q, k, v, output],
            Mixer::Recurrent(DeltaNet { qkv, gate, beta, alpha, out, .. }) => vec![qkv, gate, beta, alpha, out],
        }
    }
}

impl Attention<Host> {
    fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<Attention<Host>> {
        let HParams { n_embd, n_head, n_head_kv, n_embd_head: d, spec, .. } = *hp;
        let block = format!("blk.{il}");
        // Every tensor is asked for before the first `?`, so that one error lists all that are wrong.
        let n_q = if spec.output_gate { 2 } else { 1 } * n_head * d;
        let [q, k, v] = load.qkv(&block, n_embd, [n_q, n_head_kv * d, n_head_kv * d], spec.qkv_bias);
        let output = load.matrix(&format!("{block}.attn_output"), n_head * d, n_embd);
        let mut norm = |part: &str| load.rms_norm(&format!("{block}.{part}"), d);
        let norms = spec.qk_norm.then(|| (norm("attn_q_norm"), norm("attn_k_norm")));
        Some(Attention { q: q?, k: k?, v: v?, output: output?, norms })
    }
}

impl DeltaNet<Host> {
    fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<DeltaNet<Host>> {
        let sizes = hp.recurrent?;
        let (n_embd, n_v) = (hp.n_embd, sizes.n_head_v);
        let name = |part: &str| format!("blk.{il}.{part}");
        let qkv = load.matrix(&name("attn_qkv"), n_embd, sizes.conv_dim());
        let gate = load.matrix(&name("attn_gate"), n_embd, sizes.value_dim());
        let taps = load.array(&name("ssm_conv1d.weight"), &[CONV_KERNEL, sizes.conv_dim()]);
        let tap = |t: usize| taps.iter().skip(t).step_by(CONV_KERNEL).copied();
        let conv = (0..CONV_KERNEL).flat_map(tap).collect();
        let (a, dt) = (load.vec(&name("ssm_a"), n_v), load.vec(&name("ssm_dt.bias"), n_v));
        let beta = load.matrix(&name("ssm_beta"), n_embd, n_v);
        let alpha = load.matrix(&name("ssm_alpha"), n_embd, n_v);
        let norm = load.vec(&name("ssm_norm.weight"), sizes.d_v);
        let out = load.matrix(&name("ssm_out"), sizes.value_dim(), n_embd);
        Some(DeltaNet { qkv: qkv?, gate: gate?, conv, a, dt, beta: beta?, alpha: alpha?, norm, out: out? })
    }
}
