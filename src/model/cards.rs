//! The last layers of the language model on cards: each card owns a run of consecutive layers with their weights and their
//! rows of the cache, and turns hidden states (n_tokens, n_embd) into hidden states. The last one may own the output matrix.

use std::ops::Range;

use super::qwen2vl::Layer;
use super::split::shares;
use super::weights::Mat;
use super::{CardBytes, HParams, Trace};
use crate::cache::{CacheShape, KvCache};
use crate::error::Context;
use crate::kernels::cuda::{Card, DevMat, EpilogueMem, Input, Mem, QuantizedMem, Rotation, Sequences};
use crate::position::RotaryTable;
use crate::{Error, Result};

/// [`Layer`] in memory of a card.
struct CardLayer {
    attn_norm: Mem,
    attn_q: DevMat,
    bias_q: Mem,
    attn_k: DevMat,
    bias_k: Mem,
    attn_v: DevMat,
    bias_v: Mem,
    attn_output: DevMat,
    ffn_norm: Mem,
    ffn_gate: DevMat,
    ffn_up: DevMat,
    ffn_down: DevMat,
}

/// The final norm and the output matrix.
struct Head {
    norm: Mem,
    output: DevMat,
}

/// A card with its layers.
struct Run {
    card: Card,
    layers: Range<usize>,
    weights: Vec<CardLayer>,
    head: Option<Head>,
}

/// All layers that are on cards: the last ones of the model.
pub struct CardLayers {
    runs: Vec<Run>,
}

/// Working memory on one card, for batches of up to `n_batch` tokens.
struct RunScratch {
    /// (n_tokens, n_embd)
    x: Mem,
    xb: Mem,
    /// (n_tokens, n_head * d)
    q: Mem,
    attn: Mem,
    /// (n_tokens, n_head_kv * d)
    k: Mem,
    v: Mem,
    /// (n_tokens, n_ff)
    gate: Mem,
    up: Mem,
    /// Cosines and sines, (n_tokens, 2, pairs).
    angles: Mem,
    /// Slots filled before the batch, and whether keys or values were not finite.
    past: Mem,
    broken: Mem,
    /// Partial results of attention.
    parts: Mem,
    /// ([`HEAD_ROWS`], n_vocab), where the head is.
    logits: Mem,
    quantized: QuantizedMem,
}

/// Working memory on all cards.
pub struct CardScratch(Vec<RunScratch>);

/// Rows whose logits are computed at once.
const HEAD_ROWS: usize = 8;

/// A batch on its way through the layers.
pub struct CardBatch<'a> {
    pub hp: &'a HParams,
    pub n: usize,
    pub n_logits: usize,
    pub angles: &'a RotaryTable,
}

/// Bytes of each buffer of [`RunScratch`], in the order of its fields.
fn scratch_sizes(hp: &HParams, n_batch: usize, has_head: bool) -> [usize; 13] {
    let (q, kv) = (hp.n_head * hp.n_embd_head, hp.n_head_kv * hp.n_embd_head);
    let floats = |n: usize| n * n_batch * size_of::<f32>();
    let parts = Card::attention_parts(n_batch, hp.n_head, hp.n_embd_head) * size_of::<f32>();
    let logits = if has_head { HEAD_ROWS * hp.n_vocab * size_of::<f32>() } else { 0 };
    [
        floats(hp.n_embd),
        floats(hp.n_embd),
        floats(q),
        floats(q),
        floats(kv),
        floats(kv),
        floats(hp.n_ff),
        floats(hp.n_ff),
        floats(hp.n_embd_head),
        4,
        4,
        parts,
        logits,
    ]
}

fn widest(hp: &HParams) -> usize {
    hp.n_embd.max(hp.n_head * hp.n_embd_head).max(hp.n_ff)
}

