//! The language model's layers, for any device and any position layout: weights by name, and what a batch goes through.

use std::ops::Range;

use super::device::{Device, Finish, Heads, Linear, Norm, Product, Then};
use super::host::Host;
use super::weights::Loader;
use super::{HParams, Trace};
use crate::cache::KvCache;
use crate::{Result, error::Context};

/// One transformer block. Matrices are (rows, columns) = (outputs, inputs).
pub(super) struct Layer<D: Device> {
    pub attn_norm: Norm<D>,
    /// (n_head * d, n_embd)
    pub attn_q: Linear<D>,
    /// (n_head_kv * d, n_embd)
    pub attn_k: Linear<D>,
    pub attn_v: Linear<D>,
    /// (n_embd, n_head * d)
    pub attn_output: Linear<D>,
    pub ffn_norm: Norm<D>,
    /// (n_ff, n_embd)
    pub ffn_gate: Linear<D>,
    pub ffn_up: Linear<D>,
    /// (n_embd, n_ff)
    pub ffn_down: Linear<D>,
}

/// What turns hidden states into logits.
pub(super) struct Head<D: Device> {
    pub norm: Norm<D>,
    /// (n_vocab, n_embd)
    pub output: Linear<D>,
}

/// Working memory of a batch, reserved once for the largest.
pub(super) struct Rows<D: Device> {
    /// (n_tokens, n_embd)
    pub x: D::Rows,
    pub xb: D::Rows,
    /// (n_tokens, n_head * d)
    pub q: D::Rows,
    pub attn: D::Rows,
    /// (n_tokens, n_head_kv * d)
    pub k: D::Rows,
    pub v: D::Rows,
    /// (n_tokens, n_ff)
    pub hidden: D::Rows,
}

impl<D: Device> Rows<D> {
    /// Floats of each of these for `n_batch` tokens, in their order.
    pub fn sizes(hp: &HParams, n_batch: usize) -> [usize; 7] {
        let (q, kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        [hp.n_embd, hp.n_embd, q, q, kv, kv, hp.n_ff].map(|width| width * n_batch)
    }

    /// Of memory of these sizes.
    pub fn of([x, xb, q, attn, k, v, hidden]: [D::Rows; 7]) -> Rows<D> {
        Rows { x, xb, q, attn, k, v, hidden }
    }
}

impl Layer<Host> {
    /// Layer `il`, or `None` where a matrix is missing: a recorded problem, which [`Loader::finish`] turns into the error.
    pub fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<Layer<Host>> {
        let (n_embd, n_ff) = (hp.n_embd, hp.n_ff);
        let (n_q, n_kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        let name = |part: &str| format!("blk.{il}.{part}");
        // Every tensor is asked for before the first `?`, so that one error lists all that are wrong.
        let attn_norm = load.rms_norm(&name("attn_norm"), n_embd);
        let attn_q = load.linear(&name("attn_q"), n_embd, n_q);
        let attn_k = load.linear(&name("attn_k"), n_embd, n_kv);
        let attn_v = load.linear(&name("attn_v"), n_embd, n_kv);
        let attn_output = load.matrix(&name("attn_output"), n_q, n_embd);
        let ffn_norm = load.rms_norm(&name("ffn_norm"), n_embd);
        let ffn_gate = load.matrix(&name("ffn_gate"), n_embd, n_ff);
        let ffn_up = load.matrix(&name("ffn_up"), n_embd, n_ff);
        let ffn_down = load.matrix(&name("ffn_down"), n_ff, n_embd);
        Some(Layer {
            attn_norm,
            attn_q: attn_q?,
            attn_k: attn_k?,
            attn_v: attn_v?,
            attn_output: attn_output?,
            ffn_norm,
            ffn_gate: ffn_gate?,
            ffn_up: ffn_up?,
            ffn_down: ffn_down?,
        })
    }

    /// A copy of the layer on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
    pub fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Layer<D>> {
        Ok(Layer {
            attn_norm: self.attn_norm.on::<D>(home, what)?,
            attn_q: self.attn_q.on::<D>(home, what)?,
            attn_k: self.attn_k.on::<D>(home, what)?,
            attn_v: self.attn_v.on::<D>(home, what)?,
            attn_output: self.attn_output.on::<D>(home, what)?,
            ffn_norm: self.ffn_norm.on::<D>(home, what)?,
            ffn_gate: self.ffn_gate.on::<D>(home, what)?,
            ffn_up: self.ffn_up.on::<D>(home, what)?,
            ffn_down: self.ffn_down.on::<D>(home, what)?,
        })
    }
}

impl<D: Device> Layer<D> {
    /// All of its matrices.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host counts whole files"))]
    pub fn linears(&self) -> [&Linear<D>; 7] {
        let Layer { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = self;
        [attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down]
    }
}

/// A batch on its way through consecutive layers of a device.
pub(super) struct Pass<'a, D: Device> {
    pub device: &'a D,
    pub hp: &'a HParams,
    /// Tokens of the batch.
    pub n: usize,
    /// Rows that have a use behind the last layer's keys and values.
    pub last: Range<usize>,
    /// One row a token.
    pub angles: &'a D::Angles,
}

impl<D: Device> Pass<'_, D> {
    /// Turns `s.x` into what the layers from number `first` on make of it, and puts their keys and values behind the filled
    /// slots of `cache`.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the device says.
    pub fn layers(
        &self,
        layers: &[Layer<D>],
        first: usize,
        s: &mut Rows<D>,
        cache: &mut KvCache,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        let (eps, q_width) = (hp.f_norm_rms_eps, hp.n_head * hp.n_embd_head);
        for (il, layer) in (first..).zip(layers) {
            let rows = if il + 1 < hp.n_layer { 0..n } else { self.last.clone() };
            device.norm(&layer.attn_norm, eps, n, (&s.x, 0), (&mut s.xb, 0))?;
            self.attention(layer, il, rows.clone(), s, cache).at(|| format!("layer {il}"))?; // x += wo · attn(xb)
            if let (0, Some(trace)) = (il, trace.as_deref_mut()) {
                trace.layer0_q_last = device.read(&s.q, (rows.len() - 1) * q_width, q_width)?;
            }
            if rows.is_empty() {
                break;
            }
            device.norm(&layer.ffn_norm, eps, rows.len(), (&s.x, rows.start), (&mut s.xb, 0))?;
            self.ffn(layer, rows, s).at(|| format!("layer {il}"))?; // x += down · (silu(gate · xb) * up · xb)
            if let Some(trace) = trace.as_deref_mut() {
                trace.hidden_last.extend(device.read(&s.x, (n - 1) * hp.n_embd, hp.n_embd)?);
            }
        }
        Ok(())
    }

