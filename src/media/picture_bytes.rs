//! What decoding a still image takes of memory, from its header, so that plans under a limit count what is really used.

use image::metadata::Orientation;
use image::{ColorType, ImageFormat};

use super::image_file::shown;

/// Bytes of small things: the window of a PNG, tables, a decoder's own.
const SMALL: u64 = 1 << 20;
/// Bytes for each pixel of a row that comes by: as it is stored, filtered, in 8 bits, on white.
const PER_ROW_PIXEL: u64 = 32;
/// The same of a JPEG that is shrunk: rows of blocks wait, as coefficients of 16 bits, for the thread that transforms them.
const PER_BLOCK_ROW_PIXEL: u64 = 8 * 16 * 3 * 2;
/// Bytes a pixel where another program decodes: its RGBA, that of ours, and one of both on white; measured.
const PER_FOREIGN_PIXEL: u64 = 12;

/// How a picture is decoded, and what that takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// Whole, with so many bytes a pixel at the worst moment, and coefficients that wait for the last scan.
    Whole { per_pixel: u64, coefficients: u64 },
    /// Row by row, averaged in boxes.
    Rows,
    /// By blocks that are transformed to a part of their size.
    Blocks { coefficients: u64 },
}

impl Way {
    /// That of another program.
    pub(super) const FOREIGN: Way = Way::Whole { per_pixel: PER_FOREIGN_PIXEL, coefficients: 0 };

    /// That of a picture which is decoded whole.
    pub(super) fn whole(bytes: &[u8], format: ImageFormat, color: ColorType, orientation: Orientation) -> Way {
        let stored = u64::from(color.bytes_per_pixel());
        // A decoder's own picture, before it is copied to ours.
        let own = match format {
            ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp | ImageFormat::Pnm => 0,
            _ => 4,
        };
        let turns = shown((0, 1), orientation) != (0, 1);
        let converted = match color {
            ColorType::Rgb8 => 3,
            _ if !color.has_alpha() => stored + 3,
            ColorType::Rgba8 => 4 + 3,
            // In 8 bits, and then on white.
            _ => stored.max(3) + 4,
        };
        let per_pixel = (stored + own).max(if turns { 2 * stored } else { 0 }).max(converted);
        Way::Whole { per_pixel, coefficients: coefficients(bytes, format) }
    }

    /// That of a picture which is shrunk while it is decoded.
    pub(super) fn shrunk(bytes: &[u8], format: ImageFormat) -> Way {
        match format {
            ImageFormat::Jpeg => Way::Blocks { coefficients: coefficients(bytes, format) },
            _ => Way::Rows,
        }
    }

    /// Bytes that decoding a file of `n_bytes` with a picture of (height, width) takes, and resizing it to `wanted`.
    pub(super) fn n_bytes(self, n_bytes: u64, (height, width): (usize, usize), wanted: (usize, usize)) -> u64 {
        let [height, width, h, w] = [height, width, wanted.0, wanted.1].map(|side| side.max(1) as u64);
        let (n_pixels, longest) = (height * width, height.max(width));
        let work = match self {
            // One of the two passes of resizing, beside the picture; by then the file is gone.
            Way::Whole { per_pixel, coefficients } => {
                (per_pixel * n_pixels + coefficients).max(3 * (n_pixels + (h * width).max(w * height)))
            }
            Way::Rows => {
                let n = (height / (2 * h)).min(width / (2 * w)).max(1);
                // The small picture, and one that is turned or resized.
                6 * height.div_ceil(n) * width.div_ceil(n) + PER_ROW_PIXEL * longest
            }
            Way::Blocks { coefficients } => {
                let scaled = |side: u64, n: u64| (side * n).div_ceil(8);
                let enough = |n: &u64| scaled(width, *n) >= 2 * w || scaled(height, *n) >= 2 * h;
                let n = [1, 2, 4].into_iter().find(enough).unwrap_or(8);
                // Its planes and what they become, or one that is turned or resized.
                6 * scaled(height, n) * scaled(width, n) + coefficients + PER_BLOCK_ROW_PIXEL * longest
            }
        };
        // The file, which some decoders copy; a sixteenth for blocks at the edges and what allocators round up.
        SMALL + 2 * n_bytes + work + work / 16
    }
}

/// Bytes of the coefficients that a JPEG keeps until its last scan: those of every component where scans are progressive or of
/// some components only.
fn coefficients(bytes: &[u8], format: ImageFormat) -> u64 {
    if format != ImageFormat::Jpeg { 0 } else { frame(bytes).unwrap_or(0) }
}

