//! Everything that is not built in: `ffmpeg` and `ffprobe` as guarded child processes.
//!
//! The child gets a fixed list of arguments, no shell, no standard input, and a path that it can only take for a local file:
//! it may open nothing but local files and no playlist formats, so a video cannot make it touch the network or other files.
//! A stream ([`LivePipe`]) is its standard input, and then it may open nothing at all.
//! Its output is read frame by frame into a short queue; silence for too long, a failure or a wrong size ends it, and it is
//! killed and reaped in any case when the source is dropped. Two threads per child watch its pipes, since a pipe has no
//! timeout of its own.
//!
//! Frames are resampled in time to the average rate (see [`FrameSource`] for what an index means), turned as the file says,
//! scaled to one size should it change in mid-stream, and converted to 8 bits without tone mapping.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Rgb;
use super::child::{self, Output, Process};
use super::ffprobe::{self, Found, no_video, taken_for};
use super::limits::DECODER_TIMEOUT_SECONDS;
use super::packets::{Frames, Seek};
use super::video::{FrameSource, Shown, VideoInfo};
use crate::error::Context;
use crate::kernels::threads;
use crate::{Error, ErrorKind, Result};

/// Containers that may be opened: files with media data of their own. Left out on purpose are playlists and scripts (hls,
/// dash, concat), numbered images and everything that is not a file.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegtsraw,mpegvideo,m4v,asf,ogg,\
     rm,mxf,nut,ivf,wtv,dv,gxf,h264,hevc,obu,av1,vc1,mjpeg,yuv4mpegpipe,gif,swf,nuv,bink,amv,roq";
/// What `ffmpeg` says of an MP4 or a Matroska that ends too early.
const CUT_OFF: [&str; 2] = ["partial file", "File ended prematurely"];
/// Frames that wait in the queue.
const N_QUEUED: usize = 2;
/// Pieces of a stream's frames that wait.
const N_WAITING: usize = 16;
/// A gap between wanted frames that is worth a seek: at least so many frames and seconds.
const SEEK_FRAMES: usize = 300;
const SEEK_SECONDS: f64 = 20.0;

/// Where the external decoder is, and how patient to be with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The program that decodes.
    pub ffmpeg: PathBuf,
    /// The program that tells what a file holds.
    pub ffprobe: PathBuf,
    /// Longest silence before a child is stopped.
    pub timeout: Duration,
}

impl Tools {
    /// Both programs, when they are in a folder of the `PATH` (relative folders do not count). Nothing here looks for them
    /// unasked: who calls this wants what is installed.
    pub fn on_path() -> Option<Tools> {
        let path = std::env::var_os("PATH")?;
        let find = |name: &str| {
            let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
            std::env::split_paths(&path)
                .filter(|dir| dir.is_absolute())
                .map(|dir| dir.join(&name))
                .find(|p| p.is_file())
        };
        let timeout = Duration::from_secs(DECODER_TIMEOUT_SECONDS);
        Some(Tools { ffmpeg: find("ffmpeg")?, ffprobe: find("ffprobe")?, timeout })
    }
}

/// A video decoded by `ffmpeg`.
pub struct FfmpegSource {
    info: VideoInfo,
    path: PathBuf,
    tools: Tools,
    /// Which stream of the file is shown.
    stream: u64,
    frames: Frames,
    /// Whether the picture is shown otherwise than it is stored.
    is_turned: bool,
    /// Whether `ffmpeg` is older than its option `-fps_mode`.
    is_old: bool,
    run: Option<Run>,
    last: Option<Rgb>,
    skipped: usize,
    stop: Arc<AtomicBool>,
}

/// One child and the number of the frame that it delivers next.
struct Run {
    process: Process,
    frames: Output<Vec<u8>>,
    next: usize,
}

impl FfmpegSource {
    /// Asks `ffprobe` about a file.
    ///
    /// # Errors
    /// `Format` when it finds no video, `Limit` beyond the caps, `Io` when a tool does not start or does not answer.
    pub fn open(path: &Path, tools: &Tools) -> Result<FfmpegSource> {
        let Found { stream, codec, height, width, is_turned, frames, is_old } =
            ffprobe::find(path, tools).at(|| path.display().to_string())?;
        let info = VideoInfo {
            n_frames: frames.n_frames(),
            fps: frames.fps,
            duration: frames.duration,
            height,
            width,
            decoder: format!("ffmpeg ({codec})"),
        };
        let (path, tools) = (path.to_path_buf(), tools.clone());
        let (run, last, skipped, stop) = (None, None, 0, Arc::default());
        Ok(FfmpegSource { info, path, tools, stream, frames, is_turned, is_old, run, last, skipped, stop })
    }

