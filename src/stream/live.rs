//! A stream of unknown length: what is known before it is watched, and the take that it is kept in.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::decode::Pairs;
use super::held::HeldPairs;
use super::left_out::most;
use super::media_plan::{Resizing, patch_spec, resizing};
use super::stamps::{Markers, stamp};
use super::{
    Engine, Event, Events, IfExists, MediaOptions, MediaPlan, PairText, SessionOptions, StampCost, TakeHeader,
    TakeWriter, Window,
};
use crate::cache::KvCache;
use crate::error::Context;
use crate::media::Grid;
use crate::media::live::{LiveInfo, LiveSource};
use crate::media::patch::{PatchSpec, pixel_values};
use crate::media::sample::{FRAME_FACTOR, SampleOptions, frame_size};
use crate::model::VisionTower;
use crate::position::Clock;
use crate::text::Tokenizer;
use crate::{Error, Result};

/// What a stream will become: the size of its frames is known, their number is not.
#[derive(Debug, Clone)]
pub struct LiveShape {
    /// Where it comes from, for people.
    pub label: String,
    /// What the stream says of itself.
    pub info: LiveInfo,
    /// Height of every frame after resizing, in pixels.
    pub height: usize,
    /// Their width.
    pub width: usize,
    /// A frame pair in patches, before merging (`t` is 1).
    pub grid: Grid,
    /// Visual tokens of a frame pair.
    pub per_pair: usize,
    /// Most tokens of the words around a pair, where time is told in words.
    pub n_stamp: usize,
    /// Temporal scale of the stream; the session's or the model's otherwise.
    pub temporal_scale: Option<f64>,
    /// See [`MediaOptions::dedup`].
    pub dedup: Option<f32>,
    /// See [`MediaOptions::keep`].
    pub keep: Option<f32>,
    /// How its time goes by, for models that were trained with seconds.
    pub clock: Option<Clock>,
    pub(super) markers: Markers,
    /// Frames that came so far; the plan that is being watched counts on.
    n_came: Arc<AtomicU64>,
    /// What stood in pairs before this one may be in the context no more, and is read again; likewise.
    pub(super) n_forgotten: Arc<AtomicUsize>,
    /// The pairs that were read and not forgotten; likewise.
    pub(super) held: Arc<Mutex<HeldPairs>>,
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

    /// Most tokens of a frame pair, with the words around it.
    pub fn n_pair_tokens(&self) -> usize {
        self.per_pair + self.n_stamp
    }

    /// Whether something of it is left out.
    pub fn leaves_out(&self) -> bool {
        self.dedup.is_some() || self.keep.is_some()
    }

    /// The same of pairs behind the first.
    pub fn n_later_tokens(&self) -> usize {
        most(1, self.per_pair, self.keep) + self.n_stamp
    }

    /// Tokens per second of the stream, at most.
    pub fn tokens_per_second(&self) -> f64 {
        self.info.taken_fps() / 2.0 * self.n_later_tokens() as f64
    }

    /// Whether time is told in words.
    pub fn is_stamped(&self) -> bool {
        self.markers != Markers::Plain
    }

    /// The stamp of pair `pair`, whose frames came when the source counted them.
    pub(super) fn stamp(&self, pair: usize) -> String {
        let seconds = |k: u64| self.index(k) as f64 / self.info.fps;
        stamp(seconds(2 * pair as u64), seconds(2 * pair as u64 + 1))
    }

    /// The tokens before pair `pair`, of which the frames have come, and behind it, where time is told in words.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub(super) fn words_around(&self, tokenizer: &Tokenizer, pair: usize) -> Result<Option<(Vec<u32>, Vec<u32>)>> {
        if !self.is_stamped() {
            return Ok(None);
        }
        let stamp = self.stamp(pair);
        let mut text = PairText::of(tokenizer, &[&stamp])?;
        if pair == 0 && self.markers == Markers::Replaced {
            text.join(tokenizer, &self.held().before, &stamp)?;
        }
        Ok(Some((text.lead.swap_remove(0), text.tail)))
    }

    /// What is there of it so far. A thread that failed while it had it leaves it whole.
    pub(super) fn held(&self) -> MutexGuard<'_, HeldPairs> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the stream has become, as a video that questions can be asked about.
    pub fn seen(&self, window: Window) -> MediaPlan {
        MediaPlan::seen(self, window)
    }
}

/// A stream that was opened, ready to be watched ([`Session::watch`](super::Session::watch)).
pub struct LivePlan {
    /// How large its frames are, and what they become.
    pub shape: LiveShape,
    source: LiveSource,
    spec: PatchSpec,
    resize: Resizing,
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
        stopped: &dyn Fn() -> bool,
    ) -> Result<LivePlan> {
        let sample = &options.sample;
        check(sample).at(|| label.to_string())?;
        let (hp, spec) = (tower.hparams(), patch_spec(tower.hparams()));
        let form = &hp.video.form;
        let tools = options.decoders.tools.clone();
        let source = LiveSource::open(reader, label, sample.fps.unwrap_or(form.fps), tools, stopped)?;
        let info = source.info().clone();
        let (height, width) = frame_size(form.max_frames, (info.height, info.width), hp.factor(), sample, &hp.video)
            .at(|| label.to_string())?;
        let grid = Grid::of(1, height, width, &spec);
        let n_stamp = 0;
        let (label, per_pair) = (label.to_string(), grid.n_tokens(hp.merge));
        let MediaOptions { temporal_scale, dedup, keep, .. } = *options;
        let seconds_per_pair = FRAME_FACTOR as f64 / info.taken_fps();
        let clock = hp.tokens_per_second.map(|ids_per_second| Clock { seconds_per_pair, ids_per_second });
        let (n_came, markers) = (Arc::default(), Markers::of(&hp.video, options.keep_markers));
        let shape = LiveShape {
            label,
            info,
            height,
            width,
            grid,
            per_pair,
            n_stamp,
            temporal_scale,
            dedup,
            keep,
            clock,
            markers,
            n_came,
            n_forgotten: Arc::default(),
            held: Arc::default(),
        };
        Ok(LivePlan { shape, source, spec, resize: resizing(hp), failure: None })
    }
}

