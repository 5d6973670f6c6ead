//! Animated GIF: frames composited by the image crate, over white where they are transparent.
//!
//! Frame count and timing come from a walk over the blocks before anything is decoded. Delays below 20 ms count as 100 ms,
//! as browsers and ffmpeg show them. GIF frames build on each other, so decoding always goes through all of them. The image
//! crate's frame iterator cannot move between threads, as a [`FrameSource`] must, so it lives on a thread of its own, one
//! frame ahead.

use std::io::Cursor;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, ImageDecoder, ImageFormat, Limits, RgbaImage};

use super::Rgb;
use super::image_file::{check_size, guarded, image_error, on_white};
use super::limits::{MAX_GIF_BYTES, MAX_GIF_FRAMES, MAX_IMAGE_ALLOC};
use super::timeline::Timeline;
use super::video::{FrameSource, VideoInfo};
use crate::error::Context;
use crate::{Error, Result};

/// GIF counts time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// Shorter delays are not meant.
const MIN_DELAY: i64 = 2;
/// What they are taken for.
const DEFAULT_DELAY: i64 = 10;

/// An animated GIF being decoded.
pub struct GifSource {
    info: VideoInfo,
    name: String,
    timeline: Timeline,
    /// Composited frames; disconnected after the last one or a panic.
    frames: Receiver<Result<RgbaImage>>,
    /// Frame that `frames` yields next.
    next: usize,
    last: Option<Rgb>,
    skipped: usize,
}

impl GifSource {
    /// Opens a file and counts its frames.
    ///
    /// # Errors
    /// `Format` for a damaged file, `Limit` beyond the caps.
    pub fn open(path: &Path) -> Result<GifSource> {
        GifSource::open_unnamed(path).at(|| path.display().to_string())
    }

    fn open_unnamed(path: &Path) -> Result<GifSource> {
        let len = std::fs::metadata(path)?.len();
        if len > MAX_GIF_BYTES {
            return Err(Error::limit(format!("a GIF of `{len}` bytes, expected at most {MAX_GIF_BYTES}")));
        }
        let bytes = std::fs::read(path)?;
        let outline = Outline::read(&bytes)?;
        check_size(outline.height, outline.width)?;
        let times = outline.delays.iter().scan(0, |at, delay| {
            let this = *at;
            *at += delay;
            Some(this)
        });
        let last = outline.delays.last().copied().unwrap_or(0);
        let timeline = Timeline::new(times.collect(), last, TICKS_PER_SECOND)
            .ok_or_else(|| Error::format("the GIF has no frames"))?;
        let (sender, frames) = sync_channel(1);
        std::thread::Builder::new().name("gif".into()).spawn(move || {
            // A closed channel means that nobody wants more.
            let send = |frame| sender.send(frame).is_ok();
            let result = guarded(|| {
                let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
                let mut limits = Limits::default();
                limits.max_alloc = Some(MAX_IMAGE_ALLOC);
                decoder.set_limits(limits).map_err(damaged)?;
                for frame in decoder.into_frames() {
                    if !send(frame.map(|frame| frame.into_buffer()).map_err(damaged)) {
                        break;
                    }
                }
                Ok(())
            });
            if let Err(err) = result {
                send(Err(err));
            }
        })?;
        let info = VideoInfo {
            n_frames: timeline.n_frames(),
            fps: timeline.fps(),
            duration: timeline.duration(),
            height: outline.height as usize,
            width: outline.width as usize,
            decoder: "gif (built-in)".into(),
        };
        let name = path.display().to_string();
        Ok(GifSource { info, name, timeline, frames, next: 0, last: None, skipped: 0 })
    }

    fn read(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames)));
        }
        let wanted = self.timeline.shown_at(index);
        let (mut rgba, mut fault) = (None, None);
        while self.next <= wanted {
            self.next += 1;
            match self.frames.recv() {
                Ok(Ok(frame)) => rgba = Some(frame),
                Ok(Err(err)) => {
                    self.skipped += 1;
                    fault.get_or_insert(err);
                }
                // The decoder stopped early: the picture stays as it was.
                Err(_) => {
                    self.skipped += wanted + 1 - (self.next - 1);
                    self.next = wanted + 1;
                }
            }
        }
        if let Some(rgba) = rgba {
            let (height, width) = (rgba.height() as usize, rgba.width() as usize);
            self.last = Some(Rgb { height, width, data: on_white(&rgba) });
        }
        let nothing = || fault.unwrap_or_else(|| Error::format("no frame of the GIF can be decoded"));
        self.last.clone().ok_or_else(nothing)
    }
}

impl FrameSource for GifSource {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        self.read(index).at(|| format!("frame {index}")).at(|| self.name.clone())
    }

    fn skipped(&self) -> usize {
        self.skipped
    }
}

fn damaged(err: image::ImageError) -> Error {
    image_error(err, ImageFormat::Gif)
}

/// What the blocks of a GIF say without decoding any picture.
pub(super) struct Outline {
    pub height: u64,
    pub width: u64,
    /// How long each frame stays, in hundredths of a second.
    pub delays: Vec<i64>,
}

impl Outline {
    /// Walks over the blocks; the end of the file is as good as the trailer.
    pub fn read(bytes: &[u8]) -> Result<Outline> {
        let head = bytes.get(..13).ok_or_else(|| Error::format("the GIF is cut off in its header"))?;
        let short = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let mut outline = Outline { width: short(6), height: short(8), delays: Vec::new() };
        let mut rest = skip_palette(&bytes[13..], head[10]);
        let mut delay = 0;
        while let Some((&kind, after)) = rest.split_first() {
            rest = match kind {
                0x21 => {
                    let Some((&label, body)) = after.split_first() else { break };
                    if let (0xF9, Some(&[low, high])) = (label, body.get(2..4)) {
                        delay = i64::from(u16::from_le_bytes([low, high]));
                    }
                    skip_blocks(body)
                }
                0x2C => {
                    if outline.delays.len() == MAX_GIF_FRAMES {
                        return Err(Error::limit(format!("the GIF has more than {MAX_GIF_FRAMES} frames")));
                    }
                    outline.delays.push(if delay < MIN_DELAY { DEFAULT_DELAY } else { delay });
                    delay = 0;
                    let Some((descriptor, body)) = after.split_at_checked(9) else { break };
                    // One byte of code size comes before the data.
                    skip_blocks(skip_palette(body, descriptor[8]).get(1..).unwrap_or_default())
                }
                _ => break,
            };
        }
        Ok(outline)
    }
}

/// Leaves out the colour table that `flags` announce.
fn skip_palette(bytes: &[u8], flags: u8) -> &[u8] {
    let len = if flags & 0x80 != 0 { 3usize << ((flags & 7) + 1) } else { 0 };
    bytes.get(len..).unwrap_or_default()
}

/// Leaves out data blocks up to and including the empty one that ends them.
fn skip_blocks(mut bytes: &[u8]) -> &[u8] {
    while let Some((&len, rest)) = bytes.split_first() {
        bytes = rest.get(usize::from(len)..).unwrap_or_default();
        if len == 0 {
            break;
        }
    }
    bytes
}