    /// Starts a child that delivers from frame `first` on, to which `seek` leads; from the beginning without.
    fn start(&self, first: usize, seek: Option<&Seek>) -> Result<Run> {
        let mut args: Vec<OsString> = ["-nostdin", "-hide_banner"].map(OsString::from).to_vec();
        if let Some(seek) = seek {
            args.extend(["-ss".into(), format!("{:.6}", seek.at).into()]);
        }
        if !self.is_turned {
            // One chain of filters for all frames, which counts on when their size changes; the scaler copes, turning does not.
            args.extend(["-reinit_filter", "0"].map(OsString::from));
        }
        args.extend(input(&self.path));
        let mut filter = String::new();
        if let Some(Seek { skip, .. }) = seek.filter(|seek| seek.skip > 0.0) {
            filter = format!("trim=start={skip:.6},setpts=PTS-{skip:.6}/TB,");
        }
        if let Some(rate) = &self.frames.rate {
            // Frames that do not decode are made up for by their neighbours. After a seek the clock begins with it.
            let from = if seek.is_some() { ":start_time=0" } else { "" };
            filter.push_str(&format!("fps={rate}{from},"));
        }
        filter.push_str(&format!("scale={}:{}:flags=bicubic", self.info.width, self.info.height));
        let stream = format!("0:{}", self.stream);
        args.extend(["-map", &stream, "-an", "-sn", "-dn", "-vf"].map(OsString::from));
        args.push(filter.into());
        args.extend([if self.is_old { "-vsync" } else { "-fps_mode" }, "passthrough"].map(OsString::from));
        args.extend(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"].map(OsString::from));
        let len = self.info.height * self.info.width * 3;
        // Nothing at the end, which may be a rest shorter than a frame.
        let read = move |stdout: &mut std::process::ChildStdout| {
            let mut frame = vec![0; len];
            stdout.read_exact(&mut frame).ok().map(|()| frame)
        };
        let (process, frames) = Process::start(&self.tools.ffmpeg, &args, Stdio::null(), N_QUEUED, read)?;
        Ok(Run { process, frames, next: first })
    }

    /// The frame of this number.
    fn read(&mut self, number: usize) -> Result<Rgb> {
        let gap = SEEK_FRAMES.max((SEEK_SECONDS * self.info.fps) as usize);
        let next = self.run.as_ref().map_or(0, |run| run.next);
        let seek = if number > next.saturating_add(gap) { self.frames.seek(number) } else { None };
        if let Some(seek) = seek {
            self.run = None;
            self.run = Some(self.start(number, Some(&seek))?);
        } else if self.run.is_none() {
            self.run = Some(self.start(0, None)?);
        }
        let Some(run) = &mut self.run else { return Err(Error::format("ffmpeg is not running")) };
        let (timeout, stop) = (self.tools.timeout, &self.stop);
        let stopped = || stop.load(Ordering::Relaxed);
        let mut data = None;
        while run.next <= number {
            if let Some(frame) = run.frames.next(&mut run.process, Some(timeout), "frame", &stopped)? {
                data = Some(frame);
                run.next += 1;
                continue;
            }
            let status = run.process.finish(timeout)?;
            if !status.success() {
                return Err(run.process.fault(format!("ffmpeg ended with {status}")));
            }
            // Fewer frames than announced: the last picture stays.
            self.skipped += number + 1 - run.next;
            run.next = number + 1;
            if data.is_none() && self.last.is_none() {
                return Err(run.process.fault("ffmpeg decoded no frame".into()));
            }
        }
        if let Some(data) = data {
            self.last = Some(Rgb { height: self.info.height, width: self.info.width, data });
        }
        self.last.clone().ok_or_else(|| Error::format("ffmpeg decoded no frame"))
    }
}

impl FrameSource for FfmpegSource {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames))
                .at(self.path.display().to_string()));
        }
        let result = self.read(self.frames.shown_at(index));
        if result.as_ref().is_err_and(|err| err.kind() == ErrorKind::Cancelled) {
            self.run = None;
        }
        result.at(|| format!("frame {index}")).at(|| self.path.display().to_string())
    }

    fn shown(&self, index: usize) -> Shown {
        self.frames.shown(index)
    }

    fn skipped(&self) -> usize {
        self.skipped
    }

    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.stop))
    }
}

/// `ffmpeg` as a filter: a stream in any of the known containers goes in, sampled Y4M comes out, which is read from here.
pub struct LivePipe<'a> {
    process: Process,
    output: Output<Vec<u8>>,
    /// What came and was not read yet.
    chunk: Vec<u8>,
    n_read: usize,
    has_begun: bool,
    timeout: Duration,
    stopped: &'a dyn Fn() -> bool,
}

