//! Advisory locks that are waited for, shortly.

use std::fs::TryLockError;
use std::time::Duration;

use crate::{Error, Result};

/// Takes a lock through `try_lock`, or fails with `busy`. File systems without locks say so, and are used without one.
///
/// # Errors
/// Somebody else has the lock for longer than an innocent moment: the writer of a file may be between its rename and the
/// release of its lock, and a child process that another thread is just starting holds a copy of every open handle.
pub fn lock(mut try_lock: impl FnMut() -> std::result::Result<(), TryLockError>, busy: &str) -> Result<()> {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        match try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
    Err(Error::busy(busy))
}