/// [`coefficients`] by the frame header and the first scan's; `None` where there are none.
fn frame(bytes: &[u8]) -> Option<u64> {
    const SOS: u8 = 0xDA;
    let mut at = 2;
    let mut found: Option<(bool, usize, u64)> = None;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xFF)? + 1;
        let marker = *bytes.get(at)?;
        if marker == 0xFF {
            continue;
        }
        at += 1;
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let segment = bytes.get(at + 2..at + length)?;
        match marker {
            // Frames of Huffman codes: sequential ones, and a progressive one. Precision, height, width, components.
            0xC0..=0xC2 => {
                let &[_, h0, h1, w0, w1, n, ref rest @ ..] = segment else { return None };
                let side = |high, low| u64::from(u16::from_be_bytes([high, low])).next_multiple_of(32);
                let samples = || rest.as_chunks::<3>().0.iter().take(usize::from(n)).map(|c| (c[1] >> 4, c[1] & 15));
                let (across, down) = (samples().map(|c| c.0).max()?.max(1), samples().map(|c| c.1).max()?.max(1));
                let all: u64 = samples().map(|(h, v)| u64::from(h) * u64::from(v)).sum();
                let area = side(h0, h1) * side(w0, w1);
                let n_samples = (area * all).div_ceil(u64::from(across) * u64::from(down));
                found = Some((marker == 0xC2, usize::from(n), n_samples * size_of::<i16>() as u64));
            }
            SOS => {
                let (progressive, n, n_bytes) = found?;
                let all_at_once = usize::from(*segment.first()?) == n;
                return (progressive || !all_at_once).then_some(n_bytes);
            }
            _ => {}
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg(marker: u8, sampling: &[u8], n_in_scan: u8) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 0xFF, 0xC2, 0xFF, 0xFF, marker];
        bytes.extend([0, 8 + 3 * sampling.len() as u8, 8, 0, 64, 0, 96, sampling.len() as u8]);
        sampling.iter().for_each(|s| bytes.extend([1, *s, 0]));
        bytes.extend([0xFF, 0xDA, 0, 3, n_in_scan]);
        bytes
    }

    /// Coefficients wait in progressive files and in those of one component a scan, as many as the sampling says.
    #[test]
    fn coefficients_follow_sampling_and_scans() {
        let n = 64 * 96 * 2;
        for (marker, sampling, in_scan, want) in [
            (0xC0, &[0x22, 0x11, 0x11][..], 3, 0),
            (0xC0, &[0x22, 0x11, 0x11], 1, n * 3 / 2),
            (0xC2, &[0x22, 0x11, 0x11], 3, n * 3 / 2),
            (0xC2, &[0x21, 0x11, 0x11], 3, n * 2),
            (0xC2, &[0x11, 0x11, 0x11], 1, n * 3),
            (0xC2, &[0x11], 1, n),
            (0xC2, &[0x22, 0x11, 0x11, 0x22], 1, n * 5 / 2),
        ] {
            let bytes = jpeg(marker, sampling, in_scan);
            assert_eq!(coefficients(&bytes, ImageFormat::Jpeg), want, "{marker:x} {sampling:?}");
            assert!((0..bytes.len()).all(|cut| coefficients(&bytes[..cut], ImageFormat::Jpeg) == 0));
        }
        assert_eq!(coefficients(&jpeg(0xC2, &[0, 0], 1), ImageFormat::Jpeg), 0);
    }

    /// What is shrunk costs what it becomes, not what it is, and less where less is wanted.
    #[test]
    fn shrunk_pictures_cost_what_they_become() {
        let size = (9000, 10_000);
        for way in [Way::Rows, Way::Blocks { coefficients: 0 }] {
            let of = |wanted| way.n_bytes(1 << 20, size, wanted);
            assert!(of((420, 476)) < 32 << 20, "{way:?}: {}", of((420, 476)));
            assert!(of((56, 56)) <= of((420, 476)) && of((420, 476)) < of((2000, 2200)));
            // Nothing can be left out of a picture that is wanted whole.
            assert!(of(size) > 6 * 9000 * 10_000);
        }
        let whole = Way::whole(&[], ImageFormat::Png, ColorType::Rgb8, Orientation::NoTransforms);
        assert_eq!(whole, Way::Whole { per_pixel: 3, coefficients: 0 });
        let turned = Way::whole(&[], ImageFormat::Png, ColorType::Rgba16, Orientation::Rotate90);
        assert_eq!(turned, Way::Whole { per_pixel: 16, coefficients: 0 });
    }
}
