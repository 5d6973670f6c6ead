//! The vision tower on a card. It computes in a stream of its own, beside the language model; pixels go there and tokens come
//! back in the stream of copies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Trace;
use super::vision::{Block, Linear, Norm, VisionHParams};
use crate::gguf::GgmlType;
use crate::kernels::cuda::{
    Card, DevMat, EpilogueMem, Event, Input, KvMem, Mem, QuantizedMem, Rotation, Sequences, Stream,
};
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
    copies: Card,
    patch_embd: DevMat,
    blocks: Vec<CardBlock>,
    post_ln: CardNorm,
    mm_0: CardLinear,
    mm_2: CardLinear,
    /// Working memory, reserved for the largest batch so far.
    buffers: Mutex<Option<Buffers>>,
    /// Whether tokens in them wait to be brought over.
    is_busy: AtomicBool,
}

/// Working memory for up to `n` patches.
struct Buffers {
    n: usize,
    /// Those that are copied: pixels, cosines and sines, tokens, one i32 that says whether keys or values are not finite.
    input: Mem,
    angles: Mem,
    out: Mem,
    broken: Mem,
    x: Mem,
    xb: Mem,
    q: Mem,
    k: Mem,
    v: Mem,
    keys: Mem,
    values: Mem,
    hidden: Mem,
    wide: Mem,
    parts: Mem,
    /// One i32: no slot is filled.
    past: Mem,
    quantized: QuantizedMem,
    /// The inputs have arrived; everything was computed.
    sent: Event,
    done: Event,
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

/// Bytes of each of the [`Buffers`] that are copied, of the others, in their order, and activations that are quantized at
/// once at most.
fn sizes(hp: &VisionHParams, n: usize) -> ([usize; 4], [usize; 11], usize) {
    let floats = |n: usize| n * size_of::<f32>();
    let (rows, merged, d) = (floats(n * hp.n_embd), hp.n_embd * hp.merge * hp.merge, hp.n_embd / hp.n_head);
    let n_out = n / (hp.merge * hp.merge);
    let parts = floats(Card::attention_parts(n, hp.n_head, d));
    let copied = [floats(n * hp.n_patch_values()), floats(n * d), floats(n_out * hp.n_embd_out), 4];
    let others = [rows, rows, rows, rows, rows, rows, rows, floats(n * hp.n_ff), floats(n_out * merged), parts, 4];
    (copied, others, n * hp.n_embd.max(hp.n_ff))
}

impl Buffers {
    fn new(card: &Card, copies: &Card, hp: &VisionHParams, n: usize) -> Result<Buffers> {
        let what = format!("{n} patches in the vision tower");
        let (copied, others, n_quantized) = sizes(hp, n);
        let [input, angles, out, broken] = copies.alloc_parts(copied, &what)?;
        let [x, xb, q, k, v, keys, values, hidden, wide, parts, past] = card.alloc_parts(others, &what)?;
        let quantized = QuantizedMem::new(card, n_quantized)?;
        let (sent, done) = (Event::new(card)?, Event::new(card)?);
        Ok(Buffers {
            n,
            input,
            angles,
            out,
            broken,
            x,
            xb,
            q,
            k,
            v,
            keys,
            values,
            hidden,
            wide,
            parts,
            past,
            quantized,
            sent,
            done,
        })
    }
}

impl CardTower {
    /// Copies the tower to `card`.
    ///
    /// # Errors
    /// Memory that the card does not have; a type without kernels.
    pub fn load(on: &Card, w: &Weights<'_>) -> Result<CardTower> {
        let (computing, copies) = (on.on(Stream::Vision), on.on(Stream::Copy));
        let card = &copies;
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
        let tower = CardTower {
            card: computing,
            copies: copies.clone(),
            patch_embd: DevMat::upload(card, patch_embd, WHAT)?,
            blocks: w.blocks.iter().map(block).collect::<Result<_>>()?,
            post_ln: norm(card, w.post_ln)?,
            mm_0: linear(card, w.mm_0)?,
            mm_2: linear(card, w.mm_2)?,
            buffers: Mutex::new(None),
            is_busy: AtomicBool::new(false),
        };
        // Whoever uses the weights need not wait for them any more.
        copies.sync()?;
        Ok(tower)
    }

