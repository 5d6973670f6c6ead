//! Child processes that do not outlive their use: nor do their own children.
//!
//! A child leads a process group of its own, which is killed whole on every way out: when it has ended by itself (whatever it
//! left behind), when it is silent for too long, and when its [`Process`] is dropped. Ends of this process that drop nothing
//! call [`kill_children`]. A thread reads each pipe, since a pipe has no timeout of its own; nobody waits for these threads,
//! so that a stranger who keeps a pipe open keeps nothing else: the output of a child that has ended is over soon after it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Context;
use crate::kernels::threads;
use crate::{Error, ErrorKind, Result};

/// Time between looks at whether there is still something to wait for.
const LOOK_UP: Duration = Duration::from_millis(50);
/// How long output may be on its way after its writer has ended.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes of a child's complaints that are kept.
const MAX_COMPLAINT: usize = 2048;
/// Bytes that are read at once of output that has no units of its own.
const CHUNK: usize = 1 << 16;

/// Children that run, by process id; whoever is here has not been reaped, so that its id is nobody else's.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Kills the external decoders that run, with all they started: for ends of this process that drop nothing.
pub fn kill_children() {
    for id in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        kill_group(*id);
    }
}

/// Kills a child's process group; fails only when all of it is gone.
fn kill_group(id: u32) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    }
    #[cfg(not(unix))]
    let _ = id;
}

/// A child that does not outlive this value.
pub(super) struct Process {
    child: Child,
    /// What it is called in errors.
    name: String,
    complaints: Arc<Mutex<VecDeque<u8>>>,
    is_reaped: bool,
}

