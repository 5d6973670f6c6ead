//! Frames that a program has in memory, as a video.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use png::{BitDepth, ColorType, Compression, Encoder, Writer};

use crate::files::ScratchFile;
use crate::media::limits::{MAX_ANIMATION_BYTES, MAX_ANIMATION_FRAMES, MAX_ANIMATION_PIXELS, MAX_SIDE};
use crate::{Error, Result};

/// Frames from memory, which [`Chat::frames`](super::Chat::frames) makes a video of. They go to a private file for temporary
/// data, without loss, since decoders read files; it goes with the talk.
pub struct Frames {
    scratch: ScratchFile,
    writer: Writer<BufWriter<File>>,
    /// Bytes of a frame.
    n_bytes: usize,
    n_frames: usize,
    n_pushed: usize,
}

/// The same when it is complete.
pub(super) struct FramesFile {
    scratch: ScratchFile,
    n_frames: usize,
}

impl Frames {
    /// Will take `n_frames` frames of `width` by `height` pixels, `fps` of which were taken in a second.
    ///
    /// # Errors
    /// `BadInput` for a size or a rate that none can have, `Limit` beyond 65,536 frames or 2^34 pixels in all of them together, `Io`
    /// where no file can be made.
    pub fn new(n_frames: usize, (width, height): (usize, usize), fps: f64) -> Result<Frames> {
        if n_frames == 0 || !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            let message = format!(
                "`{n_frames}` frames of `{width}x{height}`, expected at least one, with sides from 1 to {MAX_SIDE}"
            );
            return Err(Error::bad_input(message));
        }
        let n_pixels = width as u64 * height as u64;
        if n_frames > MAX_ANIMATION_FRAMES || n_pixels.saturating_mul(n_frames as u64) > MAX_ANIMATION_PIXELS {
            return Err(Error::limit(format!(
                "`{n_frames}` frames of `{width}x{height}`, expected at most {MAX_ANIMATION_FRAMES} frames and \
                 {MAX_ANIMATION_PIXELS} pixels in all of them; leave frames out, or give smaller ones"
            )));
        }
        let (numerator, denominator) = delay(fps)?;
        let scratch = ScratchFile::new(&[])?;
        let out = BufWriter::with_capacity(1 << 16, scratch.file().try_clone()?);
        // Sides are at most 2^16, frames too.
        let mut encoder = Encoder::new(out, width as u32, height as u32);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::Fastest);
        encoder.set_animated(n_frames as u32, 0).map_err(failed)?;
        encoder.set_frame_delay(numerator, denominator).map_err(failed)?;
        let writer = encoder.write_header().map_err(failed)?;
        Ok(Frames { scratch, writer, n_bytes: 3 * width * height, n_frames, n_pushed: 0 })
    }

    /// Adds the next frame: rows from top to bottom of red, green and blue, a byte each, without gaps.
    ///
    /// # Errors
    /// `Mismatch` for another number of bytes, or a frame too many; `Limit` beyond 1 GiB of all frames as they are kept, without
    /// loss; `Io`, as when the disk is full.
    pub fn push(&mut self, rgb: &[u8]) -> Result<()> {
        if rgb.len() != self.n_bytes {
            let (got, want) = (rgb.len(), self.n_bytes);
            return Err(Error::mismatch(format!("a frame of `{got}` bytes, expected {want}")));
        }
        if self.n_pushed == self.n_frames {
            return Err(Error::mismatch(format!("a frame more than the {} that were announced", self.n_frames)));
        }
        self.writer.write_image_data(rgb).map_err(failed)?;
        // What is longer could not be read again.
        if self.scratch.file().metadata()?.len() > MAX_ANIMATION_BYTES {
            return Err(Error::limit(format!(
                "frames of more than {MAX_ANIMATION_BYTES} bytes as they are kept, without loss; leave frames out, give smaller \
                 ones, or make an H.264 MP4 of them"
            )));
        }
        self.n_pushed += 1;
        Ok(())
    }

    /// Brings the last of it to the file.
    pub(super) fn finish(self) -> Result<FramesFile> {
        let Frames { scratch, writer, n_frames, n_pushed, .. } = self;
        if n_pushed < n_frames {
            return Err(Error::mismatch(format!("`{n_pushed}` frames, expected the {n_frames} that were announced")));
        }
        writer.finish().map_err(failed)?;
        scratch.file().flush()?;
        Ok(FramesFile { scratch, n_frames })
    }
}

impl FramesFile {
    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// For people, who have never heard of the file.
    pub(super) fn label(&self) -> String {
        format!("{} frames", self.n_frames)
    }
}

fn failed(err: png::EncodingError) -> Error {
    match err {
        png::EncodingError::IoError(err) => err.into(),
        err => Error::internal(format!("frames cannot be kept: {err}")).caused_by(err),
    }
}

/// Seconds of a frame as a fraction of 16-bit numbers, the nearest to `1 / fps`.
fn delay(fps: f64) -> Result<(u16, u16)> {
    // Delays of up to 10 ms mean 100 ms in animated pictures.
    if !(1e-4..100.0).contains(&fps) {
        let message = format!("`{fps}` frames a second, expected from 0.0001 to below 100; leave frames out");
        return Err(Error::bad_input(message));
    }
    let most = f64::from(u16::MAX);
    let fraction = |numerator: f64| (numerator, (numerator * fps).round().clamp(1.0, most));
    let error = |(numerator, denominator): (f64, f64)| (denominator / numerator / fps - 1.0).abs();
    let mut best = fraction(1.0);
    for numerator in 1..=u16::MAX {
        let next = fraction(f64::from(numerator));
        if error(next) < error(best) - 1e-12 {
            best = next;
        }
        if error(best) < 1e-12 || next.1 >= most {
            break;
        }
    }
    Ok((best.0 as u16, best.1 as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_fractions() {
        for (fps, want) in [(2.0, (1, 2)), (30.0, (1, 30)), (30_000.0 / 1001.0, (1001, 30_000)), (0.5, (2, 1))] {
            assert_eq!(delay(fps).unwrap(), want, "{fps}");
        }
        for fps in [0.0001, 0.3, 1.0 / 3.0, 7.77, 59.94, 99.9] {
            let (numerator, denominator) = delay(fps).unwrap();
            let got = f64::from(denominator) / f64::from(numerator);
            assert!((got / fps - 1.0).abs() < 1e-5, "{fps}: {got}");
        }
        for fps in [0.0, -1.0, 100.0, f64::NAN, f64::INFINITY] {
            assert!(delay(fps).is_err(), "{fps}");
        }
    }
}
