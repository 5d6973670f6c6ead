//! Animated pictures as videos: GIF, WebP and APNG.
//!
//! The file of a format (`gif.rs`, `webp.rs`, `apng.rs`) walks over its blocks once, decoding nothing, and leaves an
//! `Outline`: the canvas, and of each frame its rectangle, its time, how it is composed, and where its bytes are. Of these
//! bytes it can make a still picture, which the image crate decodes. So memory is the canvas and one frame, whatever the
//! length of the file, frames that nobody will see are not decoded, and a damaged one spoils itself only.
//!
//! Frames are composed as browsers do it: each replaces what is in its rectangle or is blended over it, and is then left
//! there, cleared, or taken back. What shows through in the end is white (black in a PNG whose kind of colours knows no
//! transparency); blending over white from the beginning is the same
//! to rounding. Background colours that files name are ignored. Delays up to 10 ms count as 100 ms.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::Rgb;
use super::image_file::{check_size, guarded, image_error};
use super::limits::{
    MAX_ANIMATION_BYTES, MAX_ANIMATION_FRAMES, MAX_ANIMATION_PIXELS, MAX_IMAGE_ALLOC, MAX_IMAGE_BYTES,
};
use super::timeline::Timeline;
use super::video::{FrameSource, Shown, VideoInfo};
use crate::error::Context;
use crate::files::input::open_regular;
use crate::{Error, Result};

/// Pixels that a frame may have however small the canvas is: some tools make frames that are larger, which are cut.
pub(super) const FREE_PART_PIXELS: u64 = 1 << 20;

/// What to do about files beyond the caps.
const WAY_OUT: &str = "make an H.264 MP4 of it, for example by ffmpeg -i FILE -pix_fmt yuv420p OUT.mp4";

/// A format of animated pictures.
pub(super) struct Format {
    /// For people.
    pub name: &'static str,
    /// What its stills are.
    pub still_format: ImageFormat,
    /// Walks over a file; nothing for a picture that is not animated.
    pub outline: fn(&mut Scan) -> Result<Option<Outline>>,
    /// A whole file that shows the part alone, from the part's own bytes.
    pub still: fn(&Outline, &Part, &[u8]) -> Result<Vec<u8>>,
}

/// What the blocks of a file say without any picture being decoded.
pub(super) struct Outline {
    height: u32,
    width: u32,
    ticks_per_second: u32,
    /// Level of all three colours where nothing is painted: white, or black in files that know no transparency.
    pub backdrop: u8,
    /// What all parts share, in a form of the format's own.
    pub head: Vec<u8>,
    parts: Vec<Part>,
    /// Pixels that composing every frame would go through.
    n_pixels: u64,
}

/// One frame: a picture that is put somewhere on the canvas.
pub(super) struct Part {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
    /// In ticks of the outline.
    pub delay: u32,
    pub blend: Blend,
    pub disposal: Disposal,
    /// Where it is in the file.
    pub bytes: Range<u64>,
    /// The palette's transparent entry, where the format has one.
    pub transparent: Option<u8>,
}

/// How a part meets what is in its rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blend {
    Over,
    Replace,
}

/// What becomes of a part's rectangle when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposal {
    Keep,
    Clear,
    /// As it was before the part.
    Restore,
}

