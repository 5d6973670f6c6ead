//! A private file for bytes that somebody can only read from a file.
//!
//! It lies in the system's folder for temporary files, readable by this user alone, and goes when it is dropped: at the end,
//! at every error, while a panic unwinds. What a killed run leaves there, the next scratch file removes, as
//! [`atomic`](super::atomic) tells of its temporaries.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::atomic::{Temp, remove_stale};
use crate::Result;
use crate::error::Context;

/// How their names begin.
const PREFIX: &str = ".longtake-scratch.";

/// A file that is there for as long as this is.
pub struct ScratchFile(Temp);

impl ScratchFile {
    /// A new file with these bytes.
    ///
    /// # Errors
    /// `Io`, naming the folder: it cannot be written to, or the disk is full.
    pub fn new(bytes: &[u8]) -> Result<ScratchFile> {
        let folder = std::env::temp_dir();
        let write = || -> Result<ScratchFile> {
            remove_stale(&folder, PREFIX);
            let temp = Temp::create(&folder, PREFIX)?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                temp.file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            }
            (&temp.file).write_all(bytes)?;
            Ok(ScratchFile(temp))
        };
        write().at(|| folder.display().to_string())
    }

    /// The open file, for who writes on behind the bytes that it began with.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_while_it_is_held() {
        let scratch = ScratchFile::new(b"bytes").unwrap();
        let path = scratch.path().to_path_buf();
        let other = ScratchFile::new(b"others").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        assert_eq!(std::fs::read(other.path()).unwrap(), b"others");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        drop(scratch);
        assert!(!path.exists() && other.path().exists());
        let path = other.path().to_path_buf();
        let caught = std::panic::catch_unwind(move || {
            let _held = other;
            panic!("on purpose")
        });
        assert!(caught.is_err() && !path.exists());
    }
}
