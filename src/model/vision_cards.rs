//! The vision tower on a card.

use super::Trace;
use super::vision::{Block, Linear, Norm, VisionHParams};
use crate::gguf::GgmlType;
use crate::kernels::cuda::{Card, DevMat, EpilogueMem, Input, KvMem, Mem, QuantizedMem, Rotation, Sequences};
use crate::position::RotaryTable;
use crate::tensor::MatView;
use crate::{Error, Result};

struct CardNorm {
    weight: Mem,
    bias: Mem,
}

struct CardLinear {
    weight: DevMat,
    bias: Mem,
}

struct CardBlock {
    ln1: CardNorm,
    attn_q: CardLinear,
    attn_k: CardLinear,
    attn_v: CardLinear,
    attn_out: CardLinear,
    ln2: CardNorm,
    ffn_up: CardLinear,
    ffn_down: CardLinear,
}

/// All weights of the tower in memory of a card.
pub struct CardTower {
    card: Card,
    patch_embd: DevMat,
    blocks: Vec<CardBlock>,
    post_ln: CardNorm,
    mm_0: CardLinear,
    mm_2: CardLinear,
}

/// What the host holds of it.
pub struct Weights<'a> {
    pub hp: &'a VisionHParams,
    pub patch_embd: &'a [f32],
    pub blocks: &'a [Block],
    pub post_ln: &'a Norm,
    pub mm_0: &'a Linear,
    pub mm_2: &'a Linear,
}

const WHAT: &str = "the vision tower";

fn norm(card: &Card, norm: &Norm) -> Result<CardNorm> {
    Ok(CardNorm { weight: card.upload(&norm.weight, WHAT)?, bias: card.upload(&norm.bias, WHAT)? })
}

fn linear(card: &Card, linear: &Linear) -> Result<CardLinear> {
    let weight = DevMat::upload(card, linear.weight.view(), WHAT)?;
    Ok(CardLinear { weight, bias: card.upload(&linear.bias, WHAT)? })
}

/// Bytes of each buffer of [`CardTower::encode`], in its order, and activations that are quantized at once at most.
fn sizes(hp: &VisionHParams, n: usize) -> ([usize; 12], usize) {
    let floats = |n: usize| n * size_of::<f32>();
    let (rows, merged) = (floats(n * hp.n_embd), hp.n_embd * hp.merge * hp.merge);
    let n_out = n / (hp.merge * hp.merge);
    let parts = floats(Card::attention_parts(n, hp.n_head, hp.n_embd / hp.n_head));
    let sizes = [
        floats(n * hp.n_patch_values()),
        rows,
        rows,
        rows,
        rows,
        rows,
        rows,
        rows,
        floats(n * hp.n_ff),
        floats(n_out * merged),
        floats(n_out * hp.n_embd_out),
        parts,
    ];
    (sizes, n * hp.n_embd.max(hp.n_ff))
}

impl CardTower {
    /// Copies the tower to `card`.
    ///
    /// # Errors
    /// Memory that the card does not have; a type without kernels.
    pub fn load(card: &Card, w: &Weights<'_>) -> Result<CardTower> {
        let values = bytemuck::cast_slice(w.patch_embd);
        let patch_embd = MatView::new(GgmlType::F32, w.hp.n_patch_values(), w.hp.n_embd, values)?;
        let block = |b: &Block| -> Result<CardBlock> {
            Ok(CardBlock {
                ln1: norm(card, &b.ln1)?,
                attn_q: linear(card, &b.attn_q)?,
                attn_k: linear(card, &b.attn_k)?,
                attn_v: linear(card, &b.attn_v)?,
                attn_out: linear(card, &b.attn_out)?,
                ln2: norm(card, &b.ln2)?,
                ffn_up: linear(card, &b.ffn_up)?,
                ffn_down: linear(card, &b.ffn_down)?,
            })
        };
        Ok(CardTower {
            card: card.clone(),
            patch_embd: DevMat::upload(card, patch_embd, WHAT)?,
            blocks: w.blocks.iter().map(block).collect::<Result<_>>()?,
            post_ln: norm(card, w.post_ln)?,
            mm_0: linear(card, w.mm_0)?,
            mm_2: linear(card, w.mm_2)?,
        })
    }

    /// Bytes of working memory on the card for `n` patches.
    pub fn n_bytes(hp: &VisionHParams, n: usize) -> usize {
        let (sizes, quantized) = sizes(hp, n);
        sizes.iter().sum::<usize>() + QuantizedMem::n_bytes(quantized)
    }

