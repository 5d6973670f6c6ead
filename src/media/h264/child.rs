//! OpenH264 in a process of its own: this side of the pipes.
//!
//! The child is this very program, started with [`DECODE_COMMAND`], behind the guard that external decoders have. Nothing that
//! happens to it happens to us: one that crashes, hangs, or answers with anything but pictures is stopped, and the file is an
//! error from then on.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::annexb::Picture;
use super::wire::{Answer, Request};
use crate::kernels::threads;
use crate::media::child::{Output, Process};
use crate::media::limits::DECODER_TIMEOUT_SECONDS;
use crate::{Error, ErrorKind, Result};

/// The argument with which `longtake` decodes H.264 for another process.
pub const DECODE_COMMAND: &str = "__decode-h264";
/// What can be done about a video that fells its decoder.
const WAY_OUT: &str =
    "the video is damaged or made to do harm: where you trust it, convert it (`ffmpeg -i INPUT OUTPUT.mp4`)";

/// A program that decodes H.264 for this one, so that a fault in the decoder is an error and not the end of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeDecoder {
    /// `longtake`, or another program that calls [`serve_h264`](super::serve_h264) when [`DECODE_COMMAND`] is its argument.
    pub program: PathBuf,
    /// Longest time for one picture.
    pub timeout: Duration,
}

impl SafeDecoder {
    /// `program`, with the patience that other decoders have.
    pub fn new(program: PathBuf) -> SafeDecoder {
        SafeDecoder { program, timeout: Duration::from_secs(DECODER_TIMEOUT_SECONDS) }
    }
}

/// A child that decodes one video.
pub(super) struct Remote {
    process: Process,
    answers: Output<Result<Answer, String>>,
    /// To the thread that writes into the child, which may not read.
    requests: SyncSender<Vec<u8>>,
    number: u32,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    /// Why there is no child any more.
    fault: Option<(ErrorKind, String)>,
}

impl Remote {
    /// # Errors
    /// `Io` when it does not start.
    pub(super) fn start(by: &SafeDecoder) -> Result<Remote> {
        let (process, answers) = Process::start(&by.program, &[DECODE_COMMAND], Stdio::piped(), 1, Answer::read)?;
        let mut process = process.called("the H.264 decoder");
        let Some(mut stdin) = process.stdin() else {
            return Err(process.fault("the H.264 decoder has no standard input".into()));
        };
        let (requests, waiting) = sync_channel::<Vec<u8>>(1);
        threads::builder("h264 requests").spawn(move || {
            // Until nobody asks any more. It fails when the child ends first, which its output tells.
            while waiting.recv().is_ok_and(|request| stdin.write_all(&request).is_ok()) {}
        })?;
        let (timeout, stop) = (by.timeout, Arc::default());
        Ok(Remote { process, answers, requests, number: 0, timeout, stop, fault: None })
    }

    /// A flag that makes [`Remote::decode`] give up soon.
    pub(super) fn stopper(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// What the child makes of a picture.
    ///
    /// # Errors
    /// `Io` when it has ended, says nothing for too long or answers with something else, with what can be done; `Cancelled`
    /// when it was told to stop. The child is stopped, and the error stays.
    pub(super) fn decode(&mut self, picture: &Picture, is_wanted: bool) -> Result<Answer> {
        if let Some((kind, message)) = &self.fault {
            return Err(Error::new(*kind, message.clone()));
        }
        let result = self.ask(picture, is_wanted).map_err(|err| match err.kind() {
            ErrorKind::Cancelled => err,
            kind => Error::new(kind, format!("{}; {WAY_OUT}", err.message())),
        });
        self.fault = result.as_ref().err().map(|err| (err.kind(), err.message().to_string()));
        result
    }

    fn ask(&mut self, picture: &Picture, is_wanted: bool) -> Result<Answer> {
        self.number = self.number.wrapping_add(1);
        let request = Request { number: self.number, is_wanted }.write(picture)?;
        // There is room unless the child answers without reading; a thread that is gone has found it gone.
        self.requests.try_send(request).ok();
        let stop = &self.stop;
        let stopped = || stop.load(Ordering::Relaxed);
        match self.answers.next(&mut self.process, Some(self.timeout), "picture", &stopped)? {
            Some(Ok(answer)) if answer.number == self.number => Ok(answer),
            Some(Ok(_)) => Err(self.process.fault("the H.264 decoder answers what it was not asked".into())),
            Some(Err(words)) => Err(self.process.fault(format!("the H.264 decoder {words}"))),
            None => {
                let status = self.process.finish(self.timeout)?;
                Err(self.process.fault(format!("the H.264 decoder ended with {status}")))
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Instant;

    use super::*;

    /// More than a pipe holds, to one that does not read: nobody waits for the pipe.
    #[test]
    fn writing_to_a_child_that_does_not_read_ends_in_time() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let answer = r"printf 'LTH1\001\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'";
        let second = r"printf 'LTH1\002\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'";
        for (body, n_answered) in [("".to_string(), 0), (answer.to_string(), 1), (format!("{answer}; {second}"), 2)] {
            let program = dir.path().join(format!("deaf-{n_answered}"));
            std::fs::write(&program, format!("#!/bin/sh\n{body}\nexec sleep 60\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let timeout = Duration::from_millis(500);
            let mut remote = Remote::start(&SafeDecoder { program, timeout }).unwrap();
            let picture = Picture { annex_b: vec![1; 8 << 20], ..Picture::default() };
            let started = Instant::now();
            for _ in 0..n_answered {
                assert!(!remote.decode(&picture, true).unwrap().is_damaged);
            }
            let message = remote.decode(&picture, true).unwrap_err().to_string();
            assert!(message.contains("no picture") && message.contains(WAY_OUT), "{message}");
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
            drop(remote);
        }
    }
}
