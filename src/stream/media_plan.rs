//! What a media file will become, known before it is decoded: frames, size, tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::decode::Pairs;
use super::left_out::most;
use super::medium::nameless;
use super::stamps::{Markers, PairText, stamp};
use super::{LeaveOut, LiveShape, Medium, TakeHeader, Window};
use crate::files::ScratchFile;
use crate::media::image_file::Decoded;
use crate::media::patch::PatchSpec;
use crate::media::sample::SampleOptions;
use crate::media::{Decoders, FrameSource, Grid, ImageFile, Rgb, Shown, VideoInfo, resize};
use crate::model::family::Pixels;
use crate::model::{VisionHParams, VisionTower};
use crate::position::{Clock, Pace};
use crate::text::Tokenizer;
use crate::{Error, Result, error::Context};

/// How media are sampled, sized and placed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaOptions {
    /// Which frames are taken, and how large they become.
    pub sample: SampleOptions,
    /// Temporal scale of this segment; the session's or the model's otherwise.
    pub temporal_scale: Option<f64>,
    /// A stamped video keeps the vision markers that the template puts around all of its pairs, as the files of some models ask
    /// for anyway.
    pub keep_markers: bool,
    /// Leaves out of videos what has not changed by more than so many 8-bit steps (see `left_out.rs`); by default nothing is.
    pub dedup: Option<f32>,
    /// Reads this share of the visual tokens of every frame pair of a video but the first, those that differ most from the pair
    /// before (likewise); by default all.
    pub keep: Option<f32>,
    /// Who decodes what this process does not decode itself; by default nobody, and what is not built in is refused.
    pub decoders: Decoders,
}

/// Which pad token it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// `<|image_pad|>`.
    Image,
    /// `<|video_pad|>`.
    Video,
}

impl MediaKind {
    /// As conversations spell it.
    pub fn name(self) -> &'static str {
        match self {
            MediaKind::Image => "image",
            MediaKind::Video => "video",
        }
    }
}

/// An opened medium that knows its size in tokens.
pub struct MediaPlan {
    /// Which pad token it replaces.
    pub kind: MediaKind,
    /// Where it comes from, for people.
    pub label: String,
    /// Its file, where it has one of its own.
    pub path: Option<PathBuf>,
    /// Height of every frame after resizing, in pixels.
    pub height: usize,
    /// Their width.
    pub width: usize,
    /// In patches, before merging.
    pub grid: Grid,
    /// Tokens in the context; those of stamps are among them as soon as they are known.
    pub n_tokens: usize,
    /// Visual tokens of a frame pair, if all of them are read.
    pub per_pair: usize,
    /// What is left out of it before the vision tower.
    pub left_out: Option<LeaveOut>,
    /// See [`MediaOptions::keep`].
    pub keep: Option<f32>,
    /// Where something is left out, as soon as it is known: the visual tokens of each pair that are read. Before that the most are
    /// counted that it may be.
    pub kept: Option<Vec<u32>>,
    /// Frames taken, as indices of the source (a still image: one), two for each pair. Of a stream, those that
    /// are still in the cache.
    pub frames: Vec<usize>,
    /// Frame pairs of a stream that have left the cache: the first ones, unless it is compressed.
    pub n_forgotten: usize,
    /// Tokens that stood around those pairs.
    pub n_forgotten_text: usize,
    /// Whether a stream's past became thinner when the context was full
    /// ([`WhenFull::Compress`](crate::stream::WhenFull::Compress)): any pair may have left the cache, or most of its tokens.
    pub is_compressed: bool,
    /// What the source says of itself (videos).
    pub info: Option<VideoInfo>,
    /// Temporal scale of this segment; the session's or the model's otherwise.
    pub temporal_scale: Option<f64>,
    /// How its time goes by, for models that were trained with seconds.
    pub clock: Option<Clock>,
    /// Whether time is told in words, and what then becomes of the template's markers.
    pub(super) markers: Markers,
    /// What stands around its pairs, where time is told in words, as soon as that is known.
    pub text: Option<PairText>,
    pub(super) source: Source,
    /// Tells sources apart: what [`fingerprint`](super::fingerprint) says of files and pixels, or a name.
    pub(super) source_id: String,
    pub(super) resize: Resizing,
    /// What was found wrong with the file when it was decoded.
    pub(super) warning: Option<String>,
    /// Files that hold it and are there for it alone.
    pub(super) scratch: Vec<ScratchFile>,
}

