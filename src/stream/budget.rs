//! What watching a video will cost, and which video fits a budget.
//!
//! Memory is counted from sizes, time from a calibration: one frame pair through the vision tower, two steps of prefill at two
//! depths, and a moment of decoding, on this machine, now. Start reading at [`Budget::fit_video`].

use std::path::Path;
use std::time::Duration;

use super::speed::Speed;
use super::{Engine, LiveShape, MediaKind, MediaOptions, MediaPlan, Prompt, Session, SessionOptions, Unit, decode};
use crate::kernels::threads;
use crate::media::Grid;
use crate::model::{CardBytes, Scratch};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part};
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

/// What planned media will cost.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Tokens of the media, and slots for them and everything around them.
    pub n_tokens: usize,
    pub n_ctx: usize,
    /// Bytes of the mapped model files, of the cache, and of working memory.
    pub weights: u64,
    pub cache: u64,
    pub working: u64,
    /// What of it is on cards, where layers are: it does not count above.
    pub cards: Option<CardBytes>,
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

/// What the cost depends on besides the model.
pub(super) struct Work {
    /// Tokens of all media, and slots for what is not media.
    pub n_tokens: usize,
    around: usize,
    pub n_patches: usize,
    /// Frames that the decoder goes through.
    pub n_source_frames: usize,
    largest: Option<Largest>,
}

impl Work {
    fn of(media: &[&MediaPlan], around: usize) -> Work {
        let at_once = |plan: &MediaPlan| Session::pairs_at_once(plan.grid.h, plan.grid.w).min(plan.n_pairs());
        let largest = media.iter().max_by_key(|plan| at_once(plan) * plan.grid.h * plan.grid.w);
        let last_frames = media.iter().filter_map(|plan| plan.info.as_ref().and(plan.frames.last()));
        Work {
            n_tokens: media.iter().map(|plan| plan.n_tokens).sum(),
            around,
            n_patches: media.iter().map(|plan| plan.n_pairs() * plan.grid.h * plan.grid.w).sum(),
            n_source_frames: last_frames.map(|i| i + 1).sum(),
            largest: largest.map(|plan| Largest { n_pairs: at_once(plan), grid: plan.grid, label: plan.label.clone() }),
        }
    }
}

/// The medium that needs most memory in the vision tower.
struct Largest {
    /// Frame pairs that go through it at once.
    n_pairs: usize,
    grid: Grid,
    label: String,
}

/// Media that were planned, perhaps with text around them.
trait Planned {
    fn media(&self) -> Vec<&MediaPlan>;
    /// Tokens of text.
    fn n_text(&self) -> usize;
}

impl Planned for MediaPlan {
    fn media(&self) -> Vec<&MediaPlan> {
        vec![self]
    }

    fn n_text(&self) -> usize {
        0
    }
}

impl Planned for Prompt {
    fn media(&self) -> Vec<&MediaPlan> {
        self.images.iter().chain(&self.videos).collect()
    }

    fn n_text(&self) -> usize {
        self.units.iter().filter(|unit| matches!(unit, Unit::Token(_))).count()
    }
}

/// Fits media into limits.
pub struct Budget<'e> {
    engine: &'e Engine,
    limits: Limits,
    options: SessionOptions,
}

/// Tokens of media from which on a calibration is worth its seconds where nobody asked for one.
const LONG: usize = 8192;

