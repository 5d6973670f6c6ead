//! Which frames of a video to take, and how large they may be: qwen-vl-utils 0.0.14 and the video processors of transformers,
//! whichever a family has ([`VideoRules`]).
//!
//! Two rules for two kinds of input:
//! * A video file is sampled: `fps` frames a second of it (2 by default) or exactly `nframes`, spread evenly from its first
//!   frame to its last; each frame is resized within a budget that depends on the number of frames ([`pixel_bounds`]).
//! * A list of frames (a folder of images) is used whole, see [`SampleOptions::whole`].

use super::limits::{MAX_FPS, MAX_FRAMES};
use super::resize::{Rounding, smart_resize_by, volume_size};
use crate::model::family::{FrameBudget, Pixels, Sampling, VideoRules};
use crate::{Error, Result};

/// Frames are taken in pairs: two frames make one temporal patch.
pub const FRAME_FACTOR: usize = 2;
/// Frames a second of a list of frames that says nothing of its rate.
pub const FPS: f64 = 2.0;
/// Bounds in merged tokens, that is in units of `factor`² pixels, of a frame whose size is given or that is one of a list.
const GIVEN_MIN_TOKENS: u64 = 4;
const GIVEN_MAX_TOKENS: u64 = 16_384;
/// Pixels that [`SampleOptions::cap_pixels_per_frame`] leaves to a frame whose budget is a volume.
const CAPPED_PIXELS: u64 = 768 * 1024;
/// Least tokens of a video frame in the HoPE evaluation: put `144 * factor²` into [`SampleOptions::min_pixels`].
pub const HOPE_FRAME_MIN_TOKENS: u64 = 144;
/// Context that the default pixel budget of a whole video is made for; nine tenths of it go to pixels.
const MODEL_SEQ_LEN: f64 = 128_000.0;

/// What the user asked for; absent fields take the reference's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleOptions {
    /// Frames a second.
    pub fps: Option<f64>,
    /// So many frames, whatever the length.
    pub nframes: Option<usize>,
    /// Least frames, where `fps` gives fewer.
    pub min_frames: Option<usize>,
    /// Most frames, where `fps` gives more.
    pub max_frames: Option<usize>,
    /// Second at which the part to be taken begins.
    pub video_start: Option<f64>,
    /// Second at which it ends.
    pub video_end: Option<f64>,
    /// Least pixels of a picture or frame after resizing.
    pub min_pixels: Option<u64>,
    /// Most pixels of a picture or frame after resizing.
    pub max_pixels: Option<u64>,
    /// Most pixels of all frames of a video.
    pub total_pixels: Option<u64>,
    /// Height after resizing instead of what the rules give; only beside `resized_width`.
    pub resized_height: Option<usize>,
    /// Width after resizing, likewise.
    pub resized_width: Option<usize>,
    /// Takes every frame in order, padded to an even number with the last one: the rule for a list of frames
    /// ([`super::FrameSource::is_frame_list`]). `fps` then only tells at which rate the frames were taken.
    pub whole: bool,
    /// Bounds each frame of a family whose budget is a volume, too (transformers' option of that name).
    pub cap_pixels_per_frame: bool,
}

/// The frames to take from a video, by their number alone: `n` of them, spread evenly over `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The first frame that may be taken.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many are taken: above `last - first + 1` only where a frame is taken twice to make a pair; odd only where a family
    /// samples so.
    pub n: usize,
    /// How they are spread over the range.
    pub sampling: Sampling,
}

/// Which frames to take from a file of `total` frames at `video_fps`.
///
/// # Errors
/// `BadInput` for options that contradict each other or the video (see [`check_options`]).
pub fn frames_taken(total: usize, video_fps: f64, options: &SampleOptions, rules: &VideoRules) -> Result<Taken> {
    check_options(options)?;
    if total == 0 {
        return Err(Error::bad_input("the video has no frames"));
    }
    if total > MAX_FRAMES {
        return Err(Error::limit(format!("a video of `{total}` frames, expected at most {MAX_FRAMES}")));
    }
    if !(video_fps > 0.0 && video_fps.is_finite()) {
        return Err(Error::bad_input(format!("the video's frame rate `{video_fps}` is not a positive number")));
    }
    let sampling = rules.form.sampling;
    let multiple = if sampling == Sampling::Spread { 1 } else { FRAME_FACTOR };
    if options.whole {
        return Ok(Taken { first: 0, last: total - 1, n: total.next_multiple_of(multiple), sampling });
    }
    let (first, last) = frame_range(total, video_fps, options)?;
    if total == 1 && multiple > 1 && options.nframes.is_none_or(|n| n == FRAME_FACTOR) {
        return Ok(Taken { first: 0, last: 0, n: FRAME_FACTOR, sampling });
    }
    let n = match sampling {
        Sampling::EvenSpread | Sampling::EvenStep => n_frames(last - first + 1, video_fps, options, rules)?,
        Sampling::Spread => n_spread(last - first + 1, video_fps, options, rules)?,
    };
    Ok(Taken { first, last, n, sampling })
}

