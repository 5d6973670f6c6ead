//! Sizes and resampling: `smart_resize` and Pillow's bicubic, bit for bit.

use super::Rgb;
use crate::Result;

/// The size to which a picture of (h, w) is resized, as (height, width): sides are multiples of `factor`, the area lies
/// between the two bounds where the aspect ratio allows it, halves round to even (qwen-vl-utils' rule, which accepts sides
/// below `factor`).
///
/// # Errors
/// Aspect ratio above 200, a zero side, senseless bounds.
pub fn smart_resize(h: usize, w: usize, factor: usize, min_pixels: f64, max_pixels: f64) -> Result<(usize, usize)> {
    let _ = (h, w, factor, min_pixels, max_pixels);
    todo!()
}

/// Antialiased bicubic (a = -0.5), horizontal then vertical, each pass rounded to 8 bits from 22-bit weights: equal to
/// Pillow's `resize` on every byte.
pub fn bicubic(src: &Rgb, height: usize, width: usize) -> Rgb {
    let _ = (src, height, width);
    todo!()
}
