//! Still images with more pixels than a decoder may hold: shrunk by a whole number while they are decoded.
//!
//! A PNG comes row by row, so that boxes of `n` x `n` pixels are averaged as they pass and only the small picture is kept. A
//! JPEG is shrunk where it is cheapest, in its 8x8 blocks: an inverse transform of their lowest frequencies is the block at a
//! half, a quarter or an eighth of its size. Either way at least twice the wanted size stays, so that the resampling after it
//! sees the detail that it filters. Interlaced PNG and the other formats cannot be had in strips and are refused with a way
//! out. Numbers of 16 bits are cut to 8 before they are averaged.

use std::io::Cursor;

use image::ImageFormat;
use jpeg_decoder::PixelFormat;
use png::{ColorType, Transformations};

use super::Rgb;
use super::image_file::{on_white, smaller};
use super::limits::{MAX_IMAGE_ALLOC, MAX_PIXELS, MAX_SHRUNK_PIXELS};
use crate::{Error, ErrorKind, Result};

/// Bytes of a row and of the decoder's window that a PNG may need.
const MAX_PNG_BYTES: usize = 64 << 20;

/// Refuses a picture of (height, width) that [`decode`] cannot shrink, from its header.
pub(super) fn check(bytes: &[u8], format: ImageFormat, (height, width): (u64, u64)) -> Result<()> {
    let n_pixels = height.saturating_mul(width);
    let refuse = |why: String| Err(smaller(Error::limit(format!("a picture of `{width}x{height}`, {why}"))));
    if n_pixels > MAX_SHRUNK_PIXELS {
        return refuse(format!("expected at most {MAX_SHRUNK_PIXELS} pixels, or {MAX_PIXELS} in one piece"));
    }
    match format {
        ImageFormat::Png if png(bytes)?.info().interlaced => {
            refuse(format!("expected at most {MAX_PIXELS} pixels of an interlaced png"))
        }
        ImageFormat::Png => Ok(()),
        ImageFormat::Jpeg => {
            // Progressive scans are of the whole picture: all its coefficients wait for the last one.
            let n_coefficients = n_pixels * 3 * size_of::<i16>() as u64;
            if is_progressive(bytes) && n_coefficients > MAX_IMAGE_ALLOC {
                let most = MAX_IMAGE_ALLOC / 6;
                return refuse(format!("expected at most {most} pixels of a progressive jpeg"));
            }
            Ok(())
        }
        _ => refuse(format!("expected at most {MAX_PIXELS} pixels unless it is a png or jpeg")),
    }
}

/// Decodes a stored picture that [`check`] has passed, at no less than twice `wanted` (height, width) if it has so much.
pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    wanted: (usize, usize),
    stopped: &dyn Fn() -> bool,
) -> Result<Rgb> {
    let (height, width) = (wanted.0.saturating_mul(2), wanted.1.saturating_mul(2));
    match format {
        ImageFormat::Png => shrink_png(bytes, (height, width), stopped),
        _ => shrink_jpeg(bytes, (height, width)),
    }
}

fn png(bytes: &[u8]) -> Result<png::Reader<Cursor<&[u8]>>> {
    let limits = png::Limits { bytes: MAX_PNG_BYTES };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.read_info().map_err(|_| Error::format("the png image is damaged or cut off"))
}

fn shrink_png(bytes: &[u8], least: (usize, usize), stopped: &dyn Fn() -> bool) -> Result<Rgb> {
    let mut reader = png(bytes)?;
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    let mut boxes = Boxes::new((height, width), least)?;
    let (color, _) = reader.output_color_type();
    for y in 0..height {
        if y.is_multiple_of(64) && stopped() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        let damaged = || Error::format(format!("the png image is damaged or cut off in row {y} of {height}"));
        let row = reader.next_row().map_err(|_| damaged())?.ok_or_else(damaged)?;
        match color {
            ColorType::Rgb => boxes.push(row.data()),
            ColorType::Rgba => boxes.push(&on_white(row.data())),
            ColorType::Grayscale => boxes.push(&row.data().iter().flat_map(|v| [*v; 3]).collect::<Vec<u8>>()),
            ColorType::GrayscaleAlpha => {
                let rgba = row.data().as_chunks::<2>().0.iter().flat_map(|[v, a]| [*v, *v, *v, *a]);
                boxes.push(&on_white(&rgba.collect::<Vec<u8>>()));
            }
            ColorType::Indexed => return Err(Error::unsupported("a flavour of png that cannot be decoded here")),
        }
    }
    Ok(boxes.finish())
}

/// Averages of boxes of `n` x `n` pixels, rounded to nearest, of rows that come one by one; those at the right and the bottom
/// may have fewer.
struct Boxes {
    n: usize,
    width: usize,
    /// Sums of the row of boxes that is being filled, (width / n, 3), and how many rows are in them.
    sums: Vec<u32>,
    n_rows: usize,
    out: Vec<u8>,
}

