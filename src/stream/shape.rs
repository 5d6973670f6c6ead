//! What a medium becomes, as arithmetic: from what is known of it, the options and the tower's sizes to its size in tokens.
//!
//! The cut is between what must be opened once ([`Medium`](super::Medium): headers, frame counts, fingerprints) and what is
//! asked again for every plan that is tried. Everything here is a pure function of numbers, so a search over hundreds of plans
//! takes milliseconds and can be tested over any sizes without a file. How few tokens a medium may be asked to take is one
//! number, its *share*: it caps the pixels of the picture or of every frame and, where frames have their least size, the number
//! of frames. Tokens never go down when the share goes up; what a plan costs in memory may (the tower takes small frames
//! several at a time), so [`highest`] believes no order and asks of every level.
//!
//! One level serves all media of a conversation: each may take so many tokens. Who needs less keeps all of it, and what it
//! leaves is the others': a small picture stays whole beside a video of hours, and a large picture and a video get as much as
//! each other.

use super::{MediaKind, MediaOptions};
use crate::Result;
use crate::media::sample::{
    FPS_MIN_FRAMES, FRAME_FACTOR, IMAGE_MAX_TOKENS, IMAGE_MIN_TOKENS, SampleOptions, Taken, check_options, frame_size,
    frames_taken, pixel_bounds,
};
use crate::media::{Grid, smart_resize};
use crate::model::VisionHParams;

/// What is known of a medium before anything of it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known {
    Picture {
        height: usize,
        width: usize,
    },
    Video {
        n_frames: usize,
        fps: f64,
        height: usize,
        width: usize,
        /// See [`is_frame_list`](crate::media::FrameSource::is_frame_list).
        is_list: bool,
    },
}

impl Known {
    /// (height, width) before resizing.
    pub fn size(&self) -> (usize, usize) {
        match *self {
            Known::Picture { height, width } | Known::Video { height, width, .. } => (height, width),
        }
    }
}

/// What a medium becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub kind: MediaKind,
    /// Size of every frame after resizing.
    pub height: usize,
    pub width: usize,
    /// In patches, before merging.
    pub grid: Grid,
    /// Frames taken (1 of a picture), and the last frame that the decoder comes to.
    pub n_frames: usize,
    pub last: usize,
    /// Tokens in the context.
    pub n_tokens: usize,
}

/// The least that a cap on pixels may be above the least pixels: sizes between the two are multiples of the factor (the
/// reference's own margin).
const MARGIN: f64 = 1.05;

impl Shape {
    /// The shape of a medium that may take `share` tokens, or as many as its options allow. A share below the least that the
    /// options allow gives the least; frames become smaller, then fewer. Sizes and numbers of frames that were asked for
    /// exactly (`resized_height`, `nframes`, a list of frames) stay.
    ///
    /// # Errors
    /// Options that contradict each other or the medium, extreme aspect ratios: the same for every share.
    pub fn of(known: &Known, options: &MediaOptions, hp: &VisionHParams, share: Option<usize>) -> Result<Shape> {
        let sample = &options.sample;
        match *known {
            Known::Picture { height, width } => Shape::picture((height, width), sample, hp, share),
            Known::Video { n_frames, fps, height, width, is_list } => {
                let sample = SampleOptions { whole: sample.whole | is_list, ..sample.clone() };
                let taken = frames_taken(n_frames, fps, &sample)?;
                Shape::video(taken, (height, width), &sample, hp, share)
            }
        }
    }

    fn picture(
        (h, w): (usize, usize),
        sample: &SampleOptions,
        hp: &VisionHParams,
        share: Option<usize>,
    ) -> Result<Shape> {
        check_options(sample)?;
        let unit = (hp.factor() * hp.factor()) as u64;
        let min = sample.min_pixels.or(hp.image_min_pixels).unwrap_or(IMAGE_MIN_TOKENS * unit);
        let max = sample.max_pixels.or(hp.image_max_pixels).unwrap_or(IMAGE_MAX_TOKENS * unit).max(min);
        let bounds = (min as f64, max as f64);
        let (height, width) = match (sample.resized_height, sample.resized_width) {
            (Some(h), Some(w)) => sized((h, w), hp.factor(), bounds, None)?,
            _ => sized((h, w), hp.factor(), bounds, share.map(|n| n as f64 * unit as f64))?,
        };
        Ok(Shape::new(MediaKind::Image, (height, width), (1, 0), hp))
    }