pub(super) enum Source {
    /// A picture that is not decoded yet.
    File(ImageFile, PatchSpec),
    /// One that is, already resized.
    Image(Rgb, PatchSpec),
    Video(Box<dyn FrameSource>, PatchSpec),
    /// A video that is in a take, of so many frames a second: what it became is known, its frames are not at hand.
    Watched(f64),
}

/// How pixels are resampled: those of pictures, of lists of frames, and of films.
#[derive(Clone, Copy)]
pub(super) struct Resizing {
    pub picture: fn(&Rgb, usize, usize) -> Rgb,
    pub film: fn(&Rgb, usize, usize) -> Rgb,
}

/// Of media whose frames are not at hand.
const UNUSED: Resizing = Resizing { picture: resize::bicubic, film: resize::bicubic_film };

/// The resampling of a projector's family.
pub(super) fn resizing(hp: &VisionHParams) -> Resizing {
    match hp.video.form.pixels {
        Pixels::Utils => Resizing { picture: resize::bicubic, film: resize::bicubic_film },
        Pixels::Processor => Resizing { picture: resize::bicubic_integer, film: resize::bicubic_integer },
    }
}

/// What a vision tower expects of pixels.
pub fn patch_spec(hp: &VisionHParams) -> PatchSpec {
    PatchSpec { patch: hp.patch_size, merge: hp.merge, mean: hp.image_mean, std: hp.image_std }
}

impl MediaPlan {
    /// Opens a still image; it is decoded when it is needed, or by [`MediaPlan::load`].
    ///
    /// # Errors
    /// An unreadable file, an extreme aspect ratio, senseless bounds.
    pub fn image(path: &Path, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        Medium::image(path, options)?.whole(tower.hparams())
    }

    /// The same from pixels.
    ///
    /// # Errors
    /// An extreme aspect ratio, senseless bounds.
    pub fn picture(picture: Rgb, label: String, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        Medium::picture(picture, label, options).whole(tower.hparams())
    }

    /// Opens a video file or a folder of frames and plans which frames to take, and how large.
    ///
    /// # Errors
    /// An unreadable file, options that contradict each other or the video.
    pub fn video(path: &Path, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        Medium::video(path, options)?.whole(tower.hparams())
    }

    /// The same from any source of frames, which `label` names.
    ///
    /// # Errors
    /// Options that contradict each other or the video.
    pub fn frames(
        source: Box<dyn FrameSource>,
        label: String,
        options: &MediaOptions,
        tower: &VisionTower,
    ) -> Result<MediaPlan> {
        Medium::frames(source, label, options).whole(tower.hparams())
    }

    /// A video of which a part was watched already, opened again to go on just as it was planned.
    ///
    /// # Errors
    /// An unreadable file, one without the planned frames.
    pub fn again(path: &Path, options: &MediaOptions, header: &TakeHeader, tower: &VisionTower) -> Result<MediaPlan> {
        let source = options.decoders.open(path)?;
        let (info, spec) = (source.info().clone(), patch_spec(tower.hparams()));
        let last = header.frames.iter().max().copied().unwrap_or(0) as usize;
        let plan = MediaPlan { info: Some(info), ..MediaPlan::watched(header) };
        let grid = Grid::of(header.grid[0], header.height, header.width, &spec);
        if last >= source.info().n_frames || grid != plan.grid {
            let message = "does not have the frames that were planned, or the projector cuts them otherwise";
            return Err(Error::mismatch(message).at(path.display().to_string()));
        }
        let resize = resizing(tower.hparams());
        Ok(MediaPlan { source: Source::Video(source, spec), resize, ..plan })
    }

    /// The video of a take.
    pub fn watched(header: &TakeHeader) -> MediaPlan {
        let [t, h, w] = header.grid;
        MediaPlan {
            kind: MediaKind::Video,
            label: header.source.clone(),
            path: None,
            height: header.height,
            width: header.width,
            grid: Grid { t, h: h * header.merge, w: w * header.merge },
            n_tokens: header.n_media(),
            per_pair: h * w,
            left_out: header.dedup.map(LeaveOut::Unchanged),
            keep: header.keep,
            kept: header.kept.clone(),
            frames: header.frames.iter().map(|i| *i as usize).collect(),
            n_forgotten: header.n_forgotten,
            n_forgotten_text: header.n_forgotten_text,
            is_compressed: header.is_compressed,
            info: None,
            temporal_scale: Some(header.temporal_scale),
            clock: header.clock,
            markers: header.markers,
            text: header.text.clone(),
            resize: UNUSED,
            source: Source::Watched(header.fps),
            source_id: header.source_fingerprint.clone(),
            warning: None,
            scratch: Vec::new(),
        }
    }

