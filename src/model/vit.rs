//! The vision tower's layers, for any device: weights by name, and what patches go through.

use super::device::{Device, Finish, Heads, Linear, Norm, Product, Then};
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
    pub ffn_up: Linear<D>,
    pub ffn_down: Linear<D>,
}

/// All weights of the tower.
pub(super) struct Tower<D: Device> {
    /// (n_embd, n_patch_values): both temporal kernels, in the order of a patch row.
    pub patch_embd: D::Mat,
    pub blocks: Vec<Block<D>>,
    pub post_ln: Norm<D>,
    pub mm_0: Linear<D>,
    pub mm_2: Linear<D>,
}

/// Working memory for some number of patches.
pub(super) struct Rows<D: Device> {
    /// (n, n_embd)
    pub x: D::Rows,
    pub xb: D::Rows,
    pub q: D::Rows,
    pub k: D::Rows,
    pub v: D::Rows,
    /// (n, n_ff)
    pub hidden: D::Rows,
    /// (n / merge², n_embd * merge²)
    pub wide: D::Rows,
    /// (n / merge², n_embd_out)
    pub out: D::Rows,
}

impl<D: Device> Rows<D> {
    /// Floats of each of these for `n` patches, in their order.
    pub fn sizes(hp: &VisionHParams, n: usize) -> [usize; 8] {
        let rows = n * hp.n_embd;
        let n_out = n / (hp.merge * hp.merge);
        [rows, rows, rows, rows, rows, n * hp.n_ff, rows, n_out * hp.n_embd_out]
    }

    /// Of memory of these sizes.
    pub fn of([x, xb, q, k, v, hidden, wide, out]: [D::Rows; 8]) -> Rows<D> {
        Rows { x, xb, q, k, v, hidden, wide, out }
    }
}

impl Rows<Host> {
    /// Makes room for `n` patches, where there is less.
    pub fn grow(&mut self, hp: &VisionHParams, n: usize) {
        let Rows { x, xb, q, k, v, hidden, wide, out } = self;
        for (rows, n) in [x, xb, q, k, v, hidden, wide, out].into_iter().zip(Rows::<Host>::sizes(hp, n)) {
            rows.resize(rows.len().max(n), 0.0);
        }
    }
}

impl Tower<Host> {
    /// The tower of `file`, or `None` where a matrix is missing: a recorded problem, which [`Loader::finish`] turns into the
    /// error.
    pub fn load(load: &mut Loader<'_>, hp: &VisionHParams, file: &Gguf) -> Option<Tower<Host>> {
        let (d, merged) = (hp.n_embd, hp.n_embd * hp.merge * hp.merge);
        let patch_embd = patch_embedding(load, hp);
        let blocks: Vec<Option<Block<Host>>> = (0..hp.n_layer).map(|il| Block::load(load, hp, file, il)).collect();
        let post_ln = load.layer_norm("v.post_ln", d);
        let mm_0 = load.linear("mm.0", merged, merged);
        let mm_2 = load.linear("mm.2", merged, hp.n_embd_out);
        let blocks = blocks.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Tower { patch_embd: patch_embd?, blocks, post_ln, mm_0: mm_0?, mm_2: mm_2? })
    }

    /// A copy of the tower on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
    pub fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Tower<D>> {
        Ok(Tower {
            patch_embd: D::mat(home, &self.patch_embd, what)?,
            blocks: self.blocks.iter().map(|block| block.on::<D>(home, what)).collect::<Result<_>>()?,
            post_ln: self.post_ln.on::<D>(home, what)?,
            mm_0: self.mm_0.on::<D>(home, what)?,
            mm_2: self.mm_2.on::<D>(home, what)?,
        })
    }
}

