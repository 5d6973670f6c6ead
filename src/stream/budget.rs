//! What watching a video will cost, and which video fits a budget.
//!
//! Memory is counted from sizes, time from a calibration: one frame pair through the vision tower, two steps of prefill at two
//! depths, and a moment of decoding, on this machine, now.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Engine, LiveShape, MediaOptions, MediaPlan, Session, SessionOptions};
use crate::cache::KvCache;
use crate::kernels::{kv_write, select, threads};
use crate::media::{Grid, open_video};
use crate::model::{Batch, Scratch};
use crate::position::Placer;
use crate::{Error, Result, error::Context};

/// Bytes that a vocabulary takes per token in the tokenizer: text, merges and their tables; measured.
const BYTES_PER_TOKEN: usize = 700;
/// Bytes of the program itself, its threads and small things; measured.
const PROGRAM_BYTES: usize = 24 << 20;

/// What may be used at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Slots of the context; by default what the video needs.
    pub n_ctx: Option<usize>,
    /// Bytes, weights included.
    pub memory: Option<u64>,
    pub time: Option<Duration>,
}

/// What a planned video will cost.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Tokens of the video, and slots for it and everything around it.
    pub n_tokens: usize,
    pub n_ctx: usize,
    /// Bytes of the mapped model files, of the cache, and of working memory.
    pub weights: u64,
    pub cache: u64,
    pub working: u64,
    /// Seconds of the stages; decoding runs beside the others. Unknown where nothing was calibrated.
    pub seconds: Option<Seconds>,
    /// What was reduced to fit, for people.
    pub reduced: Vec<String>,
}

/// Time per stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seconds {
    pub decode: f64,
    pub encode: f64,
    pub prefill: f64,
}

impl Seconds {
    /// From start to end: the decoder takes its share of the cores that the other stages use.
    pub fn total(&self) -> f64 {
        self.encode + self.prefill + self.decode / threads::count() as f64
    }
}

impl Cost {
    /// All bytes together.
    pub fn memory(&self) -> u64 {
        self.weights + self.cache + self.working
    }
}

/// Fits videos into limits.
pub struct Budget<'e> {
    engine: &'e Engine,
    limits: Limits,
    /// Slots for what is not video.
    around: usize,
    options: SessionOptions,
}