impl LivePipe<'_> {
    /// Starts a child that reads `input` and gives `fps` frames a second of it, all of the first one's size. A thread of
    /// its own brings the input to the child. Reading ends when `stopped` says so.
    ///
    /// # Errors
    /// `Io` when it does not start.
    pub fn start<'a>(
        tools: &Tools,
        mut input: impl Read + Send + 'static,
        fps: f64,
        stopped: &'a dyn Fn() -> bool,
    ) -> Result<LivePipe<'a>> {
        // Y4M does not say its matrix, and unlabelled pictures are read as BT.601.
        let filter = format!("fps={fps},scale=out_color_matrix=bt601:out_range=tv:flags=bicubic");
        let read = ["-nostdin", "-hide_banner", "-v", "error", "-protocol_whitelist", "pipe", "-format_whitelist"];
        let from = [FORMATS, "-i", "pipe:0", "-map", "0:V:0", "-an", "-sn", "-dn", "-vf", &filter];
        let to = ["-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-flush_packets", "1", "pipe:1"];
        let args = [&read[..], &from, &to].concat();
        let (mut process, output) = Process::start(&tools.ffmpeg, &args, Stdio::piped(), N_WAITING, child::chunk)?;
        let Some(mut stdin) = process.stdin() else {
            return Err(process.fault("ffmpeg has no standard input".into()));
        };
        threads::builder("ffmpeg input").spawn(move || {
            // It fails when the child ends first, which its output tells.
            std::io::copy(&mut input, &mut stdin).ok();
        })?;
        let (chunk, n_read, has_begun, timeout) = (Vec::new(), 0, false, tools.timeout);
        Ok(LivePipe { process, output, chunk, n_read, has_begun, timeout, stopped })
    }

    /// Waits for the child after its output has ended.
    ///
    /// # Errors
    /// `Io` with its last words when it failed.
    pub fn finish(&mut self) -> Result<()> {
        let status = self.process.finish(self.timeout)?;
        if !status.success() {
            return Err(self.process.fault(format!("ffmpeg ended with {status}")));
        }
        // It makes the best of a stream that breaks off, and says so where the container tells.
        let complaints = self.process.complaints();
        if CUT_OFF.iter().any(|words| complaints.contains(words)) {
            return Err(self.process.fault("the stream is cut off".into()));
        }
        Ok(())
    }

    /// What is wrong with its output, which answers an input that begins with `head`, with its last words; it is stopped.
    pub fn explain(&mut self, error: &Error, head: &[u8]) -> Error {
        let complaints = self.process.complaints();
        let why = if self.has_begun { None } else { unreadable(head, &complaints) };
        match why {
            Some(why) => Error::format(why),
            None => self.process.fault(format!("ffmpeg gave no whole video: {error}")),
        }
    }
}

/// A stream may be silent for as long as it likes.
impl Read for LivePipe<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.n_read == self.chunk.len() {
            let next = self.output.next(&mut self.process, None, "frame", self.stopped);
            let Some(chunk) = next.map_err(|err| std::io::Error::other(err.message().to_string()))? else {
                return Ok(0);
            };
            (self.chunk, self.n_read, self.has_begun) = (chunk, 0, true);
        }
        let n = to.len().min(self.chunk.len() - self.n_read);
        to[..n].copy_from_slice(&self.chunk[self.n_read..self.n_read + n]);
        self.n_read += n;
        Ok(n)
    }
}

/// Why `ffmpeg` makes nothing of a stream that begins with `head`, where its complaints tell.
fn unreadable(head: &[u8], complaints: &str) -> Option<String> {
    if complaints.contains("[mov,mp4")
        && (complaints.contains("partial file") || complaints.contains("moov atom not found"))
    {
        let why = "the index of this MP4 is at the end, where a pipe cannot be read from: give it as a file, or with the \
             index in front (ffmpeg -i INPUT -c copy -movflags +faststart OUTPUT)";
        return Some(why.into());
    }
    if head.starts_with(b"GIF8") {
        return Some("a GIF cannot be read from a pipe: give it as a file".into());
    }
    // "png_pipe", "webp_pipe": the readers of single pictures, which also come first at animated ones.
    if taken_for(complaints).is_some_and(|name| name.ends_with("_pipe") || name == "apng") {
        let why = "a still image, or an animated one that cannot be read from a pipe: give it as a file";
        return Some(why.into());
    }
    no_video(complaints)
}

/// Arguments that name the input: errors only, local files only, known containers only, never an option or a protocol.
pub(super) fn input(path: &Path) -> Vec<OsString> {
    let mut name = OsString::from("file:");
    name.push(path);
    let mut args: Vec<OsString> =
        ["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-i"].map(OsString::from).to_vec();
    args.push(name);
    args
}