    /// A stream of which this much was seen.
    pub(super) fn seen(live: &LiveShape, Window { n_pairs, n_forgotten, .. }: Window) -> MediaPlan {
        let (source, held, n_whole) = (&live.info, live.held(), n_pairs - n_forgotten);
        let pairs = || held.pairs.iter().take(n_whole);
        let frames = pairs().flat_map(|held| [2 * u64::from(held.pair), 2 * u64::from(held.pair) + 1]);
        let frames: Vec<usize> = frames.map(|k| live.index(k) as usize).collect();
        let n_frames = frames.last().map_or(0, |last| last + 1);
        let text = (live.markers != Markers::Plain).then(|| PairText {
            lead: pairs().map(|held| held.lead.to_vec()).collect(),
            tail: held.tail.clone(),
            n_taken: held.n_taken,
        });
        let kept: Vec<u32> = pairs().map(|held| held.places.n_of(live.per_pair) as u32).collect();
        let n_visual: usize = kept.iter().map(|n| *n as usize).sum();
        let kept = (live.leaves_out() || held.is_compressed).then_some(kept);
        MediaPlan {
            kind: MediaKind::Video,
            label: live.label.clone(),
            path: None,
            height: live.height,
            width: live.width,
            grid: Grid { t: n_pairs, ..live.grid },
            n_tokens: n_visual + text.as_ref().map_or(0, PairText::n_text),
            per_pair: live.per_pair,
            left_out: live.dedup.map(LeaveOut::Unchanged),
            keep: live.keep,
            kept,
            frames,
            n_forgotten,
            n_forgotten_text: held.n_forgotten,
            is_compressed: held.is_compressed,
            info: Some(VideoInfo {
                n_frames,
                fps: source.fps,
                duration: n_frames as f64 / source.fps,
                height: source.height,
                width: source.width,
                decoder: source.decoder.clone(),
            }),
            temporal_scale: live.temporal_scale,
            clock: live.clock,
            markers: live.markers,
            text,
            resize: UNUSED,
            source: Source::Watched(source.fps),
            source_id: live.label.clone(),
            warning: None,
            scratch: Vec::new(),
        }
    }

    /// Frame pairs (1 for a still image).
    pub fn n_pairs(&self) -> usize {
        self.grid.t
    }

