//! Files that appear under their final names together, and only once they have been read back.
//!
//! A file is first written under a staging name beside the final one, then checked, then renamed. The staging name is
//! the same for every run, so what a killed run left is removed by the next one that writes the same file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::progress::Progress;
use crate::error::Context;
use crate::files::atomic::{self, check_output, ends_as_folder, folder_of};
use crate::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use crate::{Error, Result};

/// A file on its way to its final name; dropped before [`publish`](Staged::publish), it is removed, and its folder with it
/// where that was made for it.
pub(crate) struct Staged {
    path: PathBuf,
    target: PathBuf,
    /// Folders that were made for it, the outermost first.
    folders: Vec<PathBuf>,
    done: bool,
}

/// A tensor to be declared: name, type, dimensions fastest first.
pub(crate) type Declared = (String, GgmlType, Vec<usize>);

impl Staged {
    /// Prepares to write `output`, or the file that it links to, so that nothing but the work itself can fail later: its folder is made where it is
    /// absent, and the staging file is created in it.
    ///
    /// # Errors
    /// `BadInput` when something stands there that is not a GGUF file, so that a slip of the hand costs nothing; `Io` when
    /// nothing can be written there. What was made until then is removed.
    pub(crate) fn new(output: &Path) -> Result<Staged> {
        let place = || output.display().to_string();
        let name =
            output.file_name().filter(|_| !ends_as_folder(output)).map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::bad_input("names no file, expected one to write to").at(place()))?;
        let target = atomic::target(output).at(place)?;
        let path = target.with_file_name(format!(".{name}.unfinished"));
        let mut staged = Staged { path, target, folders: Vec::new(), done: false };
        staged.make_folders().at(place)?;
        check_output(&staged.target)?;
        check_replaceable(&staged.target).at(place)?;
        staged.remove();
        File::create_new(&staged.path).at(place)?;
        Ok(staged)
    }

    /// Makes the folder of the target, and remembers which folders are new.
    fn make_folders(&mut self) -> Result<()> {
        let is_absent = |folder: &&Path| **folder != *Path::new("") && folder.symlink_metadata().is_err();
        let absent: Vec<PathBuf> =
            folder_of(&self.target).ancestors().take_while(is_absent).map(Path::to_path_buf).collect();
        for folder in absent.into_iter().rev() {
            match std::fs::create_dir(&folder) {
                Ok(()) => self.folders.push(folder),
                // Another file of the same run may need the same folder.
                Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err).at(|| format!("folder `{}`", folder.display())),
            }
        }
        Ok(())
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

    /// Gives finished files their final names, one right after the other. When one of them cannot have its name, those
    /// before it lose theirs again where nothing stood under it.
    ///
    /// # Errors
    /// `Io` naming the file.
    pub(crate) fn publish<const N: usize>(files: [Staged; N]) -> Result<()> {
        let mut fresh: Vec<PathBuf> = Vec::new();
        for mut staged in files {
            let was_there = staged.target.symlink_metadata().is_ok();
            if let Err(err) = std::fs::rename(&staged.path, &staged.target) {
                for path in fresh {
                    let _ = std::fs::remove_file(path);
                }
                return Err(err).at(|| staged.target.display().to_string());
            }
            staged.done = true;
            if !was_there {
                fresh.push(staged.target.clone());
            }
            if cfg!(unix) {
                // Brings the rename to disk; the file is complete either way.
                let _ = File::open(folder_of(&staged.target)).and_then(|folder| folder.sync_all());
            }
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
            // Only what is empty goes.
            self.folders.iter().rev().for_each(|folder| drop(std::fs::remove_dir(folder)));
        }
    }
}

/// Bytes of a tensor's data, 0 when the declaration is impossible (the writer says so).
pub(crate) fn data_bytes(ty: GgmlType, ne: &[usize]) -> u64 {
    let n_rows = ne[1..].iter().product::<usize>() as u64;
    ty.row_bytes(ne[0]).map_or(0, |n| n as u64 * n_rows)
}

/// Whether what stands under the name may be replaced: a GGUF file, an empty one, nothing.
fn check_replaceable(target: &Path) -> Result<()> {
    if target.metadata().is_err() {
        return Ok(());
    }
    let mut magic = Vec::new();
    File::open(target)?.take(4).read_to_end(&mut magic)?;
    match magic.as_slice() {
        b"" | b"GGUF" => Ok(()),
        _ => Err(Error::bad_input("exists and is not a GGUF file; it is not overwritten")),
    }
}
