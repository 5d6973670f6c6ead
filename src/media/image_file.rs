//! Still images: png, jpeg, webp, gif (first frame), bmp, ico, pnm, with alpha composited on white and EXIF orientation applied;
//! every other format through ffmpeg.
//!
//! What a file is follows from its first bytes, never from its name. Colours come out as 8-bit RGB: 16-bit samples are
//! rounded to 8 bits, grey is repeated, CMYK converted, palettes looked up; embedded colour profiles are not applied (the
//! reference ignores them too). An animated file gives its first picture. The orientation stored by cameras is applied, so
//! that the model sees what people see.
//!
//! [`ImageFile`] is a picture in two steps: its size, which plans are made of, then its pixels.

use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use sha2::{Digest, Sha256};

use super::animation::FREE_PART_PIXELS;
use super::ffmpeg::Tools;
use super::foreign_image::{ForeignImage, is_picture_in_boxes};
use super::limits::{MAX_IMAGE_ALLOC, MAX_IMAGE_BYTES, MAX_PIXELS};
use super::picture_bytes::Way;
use super::{Rgb, large_image, whole};
use crate::error::Context;
use crate::files::input::{open_regular, read_capped};
use crate::{Error, ErrorKind, Result};

/// A still image file whose header was read.
#[derive(Debug)]
pub struct ImageFile {
    path: PathBuf,
    /// Size as it is shown.
    height: usize,
    width: usize,
    /// Bytes of the file, and SHA-256 of them.
    n_bytes: u64,
    digest: [u8; 32],
    decoder: Decoder,
    way: Way,
}

#[derive(Debug)]
enum Decoder {
    BuiltIn(ImageFormat, Orientation),
    Foreign(ForeignImage),
}

/// A decoded still image.
#[derive(Debug)]
pub struct Decoded {
    /// The pixels.
    pub rgb: Rgb,
    /// What is wrong with the file, although it was decoded, for people.
    pub warning: Option<String>,
}

impl ImageFile {
    /// Reads the header of an image file in a format that is built in.
    ///
    /// # Errors
    /// An unreadable file or one that is not regular, an unknown format, a damaged header, a size that can be had in no way;
    /// each names the file, and says what to do where something can be done.
    pub fn open(path: &Path) -> Result<ImageFile> {
        ImageFile::open_with(path, None)
    }

    /// [`ImageFile::open`] with the external decoder at `tools`, or with none.
    ///
    /// # Errors
    /// Those of [`ImageFile::open`].
    pub fn open_with(path: &Path, tools: Option<&Tools>) -> Result<ImageFile> {
        let open = || -> Result<ImageFile> {
            let bytes = read_file(path)?;
            let (n_bytes, digest) = (bytes.len() as u64, Sha256::digest(&bytes).into());
            let built_in = match sniff(&bytes) {
                Some(format) => built_in(&bytes, format),
                None => Err(Error::unsupported("")),
            };
            let ((height, width), decoder, way) = match built_in {
                // Another format, or a flavour of one that is built in.
                Err(err) if err.kind() == ErrorKind::Unsupported => {
                    let foreign = ForeignImage::open(path, &bytes, tools)?;
                    (foreign.size(), Decoder::Foreign(foreign), Way::FOREIGN)
                }
                other => other?,
            };
            Ok(ImageFile { path: path.to_path_buf(), height, width, n_bytes, digest, decoder, way })
        };
        open().at(|| path.display().to_string())
    }

    /// (height, width) as it is shown.
    pub fn size(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Bytes that [`ImageFile::decode`] takes at most while it works, for what it returns, and for resizing that to `wanted`
    /// (height, width).
    pub fn n_bytes(&self, wanted: (usize, usize)) -> u64 {
        self.way.n_bytes(self.n_bytes, (self.height, self.width), wanted)
    }

    /// Decodes the picture: whole, or above [`MAX_PIXELS`] shrunk by a whole number to a size that is at least twice `wanted`
    /// (height, width), as far as there is so much. Stops soon once `stopped` says so.
    ///
    /// # Errors
    /// Damaged content, a file that has changed meanwhile, `Cancelled`; each names the file.
    pub fn decode(&self, wanted: (usize, usize), stopped: &dyn Fn() -> bool) -> Result<Decoded> {
        let decode = || {
            let (format, orientation) = match &self.decoder {
                Decoder::Foreign(foreign) => return foreign.decode(&self.path, stopped),
                Decoder::BuiltIn(format, orientation) => (*format, *orientation),
            };
            let bytes = read_file(&self.path)?;
            if self.digest != <[u8; 32]>::from(Sha256::digest(&bytes)) {
                return Err(Error::mismatch("the file is another one than when it was opened"));
            }
            let warning = whole::cut_off(&bytes, format);
            if self.height as u64 * self.width as u64 <= MAX_PIXELS {
                return Ok(Decoded { rgb: decode_image(&bytes)?, warning });
            }
            let rgb = guarded(|| {
                let small = large_image::decode(&bytes, format, shown(wanted, orientation), stopped)?;
                turned(small, orientation)
            })?;
            Ok(Decoded { rgb, warning })
        };
        decode().at(|| self.path.display().to_string())
    }
}

/// Size as it is shown and decoder of a picture in a format that is built in, and what that takes.
fn built_in(bytes: &[u8], format: ImageFormat) -> Result<((usize, usize), Decoder, Way)> {
    guarded(|| {
        let (decoder, orientation) = header(bytes, format)?;
        let (width, height) = decoder.dimensions();
        let way = if u64::from(width) * u64::from(height) > MAX_PIXELS {
            large_image::check(bytes, format, (u64::from(height), u64::from(width)))?;
            Way::shrunk(bytes, format)
        } else {
            check_size(u64::from(height), u64::from(width))?;
            Way::whole(bytes, format, decoder.color_type(), orientation)
        };
        Ok((shown((height as usize, width as usize), orientation), Decoder::BuiltIn(format, orientation), way))
    })
}

/// Decodes a still image in a format that is built in.
///
/// # Errors
/// An unreadable or oversized file, an unknown format, damaged content; each names the file.
pub fn load_image(path: &Path) -> Result<Rgb> {
    load_image_with(path, None)
}

/// [`load_image`] with the external decoder at `tools`, or with none.
///
/// # Errors
/// Those of [`load_image`].
pub fn load_image_with(path: &Path, tools: Option<&Tools>) -> Result<Rgb> {
    let file = ImageFile::open_with(path, tools)?;
    check_size(file.height as u64, file.width as u64).map_err(smaller).at(|| path.display().to_string())?;
    Ok(file.decode(file.size(), &|| false)?.rgb)
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
        let (width, height) = decoder.dimensions();
        let most = match format {
            // A frame may be larger than the canvas, from which it is then cut.
            ImageFormat::Gif => 4 * (u64::from(width) * u64::from(height)).max(FREE_PART_PIXELS),
            _ => MAX_IMAGE_ALLOC,
        };
        limits.max_alloc = Some(most);
        let failed = |err| match err {
            ImageError::Limits(_) if most < MAX_IMAGE_ALLOC => {
                Error::limit(format!("a frame that is much larger than its canvas of `{width}x{height}`"))
            }
            err => image_error(err, format),
        };
        decoder.set_limits(limits).map_err(failed)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
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
        Ok(shown((height as usize, width as usize), orientation))
    })
}

