//! Streams of unknown length: a pipe, a camera.
//!
//! A thread reads the stream, takes frames at a constant step in time and hands them over one at a time; what lies between is
//! read past and not converted. While nobody takes a frame the thread waits, and with it whoever writes into the pipe, so
//! memory is a few frames whatever the length. The thread is never joined: a read from a silent pipe cannot be ended, but
//! nobody has to wait for it.
//!
//! Y4M, known by its first bytes, is read by this program. Everything else goes through `ffmpeg`, which samples, brings every
//! frame to the size of the first one, and gives Y4M.

use std::io::{BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::Rgb;
use super::ffmpeg::{LivePipe, Tools};
use super::limits::MAX_FPS;
use super::y4m::{self, Y4mStream};
use crate::error::Context;
use crate::kernels::threads;
use crate::{Error, ErrorKind, Result};

/// How often a wait looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// What is known of a stream from its beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveInfo {
    /// Height of a frame in pixels.
    pub height: usize,
    /// Width of a frame in pixels.
    pub width: usize,
    /// Frames per second of the source, where the frame indices count its frames.
    pub fps: f64,
    /// Frames of the source from one taken frame to the next, at least 1: frame `k` taken is number `round(k * step)`.
    pub step: f64,
    /// Format and reader, for people ("y4m (built-in)").
    pub decoder: String,
}

impl LiveInfo {
    /// The number in the source of the `k`-th frame taken.
    pub fn index(&self, k: u64) -> u64 {
        (k as f64 * self.step).round() as u64
    }

    /// Frames taken per second.
    pub fn taken_fps(&self) -> f64 {
        self.fps / self.step
    }
}

/// What the reading thread says; after an error or the end it says nothing more.
enum Said {
    Begins(LiveInfo),
    Frame(Rgb),
    Failed(Error),
}

/// A stream being read.
pub struct LiveSource {
    info: LiveInfo,
    label: String,
    said: Receiver<Said>,
    _is_left: Left,
}

