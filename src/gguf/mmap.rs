//! Mapping a file: the one place that is unsafe in this room.
//!
//! # When a file changes while it is mapped
//! A mapping shows the file itself, not a copy. If another program overwrites the file in place, the new bytes show
//! through; if it cuts the file short, or the disk below fails, who touches the lost pages gets SIGBUS on Unix. What stands
//! against that here:
//! * the size is checked at open against every tensor range, and nothing past that size is ever touched;
//! * names, keys and values are copied out at open, so no table can change under a reader;
//! * a shared advisory lock is held as long as the mapping lives, or a copy of a part of it. A writer that takes the exclusive
//!   lock before it changes a file in place is kept out (or keeps us out, with an error). On Windows a mapped file cannot be cut
//!   at all;
//! * replacing a file by renaming another one over it, as [`write_beside`](crate::files::atomic::write_beside) does, is
//!   harmless: the mapping keeps the old content;
//! * SIGBUS becomes an error where the program wants it so ([`catch_file_signals`](super::catch_file_signals));
//! * [`Mapping::check_unchanged`] compares size and time of change with those at open, and knows of lost pages. It is asked
//!   after every step of a computation, before anybody sees the result;
//! * the file can be read instead of mapped ([`GgufOptions::mmap`](super::GgufOptions)): for network drives, removable media
//!   and files that others rewrite.

use std::fs::File;
use std::ops::{Deref, DerefMut, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::signals::Watched;
use crate::error::Context;
use crate::files::input::open_regular;
use crate::files::lock;
use crate::{Error, Result};

/// A file that is mapped, open for the lock and to be asked whether it is what it was.
struct Origin {
    file: File,
    len: u64,
    modified: Option<SystemTime>,
}

impl Origin {
    /// Whether the file still has the size and the time of change that it had at open.
    fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata()?;
        let (len, was) = (now.len(), self.len);
        if len != was {
            let what = format!("size changed from {was} to `{len}` bytes while the file was open");
            return Err(std::io::Error::other(what).into());
        }
        if now.modified().ok() != self.modified {
            return Err(std::io::Error::other("content changed while the file was open").into());
        }
        Ok(())
    }
}

/// A whole file, mapped read-only.
pub(super) struct Mapping {
    // Forgotten before the memory goes.
    watched: Watched,
    map: Mmap,
    origin: Arc<Origin>,
}

/// Writable memory of our own that begins as a part of a file, or as zeros. Pages of a mapped file are copied as they are
/// written to; the file stays as it is.
pub struct FileCopy {
    // Forgotten before the memory goes.
    mapped: Option<(Watched, Arc<Origin>)>,
    map: MmapMut,
}

impl From<MmapMut> for FileCopy {
    /// Memory that comes from no file.
    fn from(map: MmapMut) -> FileCopy {
        FileCopy { mapped: None, map }
    }
}

impl Deref for FileCopy {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for FileCopy {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl FileCopy {
    /// Checks that the file behind it, if there is one, was not cut or rewritten.
    ///
    /// # Errors
    /// `Io` naming the file and what differs.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.mapped {
            Some((watched, origin)) => {
                origin.check_unchanged().and_then(|()| watched.check()).at(|| watched.path().display().to_string())
            }
            None => Ok(()),
        }
    }
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
        let origin = Arc::new(Origin { file, len: meta.len(), modified: meta.modified().ok() });
        Ok(Some(Mapping { watched: Watched::new(path, &map), map, origin }))
    }

    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// A private copy of a range of the file: reading shows the file, writing makes copies of the pages written to.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub(super) fn copy(&self, range: Range<usize>) -> Result<FileCopy> {
        assert!(range.end <= self.map.len());
        // SAFETY: as in `open`: within the size of the open file, viewed as bytes only. The mapping keeps the file's
        // content alive by itself; that others do not change it is what the lock in `origin` stands for.
        let map =
            unsafe { MmapOptions::new().offset(range.start as u64).len(range.len()).map_copy(&self.origin.file)? };
        let mapped = Some((Watched::new(self.watched.path(), &map), Arc::clone(&self.origin)));
        Ok(FileCopy { mapped, map })
    }

    /// Whether the file still has the size and the time of change that it had at open, and has lost no page.
    ///
    /// # Errors
    /// `Io` with what differs.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.origin.check_unchanged().and_then(|()| self.watched.check())
    }
}