impl LivePlan {
    /// Learns what words cost, where time is told in them: plans made before count visual tokens only.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub fn tell_time(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        /// Digits before the point, for three years.
        const DIGITS: usize = 8;
        if self.shape.markers != Markers::Plain {
            self.shape.n_stamp = StampCost::of(tokenizer)?.each + DIGITS;
        }
        Ok(())
    }

    /// Begins anew behind the words `before`, of which those are returned that are read as they are; the past becomes thinner
    /// (`is_compressed`), or ends.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub(super) fn begin<'b>(
        &mut self,
        tokenizer: &Tokenizer,
        before: &'b [u32],
        is_compressed: bool,
    ) -> Result<&'b [u32]> {
        self.tell_time(tokenizer)?;
        let mut held = HeldPairs { before: before.to_vec(), is_compressed, ..HeldPairs::default() };
        let mut n_stay = before.len();
        if self.shape.markers != Markers::Plain {
            let mut text = PairText::new(tokenizer, &[0.0])?;
            if self.shape.markers == Markers::Replaced {
                // What a stamp takes in follows from how it begins, whatever it tells.
                n_stay = text.join(tokenizer, before, &stamp(0.0, 0.0))?;
            }
            (held.tail, held.n_taken) = (text.tail, text.n_taken);
        }
        *self.shape.held() = held;
        self.shape.n_forgotten.store(0, Ordering::Relaxed);
        Ok(&before[..n_stay])
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
            Ok(Some((self.resize.film)(&frame, height, width)))
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
    /// What passes between the last save, or the start, and the next one.
    pause: Option<Duration>,
    started: Instant,
    saved: Instant,
}

/// After this time a stream is saved first, so that it can soon be asked about; each pause is then twice as long as the one before.
const FIRST_SAVE: Duration = Duration::from_secs(10);

impl LiveTake {
    /// A take at `path`, where `if_exists` has its say now, to be saved while the stream goes on: after ten seconds, then in pauses that double until they are
    /// `every`; or never before its end. The stream stands behind the tokens `before` of `system_prompt`.
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
        let pause = every.map(|every| every.min(FIRST_SAVE));
        Ok(LiveTake {
            path: path.to_path_buf(),
            before,
            system_prompt,
            options,
            every,
            pause,
            started: now,
            saved: now,
        })
    }

    /// Token ids before the stream.
    pub fn before(&self) -> &[u32] {
        &self.before
    }

    /// Whether it is time to save.
    pub fn is_due(&self) -> bool {
        self.pause.is_some_and(|pause| self.saved.elapsed() >= pause)
    }

    /// Saves what `cache` holds of the stream, which is `video` so far; tells `events` how that went.
    ///
    /// # Errors
    /// `Io`; the take that was saved before is then as it was.
    pub fn save(&mut self, engine: &Engine, video: &MediaPlan, cache: &KvCache, events: &mut Events<'_>) -> Result<()> {
        self.wait_longer();
        let saved = self.write(engine, video, cache);
        events.send(Event::Saved(saved.as_ref().map(|n| *n).map_err(Error::to_string)));
        saved.map(drop)
    }

    fn wait_longer(&mut self) {
        self.saved = Instant::now();
        self.pause = self.pause.zip(self.every).map(|(pause, every)| every.min(2 * pause));
    }

    fn write(&self, engine: &Engine, video: &MediaPlan, cache: &KvCache) -> Result<usize> {
        let system_prompt = self.system_prompt.as_deref();
        let before = &self.before[..video.n_stay(&engine.tokenizer, &self.before)?];
        let header = TakeHeader::of(engine, video, &self.options, (before, &[]), system_prompt)?;
        TakeWriter::write_whole(&self.path, &header, cache, self.started.elapsed())?;
        Ok(header.n_tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;
    use crate::tensor::CacheType;

    #[test]
    fn a_stream_is_saved_soon_and_then_ever_more_rarely() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("camera.take");
        let pauses = |every: Option<u64>| {
            let every = every.map(Duration::from_secs);
            let ty = CacheType::from(GgmlType::F16);
            let options = SessionOptions { n_ctx: 128, n_batch: 64, type_k: ty, type_v: ty, temporal_scale: None };
            let mut take = LiveTake::new((&path, IfExists::Refuse), (None, Vec::new()), options, every).unwrap();
            std::iter::repeat_with(|| {
                let pause = take.pause.map(|pause| pause.as_secs());
                take.wait_longer();
                pause
            })
            .take(8)
            .collect::<Option<Vec<_>>>()
        };
        assert_eq!(pauses(Some(600)).unwrap(), [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pauses(Some(4)).unwrap(), [4; 8]);
        assert_eq!(pauses(None), None);
    }
}
