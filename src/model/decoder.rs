//! The language model's layers, for any device, family and position layout: weights by name, and what a batch goes through.

use std::ops::Range;

use super::device::{Device, Finish, Heads, Linear, Norm, Product, Projected, Sequence, Then};
use super::ffn::Ffn;
use super::host::Host;
use super::mixer::{Attention, DeltaNet, Mixer};
use super::weights::Loader;
use super::{HParams, Trace};
use crate::{Result, error::Context};

/// One transformer block. Matrices are (rows, columns) = (outputs, inputs).
pub(super) struct Layer<D: Device> {
    pub attn_norm: Norm<D>,
    pub mixer: Mixer<D>,
    pub ffn_norm: Norm<D>,
    pub ffn: Ffn<D>,
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
    /// (n_tokens, n_head * d); of a recurrent layer the gates of the output and the output, (n_tokens, value_dim)
    pub q: D::Rows,
    pub attn: D::Rows,
    /// (n_tokens, n_head_kv * d); of a recurrent layer how much is written and kept, (n_tokens, n_head_v); then scores of
    /// experts, (n_tokens, n_expert), and how much of the shared one counts, (n_tokens)
    pub k: D::Rows,
    pub v: D::Rows,
    /// (n_tokens, n_ff), and keys on their way through a norm.
    pub hidden: D::Rows,
    /// (n_tokens, n_head, 2, d), where queries come with gates; of a recurrent layer (n_tokens, conv_dim)
    pub gated: D::Rows,
}

impl<D: Device> Rows<D> {
    /// Floats of each of these for `n_batch` tokens, in their order.
    pub(super) fn sizes(hp: &HParams, n_batch: usize) -> [usize; 8] {
        let (q, kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        let hidden = if hp.spec.qk_norm { hp.n_ff.max(kv) } else { hp.n_ff };
        let gated = if hp.spec.output_gate { 2 * q } else { 0 };
        // Recurrent layers have their gates and outputs, betas and alphas, and all that is convolved in the same places.
        let [value, per_head, conv] =
            hp.recurrent.map_or([0; 3], |shape| [shape.value_dim(), shape.n_head_v, shape.conv_dim()]);
        let n_expert = hp.experts.map_or(0, |shape| shape.n);
        let (q, kv) = (q.max(value), kv.max(per_head).max(n_expert));
        [hp.n_embd, hp.n_embd, q, q, kv, kv, hidden, gated.max(conv)].map(|width| width * n_batch)
    }

    /// Of memory of these sizes.
    pub(super) fn of([x, xb, q, attn, k, v, hidden, gated]: [D::Rows; 8]) -> Rows<D> {
        Rows { x, xb, q, attn, k, v, hidden, gated }
    }
}

impl Layer<Host> {
    /// Layer `il`, or `None` where a matrix is missing: a recorded problem, which [`Loader::finish`] turns into the error.
    pub(super) fn load(load: &mut Loader<'_>, hp: &HParams, il: usize) -> Option<Layer<Host>> {
        let name = |part: &str| format!("blk.{il}.{part}");
        // Every tensor is asked for before the first `?`, so that one error lists all that are wrong.
        let attn_norm = load.rms_norm(&name("attn_norm"), hp.n_embd);
        let mixer = Mixer::load(load, hp, il);
        let ffn_norm = load.rms_norm(&name(hp.spec.ffn_norm), hp.n_embd);
        let ffn = Ffn::load(load, hp, il);
        Some(Layer { attn_norm, mixer: mixer?, ffn_norm, ffn: ffn? })
    }

    /// A copy of the layer on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Layer<D>> {
        Ok(Layer {
            attn_norm: self.attn_norm.on::<D>(home, what)?,
            mixer: self.mixer.on::<D>(home, what)?,
            ffn_norm: self.ffn_norm.on::<D>(home, what)?,
            ffn: self.ffn.on::<D>(home, what)?,
        })
    }
}

