//! Video files: one trait for every decoder.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use image::ImageFormat;

use super::Rgb;
use super::animation::{AnimationSource, Format};
use super::ffmpeg::{FfmpegSource, Tools};
use super::folder::FolderSource;
use super::h264::SafeDecoder;
use super::image_file;
use super::mp4::Mp4Source;
use super::y4m::{self, Y4mSource};
use super::{apng, gif, webp};
use crate::error::Context;
use crate::files::input::open_regular;
use crate::{Error, ErrorKind, Result};

/// What is known of a video before its frames are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Frames in display order that the source will yield.
    pub n_frames: usize,
    /// Average frames per second.
    pub fps: f64,
    /// Seconds.
    pub duration: f64,
    /// Height of a frame in pixels, after rotation.
    pub height: usize,
    /// Width of a frame in pixels, likewise.
    pub width: usize,
    /// Container and codec, for people ("mp4/h264 (built-in)", "ffmpeg").
    pub decoder: String,
}

/// One of a video's own frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shown {
    /// Its number in display order, counted in the file.
    pub number: usize,
    /// When it appears, in seconds from the first frame.
    pub seconds: f64,
}

/// A stream of frames in display order, one at a time.
///
/// Frame `i` of `n` is the picture on screen at `i/(n-1)` of the time from the first frame to the last: for a constant rate
/// simply the `i`-th one, for an irregular one maybe the same picture several times ([`FrameSource::shown`]). Sources hold a few frames at most, whatever the video's length.
pub trait FrameSource: Send {
    /// What is known of it.
    fn info(&self) -> &VideoInfo;

    /// Decodes forward to frame `index` (which never decreases between calls) and returns it.
    fn frame(&mut self, index: usize) -> Result<Rgb>;

    /// Which of the file's own frames stands at `index`: with a constant rate, the one of that number.
    fn shown(&self, index: usize) -> Shown {
        Shown { number: index, seconds: index as f64 / self.info().fps }
    }

    /// Whether this is a list of separate pictures rather than a film: such a list is used whole
    /// ([`super::sample::SampleOptions::whole`]), and its `fps` is nominal until it is [set](FrameSource::set_rate).
    fn is_frame_list(&self) -> bool {
        false
    }

    /// Says at which rate the pictures of a list were taken; films know theirs.
    fn set_rate(&mut self, fps: f64) {
        let _ = fps;
    }

    /// Damaged packets skipped so far.
    fn skipped(&self) -> usize {
        0
    }

    /// A flag that makes [`FrameSource::frame`] give up soon with `Cancelled` once it is set, from any thread; for sources
    /// that wait for others.
    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        None
    }
}

/// Opens a video file, an animated picture, a Y4M file, or a folder of images (its frames, sorted by name).
///
/// What a file is follows from its first bytes. H.264 in MP4, GIF, animated WebP, APNG and Y4M are decoded by this program;
/// everything else, and the kinds of H.264 that the built-in decoder does not do, need others: [`Decoders::open`].
///
/// # Errors
/// `Io` for an unreadable file, `Format` for a damaged one, `Limit` beyond the caps, `Unsupported` for what is not built in:
/// the message then says what to install.
pub fn open_video(path: &Path) -> Result<Box<dyn FrameSource>> {
    open_video_with(path, None)
}

/// [`open_video`] with `ffmpeg` and `ffprobe` at `tools`, or with none.
///
/// # Errors
/// Those of [`open_video`].
pub fn open_video_with(path: &Path, tools: Option<&Tools>) -> Result<Box<dyn FrameSource>> {
    Decoders { tools: tools.cloned(), h264: None }.open(path)
}

/// Who decodes what this process does not decode itself: nobody, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoders {
    /// For everything that is not built in.
    pub tools: Option<Tools>,
    /// For the H.264 that is: a child, or else this process.
    pub h264: Option<SafeDecoder>,
}

impl Decoders {
    /// What is installed (see [`Tools::on_path`]).
    pub fn installed() -> Decoders {
        Decoders { tools: Tools::on_path(), h264: None }
    }