/// The (height, width) of a stored picture as it is shown, or the other way round.
pub(super) fn shown((height, width): (usize, usize), orientation: Orientation) -> (usize, usize) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let turned = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    if turned { (width, height) } else { (height, width) }
}

/// A stored picture as it is shown.
pub(super) fn turned(rgb: Rgb, orientation: Orientation) -> Result<Rgb> {
    let whole = || Error::format("the picture is not as large as its header says");
    let image = RgbImage::from_raw(rgb.width as u32, rgb.height as u32, rgb.data).ok_or_else(whole)?;
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    Ok(to_rgb(image))
}

/// Which of the known formats begins like this, if any.
pub(super) fn sniff(bytes: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Gif, Ico, Jpeg, Png, Pnm, WebP};
    image::guess_format(bytes).ok().filter(|f| matches!(f, Png | Jpeg | WebP | Gif | Bmp | Ico | Pnm))
}

/// Whether a file that nobody has named one is a picture rather than a video, by its first bytes. Whatever moves (gif, animated
/// webp and png) is a video, as is what nothing is known of, and a folder.
///
/// # Errors
/// A file that cannot be read or is neither a regular one nor a folder.
pub fn is_picture(path: &Path) -> Result<bool> {
    if std::fs::metadata(path)?.is_dir() {
        return Ok(false);
    }
    let mut head = Vec::new();
    open_regular(path)?.0.take(64).read_to_end(&mut head)?;
    let at = |offset: usize, bytes: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(bytes));
    // The flag of animation in the extended header; the chunk that announces frames, where every writer puts it.
    let moves = at(12, b"VP8X") && head.get(20).is_some_and(|flags| flags & 2 != 0) || at(37, b"acTL");
    let known = sniff(&head).is_some_and(|format| format != ImageFormat::Gif);
    Ok((known && !moves) || is_foreign_picture(&head))
}

/// Whether a file that begins like this is a picture of a kind that is not built in.
pub(super) fn is_foreign_picture(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 9] = [
        b"II*\0",
        b"MM\0*",
        b"8BPS",
        b"\xff\x0a",
        b"\0\0\0\x0cJXL ",
        b"\0\0\0\x0cjP  ",
        b"\x76\x2f\x31\x01",
        b"qoif",
        b"DDS ",
    ];
    is_picture_in_boxes(head) || MAGIC.iter().any(|magic| head.starts_with(magic))
}

/// Reads an image file, refusing more than [`MAX_IMAGE_BYTES`] whatever its size is said to be.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(Error::bad_input("a folder, expected an image file"));
    }
    read_capped(path, MAX_IMAGE_BYTES).map_err(smaller)
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

/// What to do about a picture beyond a cap, added to the error that says so; any other error as it is.
pub(super) fn smaller(err: Error) -> Error {
    let way_out = "make it smaller first, for instance with `ffmpeg -i FILE -vf scale=8000:-1 smaller.png`";
    match err.kind() {
        ErrorKind::Limit => Error::limit(format!("{}; {way_out}", err.message())),
        _ => err,
    }
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
        Error::unsupported(format!("the file begins with `{}`, expected {BUILT_IN}", first_bytes(bytes)))
    })
}

/// The formats that need no other program, for people.
pub(super) const BUILT_IN: &str = "a png, jpeg, webp or gif image (or bmp, ico, ppm)";

/// The beginning of a file in hex, for people.
pub(super) fn first_bytes(bytes: &[u8]) -> String {
    bytes.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// A decoder that has read the header, whose size is within the caps.
fn open(bytes: &[u8], format: ImageFormat) -> Result<(impl ImageDecoder + '_, Orientation)> {
    let (decoder, orientation) = header(bytes, format)?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(height), u64::from(width)).map_err(smaller)?;
    Ok((decoder, orientation))
}

/// A decoder that has read the header, whatever the size.
fn header(bytes: &[u8], format: ImageFormat) -> Result<(impl ImageDecoder + '_, Orientation)> {
    let mut decoder =
        ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(|err| image_error(err, format))?;
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
