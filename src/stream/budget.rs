//! What media will cost, and which plans of them fit a budget.
//!
//! Memory is counted from sizes, time from a calibration: some patches through the vision tower, two steps of prefill at two
//! depths, and a moment of decoding, on this machine, now. Media are opened before they come here, once; the search for plans
//! that fit is over their [shapes](super::shape) and opens nothing. Start reading at [`Budget::fit`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::shape::highest;
use super::speed::Speed;
use super::{
    Conversation, Engine, LiveShape, MediaKind, MediaOptions, MediaPlan, Medium, Prompt, Session, SessionOptions,
    Shape, Unit, decode, repeats,
};
use crate::cache::CacheType;
use crate::kernels::threads;
use crate::media::{Decoders, Grid};
use crate::model::{DeviceBytes, Scratch};
use crate::text::Message;
use crate::text::template::RenderOptions;
use crate::{Error, Result, error::Context};

/// Bytes that a vocabulary takes per token in the tokenizer: text, merges and their tables; measured.
const BYTES_PER_TOKEN: usize = 700;
/// Bytes of the program itself, its threads and small things; measured.
const PROGRAM_BYTES: usize = 24 << 20;

/// Bytes that the program itself and the tokenizer take, whatever is done.
pub fn program_bytes(engine: &Engine) -> u64 {
    (engine.tokenizer.n_vocab() * BYTES_PER_TOKEN + PROGRAM_BYTES) as u64
}

/// What may be used at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Slots of the context; by default what the video needs.
    pub n_ctx: Option<usize>,
    /// Bytes, weights included.
    pub memory: Option<u64>,
    /// Time until the first word of the answer.
    pub time: Option<Duration>,
}

/// What planned media will cost.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Tokens of the media.
    pub n_tokens: usize,
    /// Slots for them and everything around them.
    pub n_ctx: usize,
    /// Bytes of the mapped model files.
    pub weights: u64,
    /// Bytes of the cache.
    pub cache: u64,
    /// What it stores keys and values as; `None` before anything was planned.
    pub cache_types: Option<(CacheType, CacheType)>,
    /// Bytes of working memory.
    pub working: u64,
    /// What of it is on GPUs, where layers are: it does not count above.
    pub gpus: Option<DeviceBytes>,
    /// Whether frame pairs that come again are found (see `repeats.rs`). How many do is known once they are decoded, so all are
    /// counted as encoded.
    pub finds_repeats: bool,
    /// Seconds of the stages; decoding runs beside the others. Unknown where nothing was calibrated.
    pub seconds: Option<Seconds>,
    /// What was reduced to fit, for people.
    pub reduced: Vec<String>,
    pub(super) work: Work,
}

/// Time per stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seconds {
    /// For decoding the frames.
    pub decode: f64,
    /// For the vision tower.
    pub encode: f64,
    /// For reading all tokens into the cache.
    pub prefill: f64,
}

impl Seconds {
    /// From start to end: the decoder takes its share of the cores that the other stages use.
    pub fn total(&self) -> f64 {
        self.encode + self.prefill + self.decode / threads::count() as f64
    }
}

impl Cost {
    /// Whether the media are so large that it is worth some seconds to know how long they will take ([`Budget::time`]).
    pub fn is_long(&self) -> bool {
        let largest = self.work.largest.as_ref();
        self.n_tokens >= LONG || largest.is_some_and(|(grid, _)| grid.h * grid.w >= LONG_PAIR)
    }

    /// All bytes together.
    pub fn memory(&self) -> u64 {
        self.weights + self.cache + self.working
    }
}

/// What the cost depends on besides the model.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    /// Tokens of all media, and slots for what is not media.
    pub n_tokens: usize,
    around: usize,
    /// Patches, and how many patches all of them attend to together in a layer of the tower.
    pub n_patches: f64,
    pub n_attended: f64,
    /// Frames that the decoder goes through, and pixels of pictures before they are resized.
    pub n_source_frames: usize,
    pub n_picture_pixels: f64,
    /// Bytes of decoded pictures, and of decoding the one that needs most.
    picture_bytes: u64,
    decode_bytes: u64,
    /// The pairs that need most memory in the vision tower, the largest pair, and the first video file.
    widest: Option<Widest>,
    largest: Option<(Grid, String)>,
    video: Option<(PathBuf, Decoders)>,
}