impl<'e> Budget<'e> {
    /// A budget for sessions with `options`, whose `n_ctx` does not matter.
    pub fn new(engine: &'e Engine, limits: Limits, options: SessionOptions) -> Budget<'e> {
        Budget { engine, limits, options }
    }

    /// Plans the video at `path` under `wanted`, with smaller frames, then fewer, where that is needed to fit; `around` slots
    /// of the context are for what is not video.
    ///
    /// # Errors
    /// An unreadable video; limits that not even the least frames fit, with the numbers.
    pub fn fit_video(&self, path: &Path, wanted: &MediaOptions, around: usize) -> Result<(MediaPlan, Cost)> {
        let tower = self.engine.need_vision()?;
        let plan = |options: &MediaOptions| MediaPlan::video(path, options, tower);
        self.fit(wanted, around, plan, |work| self.measure(work, Some(path)))
    }

    /// Plans a whole conversation likewise, with `room` slots for the answer. Time is only known (and measured) where it is
    /// limited or the media are long.
    ///
    /// # Errors
    /// Those of [`Prompt::build`]; limits that not even the least frames fit, with the numbers.
    pub fn fit_prompt(
        &self,
        messages: &[Message],
        render: RenderOptions,
        wanted: &MediaOptions,
        room: usize,
    ) -> Result<(Prompt, Cost)> {
        let build = |options: &MediaOptions| Prompt::build(self.engine, messages, render, options);
        let parts =
            messages.iter().filter_map(|m| if let Content::Parts(parts) = &m.content { Some(parts) } else { None });
        let video = parts.flatten().find_map(|part| match part {
            Part::Video { source: MediaSource::Path(source), .. } => source.path(),
            _ => None,
        });
        let measure = |work: &Work| {
            let long = self.limits.time.is_some() || work.n_tokens >= LONG;
            if long { self.measure(work, video) } else { Ok(None) }
        };
        self.fit(wanted, room, build, measure)
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
        let n_pairs = Session::pairs_at_once(live.grid.h, live.grid.w);
        let largest = Some(Largest { n_pairs, grid: live.grid, label: live.label.clone() });
        let n_tokens = wanted.saturating_sub(around);
        let work = Work { n_tokens, around, n_patches: 0, n_source_frames: 0, largest };
        let n_tokens = self.most_tokens(&work, None)?;
        if n_tokens < live.per_pair {
            let excess = self.excess(&self.cost(&work, live.per_pair, None)?).unwrap_or_default();
            let (w, h) = (live.width, live.height);
            return Err(Error::limit(format!("not even one frame pair of {w}x{h} fits: {excess}")).at(&*live.label));
        }
        let mut cost = self.cost(&work, n_tokens, None)?;
        if n_tokens < work.n_tokens {
            cost.reduced.push(format!("context from {wanted} to {}", cost.n_ctx));
        }
        Ok(cost)
    }

    fn measure(&self, work: &Work, video: Option<&Path>) -> Result<Option<Speed>> {
        let Some(largest) = &work.largest else { return Ok(None) };
        let speed = Speed::measure(self.engine, &self.options, (work.n_tokens, largest.grid), video);
        speed.map(Some).at(|| largest.label.clone())
    }

    /// `build` plans with some options; `room` slots are for what the plan does not hold.
    fn fit<P: Planned>(
        &self,
        wanted: &MediaOptions,
        room: usize,
        build: impl Fn(&MediaOptions) -> Result<P>,
        measure: impl FnOnce(&Work) -> Result<Option<Speed>>,
    ) -> Result<(P, Cost)> {
        let work_of = |planned: &P| Work::of(&planned.media(), planned.n_text().saturating_add(room));
        let mut options = wanted.clone();
        let mut planned = build(&options)?;
        let wishes: Vec<Wish> = planned.media().into_iter().map(Wish::of).collect();
        let speed = measure(&work_of(&planned))?;
        // Smaller frames change what the tower needs, and with it how many tokens fit: a few rounds settle that.
        const ROUNDS: usize = 4;
        for round in 0.. {
            let work = work_of(&planned);
            let mut cost = self.cost(&work, work.n_tokens, speed.as_ref())?;
            let plans = planned.media();
            let Some(excess) = self.excess(&cost) else {
                cost.reduced = plans.iter().zip(&wishes).flat_map(|(plan, wish)| wish.reduced_to(plan)).collect();
                drop(plans);
                return Ok((planned, cost));
            };
            let n_videos = plans.iter().filter(|plan| plan.kind == MediaKind::Video).count();
            if n_videos == 0 || round == ROUNDS {
                return Err(too_much(&plans, &excess));
            }
            // Each video gets the same share; pictures stay as they are.
            let n_fixed: usize = plans.iter().filter(|plan| plan.kind == MediaKind::Image).map(|p| p.n_tokens).sum();
            let n_tokens = self.most_tokens(&work, speed.as_ref())?.saturating_sub(n_fixed) / n_videos;
            let factor = self.engine.need_vision()?.hparams().factor() as u64;
            let n_pixels = n_tokens as u64 * factor * factor;
            let sample = &mut options.sample;
            sample.total_pixels = Some(sample.total_pixels.map_or(n_pixels, |n| n.min(n_pixels)));
            planned = build(&options)?;
            let too_many = |plan: &&&MediaPlan| plan.kind == MediaKind::Video && plan.n_tokens > n_tokens;
            let per_pair = planned.media().iter().filter(too_many).map(|plan| plan.n_tokens / plan.n_pairs()).max();
            if let Some(per_pair) = per_pair.filter(|_| wanted.sample.nframes.is_none()) {
                // Frames have their least size: fewer, then.
                let n_frames = (n_tokens / per_pair * 2).max(4);
                let sample = &mut options.sample;
                sample.max_frames = Some(sample.max_frames.map_or(n_frames, |n| n.min(n_frames)));
                sample.min_frames = sample.min_frames.map(|n| n.min(n_frames));
                planned = build(&options)?;
            }
        }
        unreachable!("the last round returns")
    }

    /// What of the limits is exceeded, for people.
    fn excess(&self, cost: &Cost) -> Option<String> {
        let Limits { n_ctx, memory, time } = self.limits;
        if let Some(n_ctx) = n_ctx.filter(|n| *n < cost.n_ctx) {
            return Some(format!("`{}` tokens into a context of `{n_ctx}`", cost.n_ctx));
        }
        if let Some(memory) = memory.filter(|n| *n < cost.memory()) {
            return Some(format!("{} bytes into {memory} bytes", cost.memory()));
        }
        if let Some(cards) = cost.cards.filter(|cards| cards.spare < 0) {
            return Some(format!("{} bytes of GPU memory are missing; lower -ngl or -c", -cards.spare));
        }
        let seconds = cost.seconds.map_or(0.0, |s| s.total());
        let time = time.filter(|time| time.as_secs_f64() < seconds)?;
        Some(format!("{seconds:.0} s into {:.0} s", time.as_secs_f64()))
    }

    /// The most tokens of media within the limits, for frames of the present size.
    fn most_tokens(&self, work: &Work, speed: Option<&Speed>) -> Result<usize> {
        let fits = |n: usize| -> Result<bool> { Ok(self.excess(&self.cost(work, n, speed)?).is_none()) };
        let (mut low, mut high) = (0, work.n_tokens);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle)? { low = middle } else { high = middle - 1 }
        }
        Ok(low)
    }

    /// What a context of `n_ctx` slots and `work` take on cards, where layers are there.
    #[cfg(feature = "cuda")]
    fn cards(&self, n_ctx: usize, n_batch: usize, work: &Work) -> Result<Option<CardBytes>> {
        let shape = self.engine.cache_shape(n_ctx, (self.options.type_k, self.options.type_v));
        let Some(bytes) = self.engine.text.card_bytes(&shape, n_batch)? else { return Ok(None) };
        let tower = match (&self.engine.vision, &work.largest) {
            (Some(tower), Some(Largest { n_pairs, grid, .. })) => tower.card_bytes(n_pairs * grid.h * grid.w) as u64,
            _ => 0,
        };
        Ok(Some(CardBytes { working: bytes.working + tower, spare: bytes.spare - tower as i64, ..bytes }))
    }

    #[cfg(not(feature = "cuda"))]
    fn cards(&self, _: usize, _: usize, _: &Work) -> Result<Option<CardBytes>> {
        Ok(None)
    }

    /// The cost of `work` when its media are `n_tokens` instead of all of theirs.
    fn cost(&self, work: &Work, n_tokens: usize, speed: Option<&Speed>) -> Result<Cost> {
        let needed = n_tokens.saturating_add(work.around);
        let n_ctx = self.limits.n_ctx.map_or(needed, |n_ctx| n_ctx.max(needed));
        let types = (self.options.type_k, self.options.type_v);
        let n_batch = self.options.n_batch.min(n_ctx);
        let vision = match &work.largest {
            None => 0,
            Some(Largest { n_pairs, grid, .. }) => decode::n_bytes(self.engine.need_vision()?, *n_pairs, *grid),
        };
        let working = Scratch::n_bytes(self.engine.text.hparams(), n_batch)
            + vision
            + self.engine.tokenizer.n_vocab() * BYTES_PER_TOKEN
            + PROGRAM_BYTES;
        let cards = self.cards(n_ctx, n_batch, work)?;
        // What cards hold of weights and cache, the host does not keep.
        let (card_weights, card_cache) = cards.map_or((0, 0), |cards| (cards.weights, cards.cache));
        Ok(Cost {
            n_tokens,
            n_ctx,
            weights: self.engine.n_bytes.saturating_sub(card_weights),
            cache: (self.engine.cache_shape(n_ctx, types).n_bytes()? as u64).saturating_sub(card_cache),
            cards,
            working: working as u64,
            seconds: speed.map(|speed| speed.seconds(work, n_tokens, self.options.n_batch)),
            reduced: Vec::new(),
        })
    }
}

