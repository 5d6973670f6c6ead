//! Mapping a file: the one place that is unsafe in this room.
//!
//! # When a file changes while it is mapped
//! A mapping shows the file itself, not a copy. If another program overwrites the file in place, the new bytes show
//! through; if it cuts the file short, touching the lost pages kills the process with SIGBUS on Unix. What stands against
//! that here:
//! * the size is checked at open against every tensor range, and nothing past that size is ever touched;
//! * names, keys and values are copied out at open, so no table can change under a reader;
//! * a shared advisory lock is held as long as the mapping lives. A writer that takes the exclusive lock before it changes
//!   a file in place is kept out (or keeps us out, with an error). On Windows a mapped file cannot be cut at all;
//! * replacing a file by renaming another one over it, as [`write_beside`](crate::files::atomic::write_beside) does, is harmless: the mapping keeps
//!   the old content;
//! * [`Mapping::check_unchanged`] compares size and time of change with those at open. A server can ask between two
//!   requests and refuse further work instead of computing with a file that is being rewritten;
//! * for network drives, removable media and files that others rewrite, the file can be read instead of mapped
//!   ([`OpenOptions::mmap`](super::OpenOptions)).

use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::files::input::open_regular;
use crate::files::lock;
use crate::{Error, Result};

/// A whole file, mapped read-only.
pub(super) struct Mapping {
    map: Mmap,
    /// Kept open for the lock and for [`Mapping::check_unchanged`].
    file: File,
    modified: Option<SystemTime>,
}

impl Mapping {
    /// Maps `path`, or says `None` for an empty file, which cannot be mapped.
    ///
    /// # Errors
    /// `Io` when the file cannot be opened or mapped, is not a regular file, or is locked by a writer; `Limit` when it is
    /// larger than the address space.
    pub(super) fn open(path: &Path) -> Result<Option<Mapping>> {
        let (file, meta) = open_regular(path)?;
        lock(|| file.try_lock_shared(), "locked by another program that is writing it")?;
        let len = usize::try_from(meta.len())
            .map_err(|_| Error::limit(format!("file of `{}` bytes does not fit into the address space", meta.len())))?;
        if len == 0 {
            return Ok(None);
        }
        // SAFETY: the mapping is private to this struct, read-only, and lives no longer than `file`. It is only ever
        // viewed as `&[u8]`, for which every byte value is valid, and never past `len`, the size of the open file. That
        // no other program changes the file meanwhile cannot be enforced; the module text says what is done about it.
        let map = unsafe { MmapOptions::new().len(len).map(&file)? };
        Ok(Some(Mapping { map, file, modified: meta.modified().ok() }))
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// A private copy of a range of the file: reading shows the file, writing makes copies of the pages written to.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub(super) fn copy(&self, range: Range<usize>) -> Result<MmapMut> {
        assert!(range.end <= self.map.len());
        // SAFETY: as in `open`: within the size of the open file, viewed as bytes only. The mapping keeps the file's
        // content alive by itself; that others do not change it is what the lock in `self` stands for.
        Ok(unsafe { MmapOptions::new().offset(range.start as u64).len(range.len()).map_copy(&self.file)? })
    }

    /// Whether the file still has the size and the time of change that it had at open.
    ///
    /// # Errors
    /// `Io` with what differs.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let now: Metadata = self.file.metadata()?;
        let (len, was) = (now.len(), self.map.len());
        if len != was as u64 {
            let what = format!("size changed from {was} to `{len}` bytes while the file was open");
            return Err(std::io::Error::other(what).into());
        }
        if now.modified().ok() != self.modified {
            return Err(std::io::Error::other("content changed while the file was open").into());
        }
        Ok(())
    }
}
