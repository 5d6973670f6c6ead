//! What becomes of pictures and videos before a family's network sees them: which frames are taken, how large they are, how they
//! are resampled, and how time is told. What a family's processors do is data; `media` carries it out.

use crate::gguf::Metadata;
use crate::{Error, Result};

/// How a family's processors treat media.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoForm {
    /// How the model is told of time.
    pub time: VideoTime,
    /// How frames are spread over a video.
    pub sampling: Sampling,
    /// What bounds the pixels of frames.
    pub budget: FrameBudget,
    /// How pixels are resized and rounded.
    pub pixels: Pixels,
    /// Least and most merged tokens of a still picture.
    pub picture_tokens: (u64, u64),
    /// Frames a second, unless asked otherwise.
    pub fps: f64,
    /// Least frames of a file.
    pub min_frames: usize,
    /// Most frames of a file.
    pub max_frames: usize,
}

/// How a model is told when a frame pair was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VideoTime {
    /// By its place among the others.
    Index,
    /// By positions that follow the clock: so many ids a second, where the projector's file says nothing else.
    Clock {
        /// Time ids that pass in a second.
        ids_per_second: f64,
    },
    /// In words before each pair (`<1.2 seconds>`), which is a block of its own between vision markers.
    Stamps,
}

/// Which frames of a file are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// An even number, spread from the first frame to the last, computed in f32 (qwen-vl-utils).
    EvenSpread,
    /// An even number at a constant step from the first frame on, cut to whole numbers (`Qwen2VLVideoProcessor`).
    EvenStep,
    /// Any number, spread from the first frame to the last, halves to even; an odd last one makes a pair with itself
    /// (`Qwen3VLVideoProcessor`).
    Spread,
}

/// What bounds the size of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameBudget {
    /// Least and most merged tokens of each, and a share of what a context holds.
    Frame {
        /// Least merged tokens of a frame.
        min_tokens: u64,
        /// Most merged tokens of a frame.
        max_tokens: u64,
    },
    /// Least and most pixels of all frames together. Two frames share their tokens.
    Volume {
        /// Least pixels of all frames.
        shortest: u64,
        /// Most pixels of all frames.
        longest: u64,
    },
}

/// How sizes are rounded and pixels resampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pixels {
    /// As qwen-vl-utils: pictures and lists of frames by Pillow, films in f32.
    Utils,
    /// As the processors of transformers: no side becomes shorter than a token, all is resampled in integers.
    Processor,
}

/// A family's form with what a projector's file says otherwise (`longtake.video.*`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoRules {
    /// The family's rules.
    pub form: VideoForm,
    /// Least pixels of a frame, or of all frames, where the file states them: instead of the bound of [`FrameBudget`].
    pub shortest: Option<u64>,
    /// Most pixels, likewise.
    pub longest: Option<u64>,
    /// Stamped videos keep the vision markers that the template puts around all of their pairs.
    pub keep_markers: bool,
}

impl VideoRules {
    /// The published rules.
    pub const fn of(form: VideoForm) -> VideoRules {
        VideoRules { form, shortest: None, longest: None, keep_markers: false }
    }

    /// The rules of a projector of this form.
    ///
    /// # Errors
    /// Keys that are no such numbers, or contradict each other.
    pub fn from_metadata(meta: &Metadata, form: VideoForm) -> Result<VideoRules> {
        const MAX_FRAMES: u64 = 1 << 24;
        let mut rules = VideoRules::of(form);
        let key = |name: &str| format!("longtake.video.{name}");
        let wrong = |name: &str, value: &dyn std::fmt::Display, expected: &str| {
            Error::format(format!("key `{}` is `{value}`, expected {expected}", key(name)))
        };
        if let Some(fps) = meta.float(&key("fps"))? {
            if !(fps > 0.0 && fps <= 1000.0) {
                return Err(wrong("fps", &fps, "a rate above 0 and at most 1000"));
            }
            rules.form.fps = fps;
        }
        let count = |name: &str| match meta.uint(&key(name))? {
            Some(n) if n == 0 || n > MAX_FRAMES => Err(wrong(name, &n, &format!("1 to {MAX_FRAMES}"))),
            n => Ok(n.map(|n| n as usize)),
        };
        rules.form.min_frames = count("min_frames")?.unwrap_or(form.min_frames);
        rules.form.max_frames = count("max_frames")?.unwrap_or(form.max_frames);
        if rules.form.min_frames > rules.form.max_frames {
            let least = rules.form.min_frames;
            return Err(wrong("min_frames", &least, &format!("at most max_frames, `{}`", rules.form.max_frames)));
        }
        (rules.shortest, rules.longest) = (meta.uint(&key("shortest_edge"))?, meta.uint(&key("longest_edge"))?);
        if let (Some(shortest), Some(longest)) = (rules.shortest, rules.longest)
            && shortest > longest
        {
            return Err(wrong("shortest_edge", &shortest, &format!("at most longest_edge, `{longest}`")));
        }
        if rules.longest == Some(0) {
            return Err(wrong("longest_edge", &0, "a number of pixels"));
        }
        rules.keep_markers = meta.bool(&key("keep_markers"))?.unwrap_or(false);
        Ok(rules)
    }

    /// Whether time is told in words.
    pub fn is_stamped(&self) -> bool {
        self.form.time == VideoTime::Stamps
    }
}
