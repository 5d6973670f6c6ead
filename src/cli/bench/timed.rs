//! What is timed: tokens through the language model, pictures through the vision tower, a video through all of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Work;
use crate::Result;
use crate::cache::CacheType;
use crate::cli::progress::catch_interrupt;
use crate::model::VisionTower;
use crate::stream::{
    Context, Engine, Events, MediaKind, MediaOptions, MediaPlan, Prompt, Session, SessionOptions, Together, Unit,
};

/// The tokens that are read: the same in every repetition, and in llama.cpp.
pub(super) fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| (i.wrapping_mul(7919) % n_vocab) as u32).collect()
}

/// A context filled to its depth, and the tokens that are read behind it.
pub(super) struct TextTest {
    work: Work,
    context: Context,
    tokens: Vec<u32>,
}

impl TextTest {
    /// # Errors
    /// Memory that the cache does not get, cache types that the model cannot have.
    pub(super) fn new(engine: &Arc<Engine>, work: Work) -> Result<TextTest> {
        let (type_k, type_v) = work.types;
        let n_ctx = work.depth + work.n;
        let options = SessionOptions { n_ctx, n_batch: work.n_batch, type_k, type_v, temporal_scale: None };
        let mut context = Context::new(engine, &options)?;
        context.fill(work.depth)?;
        Ok(TextTest { work, context, tokens: tokens(work.n, engine.text.hparams().n_vocab) })
    }

    /// Seconds for the first `n` tokens of the test.
    pub(super) fn run(&mut self, n: usize) -> Result<f64> {
        let TextTest { work, context, tokens } = self;
        // All that was filled is one mark.
        context.truncate(1);
        let started = Instant::now();
        for step in tokens[..n].chunks(work.n_batch) {
            if let [id] = step {
                // As an answer is generated: the likeliest token is enough.
                context.step(*id, 1)?;
                continue;
            }
            context.want_logits(context.n_tokens() + step.len() - 1);
            context.push_tokens(step)?;
            context.drain(true, &mut ())?;
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Several contexts that decode together, each filled to its depth.
pub(super) struct ParallelTest {
    together: Together,
    contexts: Vec<Context>,
    tokens: Vec<u32>,
}

impl ParallelTest {
    /// `n_contexts` contexts for `work` each.
    ///
    /// # Errors
    /// As [`TextTest::new`].
    pub(super) fn new(engine: &Arc<Engine>, work: Work, n_contexts: usize) -> Result<ParallelTest> {
        let contexts = (0..n_contexts).map(|_| Ok(TextTest::new(engine, work)?.context)).collect::<Result<_>>()?;
        let tokens = tokens(work.n * n_contexts, engine.text.hparams().n_vocab);
        Ok(ParallelTest { together: Together::new(engine, n_contexts)?, contexts, tokens })
    }

    /// Seconds for `n` tokens in each context.
    pub(super) fn run(&mut self, n: usize) -> Result<f64> {
        let ParallelTest { together, contexts, tokens } = self;
        contexts.iter_mut().for_each(|context| context.truncate(1));
        let n_contexts = contexts.len();
        let mut all: Vec<&mut Context> = contexts.iter_mut().collect();
        let started = Instant::now();
        for step in tokens[..n * n_contexts].chunks(n_contexts) {
            all.iter_mut().zip(step).try_for_each(|(context, id)| context.push_next(*id))?;
            together.step(&mut all)?;
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Seconds per repetition of encoding a frame pair of `w` x `h`, sides that are on the tower's grid, after one warm-up.
pub(super) fn encode_test(tower: &VisionTower, w: usize, h: usize, repetitions: usize) -> Result<Vec<f64>> {
    let hp = tower.hparams();
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
pub(super) fn video_test(
    engine: &Arc<Engine>,
    path: &Path,
    (n_batch, (type_k, type_v)): (usize, (CacheType, CacheType)),
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
        session.feed(&mut prompt, &mut Events::new(&mut ignore, catch_interrupt()?))?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((name, n_tokens, seconds))
}