    /// Bytes of working memory on the card for `n` patches.
    pub fn n_bytes(hp: &VisionHParams, n: usize) -> usize {
        let (copied, others, quantized) = sizes(hp, n);
        copied.iter().chain(&others).sum::<usize>() + QuantizedMem::n_bytes(quantized)
    }

    fn buffers(&self) -> MutexGuard<'_, Option<Buffers>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves working memory for batches of up to `n` patches.
    ///
    /// # Errors
    /// Memory that the card does not have.
    pub fn reserve(&self, hp: &VisionHParams, n: usize) -> Result<()> {
        let mut buffers = self.buffers();
        if buffers.as_ref().is_none_or(|have| have.n < n) && !self.is_busy.load(Ordering::Acquire) {
            // What is there goes first: both might not fit.
            *buffers = None;
            *buffers = Some(Buffers::new(&self.card, &self.copies, hp, n)?);
        }
        Ok(())
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
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let n = pixels.len() / hp.n_patch_values();
        self.reserve(hp, n)?;
        let buffers = self.buffers();
        if let Some(b) = buffers.as_ref().filter(|_| !self.is_busy.load(Ordering::Acquire)) {
            self.launch(hp, b, pixels, per_pair, angles, trace)?;
            return self.fetch(hp, b, n);
        }
        // Others' tokens are in the buffers.
        let own = Buffers::new(&self.card, &self.copies, hp, n)?;
        self.launch(hp, &own, pixels, per_pair, angles, trace)?;
        self.fetch(hp, &own, n)
    }

    /// Starts what [`CardTower::encode`] does, without waiting; [`CardTower::finish`] has the tokens. False, and nothing is
    /// done, while others are on their way.
    ///
    /// # Errors
    /// Memory that the card does not have; what the card says.
    pub fn begin(&self, hp: &VisionHParams, pixels: &[f32], per_pair: usize, angles: &RotaryTable) -> Result<bool> {
        self.reserve(hp, pixels.len() / hp.n_patch_values())?;
        let buffers = self.buffers();
        let Some(b) = buffers.as_ref().filter(|_| !self.is_busy.load(Ordering::Acquire)) else { return Ok(false) };
        self.launch(hp, b, pixels, per_pair, angles, None)?;
        self.is_busy.store(true, Ordering::Release);
        Ok(true)
    }

    /// The tokens of `n` patches that [`CardTower::begin`] began with.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the card says.
    pub fn finish(&self, hp: &VisionHParams, n: usize) -> Result<Vec<f32>> {
        let buffers = self.buffers();
        let b = buffers.as_ref().expect("they stay while tokens are in them");
        let tokens = self.fetch(hp, b, n);
        self.is_busy.store(false, Ordering::Release);
        tokens
    }

    /// Forgets what [`CardTower::begin`] began.
    pub fn abandon(&self) {
        self.is_busy.store(false, Ordering::Release);
    }

    /// Waits for the tokens of `n` patches.
    fn fetch(&self, hp: &VisionHParams, b: &Buffers, n: usize) -> Result<Vec<f32>> {
        b.done.wait(&self.copies)?;
        let mut flag = [0i32];
        b.broken.read(&mut flag)?;
        if flag != [0] {
            b.broken.write(&[0i32])?;
            return Err(Error::format("keys or values of a patch are not finite: the weights are broken"));
        }
        let mut tokens = vec![0f32; n / (hp.merge * hp.merge) * hp.n_embd_out];
        b.out.read(&mut tokens)?;
        Ok(tokens)
    }