    /// Encodes frame pairs of `per_pair` patches each, with the rotation of one pair's patches: (n, n_patch_values) in,
    /// (n / merge², n_embd_out) out, which may hold numbers that are not finite.
    ///
    /// # Errors
    /// Keys or values that are not finite; memory that the card does not have.
    pub fn encode(
        &self,
        hp: &VisionHParams,
        pixels: &[f32],
        per_pair: usize,
        angles: &RotaryTable,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let card = &self.card;
        let VisionHParams { n_embd, n_head, n_ff, eps, .. } = *hp;
        let n = pixels.len() / hp.n_patch_values();
        let (d, merged, n_out) = (n_embd / n_head, n_embd * hp.merge * hp.merge, n / (hp.merge * hp.merge));
        let what = format!("{n} patches in the vision tower");
        let (sizes, n_quantized) = sizes(hp, n);
        let [input, x, xb, q, k, v, keys, values, hidden, wide, out, parts] = card.alloc_parts(sizes, &what)?;
        let quantized = QuantizedMem::new(card, n_quantized)?;
        let [past, broken] = card.alloc_parts([4, 4], &what)?;
        let rotation =
            Rotation { table: card.upload(angles.rows(), &what)?, n_tokens: per_pair, n_turning: angles.n_turning() };
        let rows = |x, width| Input::new(card, x, &quantized, (n, width));
        let plain = EpilogueMem::default();
        let mut keep = |x: &Mem| -> Result<()> {
            if let Some(trace) = trace.as_deref_mut() {
                let mut stage = vec![0f32; n * n_embd];
                x.read(&mut stage)?;
                trace.vit_stages.push(stage);
            }
            Ok(())
        };
        input.write(pixels)?;
        rows(&input, hp.n_patch_values()).product(&self.patch_embd, plain, &x)?;
        keep(&x)?;
        let stride = per_pair * d * size_of::<f32>();
        let (keys, values) =
            (KvMem { ty: GgmlType::F32, mem: keys, stride }, KvMem { ty: GgmlType::F32, mem: values, stride });
        let seqs = Sequences { n_seq: n / per_pair, n_per_seq: per_pair, past: &past, n_past: 0 };
        for block in &self.blocks {
            card.layer_norm(&x, (&block.ln1.weight, &block.ln1.bias), eps, &xb, n)?;
            let normed = rows(&xb, n_embd);
            normed.product(&block.attn_q.weight, plain, &q)?;
            normed.product(&block.attn_k.weight, plain, &k)?;
            normed.product(&block.attn_v.weight, plain, &v)?;
            card.rotate_rows(&q, Some(&block.attn_q.bias), &rotation, n, (n_head, d))?;
            let finish = (Some(&block.attn_k.bias), Some(&rotation));
            card.kv_write(&k, finish, seqs, (n_head, d), &keys, &broken)?;
            card.kv_write(&v, (Some(&block.attn_v.bias), None), seqs, (n_head, d), &values, &broken)?;
            card.attention(&q, (&keys, &values), seqs, (n_head, n_head, d), false, &xb, &parts)?;
            let add = |bias| EpilogueMem { bias: Some(bias), add: true, ..plain };
            rows(&xb, n_embd).product(&block.attn_out.weight, add(&block.attn_out.bias), &x)?;
            card.layer_norm(&x, (&block.ln2.weight, &block.ln2.bias), eps, &xb, n)?;
            let gelu = EpilogueMem { bias: Some(&block.ffn_up.bias), quick_gelu: true, ..plain };
            rows(&xb, n_embd).product(&block.ffn_up.weight, gelu, &hidden)?;
            rows(&hidden, n_ff).product(&block.ffn_down.weight, add(&block.ffn_down.bias), &x)?;
            keep(&x)?;
        }
        card.layer_norm(&x, (&self.post_ln.weight, &self.post_ln.bias), eps, &xb, n)?;
        // As on the host: merging is reading several rows as one.
        let gelu = EpilogueMem { bias: Some(&self.mm_0.bias), gelu_erf: true, ..plain };
        Input::new(card, &xb, &quantized, (n_out, merged)).product(&self.mm_0.weight, gelu, &wide)?;
        let bias = EpilogueMem { bias: Some(&self.mm_2.bias), ..plain };
        Input::new(card, &wide, &quantized, (n_out, merged)).product(&self.mm_2.weight, bias, &out)?;
        let mut flag = [0i32];
        broken.read(&mut flag)?;
        if flag != [0] {
            return Err(Error::format("keys or values of a patch are not finite: the weights are broken"));
        }
        let mut tokens = vec![0f32; n_out * hp.n_embd_out];
        out.read(&mut tokens)?;
        Ok(tokens)
    }
}
