//! What a question will take, for people and programs.

use crate::media::{Grid, Shown, VideoInfo};
use crate::stream::{Cost, MediaKind, MediaPlan};

/// What the next question will take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// Tokens, bytes and, where time is limited or asked for, seconds; and what was reduced to fit.
    pub cost: Cost,
    /// In the order of the talk.
    pub media: Vec<PlannedMedium>,
}

/// A picture or video as it will be read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannedMedium {
    /// Whether it is a picture or a video.
    pub kind: MediaKind,
    /// Where it comes from, for people.
    pub label: String,
    /// Width of every frame after resizing, in pixels.
    pub width: usize,
    /// Their height.
    pub height: usize,
    /// In patches: frame pairs, rows, columns.
    pub grid: Grid,
    /// Frames taken, two for each pair; of a picture, one.
    pub n_frames: usize,
    /// The file's own numbers of these frames, and their times; none of a picture.
    pub frames: Vec<Shown>,
    /// Tokens that they become in the context.
    pub n_tokens: usize,
    /// What does not change by more than so many steps is left out of a video, where that was asked for.
    pub dedup: Option<f32>,
    /// This share of every pair but the first is read, likewise.
    pub keep: Option<f32>,
    /// Whether the past of a stream became thinner when the context was full; `frames` are those of which anything is left.
    pub is_compressed: bool,
    /// Then visual tokens that were left out of these frames, as far as it was read; a plan counts all of them.
    pub n_left_out: usize,
    /// What a video says of itself.
    pub info: Option<VideoInfo>,
}

impl PlannedMedium {
    pub(crate) fn of(plan: &MediaPlan) -> PlannedMedium {
        PlannedMedium {
            kind: plan.kind,
            label: plan.label.clone(),
            width: plan.width,
            height: plan.height,
            grid: plan.grid,
            n_frames: plan.frames.len(),
            frames: plan.shown(),
            n_tokens: plan.n_tokens,
            dedup: plan.dedup(),
            keep: plan.keep,
            is_compressed: plan.is_compressed,
            n_left_out: plan.n_left_out(),
            info: plan.info.clone(),
        }
    }

    /// Frame pairs.
    pub fn n_pairs(&self) -> usize {
        self.grid.t
    }
}
