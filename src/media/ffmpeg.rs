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

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Rgb;
use super::image_file::check_size;
use super::limits::{DECODER_TIMEOUT_SECONDS, MAX_FPS, MAX_FRAMES};
use super::video::{FrameSource, VideoInfo};
use crate::error::Context;
use crate::kernels::threads;
use crate::{Error, Result};

/// Containers that may be opened: files with media data of their own. Left out on purpose are playlists and scripts (hls,
/// dash, concat), numbered images and everything that is not a file.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegtsraw,mpegvideo,m4v,asf,ogg,\
     rm,mxf,nut,ivf,wtv,dv,gxf,h264,hevc,obu,av1,vc1,mjpeg,yuv4mpegpipe,gif,swf,nuv,bink,amv,roq";
/// Frames that wait in the queue.
const N_QUEUED: usize = 2;
/// Time between looks at the flag that says stop.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Bytes of a child's complaints that are kept.
const MAX_COMPLAINT: usize = 2048;
/// Bytes that `ffprobe` may answer.
const MAX_ANSWER: u64 = 1 << 20;
/// A gap between wanted frames that is worth a seek: at least so many frames and seconds.
const SEEK_FRAMES: usize = 300;
const SEEK_SECONDS: f64 = 20.0;
/// How far before the wanted frame decoding begins after a seek, so that a picture that stays on screen is not missed.
const SEEK_MARGIN_SECONDS: f64 = 2.0;

/// Where the external decoder is, and how patient to be with it.
#[derive(Debug, Clone)]
pub struct Tools {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
    /// Longest silence before a child is stopped.
    pub timeout: Duration,
}

impl Tools {
    /// Both programs, when they are in a folder of the `PATH` (relative folders do not count).
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
    /// Frames per second as `ffmpeg` wants it.
    rate: String,
    run: Option<Run>,
    last: Option<Rgb>,
    skipped: usize,
    stop: Arc<AtomicBool>,
}

/// One child and the frame it delivers next.
struct Run {
    process: Process,
    frames: Receiver<Vec<u8>>,
    next: usize,
}

impl FfmpegSource {
    /// Asks `ffprobe` about a file.
    ///
    /// # Errors
    /// `Format` when it finds no video, `Limit` beyond the caps, `Io` when a tool does not start or does not answer.
    pub fn open(path: &Path, tools: &Tools) -> Result<FfmpegSource> {
        FfmpegSource::open_unnamed(path, tools).at(|| path.display().to_string())
    }

    fn open_unnamed(path: &Path, tools: &Tools) -> Result<FfmpegSource> {
        let entries = "stream=codec_name,width,height,avg_frame_rate,r_frame_rate,duration,nb_frames:\
             stream_side_data=rotation:stream_tags=rotate,DURATION:format=duration";
        let answer = probe(path, tools, &["-show_entries", entries], tools.timeout)?;
        let stream = &answer["streams"][0];
        let side = |name: &str| stream[name].as_u64().unwrap_or(0);
        if stream.is_null() {
            return Err(Error::format("ffprobe finds no video in the file"));
        }
        check_size(side("height"), side("width"))?;
        let (mut height, mut width) = (side("height") as usize, side("width") as usize);
        if is_turned(stream) {
            (height, width) = (width, height);
        }
        let (fps, rate) = ["avg_frame_rate", "r_frame_rate"]
            .iter()
            .find_map(|name| rate(stream[*name].as_str()?))
            .unwrap_or((25.0, "25".into()));
        let seconds = [&stream["duration"], &stream["tags"]["DURATION"], &answer["format"]["duration"]]
            .into_iter()
            .find_map(|value| seconds(value.as_str()?));
        let counted = number(&stream["nb_frames"]).filter(|&n| n > 0);
        let n_frames = match (counted, seconds) {
            (Some(n), _) => n as f64,
            (None, Some(seconds)) => (seconds * fps).round().max(1.0),
            // Live recordings have neither: count packets, which reads the file but decodes nothing.
            (None, None) => {
                let wanted = ["-count_packets", "-show_entries", "stream=nb_read_packets"];
                let answer = probe(path, tools, &wanted, tools.timeout.saturating_mul(10))?;
                number(&answer["streams"][0]["nb_read_packets"]).unwrap_or(0) as f64
            }
        };
        if n_frames > MAX_FRAMES as f64 {
            return Err(Error::limit(format!("the video has `{n_frames}` frames, expected at most {MAX_FRAMES}")));
        }
        if n_frames < 1.0 {
            return Err(Error::format("the video has no frames"));
        }
        let codec: String = stream["codec_name"].as_str().unwrap_or("unknown").chars().take(20).collect();
        let n_frames = n_frames as usize;
        let info = VideoInfo {
            n_frames,
            fps,
            duration: n_frames as f64 / fps,
            height,
            width,
            decoder: format!("ffmpeg ({codec})"),
        };
        let (path, tools) = (path.to_path_buf(), tools.clone());
        Ok(FfmpegSource { info, path, tools, rate, run: None, last: None, skipped: 0, stop: Arc::default() })
    }