/// Frame pairs that go through the vision tower: so many at once, of so many in all.
#[derive(Debug, Clone, Copy)]
struct Widest {
    group: usize,
    n_pairs: usize,
    grid: Grid,
}

impl Work {
    fn of(media: &[Medium], shapes: &[Shape], around: usize) -> Work {
        let mut work = Work { around, ..Work::default() };
        let n_pixels = |grid: &Grid| grid.h * grid.w;
        for (medium, shape) in media.iter().zip(shapes) {
            work.n_tokens = work.n_tokens.saturating_add(shape.n_tokens);
            let n_patches = shape.n_pairs() as f64 * shape.per_pair() as f64;
            work.n_patches += n_patches;
            work.n_attended += n_patches * shape.per_pair() as f64;
            if shape.kind == MediaKind::Video {
                work.n_source_frames += shape.last + 1;
                let video = || Some((medium.path.clone()?, medium.options.decoders.clone()));
                work.video = work.video.take().or_else(video);
            } else {
                let (height, width) = medium.known.size();
                work.n_picture_pixels += height as f64 * width as f64;
                work.picture_bytes += 3 * (shape.height * shape.width) as u64;
                work.decode_bytes = work.decode_bytes.max(medium.n_decode_bytes(shape));
            }
            let group = Session::pairs_at_once(shape.grid.h, shape.grid.w);
            let widest = Widest { group, n_pairs: shape.n_pairs(), grid: shape.grid };
            if work.widest.is_none_or(|other| other.n_patches() < widest.n_patches()) {
                work.widest = Some(widest);
            }
            if work.largest.as_ref().is_none_or(|(grid, _)| n_pixels(grid) < n_pixels(&shape.grid)) {
                work.largest = Some((shape.grid, medium.label.clone()));
            }
        }
        work
    }
}

impl Widest {
    /// Patches at once.
    fn n_patches(&self) -> usize {
        self.group.min(self.n_pairs) * self.grid.h * self.grid.w
    }
}

/// Fits media into limits.
pub struct Budget {
    engine: Arc<Engine>,
    limits: Limits,
    options: SessionOptions,
    reserve: usize,
}

/// Tokens of media, and patches of one pair, from which on a calibration is worth its seconds where nobody asked for one:
/// patches of a pair attend to each other.
const LONG: usize = 8192;
const LONG_PAIR: usize = 16_384;

impl Budget {
    /// A budget for sessions with `options`, whose `n_ctx` does not matter.
    pub fn new(engine: &Arc<Engine>, limits: Limits, options: SessionOptions) -> Budget {
        Budget { engine: Arc::clone(engine), limits, options, reserve: 0 }
    }

    /// The same where `reserve` of the slots around media are a wish (`--reserve`), which errors then name as a way out.
    pub fn with_reserve(self, reserve: usize) -> Budget {
        Budget { reserve, ..self }
    }

    /// Plans the video at `path` under `wanted`, with smaller frames, then fewer, where that is needed to fit; `around` slots
    /// of the context are for what is not video.
    ///
    /// # Errors
    /// An unreadable video; limits that not even the least frames fit, with the numbers.
    pub fn fit_video(&self, path: &Path, wanted: &MediaOptions, around: usize) -> Result<(MediaPlan, Cost)> {
        self.fit_one(Medium::video(path, wanted)?, around)
    }

    /// [`Budget::fit`] for one medium.
    ///
    /// # Errors
    /// Those of `fit`.
    pub fn fit_one(&self, medium: Medium, around: usize) -> Result<(MediaPlan, Cost)> {
        let (mut plans, cost) = self.fit(vec![medium], around)?;
        let plan = plans.pop().ok_or_else(|| Error::mismatch("a medium was lost"))?;
        Ok((plan, cost))
    }