impl RunScratch {
    fn new(card: &Card, hp: &HParams, n_batch: usize, has_head: bool) -> Result<RunScratch> {
        let what = format!("batches of {n_batch} tokens");
        let [x, xb, q, attn, k, v, gate, up, angles, past, broken, parts, logits] =
            card.alloc_parts(scratch_sizes(hp, n_batch, has_head), &what)?;
        let quantized = QuantizedMem::new(card, n_batch * widest(hp))?;
        Ok(RunScratch { x, xb, q, attn, k, v, gate, up, angles, past, broken, parts, logits, quantized })
    }
}

impl CardLayers {
    /// What all of this takes with a cache of `shape`, for steps of `n_batch` tokens.
    ///
    /// # Errors
    /// A cache that cannot be; a card that no longer answers.
    pub fn bytes(&self, hp: &HParams, shape: &CacheShape, n_batch: usize) -> Result<CardBytes> {
        let mut all = CardBytes { spare: i64::MAX, ..CardBytes::default() };
        for run in &self.runs {
            let cache = CacheShape { n_layer: run.layers.len(), ..*shape }.n_bytes()? as u64;
            let sizes = scratch_sizes(hp, n_batch, run.head.is_some());
            let working = sizes.iter().sum::<usize>() + QuantizedMem::n_bytes(n_batch * widest(hp));
            all.weights += run.weights.iter().map(CardLayer::n_bytes).sum::<usize>() as u64;
            all.weights += run.head.as_ref().map_or(0, |head| head.output.n_bytes() as u64);
            all.cache += cache;
            all.working += working as u64;
            let (free, _) = run.card.memory()?;
            all.spare = all.spare.min(free as i64 - (cache + working as u64) as i64);
        }
        Ok(all)
    }

    /// The card of each run with its layers, and whether the head is there.
    pub fn names(&self) -> Vec<(String, Range<usize>, bool)> {
        self.runs.iter().map(|run| (run.card.name().to_string(), run.layers.clone(), run.head.is_some())).collect()
    }

    /// Copies the last `n` layers to `cards`, each getting a share as large as its free memory; with a `head` (its norm and
    /// matrix), that goes to the last of them.
    ///
    /// # Errors
    /// Memory that a card does not have; a type without kernels.
    pub fn load(cards: &[Card], layers: &[Layer], n: usize, head: Option<(&[f32], &Mat)>) -> Result<CardLayers> {
        let free = cards.iter().map(|card| Ok(card.memory()?.0)).collect::<Result<Vec<u64>>>()?;
        let first = layers.len() - n;
        let mut runs: Vec<Run> = Vec::new();
        for (card, range) in cards.iter().zip(shares(&free, n)) {
            let range = first + range.start..first + range.end;
            if range.is_empty() {
                continue;
            }
            let load = |il: usize| CardLayer::load(card, &layers[il], il);
            runs.push(Run {
                card: card.clone(),
                weights: range.clone().map(load).collect::<Result<_>>()?,
                layers: range,
                head: None,
            });
        }
        if let (Some(run), Some((norm, output))) = (runs.last_mut(), head) {
            let norm = run.card.upload(norm, "output_norm")?;
            run.head = Some(Head { norm, output: DevMat::upload(&run.card, output.view(), "output")? });
        }
        Ok(CardLayers { runs })
    }

    /// The first layer that is on a card.
    pub fn first(&self) -> usize {
        self.runs.first().map_or(usize::MAX, |run| run.layers.start)
    }

    /// Whether the output matrix is on a card.
    pub fn has_head(&self) -> bool {
        self.runs.last().is_some_and(|run| run.head.is_some())
    }

    /// Which card has which layers.
    pub fn places(&self) -> Vec<(Card, Range<usize>)> {
        self.runs.iter().map(|run| (run.card.clone(), run.layers.clone())).collect()
    }