    /// Starts a child that delivers from frame `first` on.
    fn start(&self, first: usize) -> Result<Run> {
        let mut args: Vec<OsString> = ["-nostdin", "-hide_banner"].map(OsString::from).to_vec();
        if first > 0 {
            // A quarter of an interval early, so that rounding cannot lose the frame nor catch the one before.
            let time = (first as f64 - 0.25) / self.info.fps;
            args.extend(["-ss".into(), format!("{time:.6}").into()]);
        }
        args.extend(input(&self.path));
        let filter = format!("fps={},scale={}:{}:flags=bicubic", self.rate, self.info.width, self.info.height);
        args.extend(["-map", "0:V:0", "-an", "-sn", "-dn", "-vf"].map(OsString::from));
        args.push(filter.into());
        args.extend(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"].map(OsString::from));
        let (process, mut stdout) = Process::start(&self.tools.ffmpeg, &args, Stdio::null())?;
        let (sender, frames) = sync_channel(N_QUEUED);
        let len = self.info.height * self.info.width * 3;
        threads::builder("ffmpeg output").spawn(move || {
            loop {
                let mut frame = vec![0; len];
                // The end, a rest shorter than a frame, or nobody who listens.
                if stdout.read_exact(&mut frame).is_err() || sender.send(frame).is_err() {
                    return;
                }
            }
        })?;
        Ok(Run { process, frames, next: first })
    }

    fn read(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames)));
        }
        let gap = SEEK_FRAMES.max((SEEK_SECONDS * self.info.fps) as usize);
        let next = self.run.as_ref().map_or(0, |run| run.next);
        if self.run.is_none() || index > next.saturating_add(gap) {
            let margin = (SEEK_MARGIN_SECONDS * self.info.fps) as usize;
            let first = if index > next.saturating_add(gap) { index.saturating_sub(margin) } else { 0 };
            self.run = None;
            self.run = Some(self.start(first)?);
        }
        let Some(run) = &mut self.run else { return Err(Error::format("ffmpeg is not running")) };
        let mut data = None;
        let mut waiting_since = Instant::now();
        while run.next <= index {
            match run.frames.recv_timeout(self.tools.timeout.min(LOOK_UP)) {
                Ok(frame) => {
                    data = Some(frame);
                    run.next += 1;
                    waiting_since = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) if self.stop.load(Ordering::Relaxed) => {
                    self.run = None;
                    return Err(Error::new(crate::ErrorKind::Cancelled, "stopped on request"));
                }
                Err(RecvTimeoutError::Timeout) if waiting_since.elapsed() < self.tools.timeout => {}
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.tools.timeout.as_secs_f64();
                    return Err(run
                        .process
                        .fault(format!("no frame from ffmpeg in {seconds} seconds, it was stopped")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = run.process.finish(self.tools.timeout)?;
                    if !status.success() {
                        return Err(run.process.fault(format!("ffmpeg ended with {status}")));
                    }
                    // Fewer frames than announced: the last picture stays.
                    self.skipped += index + 1 - run.next;
                    run.next = index + 1;
                    if data.is_none() && self.last.is_none() {
                        return Err(run.process.fault("ffmpeg decoded no frame".into()));
                    }
                }
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
        self.read(index).at(|| format!("frame {index}")).at(|| self.path.display().to_string())
    }

    fn skipped(&self) -> usize {
        self.skipped
    }

    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.stop))
    }
}