    /// Plans one more medium of a talk that goes on, where `used` slots of the context are taken or spoken for. One that fits into
    /// the others as it is stays so, and any other has half of them, so that there is room for more.
    ///
    /// # Errors
    /// Those of `fit`.
    pub fn fit_more(&self, medium: Medium, used: usize) -> Result<(MediaPlan, Cost)> {
        let free = self.limits.n_ctx.map_or(usize::MAX, |n_ctx| n_ctx.saturating_sub(used));
        let whole = medium.shape(self.engine.need_vision()?.hparams(), self.engine.stamp_cost()?, None)?;
        self.fit_one(medium, if whole.n_tokens <= free { used } else { used + free / 2 })
    }

    /// Plans a whole conversation likewise, with `room` slots for the answer.
    ///
    /// # Errors
    /// Those of [`Conversation::open`] and [`Budget::fit`].
    pub fn fit_prompt(
        &self,
        messages: &[Message],
        render: RenderOptions,
        wanted: &MediaOptions,
        room: usize,
    ) -> Result<(Prompt, Cost)> {
        let Conversation { units, media } = Conversation::open(&self.engine, messages, render, wanted)?;
        let n_text = units.iter().filter(|unit| matches!(unit, Unit::Token(_))).count();
        let (plans, cost) = self.fit(media, n_text.saturating_add(room))?;
        let mut prompt = Prompt::new(units, plans);
        prompt.tell_time(&self.engine.tokenizer)?;
        Ok((prompt, cost))
    }

    /// Plans media together, as large as the limits and their own options allow; `around` slots of the context are for what is
    /// not media. Each of them may have so many tokens (see [`shape`](super::shape)): pictures become smaller, frames smaller,
    /// then fewer. Time is only known, and measured, where it is limited; else [`Budget::time`] tells it.
    ///
    /// # Errors
    /// Limits that the media do not fit at their least, with the numbers, before anything is decoded or measured.
    pub fn fit(&self, media: Vec<Medium>, around: usize) -> Result<(Vec<MediaPlan>, Cost)> {
        if media.is_empty() {
            let cost = self.cost(&Work { around, ..Work::default() }, None)?;
            return match self.excess(&cost) {
                None => Ok((Vec::new(), cost)),
                Some(excess) => Err(Error::limit(format!("the conversation does not fit: {excess}"))),
            };
        }
        let (hp, stamps) = (self.engine.need_vision()?.hparams(), self.engine.stamp_cost()?);
        let shapes = |share| media.iter().map(|medium| medium.shape(hp, stamps, share)).collect::<Result<Vec<_>>>();
        let wishes = shapes(None)?;
        let (mut found, mut cost) = self.search(&media, &shapes, around, None)?;
        if self.limits.time.is_some() {
            let speed = self.measure(&Work::of(&media, &wishes, around))?;
            (found, cost) = self.search(&media, &shapes, around, speed.as_ref())?;
        }
        let both = wishes.iter().zip(&found);
        cost.reduced = media.iter().zip(both).flat_map(|(medium, (wish, got))| reduced(medium, wish, got)).collect();
        let plan = |(medium, shape): (Medium, &Shape)| -> Result<MediaPlan> {
            let mut plan = medium.plan(shape, hp)?;
            plan.write_stamps(&self.engine.tokenizer)?;
            Ok(plan)
        };
        Ok((media.into_iter().zip(&found).map(plan).collect::<Result<_>>()?, cost))
    }

    /// The largest shapes that fit, and what they cost.
    fn search(
        &self,
        media: &[Medium],
        shapes: &dyn Fn(Option<usize>) -> Result<Vec<Shape>>,
        around: usize,
        speed: Option<&Speed>,
    ) -> Result<(Vec<Shape>, Cost)> {
        let asked = |share: Option<usize>| -> Result<(Vec<Shape>, Cost, Option<String>)> {
            let shapes = shapes(share)?;
            let cost = self.cost(&Work::of(media, &shapes, around), speed)?;
            let excess = self.excess(&cost);
            Ok((shapes, cost, excess))
        };
        let mut last = asked(None)?;
        if last.2.is_some() {
            let top = last.0.iter().map(|shape| shape.n_tokens).max().unwrap_or(0);
            highest(top, |level| {
                let answer = asked(Some(level))?;
                let fits = answer.2.is_none();
                // The last that fits is the result. Where none does, the least is what the error is about.
                if fits || level == 0 {
                    last = answer;
                }
                Ok(fits)
            })?;
        }
        match last {
            (shapes, cost, None) => Ok((shapes, cost)),
            (shapes, _, Some(excess)) => Err(too_much(media, &shapes, &excess)),
        }
    }

