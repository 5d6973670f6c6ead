//! Which frames of a video to take, and how large they may be (qwen-vl-utils 0.0.14).

use crate::Result;

/// What the user asked for; absent fields take the reference's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleOptions {
    pub fps: Option<f64>,
    pub nframes: Option<usize>,
    pub min_frames: Option<usize>,
    pub max_frames: Option<usize>,
    /// Seconds.
    pub video_start: Option<f64>,
    /// Seconds.
    pub video_end: Option<f64>,
    pub min_pixels: Option<u64>,
    pub max_pixels: Option<u64>,
    pub total_pixels: Option<u64>,
    pub resized_height: Option<usize>,
    pub resized_width: Option<usize>,
}

/// Indices of the frames to take from a file of `total` frames at `video_fps`.
pub fn frame_indices(total: usize, video_fps: f64, options: &SampleOptions) -> Result<Vec<usize>> {
    let _ = (total, video_fps, options);
    todo!()
}

/// The (height, width) to which each of `n` frames of (h, w) is resized under the options' pixel budgets.
pub fn frame_size(n: usize, h: usize, w: usize, factor: usize, options: &SampleOptions) -> Result<(usize, usize)> {
    let _ = (n, h, w, factor, options);
    todo!()
}