/// A medium as it would be without limits.
struct Wish {
    n_frames: usize,
    width: usize,
    height: usize,
}

impl Wish {
    fn of(plan: &MediaPlan) -> Wish {
        Wish { n_frames: plan.frames.len(), width: plan.width, height: plan.height }
    }

    /// What `plan` has less, for people.
    fn reduced_to(&self, plan: &MediaPlan) -> Vec<String> {
        let mut reduced = Vec::new();
        if plan.frames.len() != self.n_frames {
            reduced.push(format!("{}: frames from {} to {}", plan.label, self.n_frames, plan.frames.len()));
        }
        if (plan.width, plan.height) != (self.width, self.height) {
            let (from, to) = ((self.width, self.height), (plan.width, plan.height));
            reduced.push(format!("{}: frame size from {}x{} to {}x{}", plan.label, from.0, from.1, to.0, to.1));
        }
        reduced
    }
}

/// The error of media that do not fit, however small.
fn too_much(plans: &[&MediaPlan], excess: &str) -> Error {
    let of = |plan: &&MediaPlan| format!("{} frames of {}x{}", plan.frames.len(), plan.width, plan.height);
    match plans {
        [] => Error::limit(format!("the conversation does not fit: {excess}")),
        _ => {
            let sizes: Vec<String> = plans.iter().map(of).collect();
            let labels: Vec<&str> = plans.iter().map(|plan| plan.label.as_str()).collect();
            Error::limit(format!("not even {} fit: {excess}", sizes.join(", "))).at(labels.join(", "))
        }
    }
}
