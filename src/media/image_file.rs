//! Still images: png, jpeg, webp, gif (first frame), with alpha composited on white and EXIF orientation applied.
//!
//! What a file is follows from its first bytes, never from its name. Colours come out as 8-bit RGB: 16-bit samples are
//! rounded to 8 bits, grey is repeated, CMYK converted, palettes looked up; embedded colour profiles are not applied (the
//! reference ignores them too). An animated file gives its first picture. The orientation stored by cameras is applied, so
//! that the model sees what people see.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::Rgb;
use super::limits::{MAX_IMAGE_ALLOC, MAX_IMAGE_BYTES, MAX_PIXELS};
use crate::error::Context;
use crate::files::input::read_capped;
use crate::{Error, Result};

/// Decodes a still image.
///
/// # Errors
/// An unreadable or oversized file, an unknown format, damaged content; each names the file.
pub fn load_image(path: &Path) -> Result<Rgb> {
    read_file(path).and_then(|bytes| decode_image(&bytes)).at(|| path.display().to_string())
}

/// Decodes a still image that is in memory.
///
/// # Errors
/// As [`load_image`], without the name of a file.
pub fn decode_image(bytes: &[u8]) -> Result<Rgb> {
    let format = sniff_or_refuse(bytes)?;
    guarded(|| {
        let (mut decoder, orientation) = open(bytes, format)?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_IMAGE_ALLOC);
        decoder.set_limits(limits).map_err(|err| image_error(err, format))?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(|err| image_error(err, format))?;
        image.apply_orientation(orientation);
        Ok(to_rgb(image))
    })
}

/// The (height, width) that [`decode_image`] would return, from the header alone.
///
/// # Errors
/// An unknown format, a damaged header, more than [`MAX_PIXELS`].
pub fn image_size(bytes: &[u8]) -> Result<(usize, usize)> {
    let format = sniff_or_refuse(bytes)?;
    guarded(|| {
        let (decoder, orientation) = open(bytes, format)?;
        let (width, height) = decoder.dimensions();
        let (width, height) = (width as usize, height as usize);
        Ok(if swaps_sides(orientation) { (width, height) } else { (height, width) })
    })
}

/// Whether height and width change places.
pub(super) fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Which of the known formats begins like this, if any.
pub(super) fn sniff(bytes: &[u8]) -> Option<ImageFormat> {
    image::guess_format(bytes)
        .ok()
        .filter(|f| matches!(f, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif))
}

/// Reads an image file, refusing more than [`MAX_IMAGE_BYTES`] whatever its size is said to be.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(Error::bad_input("a folder, expected an image file"));
    }
    read_capped(path, MAX_IMAGE_BYTES)
}

/// Runs a third-party decoder. A panic in one is a damaged file to us, not the end of the process.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::format("the decoder gave up on damaged content")))
}

/// Our error for one of the image crate's, in our own words: what decoders say may hold anything.
pub(super) fn image_error(err: ImageError, format: ImageFormat) -> Error {
    let name = format.extensions_str().first().unwrap_or(&"image");
    match err {
        ImageError::Unsupported(_) => Error::unsupported(format!("a flavour of {name} that cannot be decoded here")),
        ImageError::Limits(_) => {
            Error::limit(format!("the {name} image needs more than {MAX_IMAGE_ALLOC} bytes to be decoded"))
        }
        _ => Error::format(format!("the {name} image is damaged or cut off")),
    }
}

/// Refuses a size from a header that is empty or above [`MAX_PIXELS`].
pub(super) fn check_size(height: u64, width: u64) -> Result<()> {
    if height == 0 || width == 0 {
        return Err(Error::format(format!("a picture of `{width}x{height}` has no pixels")));
    }
    if height.saturating_mul(width) > MAX_PIXELS {
        return Err(Error::limit(format!("a picture of `{width}x{height}`, expected at most {MAX_PIXELS} pixels")));
    }
    Ok(())
}

/// Composites 8-bit RGBA on white, rounding to nearest: what Pillow's `paste` with the alpha channel as mask gives.
pub(super) fn on_white(rgba: &[u8]) -> Vec<u8> {
    let blend = |c: u8, a: u8| {
        let sum = 255 * (255 - u32::from(a)) + u32::from(c) * u32::from(a);
        ((sum + 127) / 255) as u8
    };
    rgba.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, a]| [blend(r, a), blend(g, a), blend(b, a)]).collect()
}

fn sniff_or_refuse(bytes: &[u8]) -> Result<ImageFormat> {
    sniff(bytes).ok_or_else(|| {
        let start: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Error::unsupported(format!(
            "the file begins with `{}`, expected a png, jpeg, webp or gif image",
            start.join(" ")
        ))
    })
}

/// A decoder that has read the header, whose size is within the caps.
fn open(bytes: &[u8], format: ImageFormat) -> Result<(impl ImageDecoder + '_, Orientation)> {
    let mut decoder =
        ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(|err| image_error(err, format))?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(height), u64::from(width))?;
    // Broken metadata is no reason to refuse a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn to_rgb(image: DynamicImage) -> Rgb {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let data = if image.color().has_alpha() { on_white(&image.into_rgba8()) } else { image.into_rgb8().into_raw() };
    Rgb { height, width, data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn alpha_blends_to_the_nearest_level() {
        for c in 0..=255u8 {
            for a in 0..=255u8 {
                let exact = (255.0 * (255.0 - f64::from(a)) + f64::from(c) * f64::from(a)) / 255.0;
                let got = on_white(&[c, 0, 0, a])[0];
                assert!((f64::from(got) - exact).abs() <= 0.5, "{c} at alpha {a}: {got}");
            }
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let err = guarded::<()>(|| panic!("third-party trouble")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Format);
    }
}
