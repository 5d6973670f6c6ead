//! What is timed: tokens through the language model, pictures through the vision tower.

use std::time::Instant;

use super::Work;
use crate::cache::{CacheShape, KvCache};
use crate::model::{Batch, Scratch, TextModel, VisionTower};
use crate::position::Placer;
use crate::stream::fill;
use crate::{Error, Result};

/// The tokens that are read: the same in every repetition, and in llama.cpp.
pub fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| (i.wrapping_mul(7919) % n_vocab) as u32).collect()
}

/// A cache filled to its depth, and all memory that a repetition needs.
pub struct TextTest<'m> {
    model: &'m TextModel,
    work: Work,
    cache: KvCache,
    scratch: Scratch,
    tokens: Vec<u32>,
    embd: Vec<f32>,
}

impl<'m> TextTest<'m> {
    /// # Errors
    /// Memory that the cache does not get, cache types that the model cannot have.
    pub fn new(model: &'m TextModel, work: Work) -> Result<TextTest<'m>> {
        let hp = model.hparams();
        let shape = CacheShape {
            n_layer: hp.n_layer,
            n_head_kv: hp.n_head_kv,
            d: hp.n_embd_head,
            n_ctx: work.depth + work.n,
            type_k: work.types.0,
            type_v: work.types.1,
        };
        let mut cache = KvCache::new(shape)?;
        fill(&mut cache, work.depth)?;
        Ok(TextTest {
            model,
            work,
            cache,
            scratch: Scratch::new(hp, work.n_batch),
            tokens: tokens(work.n, hp.n_vocab),
            embd: vec![0.0; work.n_batch * hp.n_embd],
        })
    }

    /// Seconds for the first `n` tokens of the test.
    pub fn run(&mut self, n: usize) -> Result<f64> {
        let TextTest { model, work, cache, scratch, tokens, embd } = self;
        let hp = model.hparams();
        cache.truncate(work.depth);
        let (mut placer, mut pos) = (Placer::new(hp.layout), Vec::new());
        placer.text(work.depth, &mut pos);
        let started = Instant::now();
        for step in tokens[..n].chunks(work.n_batch) {
            let rows = &mut embd[..step.len() * hp.n_embd];
            model.embed(step, rows)?;
            pos.clear();
            placer.text(step.len(), &mut pos);
            model.forward(&Batch { embd: rows, pos: &pos, n_logits: 1 }, cache, scratch, None)?;
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Seconds per repetition of encoding a frame pair of `w` x `h`, after one warm-up.
pub fn encode_test(tower: &VisionTower, w: usize, h: usize, repetitions: usize) -> Result<Vec<f64>> {
    let hp = tower.hparams();
    let factor = hp.factor();
    if !w.is_multiple_of(factor) || !h.is_multiple_of(factor) {
        return Err(Error::bad_input(format!("picture size `{w}x{h}` must be a multiple of {factor} on both sides")));
    }
    let (rows, columns) = (h / hp.patch_size, w / hp.patch_size);
    let pixels: Vec<f32> = (0..rows * columns * hp.n_patch_values()).map(|i| (i % 251) as f32 / 100.0 - 1.2).collect();
    let mut seconds = Vec::new();
    for repetition in 0..=repetitions {
        let started = Instant::now();
        tower.encode(&pixels, rows, columns, None)?;
        if repetition > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}