impl<'e> Budget<'e> {
    /// A budget for one video with `around` tokens of text around it.
    pub fn new(engine: &'e Engine, limits: Limits, around: usize, options: SessionOptions) -> Budget<'e> {
        Budget { engine, limits, around, options }
    }

    /// Plans `path` under `wanted`, with smaller frames, then fewer, where that is needed to fit.
    ///
    /// # Errors
    /// An unreadable video; limits that not even the least frames fit, with the numbers.
    pub fn fit(&self, path: &Path, wanted: &MediaOptions) -> Result<(MediaPlan, Cost)> {
        let tower = self.engine.need_vision()?;
        let mut options = wanted.clone();
        let mut plan = MediaPlan::video(path, &options, tower)?;
        let speed = Speed::measure(self.engine, &self.options, path, &plan)?;
        let first = (plan.frames.len(), plan.width, plan.height);
        let area = (tower.hparams().factor() * tower.hparams().factor()) as u64;
        // Smaller frames change what the tower needs, and with it how many tokens fit: a few rounds settle that.
        for _ in 0..4 {
            let cost = self.cost(&plan, plan.n_tokens, &speed)?;
            if self.excess(&cost).is_none() {
                let mut cost = cost;
                if plan.frames.len() != first.0 {
                    cost.reduced.push(format!("frames from {} to {}", first.0, plan.frames.len()));
                }
                if (plan.width, plan.height) != (first.1, first.2) {
                    let text = format!("frame size from {}x{} to {}x{}", first.1, first.2, plan.width, plan.height);
                    cost.reduced.push(text);
                }
                return Ok((plan, cost));
            }
            let n_tokens = self.most_tokens(&plan, &speed)?;
            let n_pixels = n_tokens as u64 * area;
            options.sample.total_pixels = Some(options.sample.total_pixels.map_or(n_pixels, |n| n.min(n_pixels)));
            plan = MediaPlan::video(path, &options, tower)?;
            if plan.n_tokens > n_tokens && wanted.sample.nframes.is_none() {
                // Frames have their least size: fewer, then.
                let per_pair = plan.n_tokens / plan.n_pairs();
                let n_frames = (n_tokens / per_pair * 2).max(4);
                options.sample.max_frames = Some(options.sample.max_frames.map_or(n_frames, |n| n.min(n_frames)));
                options.sample.min_frames = options.sample.min_frames.map(|n| n.min(n_frames));
                plan = MediaPlan::video(path, &options, tower)?;
            }
        }
        let cost = self.cost(&plan, plan.n_tokens, &speed)?;
        let excess = self.excess(&cost).unwrap_or_else(|| "the limits".to_string());
        let (n, w, h) = (plan.frames.len(), plan.width, plan.height);
        Err(Error::limit(format!("not even {n} frames of {w}x{h} fit: {excess}")).at(path.display().to_string()))
    }

    /// The largest context within the limits for a stream: the model's own, unless they say otherwise. Tokens are those of
    /// the window.
    ///
    /// # Errors
    /// A limit on time, which a stream has no use for; limits that not even one frame pair fits.
    pub fn fit_live(&self, live: &LiveShape) -> Result<Cost> {
        if self.limits.time.is_some() {
            return Err(Error::bad_input("a stream lasts as long as it lasts: a limit on time does not apply"));
        }
        let wanted = self.limits.n_ctx.unwrap_or(self.engine.text.hparams().n_ctx_train);
        let grid = Grid { t: Session::pairs_at_once(live.grid.h, live.grid.w), ..live.grid };
        let most = wanted.saturating_sub(self.around);
        let n_tokens = most_that(most, |n| Ok(self.excess(&self.cost_of(grid, n)?).is_none()))?;
        let mut cost = self.cost_of(grid, n_tokens)?;
        if n_tokens < live.per_pair {
            let excess = self.excess(&self.cost_of(grid, live.per_pair)?).unwrap_or_else(|| "the context".to_string());
            let (w, h) = (live.width, live.height);
            return Err(Error::limit(format!("not even one frame pair of {w}x{h} fits: {excess}")).at(&*live.label));
        }
        if n_tokens < most {
            cost.reduced.push(format!("context from {wanted} to {}", cost.n_ctx));
        }
        Ok(cost)
    }

    /// What of the limits is exceeded, for people.
    fn excess(&self, cost: &Cost) -> Option<String> {
        let Limits { n_ctx, memory, time } = self.limits;
        if let Some(n_ctx) = n_ctx.filter(|n| *n < cost.n_ctx) {
            return Some(format!("{} tokens into a context of {n_ctx}", cost.n_ctx));
        }
        if let Some(memory) = memory.filter(|n| *n < cost.memory()) {
            return Some(format!("{} bytes into {memory} bytes", cost.memory()));
        }
        let seconds = cost.seconds.map_or(0.0, |s| s.total());
        let time = time.filter(|time| time.as_secs_f64() < seconds)?;
        Some(format!("{seconds:.0} s into {:.0} s", time.as_secs_f64()))
    }

    /// The most tokens of video within the limits, for frames of the plan's size.
    fn most_tokens(&self, plan: &MediaPlan, speed: &Speed) -> Result<usize> {
        most_that(plan.n_tokens, |n| Ok(self.excess(&self.cost(plan, n, speed)?).is_none()))
    }

    /// The cost of `n_tokens` of a planned video.
    fn cost(&self, plan: &MediaPlan, n_tokens: usize, speed: &Speed) -> Result<Cost> {
        let seconds = Some(speed.seconds(plan, n_tokens, self.options.n_batch));
        Ok(Cost { seconds, ..self.cost_of(plan.grid, n_tokens)? })
    }

    /// The memory that `n_tokens` of frames in a grid of patches cost.
    fn cost_of(&self, grid: Grid, n_tokens: usize) -> Result<Cost> {
        let n_ctx = n_tokens + self.around;
        let types = (self.options.type_k, self.options.type_v);
        let pairs = Session::pairs_at_once(grid.h, grid.w).min(grid.t);
        let tower = self.engine.need_vision()?;
        let n_batch = self.options.n_batch.min(n_ctx);
        let pixels = 3 * pairs * grid.h * grid.w * tower.hparams().n_patch_values() * size_of::<f32>();
        let working = Scratch::n_bytes(self.engine.text.hparams(), n_batch)
            + tower.n_bytes(pairs, grid.h, grid.w)
            + pixels
            + self.engine.tokenizer.n_vocab() * BYTES_PER_TOKEN
            + PROGRAM_BYTES;
        Ok(Cost {
            n_tokens,
            n_ctx,
            weights: self.engine.n_bytes,
            cache: self.engine.cache_shape(n_ctx, types).n_bytes()? as u64,
            working: working as u64,
            seconds: None,
            reduced: Vec::new(),
        })
    }
}

/// The largest number up to `most` that `fits`, where everything below one that fits does, too; 0 if none does.
fn most_that(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle)? { low = middle } else { high = middle - 1 }
    }
    Ok(low)
}