impl Outline {
    /// An outline without frames.
    ///
    /// # Errors
    /// `Format` for an empty canvas, `Limit` for one above the cap.
    pub(super) fn new((height, width): (u32, u32), ticks_per_second: u32) -> Result<Outline> {
        check_size(u64::from(height), u64::from(width))?;
        Ok(Outline { height, width, ticks_per_second, backdrop: 255, head: Vec::new(), parts: Vec::new(), n_pixels: 0 })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// `Limit` for more frames or pixels than anyone means to show.
    pub(super) fn push(&mut self, part: Part) -> Result<()> {
        if self.parts.len() == MAX_ANIMATION_FRAMES {
            return Err(Error::limit(format!("more than {MAX_ANIMATION_FRAMES} frames; {WAY_OUT}")));
        }
        let area = |height, width| u64::from(height) * u64::from(width);
        let area = area(self.height, self.width).max(area(part.height, part.width));
        self.n_pixels = self.n_pixels.saturating_add(area);
        if self.n_pixels > MAX_ANIMATION_PIXELS {
            return Err(Error::limit(format!(
                "an animation of `{}x{}` with more than `{}` frames, expected at most {MAX_ANIMATION_PIXELS} pixels in all \
                 its frames together; {WAY_OUT}",
                self.width,
                self.height,
                self.parts.len()
            )));
        }
        self.parts.push(part);
        Ok(())
    }

    /// Ticks that a frame is on screen.
    fn shown_for(&self, part: &Part) -> i64 {
        let (delay, second) = (i64::from(part.delay), i64::from(self.ticks_per_second));
        if delay * 100 <= second { second / 10 } else { delay }
    }

    /// The rows and columns of the canvas that a part covers.
    fn place(&self, part: &Part) -> (Range<usize>, Range<usize>) {
        let clip = |at: u32, n: u32, end: u32| at.min(end) as usize..at.saturating_add(n).min(end) as usize;
        (clip(part.top, part.height, self.height), clip(part.left, part.width, self.width))
    }

    fn is_whole(&self, part: &Part) -> bool {
        self.place(part) == (0..self.height as usize, 0..self.width as usize)
    }
}

/// Where the bytes of an animation come from: a file, or memory.
pub(super) trait Bytes: Read + Seek + Send {}

impl<T: Read + Seek + Send> Bytes for T {}

/// A walk through a file that never holds more than a buffer of it.
pub(super) struct Scan {
    reader: BufReader<Box<dyn Bytes>>,
    at: u64,
    len: u64,
}

impl Scan {
    /// Where the next byte is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next `N` bytes; nothing when fewer are left.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn array<const N: usize>(&mut self) -> Result<Option<[u8; N]>> {
        if self.len - self.at < N as u64 {
            self.at = self.len;
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(Some(bytes))
    }

    /// Appends the next `n` bytes to `to`, or what is left of them.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn bytes(&mut self, n: u64, to: &mut Vec<u8>) -> Result<()> {
        self.at += (&mut self.reader).take(n).read_to_end(to)? as u64;
        Ok(())
    }

    /// Leaves out `n` bytes, or what is left of them.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        let n = n.min(self.len - self.at);
        self.reader.seek_relative(n as i64)?;
        self.at += n;
        Ok(())
    }
}

/// An animated picture being shown.
pub struct AnimationSource {
    info: VideoInfo,
    name: String,
    format: &'static Format,
    file: Box<dyn Bytes>,
    outline: Outline,
    timeline: Timeline,
    /// Empty until a frame is asked for.
    canvas: Vec<u8>,
    /// First part that is not on the canvas yet.
    next: usize,
    /// What the part before it leaves to do.
    pending: Pending,
    /// Whether any part could be decoded.
    is_drawn: bool,
    skipped: usize,
}

/// A disposal that is due when the next part comes.
enum Pending {
    Nothing,
    Clear(usize),
    /// The rows of the part's rectangle as they were.
    Restore(usize, Vec<u8>),
}

impl AnimationSource {
    /// Opens a file and walks over its frames; nothing for a still picture.
    ///
    /// # Errors
    /// `Format` for a damaged file, `Limit` beyond the caps.
    pub(super) fn open(path: &Path, format: &'static Format) -> Result<Option<AnimationSource>> {
        let name = path.display().to_string();
        let open = || {
            let (file, meta) = open_regular(path)?;
            AnimationSource::new(Box::new(file), meta.len(), name.clone(), format)
        };
        open().at(|| name.clone())
    }

