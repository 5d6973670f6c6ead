//! The vision tower's layers, for any device and family: weights by name, and what patches go through.

use std::ops::Range;

use super::device::{Device, Finish, Heads, Linear, Norm, Pairs, Product, Then, WindowEnds};
use super::family::{VitMlp, VitNorm};
use super::host::Host;
use super::weights::{Loader, Mat};
use super::{Trace, VisionHParams};
use crate::gguf::Gguf;
use crate::{Result, error::Context};

/// One block of the tower.
pub(super) struct Block<D: Device> {
    pub ln1: Norm<D>,
    pub attn_q: Linear<D>,
    pub attn_k: Linear<D>,
    pub attn_v: Linear<D>,
    pub attn_out: Linear<D>,
    pub ln2: Norm<D>,
    /// Beside `ffn_up` where the MLP is gated.
    pub ffn_gate: Option<Linear<D>>,
    pub ffn_up: Linear<D>,
    pub ffn_down: Linear<D>,
    /// What makes rows of its own of the block's output.
    pub tap: Option<Merger<D>>,
}

/// What makes visual tokens of patches: merge x merge of them become one.
pub(super) struct Merger<D: Device> {
    /// Of a patch, (n_embd), or of all patches of a token together, (n_embd * merge²).
    pub norm: Norm<D>,
    pub is_norm_of_token: bool,
    pub mm_0: Linear<D>,
    pub mm_2: Linear<D>,
}

/// All weights of the tower.
pub(super) struct Tower<D: Device> {
    /// (n_embd, n_patch_values): both temporal kernels, in the order of a patch row.
    pub patch_embd: Linear<D>,
    /// (side * side, n_embd)
    pub positions: Option<D::Vec>,
    pub blocks: Vec<Block<D>>,
    pub merger: Merger<D>,
}

/// Working memory for some number of patches, of which some go through products together.
pub(super) struct Rows<D: Device> {
    /// (n, n_embd)
    pub x: D::Rows,
    /// (n_part, n_embd)
    pub xb: D::Rows,
    /// The same; in the end (n_part / merge², n_embd * merge²).
    pub q: D::Rows,
    pub k: D::Rows,
    pub v: D::Rows,
    /// (n_part, n_ff)
    pub hidden: D::Rows,
    /// (1 + n_taps, n / merge², n_embd_out)
    pub out: D::Rows,
}

impl<D: Device> Rows<D> {
    /// Floats of each of these for `n` patches, `n_part` at once, in their order.
    pub(super) fn sizes(hp: &VisionHParams, n: usize, n_part: usize) -> [usize; 7] {
        let (rows, part, n_out) = (n * hp.n_embd, n_part * hp.n_embd, n / (hp.merge * hp.merge));
        [rows, part, part, part, part, n_part * hp.n_ff, n_out * hp.n_out_values()]
    }

    /// Of memory of these sizes.
    pub(super) fn of([x, xb, q, k, v, hidden, out]: [D::Rows; 7]) -> Rows<D> {
        Rows { x, xb, q, k, v, hidden, out }
    }
}

impl Rows<Host> {
    /// Makes room for `n` patches, `n_part` at once, where there is less.
    pub(super) fn grow(&mut self, hp: &VisionHParams, n: usize, n_part: usize) {
        let Rows { x, xb, q, k, v, hidden, out } = self;
        for (rows, n) in [x, xb, q, k, v, hidden, out].into_iter().zip(Rows::<Host>::sizes(hp, n, n_part)) {
            rows.resize(rows.len().max(n), 0.0);
        }
    }
}

impl Tower<Host> {
    /// The tower of `file`, or `None` where a matrix is missing: a recorded problem, which [`Loader::finish`] turns into the
    /// error.
    pub(super) fn load(load: &mut Loader<'_>, hp: &VisionHParams, file: &Gguf) -> Option<Tower<Host>> {
        let (d, side) = (hp.n_embd, hp.n_pos_side);
        let weight = patch_embedding(load, hp);
        let bias = hp.spec.patch_bias.then(|| load.vec("v.patch_embd.bias", d));
        let positions = (side > 0).then(|| load.array("v.position_embd.weight", &[d, side * side]));
        let blocks: Vec<Option<Block<Host>>> = (0..hp.n_layer).map(|il| Block::load(load, hp, file, il)).collect();
        let merger = Merger::load(load, hp, ["v.post_ln", "mm.0", "mm.2"], false);
        let blocks = blocks.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Tower { patch_embd: Linear { weight: weight?, bias }, positions, blocks, merger: merger? })
    }

    /// A copy of the tower on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Tower<D>> {
        Ok(Tower {
            patch_embd: self.patch_embd.on::<D>(home, what)?,
            positions: self.positions.as_ref().map(|table| D::vec(home, table, what)).transpose()?,
            blocks: self.blocks.iter().map(|block| block.on::<D>(home, what)).collect::<Result<_>>()?,
            merger: self.merger.on::<D>(home, what)?,
        })
    }
}

