//! The vision tower of Qwen2-VL: patches of frame pairs in, merged tokens of the language model's width out.

use std::ops::Range;
use std::sync::Arc;

use super::Trace;
use super::hparams::{positive, sized};
use super::weights::{Loader, Mat};
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::{
    self, Activations, AttentionShape, CacheRows, Epilogue, Kernels, KvView, attention, kv_write, matmul, matmul_with,
    rotate_rows,
};
use crate::position::RotaryTable;
use crate::tensor::MatView;
use crate::{Error, Result, error::Context};

/// The tower's sizes, and what its pixels must look like.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionHParams {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_ff: usize,
    /// Width of a merged token: the language model's `n_embd`.
    pub n_embd_out: usize,
    /// Patch side in pixels.
    pub patch_size: usize,
    /// Patches per merged token side.
    pub merge: usize,
    pub eps: f32,
    pub image_mean: [f32; 3],
    pub image_std: [f32; 3],
    /// Bounds on the pixels of a still image, where the file states them.
    pub image_min_pixels: Option<u64>,
    pub image_max_pixels: Option<u64>,
}

impl VisionHParams {
    /// Pixels along the side of a merged token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge
    }

    /// Values per patch row: channels, the two frames of a pair, rows, columns.
    pub fn n_patch_values(&self) -> usize {
        3 * 2 * self.patch_size * self.patch_size
    }
}

pub(super) struct Block {
    pub ln1: Norm,
    pub attn_q: Linear,
    pub attn_k: Linear,
    pub attn_v: Linear,
    pub attn_out: Linear,
    pub ln2: Norm,
    pub ffn_up: Linear,
    pub ffn_down: Linear,
}

pub(super) struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub(super) struct Linear {
    pub weight: Mat,
    pub bias: Vec<f32>,
}

/// A loaded vision tower.
pub struct VisionTower {
    hp: VisionHParams,
    kernels: &'static Kernels,
    /// Weights of 16 bits and more get exact attention; beside quantized ones its rounding does not show.
    exact: bool,
    /// (n_embd, n_patch_values): both temporal kernels, in the order of a patch row.
    patch_embd: Vec<f32>,
    blocks: Vec<Block>,
    post_ln: Norm,
    mm_0: Linear,
    mm_2: Linear,
    /// All of it in memory of a card, where that is wanted.
    #[cfg(feature = "cuda")]
    card: Option<super::vision_cards::CardTower>,
}

impl VisionTower {
    /// Checks every tensor of a projector file. Also returns the names of tensors that have no use here.
    ///
    /// # Errors
    /// A text model, another projector type, missing keys or tensors, sizes that make no sense.
    pub fn load(file: &Arc<Gguf>) -> Result<(VisionTower, Vec<String>)> {
        let hp = hparams(file).at(|| file.path().display().to_string())?;
        let mut load = Loader::new(file);
        let (d, merged) = (hp.n_embd, hp.n_embd * hp.merge * hp.merge);
        let patch_embd = patch_embedding(&mut load, &hp);
        let mut blocks = Vec::new();
        for il in 0..hp.n_layer {
            let name = |part: &str| format!("v.blk.{il}.{part}");
            // Old conversions call the two matrices of the feed-forward by each other's names; shapes tell.
            let swapped = file.tensor(&name("ffn_down.weight")).is_some_and(|t| t.ne[0] == d) && hp.n_ff != d;
            let (up, down) = if swapped { ("ffn_down", "ffn_up") } else { ("ffn_up", "ffn_down") };
            let ln1 = norm(&mut load, &name("ln1"), d);
            let [attn_q, attn_k, attn_v, attn_out] =
                ["attn_q", "attn_k", "attn_v", "attn_out"].map(|part| linear(&mut load, &name(part), d, d));
            let ln2 = norm(&mut load, &name("ln2"), d);
            let ffn_up = linear(&mut load, &name(up), d, hp.n_ff);
            let ffn_down = linear(&mut load, &name(down), hp.n_ff, d);
            let (Some(attn_q), Some(attn_k), Some(attn_v), Some(attn_out)) = (attn_q, attn_k, attn_v, attn_out) else {
                continue;
            };
            let (Some(ffn_up), Some(ffn_down)) = (ffn_up, ffn_down) else { continue };
            blocks.push(Block { ln1, attn_q, attn_k, attn_v, attn_out, ln2, ffn_up, ffn_down });
        }
        let post_ln = norm(&mut load, "v.post_ln", d);
        let mm_0 = linear(&mut load, "mm.0", merged, merged);
        let mm_2 = linear(&mut load, "mm.2", merged, hp.n_embd_out);
        let unused = load.finish()?;
        let (Some(mm_0), Some(mm_2)) = (mm_0, mm_2) else { unreachable!("finish reports missing matrices") };
        let kernels = kernels::select()?;
        let exact = blocks.iter().all(|block| block.attn_q.weight.view().ty().block_len() == 1);
        let tower = VisionTower {
            hp,
            kernels,
            exact,
            patch_embd,
            blocks,
            post_ln,
            mm_0,
            mm_2,
            #[cfg(feature = "cuda")]
            card: None,
        };
        Ok((tower, unused))
    }