    /// The same of `len` bytes from anywhere, called `source_name`.
    ///
    /// # Errors
    /// As [`AnimationSource::open`].
    pub(super) fn new(
        file: Box<dyn Bytes>,
        len: u64,
        source_name: String,
        format: &'static Format,
    ) -> Result<Option<AnimationSource>> {
        let name = format.name;
        if len > MAX_ANIMATION_BYTES {
            let message =
                format!("an animated {name} of `{len}` bytes, expected at most {MAX_ANIMATION_BYTES}; {WAY_OUT}");
            return Err(Error::limit(message));
        }
        let mut scan = Scan { reader: BufReader::with_capacity(1 << 16, file), at: 0, len };
        let Some(outline) = (format.outline)(&mut scan)? else { return Ok(None) };
        let mut end = 0;
        let times = outline.parts.iter().map(|part| {
            let start = end;
            end += outline.shown_for(part);
            start
        });
        let times: Vec<i64> = times.collect();
        let last = outline.parts.last().map_or(0, |part| outline.shown_for(part));
        let timeline = Timeline::new(times, last, f64::from(outline.ticks_per_second))
            .ok_or_else(|| Error::format(format!("the {name} has no frames")))?;
        let info = VideoInfo {
            n_frames: timeline.n_frames(),
            fps: timeline.fps(),
            duration: timeline.duration(),
            height: outline.height as usize,
            width: outline.width as usize,
            decoder: format!("{name} (built-in)"),
        };
        Ok(Some(AnimationSource {
            info,
            name: source_name,
            format,
            file: scan.reader.into_inner(),
            outline,
            timeline,
            canvas: Vec::new(),
            next: 0,
            pending: Pending::Nothing,
            is_drawn: false,
            skipped: 0,
        }))
    }