/// How fast this machine is at the stages.
#[derive(Debug, Clone, Copy, Default)]
struct Speed {
    /// Seconds per frame of the source.
    decode: f64,
    /// Seconds per patch of the frame size that was measured.
    encode: f64,
    /// Seconds per token at depth 0, and more per token and token of depth.
    token: f64,
    depth: f64,
}

impl Speed {
    /// A few seconds of work.
    fn measure(engine: &Engine, options: &SessionOptions, path: &Path, plan: &MediaPlan) -> Result<Speed> {
        let tower = engine.need_vision()?;
        let grid = plan.grid;
        let n_patches = grid.h * grid.w;
        let pixels: Vec<f32> =
            (0..n_patches * tower.hparams().n_patch_values()).map(|i| (i % 251) as f32 / 100.0 - 1.2).collect();
        let encode = seconds_of(|| tower.encode(&pixels, grid.h, grid.w, None).map(drop))? / n_patches as f64;
        drop(pixels);

        let n = options.n_batch.clamp(1, 512);
        let depth = 4096.min(plan.n_tokens).max(n);
        let mut cache = KvCache::new(engine.cache_shape(depth + n, (options.type_k, options.type_v)))?;
        let mut step = Step::new(engine, n);
        step.run(engine, &mut cache)?; // brings weights and memory in
        let shallow = seconds_of(|| step.run(engine, &mut cache))?;
        fill(&mut cache, depth)?;
        let deep = seconds_of(|| step.run(engine, &mut cache))?;
        Ok(Speed {
            decode: decode_speed(path).at(|| path.display().to_string())?,
            encode,
            token: shallow / n as f64,
            depth: ((deep - shallow) / (n * depth) as f64).max(0.0),
        })
    }

    fn seconds(&self, plan: &MediaPlan, n_tokens: usize, n_batch: usize) -> Seconds {
        let share = n_tokens as f64 / plan.n_tokens.max(1) as f64;
        let n_patches = share * (plan.n_pairs() * plan.grid.h * plan.grid.w) as f64;
        let source_frames = plan.frames.last().map_or(0, |last| last + 1);
        let n = n_tokens as f64;
        // A token sees half of all tokens on average; a short last step is no faster per token than a whole one.
        let prefill = n.max(n_batch.min(n_tokens) as f64) * self.token + n * n / 2.0 * self.depth;
        Seconds { decode: self.decode * source_frames as f64, encode: self.encode * n_patches, prefill }
    }
}

/// A step of prefill over nothing in particular.
struct Step {
    scratch: Scratch,
    embd: Vec<f32>,
    n: usize,
}

impl Step {
    fn new(engine: &Engine, n: usize) -> Step {
        let hp = engine.text.hparams();
        let embd = (0..n * hp.n_embd).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect();
        Step { scratch: Scratch::new(hp, n), embd, n }
    }

    /// One step behind what the cache holds, which it holds afterwards, too.
    fn run(&mut self, engine: &Engine, cache: &mut KvCache) -> Result<()> {
        let depth = cache.len();
        let (mut placer, mut pos) = (Placer::new(engine.text.hparams().layout), Vec::new());
        placer.text(depth, &mut pos);
        pos.clear();
        placer.text(self.n, &mut pos);
        let batch = Batch { embd: &self.embd, pos: &pos, n_logits: 0 };
        engine.text.forward(&batch, cache, &mut self.scratch, None)?;
        cache.truncate(depth);
        Ok(())
    }
}

/// Puts synthetic keys and values into an empty cache until it holds `depth` tokens.
///
/// # Errors
/// None for a cache of that size.
pub fn fill(cache: &mut KvCache, depth: usize) -> Result<()> {
    const CHUNK: usize = 256;
    let crate::cache::CacheShape { n_layer, n_head_kv, d, .. } = *cache.shape();
    let kernels = select()?;
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let rows: Vec<f32> = (0..CHUNK * n_head_kv * d).map(|_| noise()).collect();
    while cache.len() < depth {
        let n = CHUNK.min(depth - cache.len());
        for il in 0..n_layer {
            let (k, v) = cache.rows_mut(il);
            kv_write(kernels, &rows[..n * n_head_kv * d], None, None, (n_head_kv, d), k)?;
            kv_write(kernels, &rows[..n * n_head_kv * d], None, None, (n_head_kv, d), v)?;
        }
        cache.advance(n);
    }
    Ok(())
}

/// Seconds per frame of the source, from a moment of decoding.
fn decode_speed(path: &Path) -> Result<f64> {
    const MOMENT: Duration = Duration::from_millis(300);
    let mut source = open_video(path)?;
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
