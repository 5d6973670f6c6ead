//! Normalisation and patch order: frames become rows of `pixel_values`.

use super::Rgb;

/// A visual item in ViT patches, before merging: `t` frame pairs of `h` x `w` patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub t: usize,
    pub h: usize,
    pub w: usize,
}

/// What the vision tower expects of pixels (from the projector file).
#[derive(Debug, Clone, PartialEq)]
pub struct PatchSpec {
    /// Patch side in pixels (14).
    pub patch: usize,
    /// Patches per merged token side (2).
    pub merge: usize,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Appends the rows of one frame pair to `out`: (h*w/patch², 3*2*patch*patch), rows in merge-block order, each row
/// channel, frame of the pair, y, x. A still image is its own pair: pass it twice. Sides are multiples of patch*merge.
pub fn pixel_values(pair: [&Rgb; 2], spec: &PatchSpec, out: &mut Vec<f32>) {
    let _ = (pair, spec, out);
    todo!()
}