/// `ffmpeg` as a filter: a stream in any of the known containers goes in, sampled Y4M comes out.
pub struct LivePipe {
    process: Process,
    timeout: Duration,
}

impl LivePipe {
    /// Starts a child that reads `input` and gives `fps` frames a second of it, all of the first one's size. A thread of
    /// its own brings the input to the child.
    ///
    /// # Errors
    /// `Io` when it does not start.
    pub fn start(tools: &Tools, mut input: impl Read + Send + 'static, fps: f64) -> Result<(LivePipe, ChildStdout)> {
        // Y4M does not say its matrix, and unlabelled pictures are read as BT.601.
        let filter = format!("fps={fps},scale=out_color_matrix=bt601:out_range=tv:flags=bicubic");
        let read = ["-nostdin", "-hide_banner", "-v", "error", "-protocol_whitelist", "pipe", "-format_whitelist"];
        let from = [FORMATS, "-i", "pipe:0", "-map", "0:V:0", "-an", "-sn", "-dn", "-vf", &filter];
        let to = ["-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-flush_packets", "1", "pipe:1"];
        let (mut process, stdout) = Process::start(&tools.ffmpeg, &[&read[..], &from, &to].concat(), Stdio::piped())?;
        let Some(mut stdin) = process.child.stdin.take() else {
            return Err(process.fault("ffmpeg has no standard input".into()));
        };
        threads::builder("ffmpeg input").spawn(move || {
            // It fails when the child ends first, which its output tells.
            std::io::copy(&mut input, &mut stdin).ok();
        })?;
        Ok((LivePipe { process, timeout: tools.timeout }, stdout))
    }

    /// Waits for the child after its output has ended.
    ///
    /// # Errors
    /// `Io` with its last words when it failed.
    pub fn finish(&mut self) -> Result<()> {
        let status = self.process.finish(self.timeout)?;
        if status.success() { Ok(()) } else { Err(self.process.fault(format!("ffmpeg ended with {status}"))) }
    }

    /// What is wrong with its output, with its last words; it is stopped.
    pub fn explain(&mut self, error: &Error) -> Error {
        self.process.fault(format!("ffmpeg gave no whole video: {error}"))
    }
}

/// Arguments that name the input: errors only, local files only, known containers only, never an option or a protocol.
fn input(path: &Path) -> Vec<OsString> {
    let mut name = OsString::from("file:");
    name.push(path);
    let mut args: Vec<OsString> =
        ["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-i"].map(OsString::from).to_vec();
    args.push(name);
    args
}

/// What `ffprobe` says about the first video stream (covers of music files do not count).
fn probe(path: &Path, tools: &Tools, wanted: &[&str], timeout: Duration) -> Result<Value> {
    let mut args: Vec<OsString> = ["-select_streams", "V:0", "-of", "json"].map(OsString::from).to_vec();
    args.extend(wanted.iter().map(OsString::from));
    args.extend(input(path));
    let (mut process, stdout) = Process::start(&tools.ffprobe, &args, Stdio::null())?;
    let (sender, answer) = sync_channel(1);
    threads::builder("ffprobe output").spawn(move || {
        let mut text = Vec::new();
        let result = stdout.take(MAX_ANSWER).read_to_end(&mut text).map(|_| text);
        // Whoever asked may have stopped waiting.
        sender.send(result).ok();
    })?;
    let Ok(text) = answer.recv_timeout(timeout) else {
        return Err(
            process.fault(format!("no answer from ffprobe in {} seconds, it was stopped", timeout.as_secs_f64()))
        );
    };
    let status = process.finish(timeout)?;
    if !status.success() {
        let fault = process.fault(format!("ffprobe ended with {status}"));
        return Err(Error::format(fault.message().to_string()));
    }
    serde_json::from_slice(&text?).map_err(|_| Error::format("ffprobe gave an answer that is not JSON"))
}

/// A child that does not outlive this value.
pub(super) struct Process {
    child: Child,
    complaints: Arc<Mutex<VecDeque<u8>>>,
}