    /// Moves the tower to `card`.
    ///
    /// # Errors
    /// Memory that the card does not have, with the numbers.
    #[cfg(feature = "cuda")]
    pub fn offload(&mut self, card: &crate::kernels::cuda::Card) -> Result<()> {
        let VisionTower { hp, patch_embd, blocks, post_ln, mm_0, mm_2, .. } = &*self;
        let weights = super::vision_cards::Weights { hp, patch_embd, blocks, post_ln, mm_0, mm_2 };
        self.card = Some(super::vision_cards::CardTower::load(card, &weights)?);
        Ok(())
    }

    /// Bytes that [`VisionTower::encode`] takes on a card for `n` patches; none where the tower is on the host.
    #[cfg(feature = "cuda")]
    pub fn card_bytes(&self, n: usize) -> usize {
        if self.card.is_some() { super::vision_cards::CardTower::n_bytes(&self.hp, n) } else { 0 }
    }

    /// Reserves what batches of up to `n` patches need on a card, so that none of them has to.
    ///
    /// # Errors
    /// Memory that the card does not have, with the numbers.
    pub fn reserve(&self, n: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(card) = &self.card {
            card.reserve(&self.hp, n)?;
        }
        let _ = n;
        Ok(())
    }

    /// Starts [`VisionTower::encode`] where it can go on beside other work, on a card. `None` where it cannot: on the host, or
    /// while tokens of another batch are on their way.
    ///
    /// # Errors
    /// What the card says.
    ///
    /// # Panics
    /// As `encode`.
    pub fn begin(&self, pixels: &[f32], h: usize, w: usize) -> Result<Option<Encoding<'_>>> {
        let n = self.n_patches(pixels, h, w);
        #[cfg(feature = "cuda")]
        if let Some(card) = &self.card {
            let rotary = rotary_table(h, w, self.hp.merge, self.hp.n_embd / self.hp.n_head);
            let has_begun = card.begin(&self.hp, pixels, h * w, &rotary)?;
            // Made only where it is true: dropped, it would abandon what others began.
            return Ok(if has_begun { Some(Encoding { tower: self, n }) } else { None });
        }
        let _ = n;
        Ok(None)
    }

    /// # Panics
    /// When `pixels` is not a whole number of pairs or the grid is not a whole number of merge blocks.
    fn n_patches(&self, pixels: &[f32], h: usize, w: usize) -> usize {
        let (values, merge) = (self.hp.n_patch_values(), self.hp.merge);
        let n = pixels.len() / values;
        assert!(
            pixels.len() == n * values && n.is_multiple_of(h * w) && h.is_multiple_of(merge) && w.is_multiple_of(merge)
        );
        n
    }

    /// Sizes.
    pub fn hparams(&self) -> &VisionHParams {
        &self.hp
    }

    /// Encodes frame pairs of `h` x `w` patches. `pixels` is (n_pairs * h * w, n_patch_values) in merge-block order; returns
    /// (n_pairs * h * w / merge², n_embd_out). Attention never leaves a pair, so pairs may come in any grouping.
    ///
    /// # Errors
    /// Activations that are not finite.
    ///
    /// # Panics
    /// When `pixels` is not a whole number of pairs or the grid is not a whole number of merge blocks.
    pub fn encode(&self, pixels: &[f32], h: usize, w: usize, trace: Option<&mut Trace>) -> Result<Vec<f32>> {
        self.encode_in_steps(pixels, h, w, trace, &mut |_, _| Ok(()))
    }

    /// [`VisionTower::encode`], which calls `step` with the number of steps done and of all of them, so that a large picture
    /// can be watched and stopped: a step is a layer, or a part of one where a pair has many patches. On a card there are none.
    ///
    /// # Errors
    /// Activations that are not finite; what `step` says.
    ///
    /// # Panics
    /// As `encode`.
    pub fn encode_in_steps(
        &self,
        pixels: &[f32],
        h: usize,
        w: usize,
        mut trace: Option<&mut Trace>,
        step: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let VisionHParams { n_embd, n_head, merge, eps, .. } = self.hp;
        let (n, per_pair) = (self.n_patches(pixels, h, w), h * w);
        let (d, n_ff) = (n_embd / n_head, self.hp.n_ff);
        let rotary = rotary_table(h, w, merge, d);
        #[cfg(feature = "cuda")]
        if let Some(card) = &self.card {
            return finite(card.encode(&self.hp, pixels, per_pair, &rotary, trace)?, self.hp.n_embd_out);
        }
        let values = self.hp.n_patch_values();
        let patch_embd = MatView::new(GgmlType::F32, values, n_embd, bytemuck::cast_slice(&self.patch_embd))?;
        let rows = self.rows_at_once(n, per_pair);
        let parts = || (0..n).step_by(rows).map(|first| first..n.min(first + rows));
        let mut x = vec![0f32; n * n_embd];
        for part in parts() {
            let pixels = &pixels[part.start * values..part.end * values];
            matmul(self.kernels, patch_embd, pixels, &mut x[part.start * n_embd..part.end * n_embd]);
        }
        let mut keep = |x: &[f32]| {
            if let Some(trace) = trace.as_deref_mut() {
                trace.vit_stages.push(x.to_vec());
            }
        };
        keep(&x);
        let [mut xb, mut a, mut b] = std::array::from_fn(|_| vec![0f32; rows * n_embd]);
        let mut hidden = vec![0f32; rows * n_ff];
        // Of every pair: (n_head, per_pair, d).
        let [mut keys, mut vals] = std::array::from_fn(|_| vec![0f32; n * n_embd]);
        let stride = per_pair * d * size_of::<f32>();
        // A part is some whole pairs or a piece of one: pairs with the rows of theirs that are in it, counted in the part and in
        // the pair.
        let pairs_of = |part: Range<usize>| {
            (part.start / per_pair..part.end.div_ceil(per_pair)).map(move |pair| {
                let first = part.start.max(pair * per_pair);
                let n = part.end.min((pair + 1) * per_pair) - first;
                (pair, (first - part.start) * n_embd..(first - part.start + n) * n_embd, first - pair * per_pair)
            })
        };
        let (mut n_done, n_steps) = (0, self.blocks.len() * n.div_ceil(rows));
        for (il, block) in self.blocks.iter().enumerate() {
            for part in parts() {
                let here = part.len() * n_embd;
                self.norm(&block.ln1, &x[part.start * n_embd..][..here], &mut xb[..here], eps);
                let mut input = Activations::new(self.kernels, &xb[..here], n_embd);
                input.matmul(block.attn_k.weight.view(), &mut a[..here]);
                input.matmul(block.attn_v.weight.view(), &mut b[..here]);
                drop(input);
                for (pair, rows, slot) in pairs_of(part) {
                    let memory = pair * per_pair * n_embd..(pair + 1) * per_pair * n_embd;
                    // Keys are turned by their place in the pair, values stand still.
                    rotate_rows(
                        self.kernels,
                        &mut a[rows.clone()],
                        Some(&block.attn_k.bias),
                        (&rotary, slot),
                        (n_head, d),
                    );
                    for (rows, bias, to) in [
                        (&a[rows.clone()], None, &mut keys[memory.clone()]),
                        (&b[rows.clone()], Some(&block.attn_v.bias[..]), &mut vals[memory.clone()]),
                    ] {
                        let to = CacheRows { ty: GgmlType::F32, data: bytemuck::cast_slice_mut(to), stride, slot };
                        kv_write(self.kernels, rows, bias, None, (n_head, d), to)
                            .at(|| format!("vision block {il}"))?;
                    }
                }
            }
            for part in parts() {
                let here = part.len() * n_embd;
                let x = &mut x[part.start * n_embd..][..here];
                let (xb, q, hidden) = (&mut xb[..here], &mut a[..here], &mut hidden[..part.len() * n_ff]);
                self.norm(&block.ln1, x, xb, eps);
                Activations::new(self.kernels, xb, n_embd).matmul(block.attn_q.weight.view(), q);
                for (pair, rows, slot) in pairs_of(part) {
                    let memory = pair * per_pair * n_embd..(pair + 1) * per_pair * n_embd;
                    let (q, n_rows) = (&mut q[rows.clone()], rows.len() / n_embd);
                    rotate_rows(self.kernels, q, Some(&block.attn_q.bias), (&rotary, slot), (n_head, d));
                    self.attend(&keys[memory.clone()], &vals[memory], per_pair - n_rows, q, &mut xb[rows]);
                }
                self.linear(&block.attn_out, xb, Epilogue::ADD, x);
                self.norm(&block.ln2, x, xb, eps);
                self.linear(&block.ffn_up, xb, Epilogue { quick_gelu: true, ..Epilogue::default() }, hidden);
                self.linear(&block.ffn_down, hidden, Epilogue::ADD, x);
                n_done += 1;
                step(n_done, n_steps)?;
            }
            keep(&x);
        }
        // Four consecutive patches are a 2x2 block, thanks to the patch order: merging is reading rows four at a time.
        let (merged, n_embd_out) = (n_embd * merge * merge, self.hp.n_embd_out);
        let mut out = vec![0f32; n / (merge * merge) * n_embd_out];
        for part in parts() {
            let here = part.len() * n_embd;
            self.norm(&self.post_ln, &x[part.start * n_embd..][..here], &mut xb[..here], eps);
            let wide = &mut a[..here];
            self.linear(&self.mm_0, &xb[..here], Epilogue::default(), wide);
            kernels::for_rows(wide, merged, |_, row| kernels::gelu_erf(row));
            let out = &mut out[part.start / (merge * merge) * n_embd_out..][..here / merged * n_embd_out];
            self.linear(&self.mm_2, wide, Epilogue::default(), out);
        }
        finite(out, n_embd_out)
    }

    /// Attention of the queries of some patches of a pair, `n_others` less than all, to all of its patches.
    fn attend(&self, keys: &[f32], vals: &[f32], n_others: usize, q: &[f32], out: &mut [f32]) {
        let VisionHParams { n_embd, n_head, .. } = self.hp;
        let stride = size_of_val(keys) / n_head;
        let kv = KvView {
            type_k: GgmlType::F32,
            type_v: GgmlType::F32,
            k: bytemuck::cast_slice(keys),
            v: bytemuck::cast_slice(vals),
            stride_k: stride,
            stride_v: stride,
        };
        let d = n_embd / n_head;
        let shape = AttentionShape { n_head, n_head_kv: n_head, d, n_past: n_others, causal: false, exact: self.exact };
        attention(self.kernels, shape, kv, q, out);
    }

    /// The attention of one layer, of `n_queries` patches to `n_keys`, over nothing in particular: for calibrations.
    pub fn attend_once(&self, n_queries: usize, n_keys: usize) {
        let [keys, vals] = std::array::from_fn(|_| vec![0.5f32; n_keys * self.hp.n_embd]);
        let q = vec![0.5f32; n_queries * self.hp.n_embd];
        self.attend(&keys, &vals, n_keys.saturating_sub(n_queries), &q, &mut vec![0f32; q.len()]);
    }

    /// Whether it is on a card.
    pub fn is_on_card(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.card.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// Patches whose rows go through the products of a layer together, of `n` in all: a large pair is cut, so that only its keys
    /// and values are whole in memory, and so that the attention of a part takes no longer than a moment.
    fn rows_at_once(&self, n: usize, per_pair: usize) -> usize {
        /// Enough to feed the products.
        const ROWS: usize = 2048;
        const LEAST_ROWS: usize = 256;
        /// Queries times keys: with 16 heads of 80, half a second on two cores.
        const ATTENDED: usize = 1 << 24;
        if n > per_pair || n <= ROWS {
            return n;
        }
        (ATTENDED / per_pair).clamp(LEAST_ROWS, ROWS).next_multiple_of(self.hp.merge * self.hp.merge)
    }

    /// Bytes that [`VisionTower::encode`] takes for `pairs` frame pairs of `h` x `w` patches.
    pub fn n_bytes(&self, pairs: usize, h: usize, w: usize) -> usize {
        let (n, hp) = (pairs * h * w, &self.hp);
        let rows = self.rows_at_once(n, h * w);
        let floats = 3 * n * hp.n_embd + n / (hp.merge * hp.merge) * hp.n_embd_out + rows * (3 * hp.n_embd + hp.n_ff);
        // What products make of their input: 16 bits a value.
        floats * size_of::<f32>() + rows * (hp.n_embd.max(hp.n_ff) + hp.n_patch_values()) * 2
    }

    fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32], eps: f32) {
        let d = norm.weight.len();
        kernels::for_rows(out, d, |it, out| {
            (self.kernels.layer_norm)(&x[it * d..][..d], &norm.weight, &norm.bias, eps, out);
        });
    }

    /// out = epilogue(weight · input + bias).
    fn linear<'a>(&self, linear: &'a Linear, input: &[f32], epilogue: Epilogue<'a>, out: &mut [f32]) {
        let epilogue = Epilogue { bias: Some(&linear.bias), ..epilogue };
        matmul_with(self.kernels, linear.weight.view(), input, epilogue, out);
    }
}