    /// Writes the stamps of a stamped video, if that is not done: the first by itself until it is joined to the words before.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub(super) fn write_stamps(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        if self.markers != Markers::Plain && self.text.is_none() && self.kind == MediaKind::Video {
            let text = PairText::new(tokenizer, &self.seconds())?;
            self.n_tokens += text.n_text();
            self.text = Some(text);
        }
        Ok(())
    }

    /// Joins the first stamp to the tokens `before` of the words before the video, and returns how many of them stay: all where it
    /// is not stamped, or its markers stay.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub(super) fn join(&mut self, tokenizer: &Tokenizer, before: &[u32]) -> Result<usize> {
        self.write_stamps(tokenizer)?;
        let seconds = if self.is_watched() { Vec::new() } else { self.seconds() };
        let Some(text) = self.text.as_mut().filter(|_| self.markers == Markers::Replaced) else {
            return Ok(before.len());
        };
        match seconds[..] {
            // What was read stands as it is.
            [] => text.n_stay(tokenizer, before),
            [first, ..] => {
                let n_text = text.n_text();
                let n_stay = text.join(tokenizer, before, &stamp(first, seconds[1]))?;
                self.n_tokens = self.n_tokens - n_text + text.n_text();
                Ok(n_stay)
            }
        }
    }

    /// How many of the tokens `before` stay, as [`MediaPlan::join`] found.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub(super) fn n_stay(&self, tokenizer: &Tokenizer, before: &[u32]) -> Result<usize> {
        match &self.text {
            Some(text) if self.markers == Markers::Replaced => text.n_stay(tokenizer, before),
            _ => Ok(before.len()),
        }
    }

    /// Tokens of frame pair `pair`, with the words around it.
    pub fn n_pair_tokens(&self, pair: usize) -> usize {
        let n = self.n_visual(pair);
        self.text.as_ref().map_or(n, |text| text.n_tokens(pair, n))
    }

    /// Whether something of it is left out.
    pub fn leaves_out(&self) -> bool {
        self.left_out.is_some() || self.keep.is_some()
    }

    /// The limit of what has not changed and is left out, where anything is.
    pub fn dedup(&self) -> Option<f32> {
        if let Some(LeaveOut::Unchanged(limit)) = self.left_out { Some(limit) } else { None }
    }

    /// Learns how many visual tokens of each pair are read.
    pub(super) fn set_kept(&mut self, kept: Vec<u32>) {
        let n_text = self.text.as_ref().map_or(0, PairText::n_text);
        self.n_tokens = n_text + kept.iter().map(|n| *n as usize).sum::<usize>();
        self.kept = Some(kept);
    }

    /// Visual tokens that are left out, as far as it is known.
    pub fn n_left_out(&self) -> usize {
        let n_text = self.text.as_ref().map_or(0, PairText::n_text);
        (self.n_pairs() - self.n_forgotten) * self.per_pair - (self.n_tokens - n_text)
    }

    /// Visual tokens of frame pair `pair`, or the most that it may have.
    pub fn n_visual(&self, pair: usize) -> usize {
        self.kept.as_ref().map_or_else(|| most(pair, self.per_pair, self.keep), |kept| kept[pair] as usize)
    }

    /// Pairs that `n` tokens hold whole, from the first on.
    pub fn n_whole_pairs(&self, n: usize) -> usize {
        let mut left = n;
        let is_in = |pair: &usize| {
            let rest = left.checked_sub(self.n_pair_tokens(*pair));
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        (0..self.n_pairs()).take_while(is_in).count()
    }

    /// How its time goes by, at this temporal scale.
    pub fn pace(&self, scale: f64) -> Pace {
        Pace { scale: Some(scale), clock: self.clock }
    }

    /// When the two frames of each pair are shown, in seconds. What a file of a constant rate says of a frame is its number
    /// divided by that rate, as the reference computes it; of an irregular one, its own time.
    pub fn seconds(&self) -> Vec<f64> {
        let fps = self.info.as_ref().map_or(0.0, |info| info.fps);
        let seconds = |(shown, index): (Shown, &usize)| {
            let steady = *index as f64 / fps;
            // Far below what a stamp tells, and above what containers round away.
            if (shown.seconds - steady).abs() < 1e-3 { steady } else { shown.seconds }
        };
        self.shown().into_iter().zip(&self.frames).map(seconds).collect()
    }

    /// Tells media apart that look the same in a prompt: SHA-256 of what identifies the source, of the frames taken, and of
    /// their size.
    pub(crate) fn id(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let numbers = [self.height, self.width, self.n_forgotten].into_iter().chain(self.frames.iter().copied());
        numbers.for_each(|n| hash.update((n as u64).to_le_bytes()));
        hash.update([self.kind as u8]);
        if let Some(text) = &self.text {
            text.lead.iter().flatten().chain(&text.tail).for_each(|id| hash.update(id.to_le_bytes()));
        }
        if let Some(Clock { seconds_per_pair, ids_per_second }) = self.clock {
            [seconds_per_pair, ids_per_second].into_iter().for_each(|n| hash.update(n.to_le_bytes()));
        }
        if let Some(what) = self.left_out {
            hash.update(format!("{what:?}"));
        }
        if let Some(share) = self.keep {
            hash.update(format!("Keep({share})"));
        }
        if let Some(kept) = self.kept.as_ref().filter(|_| self.is_compressed) {
            kept.iter().for_each(|n| hash.update(n.to_le_bytes()));
        }
        hash.update(self.source_id.as_bytes());
        hash.finalize().into()
    }

    /// Damaged packets skipped so far.
    pub fn skipped(&self) -> usize {
        match &self.source {
            Source::File(..) | Source::Image(..) | Source::Watched(_) => 0,
            Source::Video(source, _) => source.skipped(),
        }
    }

    /// Whether its frames are in a take, or were those of a stream.
    pub fn is_watched(&self) -> bool {
        matches!(self.source, Source::Watched(_))
    }

    /// The source's own numbers of the frames taken, and their times. Of a picture there is no time.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = |index: &usize| match &self.source {
            Source::File(..) | Source::Image(..) => None,
            Source::Video(source, _) => Some(source.shown(*index)),
            Source::Watched(fps) => Some(Shown { number: *index, seconds: *index as f64 / fps }),
        };
        self.frames.iter().filter_map(shown).collect()
    }

    /// What is wrong with the medium although it was decoded, for people: once known, said once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take().map(|warning| format!("{}: {warning}", self.label))
    }

    /// Decodes a picture, if this is one and it is not decoded yet: its faults show before the work on others begins. Stops
    /// soon once `stopped` says so.
    ///
    /// # Errors
    /// Those of [`ImageFile::decode`].
    pub fn load(&mut self, stopped: &dyn Fn() -> bool) -> Result<()> {
        if let Source::File(file, spec) = &self.source {
            let decoded = file.decode((self.height, self.width), stopped);
            let Decoded { rgb, warning } = decoded.map_err(|err| match self.scratch.first() {
                Some(scratch) => nameless(err, scratch, &self.label),
                None => err,
            })?;
            self.source = Source::Image((self.resize.picture)(&rgb, self.height, self.width), spec.clone());
            self.warning = warning;
        }
        Ok(())
    }

    /// Whether this identifies the source that it was planned of.
    pub(crate) fn is_of(&self, source_id: &str) -> bool {
        self.source_id == source_id
    }

    /// A picture that was decoded, in this width and height.
    ///
    /// # Errors
    /// One that was not; a video.
    pub(crate) fn small(&self, size: (usize, usize)) -> Result<Rgb> {
        match &self.source {
            Source::Image(picture, _) => self.smaller(picture, size),
            _ => Err(Error::unsupported("is not decoded")),
        }
    }

    /// A frame of its own in this width and height.
    ///
    /// # Errors
    /// One without pixels.
    pub(crate) fn smaller(&self, frame: &Rgb, (width, height): (usize, usize)) -> Result<Rgb> {
        if frame.width == 0 || frame.height == 0 {
            return Err(Error::format("a frame is empty"));
        }
        Ok(resize::bicubic(frame, height, width))
    }

    /// Appends the patch rows of frame pair `pair` to `out`. Pairs are asked for in order.
    ///
    /// # Errors
    /// A frame that cannot be decoded.
    pub fn pixels(&mut self, pair: usize, out: &mut Vec<f32>) -> Result<()> {
        self.load(&|| false)?;
        let (two, spec) = match &mut self.source {
            Source::File(..) => unreachable!("it was loaded above"),
            Source::Image(picture, spec) => {
                crate::media::patch::pixel_values([picture, picture], spec, out);
                return Ok(());
            }
            Source::Watched(_) => {
                let message =
                    "was watched into a take and cannot be read again: the question asks for another beginning";
                return Err(Error::mismatch(message).at(self.label.clone()));
            }
            Source::Video(source, spec) => {
                let resize = if source.is_frame_list() { self.resize.picture } else { self.resize.film };
                let mut frame = |i: usize| -> Result<Rgb> {
                    let rgb = source.frame(i).at(|| format!("{}: frame {i}", self.label))?;
                    if rgb.height == 0 || rgb.width == 0 {
                        return Err(Error::format(format!("{}: frame {i} is empty", self.label)));
                    }
                    Ok(resize(&rgb, self.height, self.width))
                };
                ([frame(self.frames[2 * pair])?, frame(self.frames[2 * pair + 1])?], spec)
            }
        };
        crate::media::patch::pixel_values([&two[0], &two[1]], spec, out);
        Ok(())
    }
}

impl Pairs for MediaPlan {
    const KEEPS_PARTS: bool = false;

    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        match &self.source {
            Source::File(..) | Source::Image(..) | Source::Watched(_) => None,
            Source::Video(source, _) => source.stopper(),
        }
    }

    fn next(&mut self, pair: usize, out: &mut Vec<f32>, stopped: &dyn Fn() -> bool) -> Result<bool> {
        if pair >= self.n_pairs() {
            return Ok(false);
        }
        self.load(stopped)?;
        self.pixels(pair, out).map(|()| true)
    }
}