    /// Working memory for batches of up to `n_batch` tokens.
    ///
    /// # Errors
    /// Memory that a card does not have.
    pub fn scratch(&self, hp: &HParams, n_batch: usize) -> Result<CardScratch> {
        let runs = self.runs.iter().map(|run| RunScratch::new(&run.card, hp, n_batch, run.head.is_some()));
        Ok(CardScratch(runs.collect::<Result<_>>()?))
    }

    /// Runs the hidden states `x` (n, n_embd) through all layers here, whose fresh keys and values go behind the filled slots
    /// of `cache`. With the head here, `logits` become those of the last rows; otherwise `x` is what the layers make of it.
    ///
    /// # Errors
    /// Keys or values that are not finite; what a card says.
    pub fn forward(
        &self,
        batch: &CardBatch<'_>,
        x: &mut [f32],
        cache: &KvCache,
        scratch: &CardScratch,
        (logits, mut trace): (&mut Vec<f32>, Option<&mut Trace>),
    ) -> Result<()> {
        let CardBatch { hp, n, n_logits, angles } = *batch;
        for (i, (run, s)) in self.runs.iter().zip(&scratch.0).enumerate() {
            s.x.write(x)?;
            s.angles.write(angles.rows())?;
            s.past.write(&[cache.len() as i32])?;
            let rotation = Rotation { table: s.angles.clone(), n_tokens: n, n_turning: angles.n_turning() };
            for (layer, il) in run.weights.iter().zip(run.layers.clone()) {
                let step = Step { card: &run.card, hp, layer, s, n, rotation: &rotation };
                step.attention(&cache.card_rows()[i].layer(il, cache.shape()), cache.len())
                    .at(|| format!("layer {il}"))?;
                if let (0, Some(trace)) = (il, trace.as_deref_mut()) {
                    trace.layer0_q_last = last_row(&s.q, n, hp.n_head * hp.n_embd_head)?;
                }
                step.ffn().at(|| format!("layer {il}"))?;
                if let Some(trace) = trace.as_deref_mut() {
                    trace.hidden_last.extend(last_row(&s.x, n, hp.n_embd)?);
                }
            }
            let mut broken = [0i32];
            s.broken.read(&mut broken)?;
            if broken != [0] {
                s.broken.write(&[0i32])?;
                let layers = &run.layers;
                return Err(Error::format("keys or values are not finite: the weights are broken").at(format!(
                    "layers {} to {}",
                    layers.start,
                    layers.end - 1
                )));
            }
            match &run.head {
                None => s.x.read(x)?,
                Some(head) if n_logits > 0 || trace.is_some() => {
                    run.card.rms_norm(&s.x, &head.norm, hp.f_norm_rms_eps, &s.xb, n)?;
                    if let Some(trace) = trace.as_deref_mut() {
                        trace.hidden_last.extend(last_row(&s.xb, n, hp.n_embd)?);
                    }
                    logits.resize(n_logits * hp.n_vocab, 0.0);
                    for (i, out) in logits.chunks_mut(HEAD_ROWS * hp.n_vocab).enumerate() {
                        let rows = out.len() / hp.n_vocab;
                        let x = s.xb.floats((n - n_logits + i * HEAD_ROWS) * hp.n_embd, rows * hp.n_embd);
                        let input = Input::new(&run.card, &x, &s.quantized, (rows, hp.n_embd));
                        input.product(&head.output, EpilogueMem::default(), &s.logits)?;
                        s.logits.read(out)?;
                    }
                }
                Some(_) => logits.clear(),
            }
        }
        Ok(())
    }
}

/// The last of `n` rows.
fn last_row(rows: &Mem, n: usize, width: usize) -> Result<Vec<f32>> {
    let mut out = vec![0f32; width];
    rows.floats((n - 1) * width, width).read(&mut out)?;
    Ok(out)
}

