//! Where the bytes of a file live: mapped, embedded in the program, or in memory of our own.
#![forbid(unsafe_code)]

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use memmap2::MmapMut;

use super::mmap::{FileCopy, Mapping};
use crate::files::input::open_regular;
use crate::{Error, Result};

/// The bytes of one file. The first byte lies at an address that is a multiple of [`Storage::ALIGNMENT`] at least, so
/// that a tensor at an aligned offset can be viewed as whatever element type it has.
pub(super) enum Storage {
    Mapped(Mapping),
    Static(&'static [u8]),
    /// The bytes from the given index on; those before it only serve to align the rest.
    Owned(Vec<u8>, usize),
}

impl Storage {
    /// The guaranteed alignment of the first byte: a cache line. Mappings begin at a page.
    pub(super) const ALIGNMENT: usize = 64;

    /// Maps `path`.
    pub(super) fn map(path: &Path) -> Result<Storage> {
        Ok(Mapping::open(path)?.map_or(Storage::Static(&[]), Storage::Mapped))
    }

    /// Reads all of `path` into memory.
    pub(super) fn read(path: &Path) -> Result<Storage> {
        let (file, meta) = open_regular(path)?;
        let (mut bytes, start) = Storage::reserve(meta.len())?;
        let n_read = file.take(meta.len()).read_to_end(&mut bytes)?;
        if n_read as u64 != meta.len() {
            let what = format!("size changed from {} to `{n_read}` bytes while the file was read", meta.len());
            return Err(std::io::Error::other(what).into());
        }
        Ok(Storage::Owned(bytes, start))
    }

    /// Takes over embedded bytes; copies them only if they are not aligned.
    pub(super) fn from_static(bytes: &'static [u8]) -> Result<Storage> {
        if is_aligned(bytes) { Ok(Storage::Static(bytes)) } else { Storage::copy(bytes) }
    }

    /// Takes over bytes; copies them only if they are not aligned.
    pub(super) fn from_vec(bytes: Vec<u8>) -> Result<Storage> {
        if is_aligned(&bytes) { Ok(Storage::Owned(bytes, 0)) } else { Storage::copy(&bytes) }
    }

    fn copy(from: &[u8]) -> Result<Storage> {
        let (mut bytes, start) = Storage::reserve(from.len() as u64)?;
        bytes.extend_from_slice(from);
        Ok(Storage::Owned(bytes, start))
    }

    /// A vector with room for `len` bytes after its present end, and that end, which is aligned.
    fn reserve(len: u64) -> Result<(Vec<u8>, usize)> {
        let too_big = || Error::limit(format!("file of `{len}` bytes does not fit into memory"));
        let room = usize::try_from(len).ok().and_then(|n| n.checked_add(Storage::ALIGNMENT)).ok_or_else(too_big)?;
        let mut bytes = Vec::<u8>::new();
        bytes.try_reserve_exact(room).map_err(|_| too_big())?;
        let start = bytes.as_ptr().align_offset(Storage::ALIGNMENT);
        bytes.resize(start, 0);
        Ok((bytes, start))
    }

    /// All bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map.bytes(),
            Storage::Static(bytes) => bytes,
            Storage::Owned(bytes, start) => &bytes[*start..],
        }
    }

    /// Writable memory that begins as the bytes of `range`; of a mapped file, only pages that are written to take memory.
    pub(super) fn copy_of(&self, range: Range<usize>) -> Result<FileCopy> {
        match self {
            Storage::Mapped(map) => map.copy(range),
            Storage::Static(_) | Storage::Owned(..) => {
                let mut copy = MmapMut::map_anon(range.len())?;
                copy.copy_from_slice(&self.bytes()[range]);
                Ok(copy.into())
            }
        }
    }

    /// See [`Mapping::check_unchanged`]; bytes in memory cannot change.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        match self {
            Storage::Mapped(map) => map.check_unchanged(),
            Storage::Static(_) | Storage::Owned(..) => Ok(()),
        }
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(Storage::ALIGNMENT) == 0
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn bytes_are_aligned_wherever_they_come_from() {
        static BYTES: [u8; 100] = [7; 100];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for start in 0..9 {
            let want = &BYTES[start..];
            std::fs::write(&path, want).unwrap();
            let all = [
                Storage::from_static(want),
                Storage::from_vec(want.to_vec()),
                Storage::read(&path),
                Storage::map(&path),
            ];
            for (i, storage) in all.into_iter().enumerate() {
                let storage = storage.unwrap();
                assert_eq!(storage.bytes(), want, "kind {i}");
                assert!(is_aligned(storage.bytes()), "kind {i}");
            }
        }
    }

    #[test]
    fn a_folder_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let err = Storage::map(dir.path()).err().unwrap();
        assert!(err.to_string().contains("not a regular file"), "{err}");
    }

    #[test]
    fn a_file_that_changes_under_its_mapping_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 100]).unwrap();
        let storage = Storage::map(&path).unwrap();
        storage.check_unchanged().unwrap();
        File::options().append(true).open(&path).unwrap().set_len(50).unwrap();
        let err = storage.check_unchanged().unwrap_err();
        assert!(err.to_string().contains("from 100 to `50` bytes"), "{err}");
    }

    #[test]
    fn a_file_under_an_exclusive_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 100]).unwrap();
        let writer = File::options().append(true).open(&path).unwrap();
        writer.lock().unwrap();
        let err = Storage::map(&path).err().unwrap();
        assert!(err.to_string().contains("locked by another program"), "{err}");
    }
}
