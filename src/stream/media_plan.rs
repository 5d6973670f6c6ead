//! What a media file will become, known before it is decoded: frames, size, tokens.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::decode::Pairs;
use super::medium::nameless;
use super::{LiveShape, Medium, TakeHeader, Window};
use crate::files::Scratch;
use crate::media::image_file::Decoded;
use crate::media::patch::PatchSpec;
use crate::media::sample::SampleOptions;
use crate::media::{Decoders, FrameSource, Grid, ImageFile, Rgb, SafeDecoder, Shown, VideoInfo, resize};
use crate::model::{VisionHParams, VisionTower};
use crate::{Error, Result, error::Context};

/// How media are sampled, sized and placed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaOptions {
    pub sample: SampleOptions,
    /// Temporal scale of this segment; the session's or the model's otherwise.
    pub temporal_scale: Option<f64>,
    /// Decodes H.264 in place of this process; makes no difference to the frames.
    pub safe_decoder: Option<SafeDecoder>,
}

/// Which pad token it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    Image,
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
    pub kind: MediaKind,
    /// Where it comes from, for people.
    pub label: String,
    /// Size of every frame after resizing.
    pub height: usize,
    pub width: usize,
    /// In patches, before merging.
    pub grid: Grid,
    /// Tokens in the context.
    pub n_tokens: usize,
    /// Frames taken, as indices of the source (a still image: one). Of a stream, those that are still in the cache.
    pub frames: Vec<usize>,
    /// Frame pairs at the beginning of a stream that have left the cache.
    pub n_forgotten: usize,
    /// What the source says of itself (videos).
    pub info: Option<VideoInfo>,
    pub temporal_scale: Option<f64>,
    pub(super) source: Source,
    /// Tells sources apart: what [`fingerprint`](super::fingerprint) says of files and pixels, or a name.
    pub(super) source_id: String,
    /// What was found wrong with the file when it was decoded.
    pub(super) warning: Option<String>,
    /// Files that hold it and are there for it alone.
    pub(super) scratch: Vec<Scratch>,
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
        let source = Decoders::installed(options.safe_decoder.as_ref()).open(path)?;
        let (info, spec) = (source.info().clone(), patch_spec(tower.hparams()));
        let last = header.frames.iter().max().copied().unwrap_or(0) as usize;
        let plan = MediaPlan { info: Some(info), ..MediaPlan::watched(header) };
        let grid = Grid::of(header.grid[0], header.height, header.width, &spec);
        if last >= source.info().n_frames || grid != plan.grid {
            let message = "does not have the frames that were planned, or the projector cuts them otherwise";
            return Err(Error::mismatch(message).at(path.display().to_string()));
        }
        Ok(MediaPlan { source: Source::Video(source, spec), ..plan })
    }

    /// The video of a take.
    pub fn watched(header: &TakeHeader) -> MediaPlan {
        let [t, h, w] = header.grid;
        MediaPlan {
            kind: MediaKind::Video,
            label: header.source.clone(),
            height: header.height,
            width: header.width,
            grid: Grid { t, h: h * header.merge, w: w * header.merge },
            n_tokens: header.n_media(),
            frames: header.frames.iter().map(|i| *i as usize).collect(),
            n_forgotten: header.n_forgotten,
            info: None,
            temporal_scale: Some(header.temporal_scale),
            source: Source::Watched(header.fps),
            source_id: header.source_fingerprint.clone(),
            warning: None,
            scratch: Vec::new(),
        }
    }

    /// A stream of which this much was seen.
    pub(super) fn seen(live: &LiveShape, Window { n_pairs, n_forgotten }: Window) -> MediaPlan {
        let source = &live.info;
        let frames = 2 * n_forgotten as u64..2 * n_pairs as u64;
        let frames: Vec<usize> = frames.map(|k| live.index(k) as usize).collect();
        let n_frames = frames.last().map_or(0, |last| last + 1);
        MediaPlan {
            kind: MediaKind::Video,
            label: live.label.clone(),
            height: live.height,
            width: live.width,
            grid: Grid { t: n_pairs, ..live.grid },
            n_tokens: (n_pairs - n_forgotten) * live.per_pair,
            frames,
            n_forgotten,
            info: Some(VideoInfo {
                n_frames,
                fps: source.fps,
                duration: n_frames as f64 / source.fps,
                height: source.height,
                width: source.width,
                decoder: source.decoder.clone(),
            }),
            temporal_scale: live.temporal_scale,
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

    /// Tells media apart that look the same in a prompt: SHA-256 of what identifies the source, of the frames taken, and of
    /// their size.
    pub(super) fn id(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let numbers = [self.height, self.width, self.n_forgotten].into_iter().chain(self.frames.iter().copied());
        numbers.for_each(|n| hash.update((n as u64).to_le_bytes()));
        hash.update([self.kind as u8]);
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
            self.source = Source::Image(resize::bicubic(&rgb, self.height, self.width), spec.clone());
            self.warning = warning;
        }
        Ok(())
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
                let resize = if source.is_frame_list() { resize::bicubic } else { resize::bicubic_film };
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
