//! Normalisation and patch order: frames become rows of `pixel_values`.

use super::Rgb;
use super::resize::{bicubic, smart_resize};
use crate::Result;

/// A visual item in ViT patches, before merging: `t` frame pairs of `h` x `w` patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Frame pairs; 1 for a picture.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Columns of patches.
    pub w: usize,
}

impl Grid {
    /// The grid of `n_pairs` frame pairs of `height` x `width` pixels.
    pub fn of(n_pairs: usize, height: usize, width: usize, spec: &PatchSpec) -> Grid {
        Grid { t: n_pairs, h: height / spec.patch, w: width / spec.patch }
    }

    /// Rows of `pixel_values`: patches of all frame pairs.
    pub fn n_patches(&self) -> usize {
        self.t * self.h * self.w
    }

    /// The grid of merged tokens: `merge` x `merge` patches become one.
    pub fn merged(&self, merge: usize) -> Grid {
        Grid { t: self.t, h: self.h / merge, w: self.w / merge }
    }

    /// Tokens that the language model sees.
    pub fn n_tokens(&self, merge: usize) -> usize {
        self.merged(merge).n_patches()
    }
}

/// What the vision tower expects of pixels (from the projector file).
#[derive(Debug, Clone, PartialEq)]
pub struct PatchSpec {
    /// Patch side in pixels (14).
    pub patch: usize,
    /// Patches per merged token side (2).
    pub merge: usize,
    /// Mean of each channel, of pixels from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, likewise.
    pub std: [f32; 3],
}

impl PatchSpec {
    /// Pixels per merged token side: what the sides of a resized picture are multiples of (28).
    pub fn factor(&self) -> usize {
        self.patch * self.merge
    }

    /// Values per row of `pixel_values`: three channels of two frames of one patch (1176).
    pub fn row_len(&self) -> usize {
        3 * 2 * self.patch * self.patch
    }

    /// The normalised value of every byte, per channel: (3, 256). The reference multiplies by 1/255 in f64, rounds to f32,
    /// and subtracts and divides in f32; a table of its results is both exact and fast.
    fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            std::array::from_fn(|p| ((p as f64 * (1.0 / 255.0)) as f32 - self.mean[c]) / self.std[c])
        })
    }
}

/// Appends the rows of one frame pair to `out`: (h*w/patch², 3*2*patch*patch), rows in merge-block order, each row
/// channel, frame of the pair, y, x. A still image is its own pair: pass it twice. Sides are multiples of patch*merge.
///
/// # Panics
/// When the frames differ in size or their sides are not such multiples: whoever resized them broke a promise.
pub fn pixel_values(pair: [&Rgb; 2], spec: &PatchSpec, out: &mut Vec<f32>) {
    let (height, width, patch, merge) = (pair[0].height, pair[0].width, spec.patch, spec.merge);
    for frame in pair {
        assert_eq!((frame.height, frame.width), (height, width), "both frames of a pair have one size");
        assert_eq!(frame.data.len(), height * width * 3, "a picture holds height x width x 3 bytes");
    }
    assert!(height % spec.factor() == 0 && width % spec.factor() == 0, "sides are multiples of {}", spec.factor());
    let table = spec.table();
    let (rows, columns) = (height / patch, width / patch);
    out.reserve(rows * columns * spec.row_len());
    for block_row in (0..rows).step_by(merge) {
        for block_column in (0..columns).step_by(merge) {
            for row in block_row..block_row + merge {
                for column in block_column..block_column + merge {
                    patch_row(pair, (row * patch, column * patch), patch, &table, out);
                }
            }
        }
    }
}

/// Appends one row of `pixel_values`: the patch whose top left pixel is at (y, x).
fn patch_row(pair: [&Rgb; 2], (y, x): (usize, usize), patch: usize, table: &[[f32; 256]; 3], out: &mut Vec<f32>) {
    for (c, values) in table.iter().enumerate() {
        for frame in pair {
            for line in frame.data.chunks_exact(frame.width * 3).skip(y).take(patch) {
                let pixels = line[x * 3..(x + patch) * 3].as_chunks::<3>().0;
                out.extend(pixels.iter().map(|pixel| values[usize::from(pixel[c])]));
            }
        }
    }
}

/// A still image as the vision tower eats it: resized within the pixel bounds, doubled to a pair, cut into rows.
/// Returns (n_patches, row_len) values and the grid.
///
/// # Errors
/// Those of [`smart_resize`].
pub fn image_rows(image: &Rgb, spec: &PatchSpec, min_pixels: f64, max_pixels: f64) -> Result<(Vec<f32>, Grid)> {
    let (height, width) = smart_resize(image.height, image.width, spec.factor(), min_pixels, max_pixels)?;
    let resized = bicubic(image, height, width);
    let mut rows = Vec::new();
    pixel_values([&resized, &resized], spec, &mut rows);
    Ok((rows, Grid::of(1, height, width, spec)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 1-pixel patches the order of rows is the order of pixels.
    #[test]
    fn patches_come_block_by_block() {
        let spec = PatchSpec { patch: 1, merge: 2, mean: [0.0; 3], std: [1.0; 3] };
        let data: Vec<u8> = (0..24u8).flat_map(|i| [i, 100 + i, 200 + i]).collect();
        let frame = Rgb { height: 4, width: 6, data };
        let mut rows = Vec::new();
        pixel_values([&frame, &frame], &spec, &mut rows);
        let order: Vec<usize> = rows.chunks(6).map(|row| (row[0] * 255.0).round() as usize).collect();
        let first =
            [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3), (0, 4), (0, 5), (1, 4), (1, 5), (2, 0)];
        assert_eq!(order[..13], first.map(|(y, x)| y * 6 + x));
        let bytes: Vec<u8> = rows[..6].iter().map(|v| (v * 255.0).round() as u8).collect();
        assert_eq!(bytes, [0, 0, 100, 100, 200, 200], "channel, then frame of the pair");
        let grid = Grid::of(1, 4, 6, &spec);
        assert_eq!((grid.n_patches(), grid.n_tokens(2)), (24, 6));
        assert_eq!(grid.merged(2), Grid { t: 1, h: 2, w: 3 });
    }
}