impl Boxes {
    /// For a picture of (height, width), of which at least `least` shall stay.
    fn new((height, width): (usize, usize), least: (usize, usize)) -> Result<Boxes> {
        let n = (height / least.0.max(1)).min(width / least.1.max(1)).max(1);
        let (rows, columns) = (height.div_ceil(n), width.div_ceil(n));
        let n_bytes = rows.saturating_mul(columns).saturating_mul(3);
        let mut out = Vec::new();
        if n_bytes as u64 > MAX_IMAGE_ALLOC || out.try_reserve_exact(n_bytes).is_err() {
            let message =
                format!("{n_bytes} bytes for a picture of `{columns}x{rows}` cannot be had; lower --max-pixels");
            return Err(Error::limit(message));
        }
        Ok(Boxes { n, width, sums: vec![0; columns * 3], n_rows: 0, out })
    }

    /// Takes the next row, (width, 3).
    fn push(&mut self, row: &[u8]) {
        for (sum, pixels) in self.sums.as_chunks_mut::<3>().0.iter_mut().zip(row.chunks(3 * self.n)) {
            for pixel in pixels.as_chunks::<3>().0 {
                sum.iter_mut().zip(pixel).for_each(|(s, v)| *s += u32::from(*v));
            }
        }
        self.n_rows += 1;
        if self.n_rows == self.n {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for (i, sum) in self.sums.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let n = (self.n.min(self.width - i * self.n) * self.n_rows) as u32;
            self.out.extend(sum.map(|s| ((s + n / 2) / n) as u8));
            *sum = [0; 3];
        }
        self.n_rows = 0;
    }

    fn finish(mut self) -> Rgb {
        if self.n_rows > 0 {
            self.flush();
        }
        let width = self.width.div_ceil(self.n);
        Rgb { height: self.out.len() / (3 * width), width, data: self.out }
    }
}

/// Whether the frame header of a JPEG announces progressive scans.
fn is_progressive(bytes: &[u8]) -> bool {
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(bytes));
    decoder.read_info().is_ok()
        && decoder.info().is_some_and(|info| info.coding_process == jpeg_decoder::CodingProcess::DctProgressive)
}

fn shrink_jpeg(bytes: &[u8], (height, width): (usize, usize)) -> Result<Rgb> {
    let damaged = |_| Error::format("the jpeg image is damaged or cut off");
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(bytes));
    decoder.set_max_decoding_buffer_size(MAX_IMAGE_ALLOC as usize);
    let side = |n: usize| n.min(usize::from(u16::MAX)) as u16;
    let (width, height) = decoder.scale(side(width), side(height)).map_err(damaged)?;
    let data = decoder.decode().map_err(damaged)?;
    let format = decoder.info().map(|info| info.pixel_format);
    let data = match format {
        Some(PixelFormat::RGB24) => data,
        Some(PixelFormat::L8) => data.into_iter().flat_map(|v| [v; 3]).collect(),
        _ => return Err(Error::unsupported("a flavour of jpeg that cannot be shrunk while it is decoded")),
    };
    let (height, width) = (usize::from(height), usize::from(width));
    if data.len() != height * width * 3 {
        return Err(Error::format("the jpeg image is not as large as its header says"));
    }
    Ok(Rgb { height, width, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against f64 averages, where the sides are no multiples of the boxes.
    #[test]
    fn boxes_are_averages() {
        for (h, w, least) in [(7, 11, (2, 3)), (9, 4, (9, 4)), (16, 16, (4, 4)), (5, 300, (1, 1)), (1, 1, (5, 5))] {
            let value = |y: usize, x: usize, c: usize| (y * 89 + x * 57 + c * 131) as u8;
            let mut boxes = Boxes::new((h, w), least).unwrap();
            let n = boxes.n;
            assert!(h / n >= least.0.min(h) && w / n >= least.1.min(w), "{h}x{w} by {n}");
            for y in 0..h {
                boxes.push(&(0..w * 3).map(|i| value(y, i / 3, i % 3)).collect::<Vec<u8>>());
            }
            let small = boxes.finish();
            assert_eq!((small.height, small.width), (h.div_ceil(n), w.div_ceil(n)));
            for (i, got) in small.data.iter().enumerate() {
                let (by, bx, c) = (i / 3 / small.width, i / 3 % small.width, i % 3);
                let pixels =
                    (by * n..h.min((by + 1) * n)).flat_map(|y| (bx * n..w.min((bx + 1) * n)).map(move |x| (y, x)));
                let all: Vec<f64> = pixels.map(|(y, x)| f64::from(value(y, x, c))).collect();
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                assert!((f64::from(*got) - mean).abs() <= 0.5, "{h}x{w} by {n}: {got} for {mean}");
            }
        }
    }
}