impl Merger<Host> {
    fn load(
        load: &mut Loader<'_>,
        hp: &VisionHParams,
        [norm, mm_0, mm_2]: [&str; 3],
        is_norm_of_token: bool,
    ) -> Option<Merger<Host>> {
        let merged = hp.n_embd * hp.merge * hp.merge;
        let norm = load.norm(norm, if is_norm_of_token { merged } else { hp.n_embd }, hp.spec.norm == VitNorm::Layer);
        let mm_0 = load.linear(mm_0, merged, merged);
        let mm_2 = load.linear(mm_2, merged, hp.n_embd_out);
        Some(Merger { norm, is_norm_of_token, mm_0: mm_0?, mm_2: mm_2? })
    }

    fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Merger<D>> {
        Ok(Merger {
            norm: self.norm.on::<D>(home, what)?,
            is_norm_of_token: self.is_norm_of_token,
            mm_0: self.mm_0.on::<D>(home, what)?,
            mm_2: self.mm_2.on::<D>(home, what)?,
        })
    }
}

impl Block<Host> {
    fn load(load: &mut Loader<'_>, hp: &VisionHParams, file: &Gguf, il: usize) -> Option<Block<Host>> {
        let (d, is_layer_norm) = (hp.n_embd, hp.spec.norm == VitNorm::Layer);
        let name = |part: &str| format!("v.blk.{il}.{part}");
        // Old conversions call the two matrices of the feed-forward by each other's names; shapes tell.
        let swapped = file.tensor(&name("ffn_down.weight")).is_some_and(|t| t.ne[0] == d) && hp.n_ff != d;
        let (up, down) = if swapped { ("ffn_down", "ffn_up") } else { ("ffn_up", "ffn_down") };
        let ln1 = load.norm(&name("ln1"), d, is_layer_norm);
        let [attn_q, attn_k, attn_v] = load.qkv(&format!("v.blk.{il}"), d, [d; 3], true);
        let attn_out = load.linear(&name("attn_out"), d, d);
        let ln2 = load.norm(&name("ln2"), d, is_layer_norm);
        let is_gated = hp.spec.mlp == VitMlp::SwiGlu;
        let ffn_gate = is_gated.then(|| load.linear(&name("ffn_gate"), d, hp.n_ff));
        let ffn_up = load.linear(&name(up), d, hp.n_ff);
        let ffn_down = load.linear(&name(down), hp.n_ff, d);
        let tap = hp.taps.contains(&il).then(|| {
            let [norm, mm_0, mm_2] = ["norm", "fc1", "fc2"].map(|part| format!("v.deepstack.{il}.{part}"));
            Merger::load(load, hp, [&norm, &mm_0, &mm_2], true)
        });
        // A missing matrix is a problem that was recorded.
        let (ffn_gate, tap) =
            (ffn_gate.map_or(Some(None), |gate| gate.map(Some)), tap.map_or(Some(None), |tap| tap.map(Some)));
        Some(Block {
            ln1,
            attn_q: attn_q?,
            attn_k: attn_k?,
            attn_v: attn_v?,
            attn_out: attn_out?,
            ln2,
            ffn_gate: ffn_gate?,
            ffn_up: ffn_up?,
            ffn_down: ffn_down?,
            tap: tap?,
        })
    }

    fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Block<D>> {
        Ok(Block {
            ln1: self.ln1.on::<D>(home, what)?,
            attn_q: self.attn_q.on::<D>(home, what)?,
            attn_k: self.attn_k.on::<D>(home, what)?,
            attn_v: self.attn_v.on::<D>(home, what)?,
            attn_out: self.attn_out.on::<D>(home, what)?,
            ln2: self.ln2.on::<D>(home, what)?,
            ffn_gate: self.ffn_gate.as_ref().map(|gate| gate.on::<D>(home, what)).transpose()?,
            ffn_up: self.ffn_up.on::<D>(home, what)?,
            ffn_down: self.ffn_down.on::<D>(home, what)?,
            tap: self.tap.as_ref().map(|tap| tap.on::<D>(home, what)).transpose()?,
        })
    }
}

/// Patches on their way through the tower.
pub(super) struct Pass<'a, D: Device> {
    pub device: &'a D,
    pub hp: &'a VisionHParams,
    /// Patches in all.
    pub n: usize,
    /// How those of each frame pair lie.
    pub pairs: &'a Pairs<D>,
    /// Patches that go through products together: all, or fewer of one pair, a multiple of merge², where that saves memory.
    pub n_part: usize,
    /// One row for each patch of a pair.
    pub angles: &'a D::Angles,
    /// See [`Heads::exact`].
    pub exact: bool,
}