impl CardLayer {
    fn load(card: &Card, layer: &Layer, il: usize) -> Result<CardLayer> {
        let what = format!("the weights of layer {il}");
        let mat = |mat: &Mat| DevMat::upload(card, mat.view(), &what);
        let vec = |vec: &[f32]| card.upload(vec, &what);
        Ok(CardLayer {
            attn_norm: vec(&layer.attn_norm)?,
            attn_q: mat(&layer.attn_q)?,
            bias_q: vec(&layer.bias_q)?,
            attn_k: mat(&layer.attn_k)?,
            bias_k: vec(&layer.bias_k)?,
            attn_v: mat(&layer.attn_v)?,
            bias_v: vec(&layer.bias_v)?,
            attn_output: mat(&layer.attn_output)?,
            ffn_norm: vec(&layer.ffn_norm)?,
            ffn_gate: mat(&layer.ffn_gate)?,
            ffn_up: mat(&layer.ffn_up)?,
            ffn_down: mat(&layer.ffn_down)?,
        })
    }
}

impl CardLayer {
    /// Bytes of its matrices.
    fn n_bytes(&self) -> usize {
        let CardLayer { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = self;
        [attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down].iter().map(|mat| mat.n_bytes()).sum()
    }
}

/// A batch in one layer.
struct Step<'a> {
    card: &'a Card,
    hp: &'a HParams,
    layer: &'a CardLayer,
    s: &'a RunScratch,
    n: usize,
    rotation: &'a Rotation,
}

const ADD: EpilogueMem<'static> = EpilogueMem { bias: None, add: true, quick_gelu: false, gelu_erf: false };

impl Step<'_> {
    /// x += wo · attn(rms_norm(x))
    fn attention(
        &self,
        (keys, values): &(crate::kernels::cuda::KvMem, crate::kernels::cuda::KvMem),
        n_past: usize,
    ) -> Result<()> {
        let Step { card, hp, layer, s, n, rotation } = *self;
        let HParams { n_embd, n_head, n_head_kv, n_embd_head: d, .. } = *hp;
        card.rms_norm(&s.x, &layer.attn_norm, hp.f_norm_rms_eps, &s.xb, n)?;
        let xb = Input::new(card, &s.xb, &s.quantized, (n, n_embd));
        xb.product(&layer.attn_q, EpilogueMem::default(), &s.q)?;
        xb.product(&layer.attn_k, EpilogueMem::default(), &s.k)?;
        xb.product(&layer.attn_v, EpilogueMem::default(), &s.v)?;
        card.rotate_rows(&s.q, Some(&layer.bias_q), rotation, n, (n_head, d))?;
        let seqs = Sequences { n_seq: 1, n_per_seq: n, past: &s.past, n_past };
        let heads = (n_head_kv, d);
        card.kv_write(&s.k, (Some(&layer.bias_k), Some(rotation)), seqs, heads, keys, &s.broken)?;
        card.kv_write(&s.v, (Some(&layer.bias_v), None), seqs, heads, values, &s.broken)?;
        card.attention(&s.q, (keys, values), seqs, (n_head, n_head_kv, d), true, &s.attn, &s.parts)?;
        Input::new(card, &s.attn, &s.quantized, (n, n_head * d)).product(&layer.attn_output, ADD, &s.x)
    }

    /// x += down · (silu(gate · xb) * up · xb), with xb = rms_norm(x)
    fn ffn(&self) -> Result<()> {
        let Step { card, hp, layer, s, n, .. } = *self;
        card.rms_norm(&s.x, &layer.ffn_norm, hp.f_norm_rms_eps, &s.xb, n)?;
        let xb = Input::new(card, &s.xb, &s.quantized, (n, hp.n_embd));
        xb.product(&layer.ffn_gate, EpilogueMem::default(), &s.gate)?;
        xb.product(&layer.ffn_up, EpilogueMem::default(), &s.up)?;
        card.silu_mul(&s.gate, &s.up, n * hp.n_ff)?;
        Input::new(card, &s.gate, &s.quantized, (n, hp.n_ff)).product(&layer.ffn_down, ADD, &s.x)
    }
}
