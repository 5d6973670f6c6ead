//! A stream of unknown length: what is known before it is watched, and the take that it is kept in.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::decode::Pairs;
use super::media_plan::patch_spec;
use super::{Engine, Event, Events, IfExists, MediaOptions, MediaPlan, SessionOptions, TakeHeader, TakeWriter, Window};
use crate::cache::KvCache;
use crate::error::Context;
use crate::media::ffmpeg::Tools;
use crate::media::live::{LiveInfo, LiveSource};
use crate::media::patch::{PatchSpec, pixel_values};
use crate::media::sample::{FPS, FPS_MAX_FRAMES, SampleOptions, frame_size};
use crate::media::{Grid, resize};
use crate::model::VisionTower;
use crate::{Error, Result};

/// What a stream will become: the size of its frames is known, their number is not.
#[derive(Debug, Clone)]
pub struct LiveShape {
    /// Where it comes from, for people.
    pub label: String,
    pub info: LiveInfo,
    /// Size of every frame after resizing.
    pub height: usize,
    pub width: usize,
    /// A frame pair in patches, before merging (`t` is 1).
    pub grid: Grid,
    /// Tokens of a frame pair.
    pub per_pair: usize,
    pub temporal_scale: Option<f64>,
    /// Frames that came so far; the plan that is being watched counts on.
    n_came: Arc<AtomicU64>,
}

impl LiveShape {
    /// The number in the source of the `k`-th frame of the pairs: an odd last frame stands there twice.
    pub(super) fn index(&self, k: u64) -> u64 {
        self.info.index(k.min(self.n_came.load(Ordering::Relaxed).saturating_sub(1)))
    }

    /// Different frames that were seen up to the end of a window.
    pub fn n_frames(&self, window: Window) -> u64 {
        (2 * window.n_pairs as u64).min(self.n_came.load(Ordering::Relaxed))
    }

    /// Tokens per second of the stream.
    pub fn tokens_per_second(&self) -> f64 {
        self.info.taken_fps() / 2.0 * self.per_pair as f64
    }

    /// What the stream has become, as a video that questions can be asked about.
    pub fn seen(&self, window: Window) -> MediaPlan {
        MediaPlan::seen(self, window)
    }
}

/// A stream that was opened, ready to be watched ([`Session::watch`](super::Session::watch)).
pub struct LivePlan {
    pub shape: LiveShape,
    source: LiveSource,
    spec: PatchSpec,
    /// What broke after a frame that was still to be handed over.
    failure: Option<Error>,
}

impl LivePlan {
    /// Opens the stream `reader`, called `label`, and waits for its header (see [`LiveSource::open`]). Frames are sized as
    /// those of the longest file, unless `max_pixels` and `min_pixels` say otherwise.
    ///
    /// # Errors
    /// Options that only a video of known length can follow, and those of [`LiveSource::open`].
    pub fn open(
        reader: impl Read + Send + 'static,
        label: &str,
        options: &MediaOptions,
        tower: &VisionTower,
        tools: Option<Tools>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<LivePlan> {
        let sample = &options.sample;
        check(sample).at(|| label.to_string())?;
        let source = LiveSource::open(reader, label, sample.fps.unwrap_or(FPS), tools, stopped)?;
        let (hp, info, spec) = (tower.hparams(), source.info().clone(), patch_spec(tower.hparams()));
        let (height, width) =
            frame_size(FPS_MAX_FRAMES, info.height, info.width, hp.factor(), sample).at(|| label.to_string())?;
        let grid = Grid::of(1, height, width, &spec);
        let (label, per_pair) = (label.to_string(), grid.n_tokens(hp.merge));
        let temporal_scale = options.temporal_scale;
        let shape = LiveShape { label, info, height, width, grid, per_pair, temporal_scale, n_came: Arc::default() };
        Ok(LivePlan { shape, source, spec, failure: None })
    }
}

/// Refuses what cannot be followed without knowing the length.
fn check(sample: &SampleOptions) -> Result<()> {
    let given = [
        ("nframes", sample.nframes.is_some()),
        ("min_frames", sample.min_frames.is_some()),
        ("max_frames", sample.max_frames.is_some()),
        ("video_start", sample.video_start.is_some()),
        ("video_end", sample.video_end.is_some()),
        ("total_pixels", sample.total_pixels.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::bad_input(format!(
            "`{name}` needs a video of known length, a stream takes fps, min_pixels and max_pixels"
        ))),
        None => Ok(()),
    }
}

impl Pairs for LivePlan {
    const KEEPS_PARTS: bool = true;

    fn next(&mut self, _: usize, out: &mut Vec<f32>, stopped: &dyn Fn() -> bool) -> Result<bool> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let LiveShape { height, width, .. } = self.shape;
        let mut failure = None;
        let mut frame = || -> Result<_> {
            let Some(frame) = self.source.next(stopped)? else { return Ok(None) };
            self.shape.n_came.fetch_add(1, Ordering::Relaxed);
            Ok(Some(resize::bicubic_film(&frame, height, width)))
        };
        let Some(first) = frame()? else { return Ok(false) };
        // An odd last one is taken twice, also before a break, which the next call tells.
        let second = frame().unwrap_or_else(|error| {
            failure = Some(error);
            None
        });
        pixel_values([&first, second.as_ref().unwrap_or(&first)], &self.spec, out);
        self.failure = failure;
        Ok(true)
    }
}

/// The take of a stream: written whole each time, since a stream that was interrupted cannot be read again.
pub struct LiveTake {
    path: PathBuf,
    before: Vec<u32>,
    system_prompt: Option<String>,
    options: SessionOptions,
    every: Option<Duration>,
    started: Instant,
    saved: Instant,
}

impl LiveTake {
    /// A take at `path`, where `if_exists` has its say now, to be saved `every` so often while the stream goes on, or never before its end. The stream stands
    /// behind the tokens `before` of `system_prompt`.
    ///
    /// # Errors
    /// What [`IfExists::check`] says.
    pub fn new(
        (path, if_exists): (&Path, IfExists),
        (system_prompt, before): (Option<&str>, Vec<u32>),
        options: SessionOptions,
        every: Option<Duration>,
    ) -> Result<LiveTake> {
        if_exists.check(path)?;
        let (system_prompt, now) = (system_prompt.map(str::to_string), Instant::now());
        Ok(LiveTake { path: path.to_path_buf(), before, system_prompt, options, every, started: now, saved: now })
    }

    /// Token ids before the stream.
    pub fn before(&self) -> &[u32] {
        &self.before
    }

    /// Whether it is time to save.
    pub fn is_due(&self) -> bool {
        self.every.is_some_and(|every| self.saved.elapsed() >= every)
    }

    /// Saves what `cache` holds of the stream, which is `video` so far; tells `events` how that went.
    ///
    /// # Errors
    /// `Io`; the take that was saved before is then as it was.
    pub fn save(&mut self, engine: &Engine, video: &MediaPlan, cache: &KvCache, events: &mut Events<'_>) -> Result<()> {
        self.saved = Instant::now();
        let saved = self.write(engine, video, cache);
        events.send(Event::Saved(saved.as_ref().map(|n| *n).map_err(Error::to_string)));
        saved.map(drop)
    }

    fn write(&self, engine: &Engine, video: &MediaPlan, cache: &KvCache) -> Result<usize> {
        let system_prompt = self.system_prompt.as_deref();
        let header = TakeHeader::of(engine, video, &self.options, (&self.before, &[]), system_prompt)?;
        TakeWriter::write_whole(&self.path, &header, cache, self.started.elapsed())?;
        Ok(header.n_tokens())
    }
}