impl<D: Device> Layer<D> {
    /// All of its matrices.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host counts whole files"))]
    pub(super) fn mats(&self) -> impl Iterator<Item = &D::Mat> {
        let Layer { mixer, ffn, .. } = self;
        mixer.linears().into_iter().map(|linear| &linear.weight).chain(ffn.mats())
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
    /// What is added behind the first layers, and behind how many: (n_taps, n, n_embd).
    pub deep: (&'a D::Input, usize),
}

impl<D: Device> Pass<'_, D> {
    /// Turns `s.x` into what the layers from number `first` on make of it, and puts their keys and values behind the filled
    /// slots of its sequence's cache.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the device says.
    pub(super) fn layers(
        &self,
        layers: &[Layer<D>],
        first: usize,
        s: &mut Rows<D>,
        sequences: &mut [Sequence<'_>],
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        let eps = hp.f_norm_rms_eps;
        for (il, layer) in (first..).zip(layers) {
            let rows = if il + 1 < hp.n_layer { 0..n } else { self.last.clone() };
            let place = || format!("layer {il}");
            device.norm(&layer.attn_norm, eps, n, (&s.x, 0), (&mut s.xb, 0))?;
            // x += wo · attn(xb)
            match &layer.mixer {
                Mixer::Attention(attention) => {
                    let trace = trace.as_deref_mut().filter(|_| Some(il) == hp.first_attention());
                    self.attention(attention, il, rows.clone(), s, sequences, trace).at(place)?;
                }
                Mixer::Recurrent(net) => self.recurrence(net, il, rows.clone(), s, sequences).at(place)?,
            }
            if rows.is_empty() {
                break;
            }
            device.norm(&layer.ffn_norm, eps, rows.len(), (&s.x, rows.start), (&mut s.xb, 0))?;
            // x += down · (silu(gate · xb) * up · xb), of experts by their weights
            self.ffn(layer, rows.clone(), s).at(place)?;
            let (deep, n_taps) = self.deep;
            if il < n_taps {
                let dim = (rows.len(), hp.n_embd);
                device.add_input(dim, (deep, il * n + rows.start), (&mut s.x, rows.start))?;
            }
            if let Some(trace) = trace.as_deref_mut() {
                trace.hidden(device, &s.x, n, hp.n_embd)?;
            }
        }
        Ok(())
    }

    /// Keys and values of all tokens, and what these rows see.
    fn attention<'p>(
        &'p self,
        attention: &'p Attention<D>,
        il: usize,
        rows: Range<usize>,
        s: &mut Rows<D>,
        sequences: &mut [Sequence<'_>],
        trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, hp, n, angles, .. } = *self;
        let HParams { n_head, n_head_kv, n_embd_head: d, f_norm_rms_eps: eps, .. } = *hp;
        let Attention { q, k, v, output, norms } = attention;
        let (norms, is_gated) = (norms.as_ref(), hp.spec.output_gate);
        // A bias is added where heads are finished, or at once where something comes between.
        let is_early = norms.is_some() || is_gated;
        let finish = |w: &'p Linear<D>| Finish { bias: w.bias.as_ref().filter(|_| !is_early), angles: Some(angles) };
        let queries = if is_gated { &mut s.gated } else { &mut s.q };
        if rows.len() == n {
            let products = [heads(q, is_early, queries), heads(k, is_early, &mut s.k), Product::raw(v, &mut s.v)];
            device.products(n, (&s.xb, 0), products)?;
        } else {
            device.products(n, (&s.xb, 0), [heads(k, is_early, &mut s.k), Product::raw(v, &mut s.v)])?;
        }
        let mut keys = &s.k;
        if let Some((_, norm)) = norms {
            device.norm(norm, eps, n * n_head_kv, (&s.k, 0), (&mut s.hidden, 0))?;
            keys = &s.hidden;
        }
        device.store((n_head_kv, d), (keys, finish(k)), (&s.v, Finish::of(v, None)), (sequences, il))?;
        if rows.is_empty() {
            return Ok(());
        }
        if rows.len() < n {
            let queries = if is_gated { &mut s.gated } else { &mut s.q };
            device.products(rows.len(), (&s.xb, rows.start), [heads(q, is_early, queries)])?;
        }
        if is_gated {
            device.take_queries(rows.len(), (n_head, d), &s.gated, &mut s.q)?;
        }
        let (mut queries, mut out) = (&mut s.q, &mut s.attn);
        if let Some((norm, _)) = norms {
            device.norm(norm, eps, rows.len() * n_head, (queries, 0), (out, 0))?;
            std::mem::swap(&mut queries, &mut out);
        }
        device.finish(rows.len(), (n_head, d), finish(q), rows.start, queries)?;
        if let Some(trace) = trace {
            trace.attn_q_last = device.read(queries, (rows.len() - 1) * n_head * d, n_head * d)?;
        }
        for Sequence { rows: own, n_logits, cache } in sequences.iter_mut() {
            // The row behind whose logits the next token is chosen, where somebody asks where it looks.
            if *n_logits > 0 && cache.looks().is_some() {
                let row = own.end - 1 - rows.start;
                cache.keep_queries(il, &device.read(queries, row * n_head * d, n_head * d)?);
            }
        }
        let sizes = Heads { n_head, n_head_kv, d, exact: true };
        device.attend(rows.clone(), sizes, queries, (sequences, il), out)?;
        if is_gated {
            device.gate_heads(rows.len(), (n_head, d), &s.gated, out)?;
        }
        device.products(rows.len(), (out, 0), [Product::of(output, Then::Add, (&mut s.x, rows.start))])
    }

    /// What all tokens leave in the state, and what these rows have of it.
    fn recurrence(
        &self,
        net: &DeltaNet<D>,
        il: usize,
        rows: Range<usize>,
        s: &mut Rows<D>,
        sequences: &mut [Sequence<'_>],
    ) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        let Rows { x, xb, q: z, attn: out, k: beta, v: alpha, gated: qkv, .. } = s;
        let products =
            [(&net.qkv, &mut *qkv), (&net.gate, &mut *z), (&net.beta, &mut *beta), (&net.alpha, &mut *alpha)];
        device.products(n, (xb, 0), products.map(|(w, out)| Product::raw(w, out)))?;
        device.recur((net, hp.f_norm_rms_eps), Projected { qkv, z, beta, alpha }, (sequences, il), out)?;
        if rows.is_empty() {
            return Ok(());
        }
        let onto = (x, rows.start);
        device.products(rows.len(), (out, rows.start), [Product::of(&net.out, Then::Add, onto)])
    }

    fn ffn(&self, layer: &Layer<D>, rows: Range<usize>, s: &mut Rows<D>) -> Result<()> {
        let (device, n) = (self.device, rows.len());
        let (weight, mlp) = match &layer.ffn {
            Ffn::Dense(mlp) => (None, mlp),
            Ffn::Experts(experts) => {
                device.products(n, (&s.xb, 0), [Product::raw(&experts.router, &mut s.k)])?;
                device.experts(n, (&s.xb, 0), &s.k, experts, (&mut s.x, rows.start))?;
                let Some((weight, mlp)) = &experts.shared else { return Ok(()) };
                (Some(weight), mlp)
            }
        };
        device.gated(n, (&s.xb, 0), (&mlp.gate, &mlp.up), &mut s.hidden)?;
        if let Some(weight) = weight {
            device.products(n, (&s.xb, 0), [Product::raw(weight, &mut s.v)])?;
            device.gate_rows(n, self.hp.n_ff, &s.v, &mut s.hidden)?;
        }
        let onto = (&mut s.x, rows.start);
        device.products(n, (&s.hidden, 0), [Product::of(&mlp.down, Then::Add, onto)])
    }

    /// xb = norm(x) for the rows that want logits, one behind the other from the first one of xb on; with a trace, for the last row in
    /// any case.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn output_norm(
        &self,
        norm: &Norm<D>,
        sequences: &[Sequence<'_>],
        s: &mut Rows<D>,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        if let Some((trace, row)) = trace.as_deref_mut().and_then(|trace| trace.visual.map(|row| (trace, row))) {
            device.norm(norm, hp.f_norm_rms_eps, 1, (&s.x, row), (&mut s.xb, 0))?;
            trace.hidden_visual.extend(device.read(&s.xb, 0, hp.n_embd)?);
        }
        let mut to = 0;
        let mut flush = |rows: Range<usize>| {
            to += rows.len();
            if rows.is_empty() {
                return Ok(());
            }
            device.norm(norm, hp.f_norm_rms_eps, rows.len(), (&s.x, rows.start), (&mut s.xb, to - rows.len()))
        };
        // Rows of several sequences that stand behind each other go together.
        let mut run = 0..0;
        for Sequence { rows, n_logits, .. } in sequences.iter().filter(|sequence| sequence.n_logits > 0) {
            let wanted = rows.end - n_logits..rows.end;
            if wanted.start != run.end {
                flush(run)?;
                run = wanted.clone();
            }
            run.end = wanted.end;
        }
        if run.is_empty() && trace.is_some() {
            run = n - 1..n;
        }
        flush(run)?;
        if let Some(trace) = trace {
            trace.hidden_last.extend(device.read(&s.xb, (to - 1) * hp.n_embd, hp.n_embd)?);
        }
        Ok(())
    }
}

/// The product of queries or keys: with its bias where that `is_early`, else without.
fn heads<'a, D: Device>(w: &'a Linear<D>, is_early: bool, out: &'a mut D::Rows) -> Product<'a, D> {
    if is_early { Product::of(w, Then::Store, (out, 0)) } else { Product::raw(w, out) }
}