    fn read(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames)));
        }
        let (height, width) = (self.info.height, self.info.width);
        if self.canvas.is_empty() {
            self.canvas = vec![self.outline.backdrop; height * width * 3];
        }
        let fault = self.compose(self.timeline.shown_at(index)).err();
        if !self.is_drawn {
            return Err(
                fault.unwrap_or_else(|| Error::format(format!("no frame of the {} can be decoded", self.format.name)))
            );
        }
        Ok(Rgb { height, width, data: self.canvas.clone() })
    }

    /// Brings the canvas to part `wanted`. A part that cannot be decoded is counted and leaves the canvas as it is.
    ///
    /// # Errors
    /// That of the first such part; the canvas is at `wanted` all the same.
    fn compose(&mut self, wanted: usize) -> Result<()> {
        let mut result = Ok(());
        let clears = |i: usize| {
            let part = &self.outline.parts[i];
            part.disposal == Disposal::Clear && self.outline.is_whole(part)
        };
        // What is taken back again leaves what was there before, which must be known then.
        let replaces = |i: usize| {
            let part = &self.outline.parts[i];
            part.blend == Blend::Replace && part.disposal != Disposal::Restore && self.outline.is_whole(part)
        };
        // What is painted over or cleared before anyone sees it need not be there.
        let first = (self.next + 1..=wanted).rev().find(|&i| replaces(i) || clears(i - 1));
        if let Some(first) = first {
            if clears(first - 1) {
                self.canvas.fill(self.outline.backdrop);
            }
            (self.next, self.pending) = (first, Pending::Nothing);
        }
        for i in self.next..=wanted {
            self.dispose();
            let disposal = self.outline.parts[i].disposal;
            // Nor what is taken away before anyone sees it.
            if i == wanted || disposal == Disposal::Keep {
                match self.decode(i) {
                    Ok(picture) => self.draw(i, picture),
                    Err(err) => {
                        self.skipped += 1;
                        result = result.and(Err(err));
                    }
                }
            } else if disposal == Disposal::Clear {
                self.pending = Pending::Clear(i);
            }
            self.next = i + 1;
        }
        result
    }

    /// Does what the last part left to do.
    fn dispose(&mut self) {
        let (i, saved) = match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => return,
            Pending::Clear(i) => (i, None),
            Pending::Restore(i, saved) => (i, Some(saved)),
        };
        let (rows, columns) = self.outline.place(&self.outline.parts[i]);
        let n = columns.len() * 3;
        for (r, y) in rows.enumerate() {
            let row = &mut self.canvas[(y * self.info.width + columns.start) * 3..][..n];
            match &saved {
                Some(saved) => row.copy_from_slice(&saved[r * n..][..n]),
                None => row.fill(self.outline.backdrop),
            }
        }
    }

    /// Puts a part's picture on the canvas; nothing for one without pixels.
    fn draw(&mut self, i: usize, picture: Option<DynamicImage>) {
        self.is_drawn = true;
        let Some(picture) = picture else { return };
        let part = &self.outline.parts[i];
        let (rows, columns) = self.outline.place(part);
        let n = columns.len();
        let at = |y: usize| (y * self.info.width + columns.start) * 3..(y * self.info.width + columns.end) * 3;
        self.pending = match part.disposal {
            Disposal::Keep => Pending::Nothing,
            Disposal::Clear => Pending::Clear(i),
            Disposal::Restore => {
                Pending::Restore(i, rows.clone().flat_map(|y| self.canvas[at(y)].iter().copied()).collect())
            }
        };
        let (stride, over) = (part.width as usize, part.blend == Blend::Over);
        if picture.color().has_alpha() {
            let picture = picture.into_rgba8();
            for (y, source) in rows.zip(picture.chunks_exact(stride * 4)) {
                let row = self.canvas[at(y)].as_chunks_mut::<3>().0;
                for (pixel, &[r, g, b, a]) in row.iter_mut().zip(&source.as_chunks::<4>().0[..n]) {
                    for (below, c) in pixel.iter_mut().zip([r, g, b]) {
                        *below = blend(c, a, if over { *below } else { self.outline.backdrop });
                    }
                }
            }
        } else {
            let picture = picture.into_rgb8();
            for (y, source) in rows.zip(picture.chunks_exact(stride * 3)) {
                self.canvas[at(y)].copy_from_slice(&source[..n * 3]);
            }
        }
    }

    /// Decodes one part; nothing for one without pixels.
    fn decode(&mut self, i: usize) -> Result<Option<DynamicImage>> {
        let part = &self.outline.parts[i];
        if part.height == 0 || part.width == 0 {
            return Ok(None);
        }
        check_size(u64::from(part.height), u64::from(part.width))?;
        let area = |height: u32, width: u32| u64::from(height) * u64::from(width);
        let canvas = area(self.outline.height, self.outline.width);
        if area(part.height, part.width) > canvas.max(FREE_PART_PIXELS) {
            let (part, all) = ((part.width, part.height), (self.outline.width, self.outline.height));
            return Err(Error::limit(format!("a frame of `{}x{}` on a canvas of {}x{}", part.0, part.1, all.0, all.1)));
        }
        let len = part.bytes.end.saturating_sub(part.bytes.start);
        if len > MAX_IMAGE_BYTES {
            return Err(Error::limit(format!("a frame of `{len}` bytes, expected at most {MAX_IMAGE_BYTES}")));
        }
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(part.bytes.start))?;
        (&mut self.file).take(len).read_to_end(&mut bytes)?;
        let (still, format) = ((self.format.still)(&self.outline, part, &bytes)?, self.format.still_format);
        drop(bytes);
        let failed = |err| image_error(err, format);
        guarded(|| {
            let mut decoder = ImageReader::with_format(Cursor::new(still), format).into_decoder().map_err(failed)?;
            if decoder.dimensions() != (part.width, part.height) {
                return Err(Error::format("the picture has another size than its frame"));
            }
            let mut limits = Limits::default();
            limits.max_alloc = Some(MAX_IMAGE_ALLOC);
            decoder.set_limits(limits).map_err(failed)?;
            DynamicImage::from_decoder(decoder).map(Some).map_err(failed)
        })
    }
}

impl FrameSource for AnimationSource {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        self.read(index).at(|| format!("frame {index}")).at(|| self.name.clone())
    }

    fn shown(&self, index: usize) -> Shown {
        let number = self.timeline.shown_at(index);
        let ticks: i64 = self.outline.parts[..number].iter().map(|part| self.outline.shown_for(part)).sum();
        Shown { number, seconds: ticks as f64 / f64::from(self.outline.ticks_per_second) }
    }

    fn skipped(&self) -> usize {
        self.skipped
    }
}

/// A colour of this opacity over an opaque one, to nearest.
fn blend(color: u8, alpha: u8, below: u8) -> u8 {
    let sum = u32::from(color) * u32::from(alpha) + u32::from(below) * (255 - u32::from(alpha));
    ((sum + 127) / 255) as u8
}