/// Tells the reading thread, which may be waiting for others, that nobody listens any more.
#[derive(Default)]
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl LiveSource {
    /// Begins to read `reader`, called `label`, for `fps` frames a second (Y4M with fewer: all of them). Waits for the
    /// stream's header until `stopped` says that nobody wants it any more.
    ///
    /// # Errors
    /// `Format` for a stream without a whole header, `Limit` beyond the caps, `Unsupported` when ffmpeg is needed but not
    /// there, `Cancelled` when stopped; each with the label.
    pub fn open(
        reader: impl Read + Send + 'static,
        label: &str,
        fps: f64,
        tools: Option<Tools>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<LiveSource> {
        if !(fps > 0.0 && fps <= MAX_FPS) {
            return Err(Error::bad_input(format!("fps `{fps}` is not above 0 and at most {MAX_FPS}")));
        }
        // A frame that waits, besides the one that is read and the one that was handed over.
        let (sender, said) = sync_channel(1);
        let is_left = Left::default();
        let flag = Arc::clone(&is_left.0);
        threads::builder("stream").spawn(move || {
            let is_left = || flag.load(Ordering::Relaxed);
            if let Err(error) = read(reader, fps, tools.as_ref(), &sender, &is_left) {
                // Whoever listened may be gone.
                sender.send(Said::Failed(error)).ok();
            }
        })?;
        match wait(&said, stopped) {
            Some(Said::Begins(info)) => Ok(LiveSource { info, label: label.to_string(), said, _is_left: is_left }),
            Some(Said::Failed(error)) => Err(error),
            Some(Said::Frame(_)) => Err(Error::format("a frame came before the header")),
            None if stopped() => Err(Error::new(ErrorKind::Cancelled, "stopped before the stream began")),
            None => Err(Error::format("the stream ended before it began")),
        }
        .at(|| label.to_string())
    }

    /// What is known of it.
    pub fn info(&self) -> &LiveInfo {
        &self.info
    }

    /// The next frame; nothing at the end of the stream, or when `stopped` says so while it waits.
    ///
    /// # Errors
    /// A frame that is cut off, or what else is wrong with the stream, with its label.
    pub fn next(&mut self, stopped: &dyn Fn() -> bool) -> Result<Option<Rgb>> {
        match wait(&self.said, stopped) {
            Some(Said::Frame(frame)) => Ok(Some(frame)),
            Some(Said::Failed(error)) => Err(error).at(|| self.label.clone()),
            Some(Said::Begins(_)) | None => Ok(None),
        }
    }
}

/// The next word, or nothing at the end or when stopped.
fn wait(said: &Receiver<Said>, stopped: &dyn Fn() -> bool) -> Option<Said> {
    loop {
        match said.recv_timeout(LOOK) {
            Ok(word) => return Some(word),
            Err(RecvTimeoutError::Timeout) if !stopped() => {}
            Err(_) => return None,
        }
    }
}

/// The reading thread: recognises the stream and reads it to its end.
fn read(
    mut reader: impl Read + Send + 'static,
    fps: f64,
    tools: Option<&Tools>,
    to: &SyncSender<Said>,
    is_left: &dyn Fn() -> bool,
) -> Result<()> {
    let mut head = Vec::new();
    (&mut reader).take(y4m::MAGIC.len() as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Err(Error::format("the stream is empty"));
    }
    let is_y4m = head == y4m::MAGIC;
    let whole = Cursor::new(head.clone()).chain(reader);
    if is_y4m {
        let stream = Y4mStream::new(BufReader::new(whole)).at(|| "Y4M header".to_string())?;
        let step = (stream.fps() / fps).max(1.0);
        return take_frames(stream, step, "y4m (built-in)", to).map(drop);
    }
    let tools = tools.ok_or_else(|| {
        Error::unsupported(
            "not a Y4M stream; install ffmpeg so that it is on the PATH, or convert it: ffmpeg -i INPUT -f yuv4mpegpipe -",
        )
    })?;
    let mut pipe = LivePipe::start(tools, whole, fps, is_left)?;
    // It samples by the time stamps of the frames.
    let taken = Y4mStream::new(BufReader::new(&mut pipe)).and_then(|stream| take_frames(stream, 1.0, "ffmpeg", to));
    match taken {
        Ok(true) => pipe.finish(),
        // Nobody listens any more; the child goes with the pipe.
        Ok(false) => Ok(()),
        Err(error) => Err(pipe.explain(&error, &head)),
    }
}

/// Sends header and sampled frames; whether somebody listened to the end.
fn take_frames<R: std::io::BufRead>(
    mut stream: Y4mStream<R>,
    step: f64,
    decoder: &str,
    to: &SyncSender<Said>,
) -> Result<bool> {
    let (height, width) = stream.size();
    let info = LiveInfo { height, width, fps: stream.fps(), step, decoder: decoder.to_string() };
    if to.send(Said::Begins(info.clone())).is_err() {
        return Ok(false);
    }
    let (mut n_read, mut n_taken) = (0u64, 0u64);
    while stream.advance()? {
        if n_read == info.index(n_taken) {
            n_taken += 1;
            if to.send(Said::Frame(stream.rgb())).is_err() {
                return Ok(false);
            }
        }
        n_read += 1;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of grey frames, frame `i` of the value `i`.
    fn grey(header: &str, n: usize) -> Vec<u8> {
        let mut bytes = format!("YUV4MPEG2 W4 H2 {header} Cmono XCOLORRANGE=FULL\n").into_bytes();
        for i in 0..n {
            bytes.extend(b"FRAME\n");
            bytes.extend([i as u8; 8]);
        }
        bytes
    }

    fn open(bytes: Vec<u8>, fps: f64) -> Result<LiveSource> {
        LiveSource::open(Cursor::new(bytes), "standard input", fps, None, &|| false)
    }

    /// The grey values of all frames, and what went wrong after them.
    fn values(bytes: Vec<u8>, fps: f64) -> (Vec<u8>, Option<String>) {
        let (mut source, mut values) = (open(bytes, fps).unwrap(), Vec::new());
        loop {
            match source.next(&|| false) {
                Ok(Some(frame)) => values.push(frame.data[0]),
                Ok(None) => return (values, None),
                Err(err) => return (values, Some(err.to_string())),
            }
        }
    }

    #[test]
    fn frames_are_taken_at_a_constant_step() {
        let source = open(grey("F10:1", 3), 2.0).unwrap();
        assert_eq!((source.info().height, source.info().width, source.info().taken_fps()), (2, 4, 2.0));
        assert_eq!(values(grey("F10:1", 21), 2.0).0, [0, 5, 10, 15, 20]);
        assert_eq!(values(grey("F5:1", 9), 2.0).0, [0, 3, 5, 8]);
        assert_eq!(values(grey("F1:1", 4), 2.0).0, [0, 1, 2, 3], "no frame is taken twice");
        assert_eq!(values(grey("F1:1", 0), 2.0), (vec![], None));
    }

    #[test]
    fn damage_is_named_and_what_came_before_it_stays() {
        let whole = grey("F1:1", 3);
        let header = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in 0..header {
            let err = open(whole[..cut].to_vec(), 1.0).err().expect("no header").to_string();
            assert!(err.contains("standard input"), "{err}");
        }
        for cut in header..whole.len() {
            let (values, err) = values(whole[..cut].to_vec(), 1.0);
            assert_eq!(values.len(), (cut - header) / 14, "cut at {cut}");
            let clean = (cut - header).is_multiple_of(14);
            let named = err.as_ref().is_some_and(|err| err.contains("standard input") && err.contains("frame"));
            assert!(err.is_none() == clean && named != clean, "cut at {cut}: {err:?}");
        }
        let mut changed = whole.clone();
        changed.extend(grey("F2:1", 1));
        assert!(values(changed, 1.0).1.unwrap().contains("frame 3: another Y4M header"));
        let mut garbage = whole.clone();
        garbage.extend(vec![b'x'; 100_000]);
        assert!(values(garbage, 1.0).1.unwrap().contains("longer than"));
        let huge = b"YUV4MPEG2 W8192 H8192 F1:1 C444\nFRAME\nshort".to_vec();
        assert!(values(huge, 1.0).1.unwrap().contains("cut off after `5`"));
        let err = open(b"no video at all".to_vec(), 1.0).err().unwrap().to_string();
        assert!(err.contains("ffmpeg"), "{err}");
        assert!(open(whole, 0.0).is_err());
    }

    /// A reader that never says anything.
    struct Silent;

    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }
    }

    #[test]
    fn a_silent_stream_can_be_left() {
        let err = LiveSource::open(Silent, "standard input", 1.0, None, &|| true).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::Cancelled);
        let reader = Cursor::new(grey("F1:1", 1)).chain(Silent);
        let mut source = LiveSource::open(reader, "standard input", 1.0, None, &|| false).unwrap();
        assert!(source.next(&|| false).unwrap().is_some());
        assert!(source.next(&|| true).unwrap().is_none());
    }
}
