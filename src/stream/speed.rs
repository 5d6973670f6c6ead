//! How fast this machine is: a few seconds of calibration.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::{Seconds, Work};
use super::{Context, Engine, SessionOptions, decode};
use crate::Result;
use crate::cache::KvCache;
use crate::kernels::{kv_write, select};
use crate::media::{Decoders, Grid};
use crate::model::VisionTower;
use crate::random::Rng;

/// How fast this machine is at the stages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Speed {
    /// Seconds per frame of the source.
    decode: f64,
    /// Seconds per patch, and more per patch for every patch of its pair, to which it attends.
    encode: f64,
    attend: f64,
    /// Seconds per token at depth 0, and more per token and token of depth.
    token: f64,
    depth: f64,
}

/// Most patches of a pair that the tower is measured with: less than a moment's work, whatever the picture's size.
const MEASURED_PATCHES: usize = 784;
/// Queries and keys with which attention is measured.
const ATTENDED: (usize, usize) = (256, 2048);
/// Seconds to decode and resize a pixel of a picture: measured, png and jpeg, with room for a slower machine.
const PICTURE_PIXEL: f64 = 4e-8;

impl Speed {
    /// A few seconds of work: `n_tokens` of media in all, frames of `grid`, the first video (if any) with who
    /// decodes it.
    pub(super) fn measure(
        engine: &Arc<Engine>,
        options: &SessionOptions,
        (n_tokens, grid): (usize, Grid),
        video: Option<(&Path, &Decoders)>,
    ) -> Result<Speed> {
        let tower = engine.need_vision()?;
        let (encode, attend) = tower_speed(tower, grid)?;
        let n = options.n_batch.clamp(1, 512);
        let depth = 4096.min(n_tokens).max(n);
        let sizes = SessionOptions { n_ctx: depth + n, n_batch: n, ..*options };
        let mut context = Context::new(engine, &sizes)?;
        let n_vocab = engine.text.hparams().n_vocab;
        let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % n_vocab) as u32).collect();
        read(&mut context, &ids)?; // brings weights and memory in
        let shallow = seconds_of(|| read(&mut context, &ids))?;
        context.fill(depth)?;
        let deep = seconds_of(|| read(&mut context, &ids))?;
        let decode = video.map(decode_speed).transpose()?;
        Ok(Speed {
            decode: decode.unwrap_or(0.0),
            encode,
            attend,
            token: shallow / n as f64,
            depth: ((deep - shallow) / (n * depth) as f64).max(0.0),
        })
    }

    /// What `work` takes.
    pub(super) fn seconds(&self, work: &Work, n_batch: usize) -> Seconds {
        let n = work.n_tokens as f64;
        // A token sees half of all tokens on average; a short last step is no faster per token than a whole one.
        let prefill = n.max(n_batch.min(work.n_tokens) as f64) * self.token + n * n / 2.0 * self.depth;
        Seconds {
            decode: self.decode * work.n_source_frames as f64 + PICTURE_PIXEL * work.n_picture_pixels,
            encode: self.encode * work.n_patches + self.attend * work.n_attended,
            prefill,
        }
    }
}

/// Seconds per patch, and per patch and patch of its pair, of a tower that will see pairs of `grid`.
fn tower_speed(tower: &VisionTower, grid: Grid) -> Result<(f64, f64)> {
    let merge = tower.hparams().merge;
    let square = |n_patches: usize| {
        let side = (n_patches.isqrt() / merge * merge).max(merge);
        Grid { t: 1, h: side, w: side }
    };
    let encode = |grid: Grid| -> Result<f64> {
        decode::probe(tower, 1, 1, grid)?;
        let values = grid.h * grid.w * tower.hparams().n_patch_values();
        let pixels: Vec<f32> = (0..values).map(|i| (i % 251) as f32 / 100.0 - 1.2).collect();
        seconds_of(|| tower.encode(&pixels, grid.h, grid.w, None).map(drop))
    };
    let is_small = grid.h * grid.w <= MEASURED_PATCHES;
    let small = if is_small { grid } else { square(MEASURED_PATCHES) };
    let n = (small.h * small.w) as f64;
    let seconds = encode(small)? / n;
    if is_small {
        // Nothing else is asked for, and nothing larger: what is measured holds.
        return Ok((seconds, 0.0));
    }
    let attend = if tower.is_on_gpu() {
        // It has its own attention, and a larger pair takes it no time.
        let large = square(4 * MEASURED_PATCHES);
        let m = (large.h * large.w) as f64;
        ((encode(large)? / m - seconds) / (m - n)).max(0.0)
    } else {
        let (n_queries, n_keys) = ATTENDED;
        tower.attend_once(n_queries, n_keys); // brings memory in
        let once = seconds_of(|| {
            tower.attend_once(n_queries, n_keys);
            Ok(())
        })?;
        once / (n_queries * n_keys) as f64 * tower.hparams().n_full_blocks() as f64
    };
    Ok(((seconds - attend * n).max(0.0), attend))
}

/// A step of prefill over nothing in particular behind what the context holds, which it holds afterwards, too.
fn read(context: &mut Context, ids: &[u32]) -> Result<()> {
    let n = context.n_marks();
    context.push_tokens(ids)?;
    context.drain(true, &mut ())?;
    context.truncate(n);
    Ok(())
}

/// Puts synthetic keys and values into an empty cache until it holds `depth` tokens; recurrent layers keep the state of none, which
/// takes as long to work with.
///
/// # Errors
/// None for a cache of that size.
pub(super) fn fill(cache: &mut KvCache, depth: usize) -> Result<()> {
    const CHUNK: usize = 256;
    let crate::cache::CacheShape { n_layer, n_head_kv, d, recurrent, .. } = *cache.shape();
    let kernels = select()?;
    let mut rng = Rng::new(1);
    let rows: Vec<f32> = (0..CHUNK * n_head_kv * d).map(|_| rng.signed()).collect();
    while cache.len() < depth {
        let n = CHUNK.min(depth - cache.len());
        for il in (0..n_layer).filter(|il| recurrent.is_none_or(|recurrent| !recurrent.layers.contains(*il))) {
            let (k, v) = cache.rows_mut(il);
            kv_write(kernels, &rows[..n * n_head_kv * d], None, None, (n_head_kv, d), k)?;
            kv_write(kernels, &rows[..n * n_head_kv * d], None, None, (n_head_kv, d), v)?;
        }
        cache.advance_here(n);
    }
    Ok(())
}

/// Seconds per frame of the source, from a moment of decoding.
fn decode_speed((path, decoders): (&Path, &Decoders)) -> Result<f64> {
    const MOMENT: Duration = Duration::from_millis(300);
    let mut source = decoders.open(path)?;
    let n_frames = source.info().n_frames;
    let started = Instant::now();
    let mut n = 0;
    while n < n_frames && started.elapsed() < MOMENT {
        source.frame(n)?;
        n += 1;
    }
    Ok(started.elapsed().as_secs_f64() / n.max(1) as f64)
}

fn seconds_of(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