/// Patches that are being encoded while other work goes on.
pub struct Encoding<'t> {
    tower: &'t VisionTower,
    n: usize,
}

impl Encoding<'_> {
    /// What [`VisionTower::encode`] returns.
    ///
    /// # Errors
    /// Activations that are not finite; what a card says.
    pub fn finish(self) -> Result<Vec<f32>> {
        let (tower, n) = (self.tower, self.n);
        #[cfg(feature = "cuda")]
        if let Some(card) = &tower.card {
            // Nothing is left to abandon.
            std::mem::forget(self);
            return finite(card.finish(&tower.hp, n)?, tower.hp.n_embd_out);
        }
        unreachable!("{n} patches of a tower of width {} that is on no card", tower.hp.n_embd)
    }
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        #[cfg(feature = "cuda")]
        if let Some(card) = &self.tower.card {
            card.abandon();
        }
    }
}

/// Visual tokens (n, n_embd_out) that are all finite.
fn finite(out: Vec<f32>, n_embd_out: usize) -> Result<Vec<f32>> {
    match out.iter().position(|v| !v.is_finite()) {
        None => Ok(out),
        Some(at) => {
            let token = at / n_embd_out;
            Err(Error::format(format!("visual token {token} is not finite: the weights are broken")))
        }
    }
}