    /// Measures how long planned media will take, where that is not known yet.
    ///
    /// # Errors
    /// A video that cannot be decoded; memory that cannot be had.
    pub fn time(&self, cost: &mut Cost) -> Result<()> {
        if cost.seconds.is_none()
            && let Some(speed) = self.measure(&cost.work)?
        {
            cost.seconds = Some(speed.seconds(&cost.work, self.options.n_batch));
        }
        Ok(())
    }

    /// The largest context within the limits for a stream, with `around` slots for what is not video: the model's own, unless
    /// they say otherwise. Tokens are those of the window.
    ///
    /// # Errors
    /// A limit on time, which a stream has no use for; limits that not even one frame pair fits.
    pub fn fit_live(&self, live: &LiveShape, around: usize) -> Result<Cost> {
        if self.limits.time.is_some() {
            return Err(Error::bad_input("a stream lasts as long as it lasts: a limit on time does not apply"));
        }
        let wanted = self.limits.n_ctx.unwrap_or(self.engine.text.hparams().n_ctx_train);
        let group = Session::pairs_at_once(live.grid.h, live.grid.w);
        let widest = Some(Widest { group, n_pairs: usize::MAX, grid: live.grid });
        let work = |n_tokens: usize| Work { n_tokens, around, widest, ..Work::default() };
        let fits = |n: usize| -> Result<bool> { Ok(self.excess(&self.cost(&work(n), None)?).is_none()) };
        // What a context costs grows with it.
        let most = wanted.saturating_sub(around);
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle)? { low = middle } else { high = middle - 1 }
        }
        if low < live.n_pair_tokens() {
            let excess = self.excess(&self.cost(&work(live.n_pair_tokens()), None)?).unwrap_or_default();
            let (w, h) = (live.width, live.height);
            return Err(Error::limit(format!("not even one frame pair of {w}x{h} fits: {excess}")).at(&*live.label));
        }
        let mut cost = self.cost(&work(low), None)?;
        if low < most {
            cost.reduced.push(format!("context from {wanted} to {}", cost.n_ctx));
        }
        Ok(cost)
    }

    fn measure(&self, work: &Work) -> Result<Option<Speed>> {
        let Some((grid, label)) = &work.largest else { return Ok(None) };
        let video = work.video.as_ref().map(|(path, decoders)| (path.as_path(), decoders));
        let speed = Speed::measure(&self.engine, &self.options, (work.n_tokens, *grid), video);
        speed.map(Some).at(|| label.clone())
    }

    /// What of the limits is exceeded, for people.
    fn excess(&self, cost: &Cost) -> Option<String> {
        let Limits { n_ctx, memory, time } = self.limits;
        if let Some(n_ctx) = n_ctx.filter(|n| *n < cost.n_ctx) {
            let way = match cost.n_ctx - self.reserve.min(cost.n_ctx) {
                without if without < n_ctx && self.reserve > 0 => {
                    format!(" or lower --reserve (`{}` of the tokens)", self.reserve)
                }
                _ => String::new(),
            };
            return Some(format!("`{}` tokens into a context of `{n_ctx}`; raise -c{way}", cost.n_ctx));
        }
        if let Some(memory) = memory.filter(|n| *n < cost.memory()) {
            return Some(format!("{} bytes into {memory} bytes; raise --max-memory or lower -c", cost.memory()));
        }
        if let Some(gpus) = cost.gpus.filter(|gpus| gpus.spare < 0) {
            return Some(format!("{} bytes of GPU memory are missing; lower -ngl or -c", -gpus.spare));
        }
        let seconds = cost.seconds.map_or(0.0, |s| s.total());
        let time = time.filter(|time| time.as_secs_f64() < seconds)?;
        Some(format!("{seconds:.0} s into {:.0} s; raise --max-time", time.as_secs_f64()))
    }

    /// What a context of `n_ctx` slots and `work` take on GPUs, where layers are there.
    fn gpus(&self, n_ctx: usize, n_batch: usize, work: &Work) -> Result<Option<DeviceBytes>> {
        let shape = self.engine.cache_shape(n_ctx, (self.options.type_k, self.options.type_v));
        let Some(bytes) = self.engine.text.device_bytes(&shape, n_batch)? else { return Ok(None) };
        let tower = match (&self.engine.vision, &work.widest) {
            (Some(tower), Some(widest)) => tower.device_bytes(widest.n_patches()) as u64,
            _ => 0,
        };
        Ok(Some(DeviceBytes { working: bytes.working + tower, spare: bytes.spare - tower as i64, ..bytes }))
    }

    fn cost(&self, work: &Work, speed: Option<&Speed>) -> Result<Cost> {
        let needed = work.n_tokens.saturating_add(work.around);
        let n_ctx = self.limits.n_ctx.map_or(needed, |n_ctx| n_ctx.max(needed));
        let types = (self.options.type_k, self.options.type_v);
        let n_batch = self.options.n_batch.min(n_ctx);
        let (vision, finds_repeats) = match work.widest {
            None => (0, false),
            Some(Widest { group, n_pairs, grid }) => {
                let tower = self.engine.need_vision()?;
                let kept = repeats::n_bytes(tower.hparams(), grid, n_pairs);
                (decode::n_bytes(tower, group, n_pairs, grid), kept > 0)
            }
        };
        let reading = Scratch::n_bytes(self.engine.text.hparams(), n_batch) + vision;
        // Pictures are decoded before anything is read.
        let working = program_bytes(&self.engine) + work.picture_bytes + work.decode_bytes.max(reading as u64);
        let gpus = self.gpus(n_ctx, n_batch, work)?;
        // What GPUs hold of weights and cache, the host does not keep.
        let (gpu_weights, gpu_cache) = gpus.map_or((0, 0), |gpus| (gpus.weights, gpus.cache));
        Ok(Cost {
            n_tokens: work.n_tokens,
            n_ctx,
            weights: self.engine.n_bytes.saturating_sub(gpu_weights),
            cache: (self.engine.cache_shape(n_ctx, types).n_bytes()? as u64).saturating_sub(gpu_cache),
            cache_types: Some(types),
            gpus,
            working,
            finds_repeats,
            seconds: speed.map(|speed| speed.seconds(work, self.options.n_batch)),
            reduced: Vec::new(),
            work: work.clone(),
        })
    }
}

