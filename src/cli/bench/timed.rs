//! What is timed: tokens through the language model, pictures through the vision tower, a video through all of it.

use std::path::Path;
use std::time::Instant;

use super::Work;
use crate::cache::{CacheShape, KvCache};
use crate::cli::progress::catch_interrupt;
use crate::gguf::GgmlType;
use crate::model::{Batch, Scratch, TextModel, VisionTower};
use crate::position::Placer;
use crate::stream::{Engine, Events, MediaKind, MediaOptions, MediaPlan, Prompt, Session, SessionOptions, Unit, fill};
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
            pos.clear();
            placer.text(step.len(), &mut pos);
            if let ([id], [pos]) = (step, pos.as_slice()) {
                // As an answer is generated: the likeliest token is enough.
                model.step(*id, *pos, 1, cache, scratch)?;
                continue;
            }
            let rows = &mut embd[..step.len() * hp.n_embd];
            model.embed(step, rows)?;
            model.forward(&Batch { embd: rows, deep: &[], pos: &pos, n_logits: 1 }, cache, scratch, None)?;
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

/// Reads a video once per repetition: decoding, vision tower, prefill. Returns its name with frames and size, its tokens, and
/// the seconds.
pub fn video_test(
    engine: &Engine,
    path: &Path,
    (n_batch, (type_k, type_v)): (usize, (GgmlType, GgmlType)),
    repetitions: usize,
) -> Result<(String, usize, Vec<f64>)> {
    let (mut name, mut n_tokens, mut seconds) = (String::new(), 0, Vec::new());
    for _ in 0..repetitions {
        let plan = MediaPlan::video(path, &MediaOptions::default(), engine.need_vision()?)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        name = format!("{file} {} x {}x{}", plan.frames.len(), plan.width, plan.height);
        n_tokens = plan.n_tokens;
        let options = SessionOptions { n_ctx: n_tokens, n_batch, type_k, type_v, temporal_scale: None };
        let mut session = Session::new(engine, options)?;
        let units = vec![Unit::Media { kind: MediaKind::Video, index: 0 }];
        let mut prompt = Prompt { units, images: Vec::new(), videos: vec![plan] };
        let mut ignore = |_| {};
        let started = Instant::now();
        session.feed(&mut prompt, &mut Events::new(&mut ignore, catch_interrupt()?), None)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((name, n_tokens, seconds))
}
