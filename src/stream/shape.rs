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

use super::left_out::most_of_all;
use super::{MediaKind, MediaOptions, StampCost};
use crate::Result;
use crate::media::Grid;
use crate::media::sample::{
    FRAME_FACTOR, SampleOptions, Taken, bounded_frame_size, check_options, frames_taken, rounding, sized, spread,
};
use crate::model::VisionHParams;

/// What is known of a medium before anything of it is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known {
    /// A still image.
    Picture {
        /// In pixels, as it is shown.
        height: usize,
        /// Likewise.
        width: usize,
    },
    /// Frames, of a film or of a list of pictures.
    Video {
        /// Frames in display order.
        n_frames: usize,
        /// Average frames per second.
        fps: f64,
        /// Of a frame, in pixels.
        height: usize,
        /// Likewise.
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
    /// Whether it is a picture or a video.
    pub kind: MediaKind,
    /// Height of every frame after resizing, in pixels.
    pub height: usize,
    /// Their width.
    pub width: usize,
    /// In patches, before merging.
    pub grid: Grid,
    /// Frames taken (1 of a picture).
    pub n_frames: usize,
    /// The last frame that the decoder comes to.
    pub last: usize,
    /// Tokens in the context, those of stamps among them.
    pub n_tokens: usize,
}

impl Shape {
    /// The shape of a medium that may take `share` tokens, or as many as its options allow. A share below the least that the
    /// options allow gives the least; frames become smaller, then fewer. Sizes and numbers of frames that were asked for
    /// exactly (`resized_height`, `nframes`, a list of frames) stay. `stamps` is what a stamp costs, where time is told in words.
    ///
    /// # Errors
    /// Options that contradict each other or the medium, extreme aspect ratios: the same for every share.
    pub fn of(
        known: &Known,
        options: &MediaOptions,
        hp: &VisionHParams,
        stamps: Option<StampCost>,
        share: Option<usize>,
    ) -> Result<Shape> {
        let sample = &options.sample;
        match *known {
            Known::Picture { height, width } => Shape::picture((height, width), sample, hp, share),
            Known::Video { n_frames, fps, height, width, is_list } => {
                let sample = SampleOptions { whole: sample.whole | is_list, ..sample.clone() };
                let taken = frames_taken(n_frames, fps, &sample, &hp.video)?;
                let stamps = stamps.filter(|_| hp.video.is_stamped()).map(|cost| (cost, fps));
                Shape::video(taken, (height, width), (&sample, options.keep), hp, (stamps, share))
            }
        }
    }

    fn picture(
        size: (usize, usize),
        sample: &SampleOptions,
        hp: &VisionHParams,
        share: Option<usize>,
    ) -> Result<Shape> {
        check_options(sample)?;
        let unit = (hp.factor() * hp.factor()) as u64;
        let (least, most) = hp.video.form.picture_tokens;
        let min = sample.min_pixels.or(hp.image_min_pixels).unwrap_or(least * unit);
        let max = sample.max_pixels.or(hp.image_max_pixels).unwrap_or(most * unit).max(min);
        let (bounds, rounding) = ((min as f64, max as f64), rounding(&hp.video));
        let cap = share.map_or(f64::INFINITY, |n| n as f64 * unit as f64);
        let (height, width) = match (sample.resized_height, sample.resized_width) {
            (Some(h), Some(w)) => sized((h, w), hp.factor(), bounds, f64::INFINITY, rounding)?,
            _ => sized(size, hp.factor(), bounds, cap, rounding)?,
        };
        Ok(Shape::new(MediaKind::Image, (height, width), (1, 0), (0, None), hp))
    }

    fn video(
        taken: Taken,
        size: (usize, usize),
        (sample, keep): (&SampleOptions, Option<f32>),
        hp: &VisionHParams,
        (stamps, share): (Option<(StampCost, f64)>, Option<usize>),
    ) -> Result<Shape> {
        let unit = (hp.factor() * hp.factor()) as f64;
        let of = |n: usize, share: Option<usize>| -> Result<Shape> {
            let n_text = stamps.map_or(0, |(cost, fps)| cost.n_tokens(&spread(Taken { n, ..taken }), fps));
            // Two frames share their tokens.
            let n_pairs = n.div_ceil(FRAME_FACTOR);
            // Of which share all are read, where only the first pair is read whole.
            let read = keep.map_or(1.0, |keep| (1.0 + (n_pairs - 1) as f64 * f64::from(keep)) / n_pairs as f64);
            let cap = share.map_or(f64::INFINITY, |share| {
                share.saturating_sub(n_text) as f64 * unit * FRAME_FACTOR as f64 / n as f64 / read
            });
            let (height, width) = bounded_frame_size(n, size, hp.factor(), sample, &hp.video, cap)?;
            Ok(Shape::new(MediaKind::Video, (height, width), (n, taken.last), (n_text, keep), hp))
        };
        let Some(share) = share else { return of(taken.n, None) };
        let shape = of(taken.n, Some(share))?;
        if shape.n_tokens <= share || sample.nframes.is_some() || sample.whole {
            return Ok(shape);
        }
        // Frames have their least size: fewer, then.
        let least = sample.min_frames.unwrap_or(hp.video.form.min_frames).min(taken.n);
        let least = least.next_multiple_of(FRAME_FACTOR).min(taken.n);
        let per_pair = shape.n_tokens.div_ceil(shape.grid.t);
        let n = (share / per_pair.max(1) * FRAME_FACTOR).clamp(least, taken.n);
        of(n, Some(0))
    }

    fn new(
        kind: MediaKind,
        (height, width): (usize, usize),
        (n_frames, last): (usize, usize),
        (n_text, keep): (usize, Option<f32>),
        hp: &VisionHParams,
    ) -> Shape {
        let t = n_frames.div_ceil(FRAME_FACTOR);
        let grid = Grid { t, h: height / hp.patch_size, w: width / hp.patch_size };
        let per_pair = Grid { t: 1, ..grid }.n_tokens(hp.merge);
        Shape { kind, height, width, grid, n_frames, last, n_tokens: most_of_all(t, per_pair, keep) + n_text }
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