    fn video(
        taken: Taken,
        (h, w): (usize, usize),
        sample: &SampleOptions,
        hp: &VisionHParams,
        share: Option<usize>,
    ) -> Result<Shape> {
        let unit = (hp.factor() * hp.factor()) as f64;
        let of = |n: usize, share: Option<f64>| -> Result<Shape> {
            let (height, width) = match share {
                // Two frames share their tokens.
                Some(share) if sample.resized_height.is_none() => {
                    let cap = share * unit * FRAME_FACTOR as f64 / n as f64;
                    sized((h, w), hp.factor(), pixel_bounds(n, hp.factor(), sample)?, Some(cap))?
                }
                _ => frame_size(n, h, w, hp.factor(), sample)?,
            };
            Ok(Shape::new(MediaKind::Video, (height, width), (n, taken.last), hp))
        };
        let Some(share) = share else { return of(taken.n, None) };
        let shape = of(taken.n, Some(share as f64))?;
        if shape.n_tokens <= share || sample.nframes.is_some() || sample.whole {
            return Ok(shape);
        }
        // Frames have their least size: fewer, then.
        let least = sample.min_frames.unwrap_or(FPS_MIN_FRAMES).min(taken.n).next_multiple_of(FRAME_FACTOR);
        let per_pair = shape.n_tokens / shape.grid.t;
        let n = (share / per_pair.max(1) * FRAME_FACTOR).clamp(least, taken.n);
        of(n, Some(0.0))
    }

    fn new(
        kind: MediaKind,
        (height, width): (usize, usize),
        (n_frames, last): (usize, usize),
        hp: &VisionHParams,
    ) -> Shape {
        let t = n_frames.div_ceil(FRAME_FACTOR);
        let grid = Grid { t, h: height / hp.patch_size, w: width / hp.patch_size };
        Shape { kind, height, width, grid, n_frames, last, n_tokens: grid.n_tokens(hp.merge) }
    }

    /// Frame pairs (1 for a still image).
    pub fn n_pairs(&self) -> usize {
        self.grid.t
    }

    /// Patches of a pair, which attend to each other.
    pub fn per_pair(&self) -> usize {
        self.grid.h * self.grid.w
    }
}

/// The (height, width) of a picture of (h, w) with an area between the bounds and, as far as a size exists there, below `cap`.
fn sized((h, w): (usize, usize), factor: usize, (min, max): (f64, f64), cap: Option<f64>) -> Result<(usize, usize)> {
    let side = factor as f64;
    // A shrunk picture keeps its shape, so its shorter side is the first to reach the least that there is.
    let aspect = h.max(w) as f64 / h.min(w).max(1) as f64;
    let least = (min * MARGIN).floor().max(side * side * aspect * (1.0 + 1e-6));
    smart_resize(h, w, factor, min, cap.map_or(max, |cap| max.min(cap.max(least))))
}

/// The highest level that `fits`, from `top` down to 0: a coarse ladder finds the place, then every level above it is asked.
/// Nothing is assumed of the order in which levels fit, so what fits at all is found if it is level 0 or on the ladder; and
/// whatever makes more levels fit never makes the result lower. At most some hundred questions and one for each 64th of `top`.
///
/// # Errors
/// What `fits` says.
pub fn highest(top: usize, mut fits: impl FnMut(usize) -> Result<bool>) -> Result<Option<usize>> {
    const STEP: usize = 64;
    let (mut level, mut above) = (top, top);
    while !fits(level)? {
        if level == 0 {
            return Ok(None);
        }
        above = level;
        level -= (level / STEP).max(1);
    }
    for finer in (level + 1..above).rev() {
        if fits(finer)? {
            return Ok(Some(finer));
        }
    }
    Ok(Some(level))
}