    /// [`open_video`] with these.
    ///
    /// # Errors
    /// Those of [`open_video`]; `Io` when the child of `h264` does not start or does not decode.
    pub fn open(&self, path: &Path) -> Result<Box<dyn FrameSource>> {
        open(path, self)
    }
}

fn open(path: &Path, Decoders { tools, h264 }: &Decoders) -> Result<Box<dyn FrameSource>> {
    let meta = std::fs::metadata(path).at(|| path.display().to_string())?;
    if meta.is_dir() {
        return Ok(Box::new(FolderSource::open(path)?));
    }
    if !meta.is_file() {
        // Asking a pipe for its first byte may wait for ever, and what was read is gone.
        let err =
            Error::bad_input("a pipe or a device, expected a file or a folder; `-` reads a stream from standard input");
        return Err(err.at(path.display().to_string()));
    }
    let built_in = match sniff(path)? {
        Some(Kind::Mp4) => Mp4Source::open(path, h264.as_ref()).map(|source| Box::new(source) as Box<dyn FrameSource>),
        Some(Kind::Y4m) => Y4mSource::open(path).map(|source| Box::new(source) as Box<dyn FrameSource>),
        Some(Kind::Animation(format)) => match AnimationSource::open(path, format)? {
            Some(source) => Ok(Box::new(source) as Box<dyn FrameSource>),
            None => return Err(still_image().at(path.display().to_string())),
        },
        None => Err(Error::unsupported("not an MP4, GIF, animated WebP, APNG or Y4M file, which are built in")
            .at(path.display().to_string())),
    };
    match (built_in, tools) {
        (Err(err), Some(tools)) if err.kind() == ErrorKind::Unsupported => {
            Ok(Box::new(FfmpegSource::open(path, tools)?))
        }
        (Err(err), None) if err.kind() == ErrorKind::Unsupported => Err(Error::unsupported(format!(
            "{}; install ffmpeg (with ffprobe) so that it is on the PATH, or convert the video to H.264 in MP4 \
             (8 bits, 4:2:0, progressive)",
            err.message()
        ))
        .at(path.display().to_string())),
        (result, _) => result,
    }
}

/// Containers that are built in.
enum Kind {
    Mp4,
    Y4m,
    /// A picture, which may turn out to be still.
    Animation(&'static Format),
}

/// Looks at the first bytes.
fn sniff(path: &Path) -> Result<Option<Kind>> {
    let mut head = Vec::new();
    let (file, _) = open_regular(path).at(|| path.display().to_string())?;
    file.take(16).read_to_end(&mut head).at(|| path.display().to_string())?;
    if head.is_empty() {
        return Err(Error::format("the file is empty").at(path.display().to_string()));
    }
    // QuickTime files may begin with any of these boxes instead of a file type.
    let first_box = head.get(4..8).unwrap_or_default();
    if image_file::is_foreign_picture(&head) {
        return Err(still_image().at(path.display().to_string()));
    }
    Ok(match first_box {
        b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip" | b"pnot" => Some(Kind::Mp4),
        _ if head.starts_with(y4m::MAGIC) => Some(Kind::Y4m),
        _ => match image_file::sniff(&head) {
            Some(ImageFormat::Gif) => Some(Kind::Animation(&gif::FORMAT)),
            Some(ImageFormat::WebP) => Some(Kind::Animation(&webp::FORMAT)),
            Some(ImageFormat::Png) => Some(Kind::Animation(&apng::FORMAT)),
            Some(_) => return Err(still_image().at(path.display().to_string())),
            None => None,
        },
    })
}

fn still_image() -> Error {
    Error::bad_input("a still image, expected a video; give it as an image instead")
}

/// What speaks for one of several tracks of a file, the most important first. Of equals the first is shown.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merit {
    /// The file says that players begin with it.
    pub is_enabled: bool,
    /// Not of a codec of single pictures, which serve as covers and thumbnails.
    pub is_film: bool,
    /// Pixels of a frame.
    pub area: u64,
}