/// Indices of the frames to take from a file of `total` frames at `video_fps`: never decreasing, an even number of them unless a
/// family samples otherwise. A video of one frame gives that frame twice.
///
/// # Errors
/// Those of [`frames_taken`].
pub fn frame_indices(total: usize, video_fps: f64, options: &SampleOptions, rules: &VideoRules) -> Result<Vec<usize>> {
    Ok(spread(frames_taken(total, video_fps, options, rules)?))
}

/// The indices of frames that are known by their number. Where more are taken than there are, the last one comes again.
pub fn spread(Taken { first, last, n, sampling }: Taken) -> Vec<usize> {
    let span = last - first;
    if n > span {
        return (first..).map(|i| i.min(last)).take(n).collect();
    }
    match sampling {
        Sampling::EvenSpread => rounded_linspace(first, last, n),
        Sampling::EvenStep => {
            // The reference keeps its f64 products in f32 and cuts them off.
            let step = (span + 1) as f64 / n as f64;
            (0..n).map(|i| first + ((i as f64 * step) as f32 as usize).min(span)).collect()
        }
        Sampling::Spread => {
            let step = span as f64 / (n - 1).max(1) as f64;
            let at = |i: usize| if i + 1 == n && n > 1 { span } else { (i as f64 * step).round_ties_even() as usize };
            (0..n).map(|i| first + at(i).min(span)).collect()
        }
    }
}

/// Seconds between two frame pairs of `taken`, on average; `fps` is the source's rate.
pub fn seconds_per_pair(taken: &Taken, fps: f64) -> f64 {
    // Frames that are taken twice stand where they would stand anyway.
    let span = (taken.last - taken.first + 1).max(taken.n);
    FRAME_FACTOR as f64 / (taken.n as f64 / span as f64 * fps)
}

/// Checks what can be known without the video.
///
/// # Errors
/// `BadInput`: both `fps` and `nframes`; a rate that is not above 0 and at most 1000; `nframes` below 2; a start that is
/// not before the end; contradicting bounds; only one of `resized_height` and `resized_width`; picking frames from a list
/// that is used whole.
pub fn check_options(options: &SampleOptions) -> Result<()> {
    let bad = |message: String| Err(Error::bad_input(message));
    if let (Some(fps), Some(n)) = (options.fps, options.nframes) {
        return bad(format!("both fps `{fps}` and nframes `{n}` are given, expected one of them"));
    }
    if let Some(fps) = options.fps
        && !(fps > 0.0 && fps <= MAX_FPS)
    {
        return bad(format!("fps `{fps}` is not above 0 and at most {MAX_FPS}"));
    }
    if let Some(n) = options.nframes
        && round_even(n) < FRAME_FACTOR
    {
        return bad(format!("nframes `{n}` is too few, expected at least {FRAME_FACTOR}"));
    }
    if let (Some(min), Some(max)) = (options.min_frames, options.max_frames)
        && min > max
    {
        return bad(format!("min_frames `{min}` is above max_frames `{max}`"));
    }
    for (name, second) in [("video_start", options.video_start), ("video_end", options.video_end)] {
        if let Some(second) = second
            && !second.is_finite()
        {
            return bad(format!("{name} `{second}` is not a number of seconds"));
        }
    }
    if let (Some(start), Some(end)) = (options.video_start, options.video_end)
        && start >= end
    {
        return bad(format!("video_start `{start}` is not before video_end `{end}`"));
    }
    if let (Some(min), Some(max)) = (options.min_pixels, options.max_pixels)
        && min > max
    {
        return bad(format!("min_pixels `{min}` is above max_pixels `{max}`"));
    }
    if options.resized_height.is_some() != options.resized_width.is_some() {
        return bad("resized_height and resized_width belong together, one of them is missing".into());
    }
    if options.whole && (options.nframes.is_some() || options.video_start.is_some() || options.video_end.is_some()) {
        return bad("a list of frames is used whole: nframes, video_start and video_end do not apply".into());
    }
    Ok(())
}

