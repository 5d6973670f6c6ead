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

/// The text of a file or a pipe, at most `cap` bytes; see [`decode_text`].
///
/// # Errors
/// `Io` when it cannot be read; `Limit` for more; those of [`decode_text`]. Without the path.
pub fn read_text(path: &Path, cap: u64) -> Result<String> {
    text_from(File::open(path)?, cap)
}

/// The same from whatever can be read.
///
/// # Errors
/// As [`read_text`].
pub fn text_from(reader: impl Read, cap: u64) -> Result<String> {
    let mut bytes = Vec::new();
    reader.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        return Err(Error::limit(format!("more than {cap} bytes, the most that is read of a text")));
    }
    decode_text(bytes)
}

/// Text as editors write it: UTF-8, with or without a byte order mark, lines ended by LF or CRLF. Without the mark, and with
/// LF alone, as programs have it.
///
/// # Errors
/// `BadInput` for what is not UTF-8.
pub fn decode_text(bytes: Vec<u8>) -> Result<String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::bad_input("UTF-16, expected UTF-8: save it as UTF-8"));
    }
    let text = String::from_utf8(bytes).map_err(|err| {
        let at = err.utf8_error().valid_up_to();
        Error::bad_input(format!("not UTF-8: byte `{at}` begins no character"))
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text);
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
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
    fn text_is_text_however_it_was_saved() {
        for (bytes, want) in [
            (&b"a\nb\n"[..], "a\nb\n"),
            (b"\xef\xbb\xbfa\r\nb\r\n", "a\nb\n"),
            (b"\xef\xbb\xbf", ""),
            (b"a\rb", "a\rb"),
            (b"a\xef\xbb\xbfb", "a\u{feff}b"),
        ] {
            assert_eq!(decode_text(bytes.to_vec()).unwrap(), want);
            assert_eq!(text_from(bytes, bytes.len() as u64).unwrap(), want);
        }
        for (bytes, want) in [
            (&b"\xff\xfea\0"[..], "UTF-16, expected UTF-8"),
            (b"\xfe\xff\0a", "UTF-16, expected UTF-8"),
            (b"ab\xff", "byte `2` begins no character"),
        ] {
            assert!(decode_text(bytes.to_vec()).unwrap_err().to_string().contains(want));
        }
        assert!(text_from(std::io::repeat(0), 1000).unwrap_err().to_string().contains("more than 1000 bytes"));
    }

    #[test]
    #[cfg(unix)]
    fn a_device_is_not_a_file() {
        assert!(read_capped(Path::new("/dev/zero"), 99).unwrap_err().to_string().contains("not a regular file"));
    }
}
