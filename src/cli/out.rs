//! Standard output, which all answers and data go through.
//!
//! A reader that has seen enough, such as `head`, is no failure: what is written then goes nowhere, and the command ends as
//! it would have. Any other failure, a full disk above all, is an error wherever it happens, and [`check`] asks at the end.

use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::OnceLock;

use crate::{Error, Result};

/// The first failure of this process.
static FAILED: OnceLock<String> = OnceLock::new();

/// Standard output; nothing else in this program asks the system for it.
pub(super) struct Out(());

/// The way to it.
pub(super) fn stdout() -> Out {
    Out(())
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        settle(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        settle(io::stdout().flush(), ())
    }
}

fn settle<T>(result: io::Result<T>, enough: T) -> io::Result<T> {
    match result {
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(enough),
        // Tried again by who writes.
        Err(err) if err.kind() == ErrorKind::Interrupted => Err(err),
        Err(err) => {
            let message = FAILED.get_or_init(|| format!("standard output: {err}"));
            Err(io::Error::new(err.kind(), message.clone()))
        }
        Ok(done) => Ok(done),
    }
}

/// Writes a piece of the answer at once; nobody to read it, or no way to write it, ends the generation.
pub(super) fn piece(piece: &str) -> ControlFlow<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
    let failed = written.is_err();
    let _ = settle(written, ()); // `check` tells
    if failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Asks, at the end, whether everything could be written.
///
/// # Errors
/// What was in the way.
pub(super) fn check() -> Result<()> {
    let _ = stdout().flush();
    FAILED.get().map_or(Ok(()), |message| Err(Error::new(crate::ErrorKind::Io, message.clone())))
}