/// The (height, width) to which each of `n` frames of (h, w) is resized under the options' pixel budgets. An odd number of frames
/// counts as it is.
///
/// # Errors
/// Those of [`pixel_bounds`], [`volume_bounds`] and [`smart_resize`](super::smart_resize).
pub fn frame_size(
    n: usize,
    (h, w): (usize, usize),
    factor: usize,
    options: &SampleOptions,
    rules: &VideoRules,
) -> Result<(usize, usize)> {
    bounded_frame_size(n, (h, w), factor, options, rules, f64::INFINITY)
}

/// The same with at most `cap` pixels in each frame, as far as a size exists there that the options allow.
///
/// # Errors
/// Those of [`frame_size`].
pub fn bounded_frame_size(
    n: usize,
    (h, w): (usize, usize),
    factor: usize,
    options: &SampleOptions,
    rules: &VideoRules,
    cap: f64,
) -> Result<(usize, usize)> {
    let rounding = rounding(rules);
    if let (Some(height), Some(width)) = (options.resized_height, options.resized_width) {
        let unit = pixels_per_token(factor)?;
        let (min, max) = (GIVEN_MIN_TOKENS as f64 * unit, GIVEN_MAX_TOKENS as f64 * unit);
        return smart_resize_by(height, width, factor, min, max, rounding);
    }
    match rules.form.budget {
        FrameBudget::Frame { .. } => {
            let bounds = pixel_bounds(n, factor, options, rules)?;
            sized((h, w), factor, bounds, cap, rounding)
        }
        FrameBudget::Volume { .. } => {
            let (shortest, longest) = volume_bounds(n, options, rules)?;
            let least = least_pixels(options, rules) * n as f64;
            let longest = longest.min((cap * n as f64).max(least)).max(shortest);
            // A frame alone makes a pair with itself.
            volume_size(n.max(FRAME_FACTOR), h, w, factor, shortest, longest)
        }
    }
}

/// How a family rounds sizes.
pub fn rounding(rules: &VideoRules) -> Rounding {
    match rules.form.pixels {
        Pixels::Utils => Rounding::Utils,
        Pixels::Processor => Rounding::Processor,
    }
}

/// The least that a cap on pixels may be above the least pixels: sizes between the two are multiples of the factor (the
/// reference's own margin).
const MARGIN: f64 = 1.05;

/// The (height, width) of a picture of (h, w) with an area between the bounds and, as far as a size exists there, below `cap`.
///
/// # Errors
/// Those of [`smart_resize`](super::smart_resize).
pub fn sized(
    (h, w): (usize, usize),
    factor: usize,
    (min, max): (f64, f64),
    cap: f64,
    rounding: Rounding,
) -> Result<(usize, usize)> {
    let side = factor as f64;
    // A shrunk picture keeps its shape, so its shorter side is the first to reach the least that there is.
    let aspect = h.max(w) as f64 / h.min(w).max(1) as f64;
    let least = (min * MARGIN).floor().max(side * side * aspect * (1.0 + 1e-6));
    smart_resize_by(h, w, factor, min, max.min(cap.max(least)), rounding)
}

/// The least pixels of a frame under a budget of volume before frames are left out instead: what the longest video has that the
/// family takes in whole.
fn least_pixels(options: &SampleOptions, rules: &VideoRules) -> f64 {
    let FrameBudget::Volume { longest, .. } = rules.form.budget else { return 0.0 };
    options.min_pixels.map_or(longest as f64 / rules.form.max_frames as f64, |p| p as f64)
}

/// The least and most pixels of all `n` frames of a family whose budget is a volume: the file's or the family's;
/// `total_pixels` (which counts two frames once, as tokens do) instead of the most; explicit bounds of a frame.
///
/// # Errors
/// `BadInput` for no frames, bounds that contradict each other, and what [`check_options`] refuses.
pub fn volume_bounds(n: usize, options: &SampleOptions, rules: &VideoRules) -> Result<(f64, f64)> {
    check_options(options)?;
    let FrameBudget::Volume { shortest, longest } = rules.form.budget else {
        return Err(Error::bad_input("frames of this family are bounded one by one"));
    };
    if n == 0 {
        return Err(Error::bad_input("a video of `0` frames has no frame size"));
    }
    let frames = n as f64;
    let (shortest, longest) = (rules.shortest.unwrap_or(shortest), rules.longest.unwrap_or(longest));
    let min = options.min_pixels.map_or(shortest as f64, |p| p as f64 * frames);
    let mut max = options.total_pixels.map_or(longest as f64, |p| p as f64 * FRAME_FACTOR as f64);
    if options.cap_pixels_per_frame {
        let share = ((longest / n as u64).min(CAPPED_PIXELS) as f64).max((shortest as f64 * MARGIN).floor());
        max = frames * share;
    }
    if let Some(p) = options.max_pixels {
        max = max.min(p as f64 * frames);
    }
    // What nobody asked for gives way.
    match (options.min_pixels, options.max_pixels) {
        (None, _) => ordered(min.min(max), max),
        (Some(_), None) => ordered(min, max.max(min)),
        _ => ordered(min, max),
    }
}

