//! Video files: one trait for every decoder.

use std::path::Path;

use super::Rgb;
use crate::Result;

/// What is known of a video before any frame is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Frames in display order that the source will yield.
    pub n_frames: usize,
    /// Average frames per second.
    pub fps: f64,
    /// Seconds.
    pub duration: f64,
    /// After rotation.
    pub height: usize,
    pub width: usize,
    /// Container and codec, for people ("mp4/h264 (built-in)", "ffmpeg").
    pub decoder: String,
}

/// A stream of frames in display order, one at a time.
pub trait FrameSource: Send {
    fn info(&self) -> &VideoInfo;

    /// Decodes forward to frame `index` (which never decreases between calls) and returns it.
    fn frame(&mut self, index: usize) -> Result<Rgb>;

    /// Whether this is a list of separate pictures rather than a film: such a list is used whole
    /// ([`super::sample::SampleOptions::whole`]), and its `fps` is nominal.
    fn is_frame_list(&self) -> bool {
        false
    }

    /// Damaged packets skipped so far.
    fn skipped(&self) -> usize {
        0
    }
}

/// Opens a video file, an animated GIF, a Y4M file, or a folder of images (its frames, sorted by name).
pub fn open_video(path: &Path) -> Result<Box<dyn FrameSource>> {
    let _ = path;
    todo!()
}
