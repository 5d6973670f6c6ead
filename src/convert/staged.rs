//! Files that appear under their final names together, and only once they have been read back.
//!
//! A file is first written under a staging name beside the final one, then checked, then renamed. The staging name is
//! the same for every run, so what a killed run left is removed by the next one that writes the same file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::progress::Progress;
use crate::error::Context;
use crate::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use crate::{Error, Result};

/// A file on its way to its final name; dropped before [`publish`](Staged::publish), it is removed.
pub(crate) struct Staged {
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

/// A tensor to be declared: name, type, dimensions fastest first.
pub(crate) type Declared = (String, GgmlType, Vec<usize>);

impl Staged {
    /// Prepares to write `target`.
    ///
    /// # Errors
    /// `BadInput` when something stands there that is not a GGUF file, so that a slip of the hand costs nothing.
    pub(crate) fn new(target: &Path) -> Result<Staged> {
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::bad_input(format!("`{}` names no file", target.display())))?;
        check_replaceable(target).at(|| target.display().to_string())?;
        let path = target.with_file_name(format!(".{name}.unfinished"));
        let staged = Staged { path, target: target.to_path_buf(), done: false };
        staged.remove();
        Ok(staged)
    }

    /// Writes the file under its staging name and reads its tables back.
    ///
    /// # Errors
    /// What [`GgufWriter`] and `fill` say; `Mismatch` when the file does not read back as it was declared.
    pub(crate) fn write(
        &self,
        meta: &Metadata,
        tensors: &[Declared],
        progress: &mut dyn Progress,
        mut fill: impl FnMut(usize, &mut Vec<u8>, &mut dyn Progress) -> Result<()>,
    ) -> Result<u64> {
        let mut writer = GgufWriter::new(meta.clone());
        for (name, ty, ne) in tensors {
            writer.tensor(name.as_str(), *ty, ne)?;
        }
        let n_data = tensors.iter().map(|(_, ty, ne)| data_bytes(*ty, ne)).sum();
        progress.begin(&self.target.display().to_string(), n_data);
        writer.write(&self.path, |i, buf| fill(i, buf, &mut *progress))?;
        let n_bytes = self.read_back(meta, tensors)?;
        Ok(n_bytes)
    }

    /// Gives the file its final name.
    pub(crate) fn publish(mut self) -> Result<()> {
        std::fs::rename(&self.path, &self.target).at(|| self.target.display().to_string())?;
        self.done = true;
        if let Some(folder) = self.target.parent().filter(|_| cfg!(unix)) {
            // Brings the rename to disk; the file is complete either way.
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    fn read_back(&self, meta: &Metadata, tensors: &[Declared]) -> Result<u64> {
        let gguf = Gguf::open(&self.path)?;
        let same = |info: &crate::gguf::TensorInfo, want: &Declared| {
            (&info.name, info.ty, &info.ne) == (&want.0, want.1, &want.2)
        };
        let tables_agree = gguf.tensors().len() == tensors.len()
            && gguf.tensors().iter().zip(tensors).all(|(info, want)| same(info, want))
            && gguf.meta() == meta;
        match tables_agree {
            true => Ok(gguf.file_bytes()),
            false => Err(Error::mismatch("the written file does not read back as it was meant")
                .at(self.target.display().to_string())),
        }
    }

    fn remove(&self) {
        // Nothing there is the usual case; anything else shows when the file is written.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.done {
            self.remove();
        }
    }
}

/// Bytes of a tensor's data, 0 when the declaration is impossible (the writer says so).
pub(crate) fn data_bytes(ty: GgmlType, ne: &[usize]) -> u64 {
    let n_rows = ne[1..].iter().product::<usize>() as u64;
    ty.row_bytes(ne[0]).map_or(0, |n| n as u64 * n_rows)
}

fn check_replaceable(target: &Path) -> Result<()> {
    let Ok(meta) = target.metadata() else { return Ok(()) };
    if !meta.is_file() {
        return Err(Error::bad_input("is not a regular file, expected a file name to write to"));
    }
    let mut magic = Vec::new();
    File::open(target)?.take(4).read_to_end(&mut magic)?;
    match magic.as_slice() {
        b"" | b"GGUF" => Ok(()),
        _ => Err(Error::bad_input("exists and is not a GGUF file; it is not overwritten")),
    }
}