/// The least and most pixels of each of `n` frames.
///
/// The most is the frame's share of `total_pixels` (two frames share their tokens) but not above 768 tokens and not below
/// 1.05 times the least; an explicit `max_pixels` can only lower it. For a list of frames with explicit `min_pixels` or
/// `max_pixels` and no `total_pixels`, exactly these bounds count, a missing one being that of a still image: the frames
/// come out as if each had gone through the image processor with these bounds.
///
/// # Errors
/// `BadInput` for no frames, a zero factor, `max_pixels` below the least, and what [`check_options`] refuses.
pub fn pixel_bounds(n: usize, factor: usize, options: &SampleOptions, rules: &VideoRules) -> Result<(f64, f64)> {
    check_options(options)?;
    let unit = pixels_per_token(factor)?;
    if n == 0 {
        return Err(Error::bad_input("a video of `0` frames has no frame size"));
    }
    let FrameBudget::Frame { min_tokens, max_tokens } = rules.form.budget else {
        return Err(Error::bad_input("frames of this family are bounded together"));
    };
    let explicit = options.min_pixels.is_some() || options.max_pixels.is_some();
    if options.whole && explicit && options.total_pixels.is_none() {
        let min = options.min_pixels.map_or(GIVEN_MIN_TOKENS as f64 * unit, |p| p as f64);
        let max = options.max_pixels.map_or(GIVEN_MAX_TOKENS as f64 * unit, |p| p as f64);
        return ordered(min, max);
    }
    let of_file = |edge: Option<u64>, tokens: u64| edge.map_or(tokens as f64 * unit, |p| p as f64);
    let min = options.min_pixels.map_or(of_file(rules.shortest, min_tokens), |p| p as f64);
    let total = options.total_pixels.map_or(MODEL_SEQ_LEN * unit * 0.9, |p| p as f64);
    let share = total / n as f64 * FRAME_FACTOR as f64;
    let cap = share.min(of_file(rules.longest, max_tokens)).max((min * MARGIN).floor());
    let max = options.max_pixels.map_or(cap, |p| cap.min(p as f64));
    ordered(min, max)
}

fn ordered(min: f64, max: f64) -> Result<(f64, f64)> {
    if min > max {
        return Err(Error::bad_input(format!(
            "max_pixels `{max}` is below `{min}`, the least pixels of a frame; set min_pixels as well"
        )));
    }
    Ok((min, max))
}

/// Pixels that one merged token covers.
fn pixels_per_token(factor: usize) -> Result<f64> {
    if factor == 0 {
        return Err(Error::bad_input("size factor `0` is not above 0"));
    }
    Ok((factor as f64) * (factor as f64))
}

/// First and last frame of the part between `video_start` and `video_end`, both inclusive.
fn frame_range(total: usize, video_fps: f64, options: &SampleOptions) -> Result<(usize, usize)> {
    let duration = total as f64 / video_fps;
    let first = options.video_start.map_or(0, |s| (s.clamp(0.0, duration) * video_fps).ceil() as usize);
    let last = options.video_end.map_or(total - 1, |s| (s.clamp(0.0, duration) * video_fps).floor() as usize);
    let last = last.min(total - 1);
    let whole = options.video_start.is_none() && options.video_end.is_none();
    if !whole && first >= last {
        return Err(Error::bad_input(format!(
            "no frames between video_start `{}` and video_end `{}` of a video of {duration:.3} seconds",
            options.video_start.unwrap_or(0.0),
            options.video_end.unwrap_or(duration)
        )));
    }
    Ok((first, last))
}