/// What `got` has less than the wish, for people.
fn reduced(medium: &Medium, wish: &Shape, got: &Shape) -> Vec<String> {
    let mut reduced = Vec::new();
    if got.n_frames != wish.n_frames {
        reduced.push(format!("{}: frames from {} to {}", medium.label, wish.n_frames, got.n_frames));
    }
    if (got.width, got.height) != (wish.width, wish.height) {
        let what = if got.kind == MediaKind::Image { "size" } else { "frame size" };
        let (from, to) = ((wish.width, wish.height), (got.width, got.height));
        reduced.push(format!("{}: {what} from {}x{} to {}x{}", medium.label, from.0, from.1, to.0, to.1));
    }
    reduced
}

/// The error of media that do not fit at their least.
fn too_much(media: &[Medium], shapes: &[Shape], excess: &str) -> Error {
    /// Media that are named one by one.
    const NAMED: usize = 4;
    let of = |shape: &Shape| match shape.kind {
        MediaKind::Image => format!("a picture of {}x{}", shape.width, shape.height),
        MediaKind::Video => format!("{} frames of {}x{}", shape.n_frames, shape.width, shape.height),
    };
    let more = |list: Vec<String>| match media.len().saturating_sub(NAMED) {
        0 => list.join(", "),
        n => format!("{} and {n} more", list.join(", ")),
    };
    let sizes = more(shapes.iter().take(NAMED).map(of).collect());
    let labels = more(media.iter().take(NAMED).map(|medium| medium.label.clone()).collect());
    let fewer = match (media.len(), shapes.iter().any(|shape| shape.kind == MediaKind::Video)) {
        (1, false) => ", or give a smaller picture",
        (1, true) => ", or take a shorter part (--start, --end)",
        _ => ", or give fewer media",
    };
    Error::limit(format!("not even {sizes} fit: {excess}{fewer}")).at(labels)
}