    /// Keys and values of all tokens, and what these rows see.
    fn attention(
        &self,
        layer: &Layer<D>,
        il: usize,
        rows: Range<usize>,
        s: &mut Rows<D>,
        cache: &mut KvCache,
    ) -> Result<()> {
        let Pass { device, hp, n, angles, .. } = *self;
        let HParams { n_head, n_head_kv, n_embd_head: d, .. } = *hp;
        let Layer { attn_q, attn_k, attn_v, attn_output, .. } = layer;
        let qkv = [(attn_q, &mut s.q), (attn_k, &mut s.k), (attn_v, &mut s.v)].map(|(w, out)| Product::raw(w, out));
        if rows.len() == n {
            device.products(n, (&s.xb, 0), qkv)?;
        } else {
            let [_, k, v] = qkv;
            device.products(n, (&s.xb, 0), [k, v])?;
        }
        let (k, v) = ((&s.k, Finish::of(attn_k, Some(angles))), (&s.v, Finish::of(attn_v, None)));
        device.store(n, (n_head_kv, d), k, v, (cache, il))?;
        if rows.is_empty() {
            return Ok(());
        }
        if rows.len() < n {
            device.products(rows.len(), (&s.xb, rows.start), [Product::raw(attn_q, &mut s.q)])?;
        }
        device.finish(rows.len(), (n_head, d), Finish::of(attn_q, Some(angles)), rows.start, &mut s.q)?;
        let heads = Heads { n_head, n_head_kv, d, exact: true };
        device.attend(rows.clone(), heads, &s.q, (cache, il), &mut s.attn)?;
        let onto = (&mut s.x, rows.start);
        device.products(rows.len(), (&s.attn, 0), [Product::of(attn_output, Then::Add, onto)])
    }

    fn ffn(&self, layer: &Layer<D>, rows: Range<usize>, s: &mut Rows<D>) -> Result<()> {
        let device = self.device;
        device.gated(rows.len(), (&s.xb, 0), (&layer.ffn_gate, &layer.ffn_up), &mut s.hidden)?;
        let onto = (&mut s.x, rows.start);
        device.products(rows.len(), (&s.hidden, 0), [Product::of(&layer.ffn_down, Then::Add, onto)])
    }

    /// xb = norm(x) for the last `n_logits` rows, from the first one of xb on.
    ///
    /// # Errors
    /// What the device says.
    pub fn output_norm(
        &self,
        norm: &Norm<D>,
        n_logits: usize,
        s: &mut Rows<D>,
        trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        let n_rows = n_logits.max(usize::from(trace.is_some()));
        device.norm(norm, hp.f_norm_rms_eps, n_rows, (&s.x, n - n_rows), (&mut s.xb, 0))?;
        if let Some(trace) = trace {
            trace.hidden_last.extend(device.read(&s.xb, (n_rows - 1) * hp.n_embd, hp.n_embd)?);
        }
        Ok(())
    }
}