/// How many of `total` frames to take, an even number.
fn n_frames(total: usize, video_fps: f64, options: &SampleOptions, rules: &VideoRules) -> Result<usize> {
    let form = &rules.form;
    let n = match options.nframes {
        Some(n) => round_even(n),
        None => {
            let lo = options.min_frames.unwrap_or(form.min_frames).div_ceil(FRAME_FACTOR).saturating_mul(FRAME_FACTOR);
            let hi = floor_even(options.max_frames.unwrap_or(form.max_frames.min(total)));
            let n = total as f64 / video_fps * options.fps.unwrap_or(form.fps);
            // The cast saturates, so a huge product still ends at one of the caps.
            floor_even(n.max(lo as f64).min(hi as f64).min(total as f64) as usize)
        }
    };
    if n < FRAME_FACTOR || n > total {
        return Err(Error::bad_input(format!("cannot take `{n}` frames, expected {FRAME_FACTOR} to {total}")));
    }
    Ok(n)
}

/// The same where any number will do.
fn n_spread(total: usize, video_fps: f64, options: &SampleOptions, rules: &VideoRules) -> Result<usize> {
    let form = &rules.form;
    match options.nframes {
        Some(n) if n > total => Err(Error::bad_input(format!("cannot take `{n}` frames, expected 1 to {total}"))),
        Some(n) => Ok(n),
        None => {
            let n = (total as f64 / video_fps * options.fps.unwrap_or(form.fps)) as usize;
            let lo = options.min_frames.unwrap_or(form.min_frames);
            let n = n.max(lo).min(options.max_frames.unwrap_or(form.max_frames)).min(total);
            if n == 0 { Err(Error::bad_input("cannot take `0` frames, expected at least 1")) } else { Ok(n) }
        }
    }
}

fn floor_even(n: usize) -> usize {
    n / FRAME_FACTOR * FRAME_FACTOR
}

/// The nearest multiple of two, where an odd number goes to the neighbour whose half is even (1 to 0, 3 to 4, 5 to 4).
fn round_even(n: usize) -> usize {
    match n % 4 {
        3 => n.saturating_add(1),
        r => n - r % 2,
    }
}

/// `n` indices spread evenly from `first` to `last`, halves rounded to even. The arithmetic is the reference's: f32, from
/// the start for the first half of the indices and from the end for the others, each product and sum rounded once.
fn rounded_linspace(first: usize, last: usize, n: usize) -> Vec<usize> {
    let (start, end) = (first as f32, last as f32);
    let step = (end - start) / (n - 1) as f32;
    let at = |i: usize| {
        if i < n / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((n - 1 - i) as f32, end) }
    };
    // Beyond 2^24 frames f32 is coarse: the bounds and the order hold all the same.
    let mut least = first;
    let mut index = |i| {
        least = (at(i).round_ties_even() as usize).clamp(least, last);
        least
    };
    (0..n).map(&mut index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::family::QWEN2_VL;

    const RULES: VideoRules = VideoRules::of(QWEN2_VL.video);

    #[test]
    fn rounds_to_even_like_the_reference() {
        let rows = [(0, 0), (1, 0), (2, 2), (3, 4), (4, 4), (5, 4), (6, 6), (7, 8), (9, 8), (143, 144), (85, 84)];
        for (n, want) in rows {
            assert_eq!(round_even(n), want, "{n}");
        }
    }

    #[test]
    fn one_frame_becomes_a_pair() {
        assert_eq!(frame_indices(1, 25.0, &SampleOptions::default(), &RULES).unwrap(), [0, 0]);
    }

    #[test]
    fn a_list_of_frames_is_used_whole() {
        let options = SampleOptions { whole: true, fps: Some(1.0), ..Default::default() };
        assert_eq!(frame_indices(5, 2.0, &options, &RULES).unwrap(), [0, 1, 2, 3, 4, 4]);
        assert_eq!(frame_indices(4, 2.0, &options, &RULES).unwrap(), [0, 1, 2, 3]);
        let exact =
            SampleOptions { whole: true, min_pixels: Some(3136), max_pixels: Some(50176), ..Default::default() };
        assert_eq!(frame_size(6, (60, 70), 28, &exact, &RULES).unwrap(), (56, 56));
        assert_eq!(pixel_bounds(6, 28, &exact, &RULES).unwrap(), (3136.0, 50176.0));
    }

    #[test]
    fn start_and_end_are_seconds() {
        let options = SampleOptions { video_start: Some(1.0), video_end: Some(3.0), ..Default::default() };
        let got = frame_indices(100, 10.0, &options, &RULES).unwrap();
        assert_eq!((got[0], *got.last().unwrap(), got.len()), (10, 30, 4));
        let past = SampleOptions { video_end: Some(1e9), ..Default::default() };
        assert_eq!(*frame_indices(100, 10.0, &past, &RULES).unwrap().last().unwrap(), 99);
    }
}
