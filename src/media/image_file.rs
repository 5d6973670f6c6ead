//! Still images: png, jpeg, webp, gif (first frame), with alpha composited on white and EXIF orientation applied.

use std::path::Path;

use super::Rgb;
use crate::Result;

/// Decodes a still image.
pub fn load_image(path: &Path) -> Result<Rgb> {
    let _ = path;
    todo!()
}
