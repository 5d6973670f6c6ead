//! Reading from a folder that nobody vouches for: only regular files, only inside it, only up to a cap.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::error::Context;
use crate::{Error, Result};

/// A checkpoint folder. Every file is opened through it, so that no name and no link leads out of it.
pub(crate) struct Folder {
    dir: PathBuf,
    real: PathBuf,
}

impl Folder {
    /// The folder at `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Folder> {
        let real = dir.canonicalize().at(|| dir.display().to_string())?;
        if !real.is_dir() {
            return Err(Error::bad_input(format!(
                "`{}` is not a folder; a checkpoint folder is expected",
                dir.display()
            )));
        }
        Ok(Folder { dir: dir.to_path_buf(), real })
    }

    /// Its path with every link resolved.
    pub(crate) fn real(&self) -> &Path {
        &self.real
    }

    /// Whether it has an entry called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.dir.join(name).symlink_metadata().is_ok()
    }

    /// The names of its entries, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).at(|| self.dir.display().to_string())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Opens the regular file `name`, which must lie directly in the folder.
    ///
    /// # Errors
    /// `Format` for a name with a path in it, or a link that leads out of the folder; `Io` when absent.
    pub(crate) fn file(&self, name: &str) -> Result<File> {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
        // A backslash or a colon is a path on Windows; no checkpoint file has one in its name.
        if !plain || name.contains(['/', '\\', ':', '\0']) {
            return Err(Error::format(format!(
                "file name `{name}` leads out of the folder, expected a plain file name"
            )));
        }
        let path = self.dir.join(name);
        let real = path.canonicalize().at(|| path.display().to_string())?;
        if !real.starts_with(&self.real) {
            return Err(Error::format(format!(
                "`{name}` is a link that leads out of the folder to `{}`; copy the checkpoint with its links resolved \
                 (cp -rL) and convert the copy",
                real.display()
            )));
        }
        open_regular(&real).at(|| path.display().to_string())
    }

    /// The text of the file `name`, of at most `cap` bytes.
    pub(crate) fn text(&self, name: &str, cap: u64) -> Result<String> {
        read_capped(self.file(name)?, cap).at(|| self.dir.join(name).display().to_string())
    }
}

/// The text of the file at `path`, of at most `cap` bytes.
pub(crate) fn read_text(path: &Path, cap: u64) -> Result<String> {
    read_capped(open_regular(path)?, cap)
}

/// Opens `path` unless it is something that could block or never end.
fn open_regular(path: &Path) -> Result<File> {
    if !path.metadata()?.is_file() {
        return Err(Error::format("is not a regular file"));
    }
    Ok(File::open(path)?)
}

fn read_capped(file: File, cap: u64) -> Result<String> {
    let n_bytes = file.metadata()?.len();
    if n_bytes > cap {
        return Err(Error::limit(format!("has `{n_bytes}` bytes, at most {cap} are read")));
    }
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        return Err(Error::limit(format!("grew beyond {cap} bytes while it was read")));
    }
    String::from_utf8(bytes).map_err(|_| Error::format("is not UTF-8 text"))
}