impl Block<Host> {
    fn load(load: &mut Loader<'_>, hp: &VisionHParams, file: &Gguf, il: usize) -> Option<Block<Host>> {
        let d = hp.n_embd;
        let name = |part: &str| format!("v.blk.{il}.{part}");
        // Old conversions call the two matrices of the feed-forward by each other's names; shapes tell.
        let swapped = file.tensor(&name("ffn_down.weight")).is_some_and(|t| t.ne[0] == d) && hp.n_ff != d;
        let (up, down) = if swapped { ("ffn_down", "ffn_up") } else { ("ffn_up", "ffn_down") };
        let ln1 = load.layer_norm(&name("ln1"), d);
        let [attn_q, attn_k, attn_v, attn_out] =
            ["attn_q", "attn_k", "attn_v", "attn_out"].map(|part| load.linear(&name(part), d, d));
        let ln2 = load.layer_norm(&name("ln2"), d);
        let ffn_up = load.linear(&name(up), d, hp.n_ff);
        let ffn_down = load.linear(&name(down), hp.n_ff, d);
        Some(Block {
            ln1,
            attn_q: attn_q?,
            attn_k: attn_k?,
            attn_v: attn_v?,
            attn_out: attn_out?,
            ln2,
            ffn_up: ffn_up?,
            ffn_down: ffn_down?,
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
            ffn_up: self.ffn_up.on::<D>(home, what)?,
            ffn_down: self.ffn_down.on::<D>(home, what)?,
        })
    }
}

/// Patches on their way through the tower: frame pairs of `n_per_pair` patches each.
pub(super) struct Pass<'a, D: Device> {
    pub device: &'a D,
    pub hp: &'a VisionHParams,
    pub n_pairs: usize,
    pub n_per_pair: usize,
    /// One row for each patch of a pair.
    pub angles: &'a D::Angles,
    /// See [`Heads::exact`].
    pub exact: bool,
}

impl<D: Device> Pass<'_, D> {
    /// Leaves merged tokens in `s.out`. `input`: (n, n_patch_values) in merge-block order.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the device says.
    pub fn encode(
        &self,
        tower: &Tower<D>,
        input: &D::Input,
        s: &mut Rows<D>,
        fresh: &mut D::Fresh,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let Pass { device, n_pairs, n_per_pair, angles, exact, .. } = *self;
        let VisionHParams { n_embd, n_head, merge, eps, .. } = *self.hp;
        let (n, n_out) = (n_pairs * n_per_pair, n_pairs * n_per_pair / (merge * merge));
        let heads = Heads { n_head, n_head_kv: n_head, d: n_embd / n_head, exact };
        let mut keep = |x: &D::Rows| -> Result<()> {
            if let Some(trace) = trace.as_deref_mut() {
                trace.vit_stages.push(device.read(x, 0, n * n_embd)?);
            }
            Ok(())
        };
        device.product_of(n, input, &tower.patch_embd, &mut s.x)?;
        keep(&s.x)?;
        for (il, block) in tower.blocks.iter().enumerate() {
            let Block { ln1, attn_q, attn_k, attn_v, attn_out, ln2, ffn_up, ffn_down } = block;
            device.norm(ln1, eps, 0..n, &s.x, &mut s.xb)?;
            let qkv = [(attn_q, &mut s.q), (attn_k, &mut s.k), (attn_v, &mut s.v)]
                .map(|(linear, out)| Product::without_bias(linear, out));
            device.products(0..n, &s.xb, qkv)?;
            let qkv = [
                (&mut s.q, Finish::of(attn_q, Some(angles))),
                (&mut s.k, Finish::of(attn_k, Some(angles))),
                (&mut s.v, Finish::of(attn_v, None)),
            ];
            let within = device.attend_within((n_pairs, n_per_pair), heads, qkv, fresh, &mut s.xb);
            within.at(|| format!("vision block {il}"))?;
            device.products(0..n, &s.xb, [Product::of(attn_out, Then::Add, &mut s.x)])?;
            device.norm(ln2, eps, 0..n, &s.x, &mut s.xb)?;
            device.products(0..n, &s.xb, [Product::of(ffn_up, Then::QuickGelu, &mut s.hidden)])?;
            device.products(0..n, &s.hidden, [Product::of(ffn_down, Then::Add, &mut s.x)])?;
            keep(&s.x)?;
        }
        device.norm(&tower.post_ln, eps, 0..n, &s.x, &mut s.xb)?;
        // Consecutive patches are a block of merge x merge, thanks to their order: merging is reading several rows as one.
        device.products(0..n_out, &s.xb, [Product::of(&tower.mm_0, Then::GeluErf, &mut s.wide)])?;
        device.products(0..n_out, &s.wide, [Product::of(&tower.mm_2, Then::Store, &mut s.out)])
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