impl Process {
    /// Starts `program`, whose output a thread turns into items with `next`, which gives nothing at the end. At most
    /// `n_waiting` items wait.
    ///
    /// # Errors
    /// `Io` when it does not start.
    pub(super) fn start<T: Send + 'static>(
        program: &Path,
        args: &[impl AsRef<OsStr>],
        stdin: Stdio,
        n_waiting: usize,
        mut next: impl FnMut(&mut ChildStdout) -> Option<T> + Send + 'static,
    ) -> Result<(Process, Output<T>)> {
        let at = || program.display().to_string();
        let mut command = Command::new(program);
        command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            let child = command.spawn().at(at)?;
            running.push(child.id());
            child
        };
        let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut process = Process { child, name, complaints: Arc::default(), is_reaped: false };
        let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
        let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
            return Err(Error::new(ErrorKind::Io, "the child has no pipes").at(at()));
        };
        let complaints = Arc::clone(&process.complaints);
        threads::builder(&format!("{} errors", process.name)).spawn(move || {
            let mut chunk = [0u8; 512];
            while let Ok(n @ 1..) = stderr.read(&mut chunk) {
                let Ok(mut kept) = complaints.lock() else { return };
                // Writing to a queue in memory cannot fail.
                kept.write_all(&chunk[..n]).ok();
                let extra = kept.len().saturating_sub(MAX_COMPLAINT);
                kept.drain(..extra);
            }
        })?;
        let (sender, items) = sync_channel(n_waiting);
        threads::builder(&format!("{} output", process.name)).spawn(move || {
            // Until the end, or until nobody listens.
            while let Some(item) = next(&mut stdout) {
                if sender.send(item).is_err() {
                    return;
                }
            }
        })?;
        Ok((process, Output { items, is_over: false }))
    }

    /// The same, called `name` in errors.
    pub(super) fn called(self, name: &str) -> Process {
        let mut process = self;
        process.name = name.into();
        process
    }

    /// The pipe into the child, once, if it has one.
    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Whether it has ended. It is not reaped, so that its process group keeps its number.
    fn has_ended(&mut self) -> bool {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            // There is nothing to wait for where asking fails.
            self.is_reaped
                || id.is_none_or(|id| waitid(WaitId::Pid(id), options).map_or(true, |status| status.is_some()))
        }
        #[cfg(not(unix))]
        self.child.try_wait().map_or(true, |status| status.is_some())
    }

    /// Waits for the end, for so long; then makes one. Whatever the child has started ends with it.
    ///
    /// # Errors
    /// A child that has closed its output and goes on.
    pub(super) fn finish(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return Err(self.fault(format!("{} closed its output but did not end, it was stopped", self.name)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.stop();
        // Kept by the child since it was reaped.
        Ok(self.child.wait()?)
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.is_reaped, true) {
            return;
        }
        kill_group(self.child.id());
        // Both fail only when the child is gone already.
        self.child.kill().ok();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| *id != self.child.id());
        self.child.wait().ok();
    }

    /// An error with the last thing the child said; it is stopped.
    pub(super) fn fault(&mut self, what: String) -> Error {
        let said = self.complaints();
        let words = last_words(&said);
        let detail = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        Error::new(ErrorKind::Io, format!("{what}{detail}"))
    }

    /// What the child said last, as it came, at most [`MAX_COMPLAINT`] bytes; it is stopped.
    pub(super) fn complaints(&mut self) -> String {
        self.stop();
        // Its last words may still be on their way through the pipe.
        std::thread::sleep(Duration::from_millis(20));
        let said = self.complaints.lock().map(|kept| kept.iter().copied().collect::<Vec<u8>>()).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a child writes, in items.
pub(super) struct Output<T> {
    items: Receiver<T>,
    is_over: bool,
}

impl<T> Output<T> {
    /// The next item, or nothing at the end. The output ends with the child, even when somebody else keeps the pipe open.
    ///
    /// # Errors
    /// `Io` when `process` lives and says nothing for `patience`, where `what` was expected; `Cancelled` when `stopped` says
    /// so. The child is stopped.
    pub(super) fn next(
        &mut self,
        process: &mut Process,
        patience: Option<Duration>,
        what: &str,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<T>> {
        let (began, mut ended) = (Instant::now(), None);
        while !self.is_over {
            match self.items.recv_timeout(patience.map_or(LOOK_UP, |limit| limit.min(LOOK_UP))) {
                Ok(item) => return Ok(Some(item)),
                Err(RecvTimeoutError::Disconnected) => self.is_over = true,
                Err(RecvTimeoutError::Timeout) if stopped() => {
                    process.stop();
                    return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
                }
                Err(RecvTimeoutError::Timeout) if process.has_ended() => {
                    if ended.is_none() {
                        kill_group_of(process);
                    }
                    self.is_over = ended.get_or_insert_with(Instant::now).elapsed() >= GRACE;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(limit) = patience.filter(|limit| began.elapsed() >= *limit) {
                        let seconds = limit.as_secs_f64();
                        let name = process.name.clone();
                        return Err(
                            process.fault(format!("no {what} from {name} in {seconds} seconds, it was stopped"))
                        );
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Output<Vec<u8>> {
    /// Everything that is still to come, at most `cap` bytes of it.
    ///
    /// # Errors
    /// See [`Output::next`]; more bytes, where the child is stopped.
    pub(super) fn all(
        &mut self,
        process: &mut Process,
        cap: usize,
        patience: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next(process, Some(patience), "answer", stopped)? {
            all.extend(chunk);
            if all.len() > cap {
                let name = process.name.clone();
                return Err(process.fault(format!("{name} answered more than {cap} bytes, it was stopped")));
            }
        }
        Ok(all)
    }
}

/// Kills what a child that has ended has left behind, unless its number may be somebody else's by now.
fn kill_group_of(process: &Process) {
    if !process.is_reaped {
        kill_group(process.child.id());
    }
}

/// The next bytes of an output that has no units of its own.
pub(super) fn chunk(stdout: &mut ChildStdout) -> Option<Vec<u8>> {
    let mut bytes = vec![0; CHUNK];
    loop {
        match stdout.read(&mut bytes) {
            Ok(0) => return None,
            Ok(n) => {
                bytes.truncate(n);
                return Some(bytes);
            }
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The last line of a child's complaints, without the names of objects in its memory (`[h264 @ 0x55…]`).
pub(super) fn last_words(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = match (line.starts_with('['), line.split_once("] ")) {
        (true, Some((_, rest))) => rest,
        _ => line,
    };
    let words = line.split_whitespace().filter(|word| !word.contains("0x"));
    words.collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
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
}
