//! The language model of Qwen2-VL: weights by name, and `forward`, written once for every position layout.

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use super::card_step::{CardBatch, CardOutput, CardScratch, MAX_TOP};
#[cfg(feature = "cuda")]
use super::cards::{CardLayers, Ends};
use super::weights::{Loader, Mat};
use super::{HParams, Trace};
use crate::cache::KvCache;
use crate::gguf::Gguf;
use crate::kernels::{
    self, Activations, AttentionShape, Epilogue, Kernels, attention, kv_write, matmul, matmul_with, rotate_rows,
};
use crate::position::{Pos, Rotary, RotaryTable};
use crate::{Error, Result, error::Context};

/// One transformer block. Matrices are (rows, columns) = (outputs, inputs).
pub(super) struct Layer {
    pub attn_norm: Vec<f32>,
    /// (n_head * d, n_embd), and its bias
    pub attn_q: Mat,
    pub bias_q: Vec<f32>,
    /// (n_head_kv * d, n_embd), and its bias
    pub attn_k: Mat,
    pub bias_k: Vec<f32>,
    pub attn_v: Mat,
    pub bias_v: Vec<f32>,
    /// (n_embd, n_head * d)
    pub attn_output: Mat,
    pub ffn_norm: Vec<f32>,
    /// (n_ff, n_embd)
    pub ffn_gate: Mat,
    pub ffn_up: Mat,
    /// (n_embd, n_ff)
    pub ffn_down: Mat,
}

/// A loaded language model.
pub struct TextModel {
    hp: HParams,
    rotary: Rotary,
    kernels: &'static Kernels,
    /// (n_vocab, n_embd)
    token_embd: Mat,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// (n_vocab, n_embd); the embedding itself when tied.
    output: Mat,
    /// The last layers, where they are on cards.
    #[cfg(feature = "cuda")]
    cards: Option<CardLayers>,
}

/// The tokens of one step: embeddings (words looked up, vision from the tower) and where each stands.
pub struct Batch<'a> {
    /// (n_tokens, n_embd)
    pub embd: &'a [f32],
    /// (n_tokens)
    pub pos: &'a [Pos],
    /// How many of the last tokens want logits.
    pub n_logits: usize,
}

