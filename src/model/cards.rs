//! The last layers of the language model on cards: each card owns a run of consecutive layers with their weights and their
//! rows of the cache, and turns hidden states (n_tokens, n_embd) into hidden states. The first one may own the embedding, the
//! last one the output matrix. What a batch does there is in `card_step.rs`.

use std::ops::Range;

use super::card_step::RunScratch;
use super::qwen2vl::Layer;
use super::split::shares;
use super::weights::Mat;
use super::{CardBytes, HParams};
use crate::Result;
use crate::cache::CacheShape;
use crate::kernels::cuda::{Card, DevMat, Mem, Stream};

/// [`Layer`] in memory of a card.
pub(super) struct CardLayer {
    pub attn_norm: Mem,
    pub attn_q: DevMat,
    pub bias_q: Mem,
    pub attn_k: DevMat,
    pub bias_k: Mem,
    pub attn_v: DevMat,
    pub bias_v: Mem,
    pub attn_output: DevMat,
    pub ffn_norm: Mem,
    pub ffn_gate: DevMat,
    pub ffn_up: DevMat,
    pub ffn_down: DevMat,
}

/// The final norm and the output matrix.
pub(super) struct Head {
    pub norm: Mem,
    pub output: DevMat,
}

/// A card with its layers.
pub(super) struct Run {
    pub card: Card,
    pub layers: Range<usize>,
    pub weights: Vec<CardLayer>,
    /// Where all of the model is on cards: on the first one, and on the last.
    pub embd: Option<DevMat>,
    pub head: Option<Head>,
}

/// What stands before and behind the layers.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub token_embd: &'a Mat,
    pub norm: &'a [f32],
    pub output: &'a Mat,
}

/// All layers that are on cards: the last ones of the model.
pub struct CardLayers {
    pub(super) runs: Vec<Run>,
    places: Vec<(Card, Range<usize>)>,
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
            let working = RunScratch::n_bytes(hp, n_batch, run.head.is_some());
            all.weights += run.n_bytes() as u64;
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

    /// Copies the last `n` layers to `cards`, each getting a share as large as its free memory; with `ends`, the embedding
    /// goes to the first of them, the output norm and matrix to the last.
    ///
    /// # Errors
    /// Memory that a card does not have; a type without kernels.
    pub fn load(cards: &[Card], layers: &[Layer], n: usize, ends: Option<Ends<'_>>) -> Result<CardLayers> {
        let free = cards.iter().map(|card| Ok(card.memory()?.0)).collect::<Result<Vec<u64>>>()?;
        let first = layers.len() - n;
        let mut runs: Vec<Run> = Vec::new();
        for (card, range) in cards.iter().zip(shares(&free, n)) {
            let range = first + range.start..first + range.end;
            if range.is_empty() {
                continue;
            }
            let copies = card.on(Stream::Copy);
            let load = |il: usize| CardLayer::load(&copies, &layers[il], il);
            runs.push(Run {
                card: card.clone(),
                weights: range.clone().map(load).collect::<Result<_>>()?,
                layers: range,
                embd: None,
                head: None,
            });
        }
        if let Some(Ends { token_embd, norm, output }) = ends.filter(|_| !runs.is_empty()) {
            let last = runs.last_mut().expect("there is one");
            let copies = last.card.on(Stream::Copy);
            let norm = copies.upload(norm, "output_norm")?;
            let output_mat = DevMat::upload(&copies, output.view(), "output")?;
            last.head = Some(Head { norm, output: output_mat.clone() });
            let n_runs = runs.len();
            let first = &mut runs[0];
            let is_same = n_runs == 1 && std::ptr::eq(token_embd.view().data(), output.view().data());
            let copies = first.card.on(Stream::Copy);
            first.embd =
                Some(if is_same { output_mat } else { DevMat::upload(&copies, token_embd.view(), "token_embd")? });
        }
        // Whoever uses the weights need not wait for them any more.
        runs.iter().try_for_each(|run| run.card.on(Stream::Copy).sync())?;
        let places = runs.iter().map(|run| (run.card.clone(), run.layers.clone())).collect();
        Ok(CardLayers { runs, places })
    }

    /// The first layer that is on a card.
    pub fn first(&self) -> usize {
        self.runs.first().map_or(usize::MAX, |run| run.layers.start)
    }

    /// Whether the output matrix is on a card.
    pub fn has_head(&self) -> bool {
        self.runs.last().is_some_and(|run| run.head.is_some())
    }

    /// Whether the embedding is on a card.
    pub fn has_embd(&self) -> bool {
        self.runs.first().is_some_and(|run| run.embd.is_some())
    }

    /// Which card has which layers.
    pub fn places(&self) -> &[(Card, Range<usize>)] {
        &self.places
    }
}

impl Run {
    /// Bytes of its matrices.
    fn n_bytes(&self) -> usize {
        let head = self.head.as_ref().map(|head| &head.output);
        // A tied matrix is there once.
        let embd = self.embd.as_ref().filter(|embd| head.is_none_or(|head| !embd.is(head)));
        let ends = [head, embd].into_iter().flatten().map(DevMat::n_bytes).sum::<usize>();
        self.weights.iter().map(CardLayer::n_bytes).sum::<usize>() + ends
    }
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

    /// Bytes of its matrices.
    fn n_bytes(&self) -> usize {
        let CardLayer { attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, .. } = self;
        [attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down].iter().map(|mat| mat.n_bytes()).sum()
    }
}