impl Process {
    pub(super) fn start(program: &Path, args: &[impl AsRef<OsStr>], stdin: Stdio) -> Result<(Process, ChildStdout)> {
        let name = || program.display().to_string();
        let mut command = Command::new(program);
        command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().at(name)?;
        let mut process = Process { child, complaints: Arc::default() };
        let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
        let (Some(stdout), Some(mut stderr)) = (stdout, stderr) else {
            return Err(Error::new(crate::ErrorKind::Io, "the child has no pipes").at(name()));
        };
        let complaints = Arc::clone(&process.complaints);
        threads::builder("child complaints").spawn(move || {
            let mut chunk = [0u8; 512];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                let Ok(mut kept) = complaints.lock() else { return };
                // Writing to a queue in memory cannot fail.
                kept.write_all(&chunk[..n]).ok();
                let extra = kept.len().saturating_sub(MAX_COMPLAINT);
                kept.drain(..extra);
            }
        })?;
        Ok((process, stdout))
    }

    /// Waits for the end, for so long; then makes one.
    pub(super) fn finish(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.stop();
                return Err(self.fault("the decoder closed its output but did not end, it was stopped".into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        // Both fail only when the child is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// An error with the last thing the child said.
    pub(super) fn fault(&mut self, what: String) -> Error {
        let words = self.last_words();
        let detail = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        Error::new(crate::ErrorKind::Io, format!("{what}{detail}"))
    }
}

impl Process {
    /// Ends the child; the last thing it said.
    pub(super) fn last_words(&mut self) -> String {
        self.stop();
        // They may still be on their way through the pipe.
        std::thread::sleep(Duration::from_millis(20));
        let said = self.complaints.lock().map(|kept| kept.iter().copied().collect::<Vec<u8>>()).unwrap_or_default();
        last_words(&String::from_utf8_lossy(&said))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The last line of a child's complaints, without the names of objects in its memory (`[h264 @ 0x55…]`).
fn last_words(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = match (line.starts_with('['), line.split_once("] ")) {
        (true, Some((_, rest))) => rest,
        _ => line,
    };
    let words = line.split_whitespace().filter(|word| !word.contains("0x"));
    words.collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
}

/// `N/D` as frames per second, and in the form to pass on.
fn rate(text: &str) -> Option<(f64, String)> {
    let (n, d) = text.split_once('/')?;
    let (n, d) = (n.parse::<u32>().ok()?, d.parse::<u32>().ok()?);
    let fps = f64::from(n) / f64::from(d);
    (fps > 0.0 && fps <= MAX_FPS).then(|| (fps, format!("{n}/{d}")))
}

/// Seconds from a plain number or `HH:MM:SS.fraction`.
fn seconds(text: &str) -> Option<f64> {
    let total = text.split(':').try_fold(0.0, |total, part| Some(total * 60.0 + part.trim().parse::<f64>().ok()?))?;
    (total > 0.0 && total.is_finite()).then_some(total)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Whether height and width change places on display.
fn is_turned(stream: &Value) -> bool {
    let side_data = stream["side_data_list"].as_array().into_iter().flatten();
    let angle = side_data.filter_map(|data| data["rotation"].as_f64()).next();
    let angle = angle.or_else(|| stream["tags"]["rotate"].as_str()?.parse().ok());
    angle.is_some_and(|angle| (angle.rem_euclid(180.0) - 90.0).abs() < 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_tidied() {
        let text = "[h264 @ 0x55d5c8f0a2c0] Missing reference\n[mov @ 0x7ffe0] moov atom not found at 0x7fffffff\n\n";
        assert_eq!(last_words(text), "moov atom not found at");
        assert_eq!(last_words(""), "");
        assert_eq!(last_words(&"x\u{7}".repeat(500)).len(), 200);
    }

    #[test]
    fn answers_are_read_with_care() {
        assert_eq!(rate("30000/1001").map(|r| r.1), Some("30000/1001".into()));
        for bad in ["0/0", "1/0", "0/1", "-1/1", "x/1", "25", "5000/1", "1/99999999999"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
        assert_eq!(seconds("00:01:30.500000000"), Some(90.5));
        assert_eq!(seconds("8.5"), Some(8.5));
        for bad in ["N/A", "", "-3", "nan", "inf"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