/// What there is to choose the next token from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice<'s> {
    /// Every logit, (n_vocab).
    Logits(&'s [f32]),
    /// Tokens with the largest logits, largest first, of equal ones the lower token first.
    Top(&'s [(u32, f32)]),
}

/// Where a batch begins.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// (n_tokens, n_embd)
    Embd(&'a [f32]),
    Token(u32),
}

/// Working memory of `forward`, allocated once for the largest batch.
pub struct Scratch {
    n_batch: usize,
    rotary: RotaryTable,
    /// (n_tokens, n_embd)
    x: Vec<f32>,
    xb: Vec<f32>,
    /// (n_tokens, n_head * d)
    q: Vec<f32>,
    attn: Vec<f32>,
    /// (n_tokens, n_head_kv * d)
    k: Vec<f32>,
    v: Vec<f32>,
    /// (n_tokens, n_ff)
    hidden: Vec<f32>,
    /// (n_logits, n_vocab)
    logits: Vec<f32>,
    /// The largest logits, where only they came from a card.
    top: Vec<(u32, f32)>,
    /// On cards, once [`TextModel::prepare`] reserved it.
    #[cfg(feature = "cuda")]
    cards: Option<CardScratch>,
}

impl Scratch {
    /// Memory for batches of up to `n_batch` tokens.
    pub fn new(hp: &HParams, n_batch: usize) -> Scratch {
        let rows = |n: usize| vec![0.0; n_batch * n];
        let (q, kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        Scratch {
            n_batch,
            rotary: RotaryTable::default(),
            x: rows(hp.n_embd),
            xb: rows(hp.n_embd),
            q: rows(q),
            attn: rows(q),
            k: rows(kv),
            v: rows(kv),
            hidden: rows(hp.n_ff),
            logits: Vec::new(),
            top: Vec::new(),
            #[cfg(feature = "cuda")]
            cards: None,
        }
    }

    /// Bytes that batches of up to `n_batch` tokens take, with what their quantized forms take besides.
    pub fn n_bytes(hp: &HParams, n_batch: usize) -> usize {
        let (q, kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        let floats = n_batch * (2 * hp.n_embd + 2 * q + 2 * kv + 2 * hp.n_ff) + hp.n_vocab;
        floats * size_of::<f32>() + n_batch * (hp.n_embd + q + hp.n_ff) * 2
    }

    /// The largest batch.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }
}

impl TextModel {
    /// Checks every tensor of `file` against its hyper-parameters. Also returns the names of tensors that have no use here.
    ///
    /// # Errors
    /// What [`HParams::from_gguf`] refuses; all missing, misshaped and mistyped tensors in one error.
    pub fn load(file: &Arc<Gguf>) -> Result<(TextModel, Vec<String>)> {
        let place = || file.path().display().to_string();
        let hp = HParams::from_gguf(file).at(place)?;
        let rotary = Rotary::new(hp.layout, hp.n_embd_head, hp.rope_freq_base, hp.rope_sections)
            .and_then(|rotary| rotary.stretched(&hp.rope_stretch))
            .at(place)?;
        let mut load = Loader::new(file);
        let (n_embd, n_ff) = (hp.n_embd, hp.n_ff);
        let (n_q, n_kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
        let token_embd = load.mat("token_embd.weight", n_embd, hp.n_vocab);
        let output_norm = load.vec("output_norm.weight", n_embd);
        let output =
            if load.has("output.weight") { load.mat("output.weight", n_embd, hp.n_vocab) } else { token_embd.clone() };
        let mut layers = Vec::new();
        for il in 0..hp.n_layer {
            let name = |part: &str| format!("blk.{il}.{part}");
            let attn_norm = load.vec(&name("attn_norm.weight"), n_embd);
            let attn_q = load.mat(&name("attn_q.weight"), n_embd, n_q);
            let bias_q = load.vec(&name("attn_q.bias"), n_q);
            let attn_k = load.mat(&name("attn_k.weight"), n_embd, n_kv);
            let bias_k = load.vec(&name("attn_k.bias"), n_kv);
            let attn_v = load.mat(&name("attn_v.weight"), n_embd, n_kv);
            let bias_v = load.vec(&name("attn_v.bias"), n_kv);
            let attn_output = load.mat(&name("attn_output.weight"), n_q, n_embd);
            let ffn_norm = load.vec(&name("ffn_norm.weight"), n_embd);
            let ffn_gate = load.mat(&name("ffn_gate.weight"), n_embd, n_ff);
            let ffn_up = load.mat(&name("ffn_up.weight"), n_embd, n_ff);
            let ffn_down = load.mat(&name("ffn_down.weight"), n_ff, n_embd);
            // A missing matrix is a recorded problem; `finish` below turns it into the error.
            let (Some(attn_q), Some(attn_k), Some(attn_v), Some(attn_output)) = (attn_q, attn_k, attn_v, attn_output)
            else {
                continue;
            };
            let (Some(ffn_gate), Some(ffn_up), Some(ffn_down)) = (ffn_gate, ffn_up, ffn_down) else { continue };
            layers.push(Layer {
                attn_norm,
                attn_q,
                bias_q,
                attn_k,
                bias_k,
                attn_v,
                bias_v,
                attn_output,
                ffn_norm,
                ffn_gate,
                ffn_up,
                ffn_down,
            });
        }
        let unused = load.finish()?;
        let (Some(token_embd), Some(output)) = (token_embd, output) else {
            unreachable!("finish reports missing matrices")
        };
        let kernels = kernels::select()?;
        let model = TextModel {
            hp,
            rotary,
            kernels,
            token_embd,
            layers,
            output_norm,
            output,
            #[cfg(feature = "cuda")]
            cards: None,
        };
        Ok((model, unused))
    }

    /// Moves the last `n` layers to `cards`; beyond the number of layers also the output matrix, as llama.cpp counts, and the
    /// embedding.
    ///
    /// # Errors
    /// Memory that a card does not have, with the numbers.
    #[cfg(feature = "cuda")]
    pub fn offload(&mut self, cards: &[crate::kernels::cuda::Card], n: usize) -> Result<()> {
        let n_layer = self.hp.n_layer;
        self.cards = None;
        if n > 0 && !cards.is_empty() {
            let ends = Ends { token_embd: &self.token_embd, norm: &self.output_norm, output: &self.output };
            let ends = (n > n_layer).then_some(ends);
            self.cards = Some(CardLayers::load(cards, &self.layers, n.min(n_layer), ends)?);
        }
        Ok(())
    }

    /// Which layers are on which card, by name, and whether the output matrix is there, too.
    #[cfg(feature = "cuda")]
    pub fn on_cards(&self) -> Vec<(String, std::ops::Range<usize>, bool)> {
        self.cards.as_ref().map_or(Vec::new(), CardLayers::names)
    }

    /// Bytes that layers on cards take there for a cache of `shape` and steps of `n_batch` tokens.
    ///
    /// # Errors
    /// A cache that cannot be; a card that no longer answers.
    #[cfg(feature = "cuda")]
    pub fn card_bytes(&self, shape: &crate::cache::CacheShape, n_batch: usize) -> Result<Option<super::CardBytes>> {
        self.cards.as_ref().map(|cards| cards.bytes(&self.hp, shape, n_batch)).transpose()
    }

    /// Reserves what a step with this cache and this working memory needs on cards, so that no step has to.
    ///
    /// # Errors
    /// Memory that a card does not have, with the numbers.
    pub fn prepare(&self, cache: &mut KvCache, s: &mut Scratch) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(cards) = &self.cards {
            cache.place(cards.places())?;
            if s.cards.is_none() {
                s.cards = Some(cards.scratch(&self.hp, s.n_batch)?);
                s.top.reserve(MAX_TOP);
            }
        }
        let _ = (cache, s);
        Ok(())
    }

    /// Layers that the CPU computes, the first ones; all others are on cards.
    pub fn n_host_layers(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(cards) = &self.cards {
            return cards.first();
        }
        self.hp.n_layer
    }

    /// Sizes and rules.
    pub fn hparams(&self) -> &HParams {
        &self.hp
    }

    /// Looks up the embedding rows of `tokens` into `out` (n_tokens, n_embd).
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn embed(&self, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let table = self.token_embd.view();
        for (id, row) in tokens.iter().zip(out.chunks_exact_mut(self.hp.n_embd)) {
            self.check_token(*id)?;
            table.row_f32(*id as usize, row)?;
        }
        Ok(())
    }

    fn check_token(&self, id: u32) -> Result<()> {
        let n_vocab = self.hp.n_vocab;
        if id as usize >= n_vocab {
            return Err(Error::bad_input(format!("token `{id}` is outside the vocabulary of {n_vocab}")));
        }
        Ok(())
    }

    /// Runs a batch through every layer, fills the cache, and returns the logits of its last `n_logits` tokens,
    /// (n_logits, n_vocab). On an error the cache keeps its length.
    ///
    /// # Errors
    /// A batch that does not fit the scratch or the cache; activations that are not finite; what a card says.
    pub fn forward<'s>(
        &self,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        s: &'s mut Scratch,
        trace: Option<&mut Trace>,
    ) -> Result<&'s [f32]> {
        let n = batch.pos.len();
        assert!(batch.embd.len() == n * self.hp.n_embd && batch.n_logits <= n, "batch arrays disagree");
        self.run(Rows::Embd(batch.embd), batch.pos, (batch.n_logits, 0), cache, s, trace)?;
        Ok(if n == 0 { &[] } else { &s.logits })
    }

    /// Runs one token through every layer: as [`TextModel::forward`] with its embedding. A caller to whom the `n_top` largest
    /// logits are enough gets only these where they are on a card and finite; with 0, always all of them.
    ///
    /// # Errors
    /// A token outside the vocabulary; what `forward` refuses.
    pub fn step<'s>(
        &self,
        id: u32,
        pos: Pos,
        n_top: usize,
        cache: &mut KvCache,
        s: &'s mut Scratch,
    ) -> Result<Choice<'s>> {
        self.check_token(id)?;
        self.run(Rows::Token(id), &[pos], (1, n_top), cache, s, None)?;
        Ok(if s.top.is_empty() { Choice::Logits(&s.logits) } else { Choice::Top(&s.top) })
    }

    /// The whole row of logits after the last [`TextModel::step`], also where only the largest came back from it.
    ///
    /// # Errors
    /// What a card says.
    pub fn logits<'s>(&self, s: &'s mut Scratch) -> Result<&'s [f32]> {
        #[cfg(feature = "cuda")]
        if let (Some(cards), Some(memory), false) = (&self.cards, &mut s.cards, s.top.is_empty()) {
            cards.last_logits(&self.hp, memory, &mut s.logits)?;
            s.top.clear();
        }
        Ok(&s.logits)
    }

    /// Leaves logits, or the largest of them, in `s`.
    fn run(
        &self,
        rows: Rows<'_>,
        pos: &[Pos],
        (n_logits, n_top): (usize, usize),
        cache: &mut KvCache,
        s: &mut Scratch,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let n = pos.len();
        if n > s.n_batch || n > cache.free() {
            let room = s.n_batch.min(cache.free());
            return Err(Error::limit(format!("a batch of `{n}` tokens does not fit, there is room for {room}")));
        }
        if n == 0 {
            return Ok(());
        }
        self.prepare(cache, s)?;
        let n_embd = self.hp.n_embd;
        self.rotary.fill(pos, &mut s.rotary);
        let token = self.token_for_cards(rows);
        match rows {
            Rows::Embd(embd) => s.x[..n * n_embd].copy_from_slice(embd),
            Rows::Token(id) if token.is_none() => self.embed(&[id], &mut s.x[..n_embd])?,
            Rows::Token(_) => {}
        }
        if let Some(trace) = trace.as_deref_mut() {
            trace.hidden_last.clear();
            trace.hidden_last.extend_from_slice(last_row(&s.x, n, n_embd));
        }
        s.top.clear();
        // Behind the last layer's keys and values, only what logits are made of has a use.
        let last = n - n_logits.max(usize::from(trace.is_some()))..n;
        for (il, layer) in self.layers.iter().enumerate().take(self.n_host_layers()) {
            let rows = if il + 1 < self.layers.len() { 0..n } else { last.clone() };
            self.norm(&layer.attn_norm, s, 0..n);
            self.attention(il, layer, cache, s, rows.clone(), n).at(|| format!("layer {il}"))?; // x += wo · attn(xb)
            if let (0, Some(trace)) = (il, trace.as_deref_mut()) {
                trace.layer0_q_last = last_row(&s.q, n, self.hp.n_head * self.hp.n_embd_head).to_vec();
            }
            self.norm(&layer.ffn_norm, s, rows.clone());
            self.ffn(layer, s, rows); // x += down · (silu(gate · xb) * up · xb)
            if let Some(trace) = trace.as_deref_mut() {
                trace.hidden_last.extend_from_slice(last_row(&s.x, n, n_embd));
            }
        }
        #[cfg(feature = "cuda")]
        if let Some(cards) = &self.cards {
            let memory = s.cards.as_mut().expect("`prepare` reserved it");
            // More than cards look for is all of them.
            let n_top = if cards.has_head() && n_top <= MAX_TOP { n_top } else { 0 };
            let step = CardBatch { hp: &self.hp, n, token, n_logits, n_top, angles: &s.rotary };
            let x = &mut s.x[..n * n_embd];
            let out = CardOutput { x, logits: &mut s.logits, top: &mut s.top, trace: trace.as_deref_mut() };
            cards.forward(&step, cache, memory, out)?;
            cache.advance_on_cards(n);
            if !cards.has_head() {
                self.head(s, n, n_logits, trace);
            }
            return Ok(());
        }
        let _ = n_top;
        cache.advance(n);
        self.head(s, n, n_logits, trace);
        Ok(())
    }

    /// The token that a card looks up itself, where the embedding is there.
    fn token_for_cards(&self, rows: Rows<'_>) -> Option<u32> {
        #[cfg(feature = "cuda")]
        if let (Rows::Token(id), Some(cards)) = (rows, &self.cards) {
            return cards.has_embd().then_some(id);
        }
        let _ = rows;
        None
    }

    /// xb = rms_norm(x), in these rows.
    fn norm(&self, weight: &[f32], s: &mut Scratch, rows: Range<usize>) {
        let n_embd = self.hp.n_embd;
        let x = &s.x[span(&rows, n_embd)];
        kernels::for_rows(&mut s.xb[span(&rows, n_embd)], n_embd, |it, out| {
            (self.kernels.rms_norm)(&x[it * n_embd..][..n_embd], weight, self.hp.f_norm_rms_eps, out);
        });
    }

    /// Keys and values of all `n` tokens, and what these rows see.
    fn attention(
        &self,
        il: usize,
        layer: &Layer,
        cache: &mut KvCache,
        s: &mut Scratch,
        rows: Range<usize>,
        n: usize,
    ) -> Result<()> {
        let HParams { n_embd, n_head, n_head_kv, n_embd_head: d, .. } = self.hp;
        let (of_q, of_x, n_kv) = (span(&rows, n_head * d), span(&rows, n_embd), n * n_head_kv * d);
        let mut xb = Activations::new(self.kernels, &s.xb[..n * n_embd], n_embd);
        if rows.len() == n {
            xb.matmul(layer.attn_q.view(), &mut s.q[of_q.clone()]);
        }
        xb.matmul(layer.attn_k.view(), &mut s.k[..n_kv]);
        xb.matmul(layer.attn_v.view(), &mut s.v[..n_kv]);
        drop(xb);
        let n_past = cache.len();
        let (k_rows, v_rows) = cache.rows_mut(il);
        kv_write(self.kernels, &s.k[..n_kv], Some(&layer.bias_k), Some(&s.rotary), (n_head_kv, d), k_rows)?;
        kv_write(self.kernels, &s.v[..n_kv], Some(&layer.bias_v), None, (n_head_kv, d), v_rows)?;
        if rows.len() < n {
            matmul(self.kernels, layer.attn_q.view(), &s.xb[of_x.clone()], &mut s.q[of_q.clone()]);
        }
        let q = &mut s.q[of_q.clone()];
        rotate_rows(self.kernels, q, Some(&layer.bias_q), (&s.rotary, rows.start), (n_head, d));
        let shape = AttentionShape { n_head, n_head_kv, d, n_past: n_past + rows.start, causal: true, exact: true };
        attention(self.kernels, shape, cache.view(il), q, &mut s.attn[of_q.clone()]);
        matmul_with(self.kernels, layer.attn_output.view(), &s.attn[of_q], Epilogue::ADD, &mut s.x[of_x]);
        Ok(())
    }

    fn ffn(&self, layer: &Layer, s: &mut Scratch, rows: Range<usize>) {
        let n_embd = self.hp.n_embd;
        let hidden = &mut s.hidden[span(&rows, self.hp.n_ff)];
        let mut xb = Activations::new(self.kernels, &s.xb[span(&rows, n_embd)], n_embd);
        xb.matmul_gated(layer.ffn_gate.view(), layer.ffn_up.view(), hidden);
        drop(xb);
        matmul_with(self.kernels, layer.ffn_down.view(), hidden, Epilogue::ADD, &mut s.x[span(&rows, n_embd)]);
    }

    /// logits = output · rms_norm(x), for the last `n_logits` rows.
    fn head(&self, s: &mut Scratch, n: usize, n_logits: usize, trace: Option<&mut Trace>) {
        let n_embd = self.hp.n_embd;
        if n_logits == 0 && trace.is_none() {
            s.logits.clear();
            return;
        }
        self.norm(&self.output_norm, s, n - n_logits.max(1)..n);
        if let Some(trace) = trace {
            trace.hidden_last.extend_from_slice(last_row(&s.xb, n, n_embd));
        }
        s.logits.resize(n_logits * self.hp.n_vocab, 0.0);
        let rows = &s.xb[(n - n_logits) * n_embd..n * n_embd];
        if n_logits > 0 {
            matmul(self.kernels, self.output.view(), rows, &mut s.logits);
        }
    }
}

/// Where some rows of a matrix of `width` columns lie.
fn span(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Row `n - 1` of a matrix of `width` columns.
fn last_row(rows: &[f32], n: usize, width: usize) -> &[f32] {
    &rows[(n - 1) * width..n * width]
}