impl<D: Device> Pass<'_, D> {
    /// Leaves merged tokens in `s.out`. `input`: (n, n_patch_values) in merge-block order. `step` hears of every part of a block
    /// that is done, with the number of steps so far and in all.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the device says; what `step` says.
    pub(super) fn encode(
        &self,
        tower: &Tower<D>,
        input: &D::Input,
        s: &mut Rows<D>,
        fresh: &mut D::Fresh,
        mut trace: Option<&mut Trace>,
        step: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let Pass { device, n, n_part, pairs, .. } = *self;
        let VisionHParams { n_embd, n_pos_side, .. } = *self.hp;
        let parts = || (0..n).step_by(n_part).map(|first| first..n.min(first + n_part));
        let mut keep = |x: &D::Rows| -> Result<()> {
            if let Some(trace) = trace.as_deref_mut() {
                trace.vit_stages.push(device.read(x, 0, n * n_embd)?);
            }
            Ok(())
        };
        for part in parts() {
            let embd = &tower.patch_embd;
            if pairs.order.is_some() {
                device.product_of(part.len(), (input, part.start), embd, (&mut s.xb, 0))?;
                device.arrange(part, n_embd, &s.xb, pairs, &mut s.x)?;
            } else {
                device.product_of(part.len(), (input, part.start), embd, (&mut s.x, part.start))?;
            }
        }
        keep(&s.x)?;
        if let Some(table) = &tower.positions {
            device.add_positions(n, pairs, (table, n_pos_side), &mut s.x)?;
            keep(&s.x)?;
        }
        let (mut n_done, n_steps, mut n_taps) = (0, tower.blocks.len() * parts().count(), 0);
        for (il, block) in tower.blocks.iter().enumerate() {
            let place = || format!("vision block {il}");
            let windows = pairs.windows.as_ref().filter(|_| self.hp.windows.as_ref().is_some_and(|w| !w.full[il]));
            for part in parts() {
                self.keys_and_values(block, part, s, fresh).at(place)?;
            }
            for part in parts() {
                self.rest(block, windows, part, s, fresh).at(place)?;
                n_done += 1;
                step(n_done, n_steps)?;
            }
            keep(&s.x)?;
            if let Some(tap) = &block.tap {
                n_taps += 1;
                parts().try_for_each(|part| self.merge(tap, n_taps, part, s)).at(place)?;
            }
        }
        parts().try_for_each(|part| self.merge(&tower.merger, 0, part, s))
    }

    /// Merged tokens of some patches, to plane number `plane` of `s.out`.
    fn merge(&self, merger: &Merger<D>, plane: usize, part: Range<usize>, s: &mut Rows<D>) -> Result<()> {
        let Pass { device, hp, n, .. } = *self;
        // Consecutive patches are a block of merge x merge, thanks to their order: merging is reading several as one row.
        let merged = hp.merge * hp.merge;
        let (n_out, first) = (part.len() / merged, part.start / merged);
        let (n_rows, from) = if merger.is_norm_of_token { (n_out, first) } else { (part.len(), part.start) };
        device.norm(&merger.norm, hp.eps, n_rows, (&s.x, from), (&mut s.xb, 0))?;
        device.products(n_out, (&s.xb, 0), [Product::of(&merger.mm_0, Then::GeluErf, (&mut s.q, 0))])?;
        let out = (&mut s.out, plane * (n / merged) + first);
        device.products(n_out, (&s.q, 0), [Product::of(&merger.mm_2, Then::Store, out)])
    }

    fn heads(&self) -> Heads {
        let VisionHParams { n_embd, n_head, .. } = *self.hp;
        Heads { n_head, n_head_kv: n_head, d: n_embd / n_head, exact: self.exact }
    }

    /// Keeps the keys and values of some patches; where these are all there are, their queries are made on the way.
    fn keys_and_values(
        &self,
        block: &Block<D>,
        part: Range<usize>,
        s: &mut Rows<D>,
        fresh: &mut D::Fresh,
    ) -> Result<()> {
        let Pass { device, hp, n, pairs, angles, .. } = *self;
        let Block { ln1, attn_q, attn_k, attn_v, .. } = block;
        let Heads { n_head, d, .. } = self.heads();
        device.norm(ln1, hp.eps, part.len(), (&s.x, part.start), (&mut s.xb, 0))?;
        let qkv = [(attn_q, &mut s.q), (attn_k, &mut s.k), (attn_v, &mut s.v)].map(|(w, out)| Product::raw(w, out));
        if part.len() == n {
            device.products(n, (&s.xb, 0), qkv)?;
        } else {
            let [_, k, v] = qkv;
            device.products(part.len(), (&s.xb, 0), [k, v])?;
        }
        let (k, v) = ((&mut s.k, Finish::of(attn_k, Some(angles))), (&mut s.v, Finish::of(attn_v, None)));
        device.store_within(part, pairs.n(), (n_head, d), k, v, fresh)
    }

    /// x += attn_out · attn(q), x += ffn(x), for some patches, once all keys and values are there.
    fn rest(
        &self,
        block: &Block<D>,
        windows: Option<&WindowEnds<D>>,
        part: Range<usize>,
        s: &mut Rows<D>,
        fresh: &D::Fresh,
    ) -> Result<()> {
        let Pass { device, hp, n, pairs, angles, .. } = *self;
        let Block { ln1, attn_q, attn_out, ln2, ffn_gate, ffn_up, ffn_down, .. } = block;
        let (n_rows, first) = (part.len(), part.start);
        if n_rows < n {
            device.norm(ln1, hp.eps, n_rows, (&s.x, first), (&mut s.xb, 0))?;
            device.products(n_rows, (&s.xb, 0), [Product::raw(attn_q, &mut s.q)])?;
        }
        let q = (&mut s.q, Finish::of(attn_q, Some(angles)));
        device.attend_within(part, (pairs.n(), windows), self.heads(), q, fresh, &mut s.xb)?;
        device.products(n_rows, (&s.xb, 0), [Product::of(attn_out, Then::Add, (&mut s.x, first))])?;
        device.norm(ln2, hp.eps, n_rows, (&s.x, first), (&mut s.xb, 0))?;
        let gelu = if hp.spec.mlp == VitMlp::GeluTanh { Then::GeluTanh } else { Then::QuickGelu };
        match ffn_gate {
            Some(gate) => device.gated(n_rows, (&s.xb, 0), (gate, ffn_up), &mut s.hidden)?,
            None => device.products(n_rows, (&s.xb, 0), [Product::of(ffn_up, gelu, (&mut s.hidden, 0))])?,
        }
        device.products(n_rows, (&s.hidden, 0), [Product::of(ffn_down, Then::Add, (&mut s.x, first))])
    }
}

/// One matrix (n_embd, 3 * 2 * p * p) from the two temporal kernels [p, p, 3, n_embd].
fn patch_embedding(load: &mut Loader<'_>, hp: &VisionHParams) -> Option<Mat> {
    let p = hp.patch_size;
    let ne = [p, p, 3, hp.n_embd];
    let kernels = [load.array("v.patch_embd.weight", &ne), load.array("v.patch_embd.weight.1", &ne)];
    if kernels.iter().any(Vec::is_empty) {
        return None;
    }
    let mut out = Vec::with_capacity(hp.n_embd * hp.n_patch_values());
    for channel in 0..hp.n_embd * 3 {
        for kernel in &kernels {
            out.extend_from_slice(&kernel[channel * p * p..][..p * p]);
        }
    }
    Some(Mat::from_floats(&out, hp.n_patch_values(), hp.n_embd))
}