    /// Sends the pixels and launches everything from them to the tokens. Without a trace nothing here waits.
    fn launch(
        &self,
        hp: &VisionHParams,
        b: &Buffers,
        pixels: &[f32],
        per_pair: usize,
        angles: &RotaryTable,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let (card, copies) = (&self.card, &self.copies);
        let VisionHParams { n_embd, n_head, n_ff, eps, .. } = *hp;
        let n = pixels.len() / hp.n_patch_values();
        let (d, merged, n_out) = (n_embd / n_head, n_embd * hp.merge * hp.merge, n / (hp.merge * hp.merge));
        let Buffers { input, x, xb, q, k, v, keys, values, hidden, wide, out, parts, past, broken, quantized, .. } = b;
        let rotation = Rotation { table: b.angles.clone(), n_tokens: per_pair, n_turning: angles.n_turning() };
        let rows = |x, width| Input::new(card, x, quantized, (n, width));
        let plain = EpilogueMem::default();
        let mut keep = || -> Result<()> {
            if let Some(trace) = trace.as_deref_mut() {
                let mut stage = vec![0f32; n * n_embd];
                x.read(&mut stage)?;
                trace.vit_stages.push(stage);
            }
            Ok(())
        };
        // A batch that was abandoned may still be computed from the inputs.
        b.done.wait(copies)?;
        input.write(pixels)?;
        b.angles.write(angles.rows())?;
        b.sent.record(copies)?;
        b.sent.wait(card)?;
        rows(input, hp.n_patch_values()).product(&self.patch_embd, plain, x)?;
        keep()?;
        let stride = per_pair * d * size_of::<f32>();
        let kv = |mem: &Mem| KvMem { ty: GgmlType::F32, mem: mem.clone(), stride };
        let (keys, values) = (kv(keys), kv(values));
        let seqs = Sequences { n_seq: n / per_pair, n_per_seq: per_pair, past, n_past: 0 };
        for block in &self.blocks {
            card.layer_norm(x, (&block.ln1.weight, &block.ln1.bias), eps, xb, n)?;
            let normed = rows(xb, n_embd);
            normed.product(&block.attn_q.weight, plain, q)?;
            normed.product(&block.attn_k.weight, plain, k)?;
            normed.product(&block.attn_v.weight, plain, v)?;
            card.rotate_rows(q, Some(&block.attn_q.bias), &rotation, n, (n_head, d))?;
            let finish = (Some(&block.attn_k.bias), Some(&rotation));
            card.kv_write(k, finish, seqs, (n_head, d), &keys, broken)?;
            card.kv_write(v, (Some(&block.attn_v.bias), None), seqs, (n_head, d), &values, broken)?;
            card.attention(q, (&keys, &values), seqs, (n_head, n_head, d), false, xb, parts)?;
            let add = |bias| EpilogueMem { bias: Some(bias), add: true, ..plain };
            rows(xb, n_embd).product(&block.attn_out.weight, add(&block.attn_out.bias), x)?;
            card.layer_norm(x, (&block.ln2.weight, &block.ln2.bias), eps, xb, n)?;
            let gelu = EpilogueMem { bias: Some(&block.ffn_up.bias), quick_gelu: true, ..plain };
            rows(xb, n_embd).product(&block.ffn_up.weight, gelu, hidden)?;
            rows(hidden, n_ff).product(&block.ffn_down.weight, add(&block.ffn_down.bias), x)?;
            keep()?;
        }
        card.layer_norm(x, (&self.post_ln.weight, &self.post_ln.bias), eps, xb, n)?;
        // As on the host: merging is reading several rows as one.
        let gelu = EpilogueMem { bias: Some(&self.mm_0.bias), gelu_erf: true, ..plain };
        Input::new(card, xb, quantized, (n_out, merged)).product(&self.mm_0.weight, gelu, wide)?;
        let bias = EpilogueMem { bias: Some(&self.mm_2.bias), ..plain };
        Input::new(card, wide, quantized, (n_out, merged)).product(&self.mm_2.weight, bias, out)?;
        b.done.record(card)
    }
}