/// cos and sin of every patch of an `h` x `w` grid in merge-block order: base 10000 over half a head, the first half of
/// the pairs by row, the second by column.
fn rotary_table(h: usize, w: usize, merge: usize, d: usize) -> RotaryTable {
    let mut order = Vec::with_capacity(h * w);
    for by in 0..h / merge {
        for bx in 0..w / merge {
            for y in 0..merge {
                for x in 0..merge {
                    order.push((by * merge + y, bx * merge + x));
                }
            }
        }
    }
    let quarter = d / 4;
    let theta = |i: usize| 10_000f64.powf(-(i as f64) / quarter as f64);
    let thetas: Vec<f64> = (0..quarter).map(theta).collect();
    let mut table = RotaryTable::default();
    table.fill(order.len(), d / 2, 1.0, |it, i| {
        let (row, col) = order[it];
        (if i < quarter { row as f64 } else { col as f64 }) * thetas[i % quarter]
    });
    table
}

/// One matrix (n_embd, 3 * 2 * p * p) from the two temporal kernels [p, p, 3, n_embd].
fn patch_embedding(load: &mut Loader<'_>, hp: &VisionHParams) -> Vec<f32> {
    let p = hp.patch_size;
    let ne = [p, p, 3, hp.n_embd];
    let kernels = [load.array("v.patch_embd.weight", &ne), load.array("v.patch_embd.weight.1", &ne)];
    if kernels.iter().any(Vec::is_empty) {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(hp.n_embd * hp.n_patch_values());
    for channel in 0..hp.n_embd * 3 {
        for kernel in &kernels {
            out.extend_from_slice(&kernel[channel * p * p..][..p * p]);
        }
    }
    out
}

fn norm(load: &mut Loader<'_>, name: &str, n: usize) -> Norm {
    Norm { weight: load.vec(&format!("{name}.weight"), n), bias: load.vec(&format!("{name}.bias"), n) }
}

fn linear(load: &mut Loader<'_>, name: &str, n_cols: usize, n_rows: usize) -> Option<Linear> {
    let weight = load.mat(&format!("{name}.weight"), n_cols, n_rows);
    let bias = load.vec(&format!("{name}.bias"), n_rows);
    Some(Linear { weight: weight?, bias })
}

fn hparams(file: &Gguf) -> Result<VisionHParams> {
    const MAX_LAYERS: u64 = 1024;
    const MAX_WIDTH: u64 = 1 << 20;
    let meta = file.meta();
    let arch = meta.need_str("general.architecture")?;
    if arch != "clip" {
        return Err(Error::mismatch(format!(
            "architecture is `{arch}`, expected a projector (`clip`); pass a text model as --model"
        )));
    }
    let kind = match meta.str("clip.vision.projector_type")? {
        Some(kind) => kind,
        None => meta.need_str("clip.projector_type")?,
    };
    if kind != "qwen2vl_merger" {
        return Err(Error::unsupported(format!("projector type `{kind}` is not supported, expected `qwen2vl_merger`")));
    }
    for flag in ["clip.use_gelu", "clip.use_silu"] {
        if meta.bool(flag)? == Some(true) {
            return Err(Error::unsupported(format!(
                "`{flag}` does not belong to `qwen2vl_merger`, which uses quick-GELU"
            )));
        }
    }
    let n_embd = sized(meta, "clip.vision.embedding_length", MAX_WIDTH)?;
    let n_head = sized(meta, "clip.vision.attention.head_count", MAX_WIDTH)?;
    if !n_embd.is_multiple_of(n_head) || !(n_embd / n_head).is_multiple_of(4) || n_embd / n_head > 1024 {
        return Err(Error::format(format!(
            "`{n_head}` vision heads do not split the width `{n_embd}` into multiples of 4 up to 1024"
        )));
    }
    let merge = match meta.uint("clip.vision.spatial_merge_size")? {
        Some(_) => sized(meta, "clip.vision.spatial_merge_size", 8)?,
        None => 2,
    };
    // The stored feed-forward length is not to be trusted (converters write the text width there): the tensors know.
    let shape = |name: &str| file.tensor(name).map(|t| (t.ne[0], t.n_rows()));
    let n_ff = match shape("v.blk.0.ffn_up.weight") {
        Some((cols, rows)) if cols == n_embd => rows,
        Some((cols, _)) => cols,
        None => return Err(Error::format("tensor `v.blk.0.ffn_up.weight` is missing")),
    };
    let triple = |key: &str| -> Result<[f32; 3]> {
        let list = meta.floats(key)?.ok_or_else(|| Error::format(format!("key `{key}` is missing")))?;
        match list.as_slice() {
            [r, g, b] if list.iter().all(|v| v.is_finite()) => Ok([*r as f32, *g as f32, *b as f32]),
            _ => Err(Error::format(format!("key `{key}` is `{list:?}`, expected three finite numbers"))),
        }
    };
    let image_std = triple("clip.vision.image_std")?;
    if image_std.iter().any(|s| *s <= 0.0) {
        return Err(Error::format(format!(
            "key `clip.vision.image_std` is `{image_std:?}`, expected positive numbers"
        )));
    }
    Ok(VisionHParams {
        n_layer: sized(meta, "clip.vision.block_count", MAX_LAYERS)?,
        n_embd,
        n_head,
        n_ff,
        n_embd_out: sized(meta, "clip.vision.projection_dim", MAX_WIDTH)?,
        patch_size: sized(meta, "clip.vision.patch_size", 256)?,
        merge,
        eps: positive(
            meta.need_float("clip.vision.attention.layer_norm_epsilon")?,
            "clip.vision.attention.layer_norm_epsilon",
        )? as f32,
        image_mean: triple("clip.vision.image_mean")?,
        image_std,
        image_min_pixels: meta.uint("clip.vision.image_min_pixels")?,
        image_max_pixels: meta.uint("clip.vision.image_max_pixels")?,
    })
}
