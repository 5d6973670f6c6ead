//! What a media file will become, known before it is decoded: frames, size, tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::decode::Pairs;
use super::{LiveShape, TakeHeader, Window, fingerprint};
use crate::media::folder::FolderSource;
use crate::media::patch::PatchSpec;
use crate::media::sample::{SampleOptions, check_options, frame_indices, frame_size};
use crate::media::{FrameSource, Grid, Rgb, VideoInfo, load_image, open_video, resize, smart_resize};
use crate::model::{VisionHParams, VisionTower};
use crate::{Error, Result, error::Context};

/// Pixels of a still image by default, in merged tokens (qwen-vl-utils).
const IMAGE_TOKENS: (u64, u64) = (4, 16_384);

/// How media are sampled, sized and placed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaOptions {
    pub sample: SampleOptions,
    /// Temporal scale of this segment; the session's or the model's otherwise.
    pub temporal_scale: Option<f64>,
}

/// Which pad token it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    Image,
    Video,
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
    source: Source,
    /// Tells sources apart: what [`fingerprint`] says of files and pixels, or a name.
    source_id: String,
}

enum Source {
    /// Already resized.
    Image(Rgb, PatchSpec),
    Video(Box<dyn FrameSource>, PatchSpec),
    /// A video that is in a take: what it became is known, its frames are not at hand.
    Watched,
}

/// What a vision tower expects of pixels.
pub fn patch_spec(hp: &VisionHParams) -> PatchSpec {
    PatchSpec { patch: hp.patch_size, merge: hp.merge, mean: hp.image_mean, std: hp.image_std }
}

impl MediaPlan {
    /// Opens a still image, resizes it, and forgets the original.
    ///
    /// # Errors
    /// An unreadable file, an extreme aspect ratio, senseless bounds.
    pub fn image(path: &Path, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        let picture = load_image(path)?;
        MediaPlan::picture(picture, path.display().to_string(), options, tower)
    }

    /// The same from pixels.
    ///
    /// # Errors
    /// An extreme aspect ratio, senseless bounds.
    pub fn picture(picture: Rgb, label: String, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        let (hp, sample) = (tower.hparams(), &options.sample);
        check_options(sample)?;
        let area = (hp.factor() * hp.factor()) as u64;
        let min = sample.min_pixels.or(hp.image_min_pixels).unwrap_or(IMAGE_TOKENS.0 * area);
        let max = sample.max_pixels.or(hp.image_max_pixels).unwrap_or(IMAGE_TOKENS.1 * area).max(min);
        let (h, w) = (sample.resized_height.unwrap_or(picture.height), sample.resized_width.unwrap_or(picture.width));
        let (height, width) = smart_resize(h, w, hp.factor(), min as f64, max as f64).at(|| label.clone())?;
        let spec = patch_spec(hp);
        let grid = Grid::of(1, height, width, &spec);
        let source_id = fingerprint::pixels(&picture);
        Ok(MediaPlan {
            kind: MediaKind::Image,
            label,
            height,
            width,
            grid,
            n_tokens: grid.n_tokens(hp.merge),
            frames: vec![0],
            n_forgotten: 0,
            info: None,
            temporal_scale: options.temporal_scale,
            source: Source::Image(resize::bicubic(&picture, height, width), spec),
            source_id,
        })
    }

    /// Opens a video file or a folder of frames and plans which frames to take, and how large.
    ///
    /// # Errors
    /// An unreadable file, options that contradict each other or the video.
    pub fn video(path: &Path, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        let label = path.display().to_string();
        let source = open_video(path)?;
        let source_id = fingerprint::media(path)?.0;
        Ok(MediaPlan { source_id, ..MediaPlan::frames(source, label, options, tower)? })
    }

    /// A video given as a list of pictures.
    ///
    /// # Errors
    /// An unreadable file, options that contradict each other or the pictures.
    pub fn pictures(paths: &[PathBuf], options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        let label = format!("{} frames", paths.len());
        let source = Box::new(FolderSource::from_files(paths.to_vec())?);
        let ids = paths.iter().map(|path| Ok(fingerprint::media(path)?.0)).collect::<Result<Vec<_>>>()?;
        Ok(MediaPlan { source_id: ids.concat(), ..MediaPlan::frames(source, label, options, tower)? })
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
        let hp = tower.hparams();
        let info = source.info().clone();
        let mut sample = options.sample.clone();
        sample.whole |= source.is_frame_list();
        let frames = frame_indices(info.n_frames, info.fps, &sample).at(|| label.clone())?;
        let (height, width) =
            frame_size(frames.len(), info.height, info.width, hp.factor(), &sample).at(|| label.clone())?;
        let spec = patch_spec(hp);
        let grid = Grid::of(frames.len() / 2, height, width, &spec);
        Ok(MediaPlan {
            kind: MediaKind::Video,
            source_id: label.clone(),
            label,
            height,
            width,
            grid,
            n_tokens: grid.n_tokens(hp.merge),
            frames,
            n_forgotten: 0,
            info: Some(info),
            temporal_scale: options.temporal_scale,
            source: Source::Video(source, spec),
        })
    }

    /// A video of which a part was watched already, opened again to go on just as it was planned.
    ///
    /// # Errors
    /// An unreadable file, one without the planned frames.
    pub fn again(path: &Path, header: &TakeHeader, tower: &VisionTower) -> Result<MediaPlan> {
        let source = open_video(path)?;
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
            source: Source::Watched,
            source_id: header.source_fingerprint.clone(),
        }
    }

    /// A stream of which this much was seen.
    pub(super) fn seen(live: &LiveShape, Window { n_pairs, n_forgotten }: Window) -> MediaPlan {
        let source = &live.info;
        let frames = 2 * n_forgotten as u64..2 * n_pairs as u64;
        let frames: Vec<usize> = frames.map(|k| source.index(k) as usize).collect();
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
            source: Source::Watched,
            source_id: live.label.clone(),
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
            Source::Image(..) | Source::Watched => 0,
            Source::Video(source, _) => source.skipped(),
        }
    }

    /// Appends the patch rows of frame pair `pair` to `out`. Pairs are asked for in order.
    ///
    /// # Errors
    /// A frame that cannot be decoded.
    pub fn pixels(&mut self, pair: usize, out: &mut Vec<f32>) -> Result<()> {
        let (two, spec) = match &mut self.source {
            Source::Image(picture, spec) => {
                crate::media::patch::pixel_values([picture, picture], spec, out);
                return Ok(());
            }
            Source::Watched => {
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
            Source::Image(..) | Source::Watched => None,
            Source::Video(source, _) => source.stopper(),
        }
    }

    fn next(&mut self, pair: usize, out: &mut Vec<f32>, _: &dyn Fn() -> bool) -> Result<bool> {
        if pair >= self.n_pairs() {
            return Ok(false);
        }
        self.pixels(pair, out).map(|()| true)
    }
}
