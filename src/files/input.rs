//! Opening and reading files that others wrote: regular ones only where a pipe would wait for ever, and never more bytes
//! than somebody said.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Opens a regular file and nothing else: opening a pipe would wait for ever, a folder or a device has no size.
///
/// # Errors
/// `Io` when the file cannot be opened or is not a regular one; without the path.
pub fn open_regular(path: &Path) -> Result<(File, Metadata)> {
    let regular = |meta: &Metadata| {
        let other = || std::io::Error::other("not a regular file");
        if meta.is_file() { Ok(()) } else { Err(other()) }
    };
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    // Asked again of the open file, whose size is the one that counts.
    let meta = file.metadata()?;
    regular(&meta)?;
    Ok((file, meta))
}

/// The bytes of a regular file, at most `cap` of them.
///
/// # Errors
/// As [`open_regular`]; `Limit` for a larger file.
pub fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>> {
    let (file, meta) = open_regular(path)?;
    let over = |n: u64| Error::limit(format!("`{n}` bytes, at most {cap}"));
    if meta.len() > cap {
        return Err(over(meta.len()));
    }
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        return Err(over(bytes.len() as u64)); // it grew meanwhile
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_capped(&path, 100).unwrap(), [7; 100]);
        assert!(read_capped(&path, 99).unwrap_err().to_string().contains("`100` bytes, at most 99"));
        assert!(read_capped(dir.path(), 99).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    #[cfg(unix)]
    fn a_device_is_not_a_file() {
        assert!(read_capped(Path::new("/dev/zero"), 99).unwrap_err().to_string().contains("not a regular file"));
    }
}
