//! Writing a file so that its name only ever stands for complete content.
//!
//! [`write_beside`] writes to a temporary name in the same folder, brings the bytes to disk and renames. A crash, a full
//! disk, an error or a panic at any moment leaves what stood under the final name as it was.
//!
//! # What may be written
//! One rule for every writer of this program ([`target`]): under the name stands a regular file, or nothing.
//! * A symbolic link is followed: the file it points at is written beside and replaced, or made; the link stays a link.
//! * A folder, a device, a pipe, a socket is refused and stays what it is. A rename would put a file in its place, and nothing
//!   that is written here is of use to a reader who cannot seek; what is meant for a pipe goes to standard output.
//! * A file that is marked read-only is refused; any other keeps its permissions.
//!
//! Commands ask [`check_output`] before they begin, so that a name that cannot be written costs no work.
//!
//! # Temporary names
//! They look like `.NAME.PID-N.longtake-tmp`. The writer holds an exclusive lock on its temporary from just after its
//! creation until just after the rename; the system drops that lock when the process ends, however it ends. So a temporary of
//! the same final name whose lock can be had belongs to a run that died, and the next write to that name removes it. On a
//! file system without locks nothing is ever taken for stale, and the leftovers of killed runs stay.

use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Context;
use crate::{Error, Result};

/// The end of every temporary name.
pub const TEMP_SUFFIX: &str = ".longtake-tmp";

/// Most links from a name to its file, as systems have it.
const MAX_LINKS: usize = 40;

/// The file that writing to `path` makes or replaces: `path` itself, or what it links to.
///
/// # Errors
/// `BadInput` when `path` names no file, or stands for anything but a regular file that may be written, or for nothing; `Io`
/// when it cannot be looked at. Without the path.
pub fn target(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() {
        return Err(Error::bad_input("names no file, expected one to write to"));
    }
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Err(Error::bad_input("is a folder, expected a file to write to")),
        Ok(meta) if !meta.is_file() => {
            Err(Error::bad_input("is a device, pipe or socket and stays one, expected a regular file or a new name"))
        }
        Ok(meta) if meta.permissions().readonly() => {
            Err(Error::bad_input("is read-only, expected a file that may be replaced"))
        }
        Ok(_) if path.is_symlink() => Ok(std::fs::canonicalize(path)?),
        Ok(_) => Ok(path.to_path_buf()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => missing_target(path),
        Err(err) => Err(err.into()),
    }
}

/// The file that does not exist yet and that `path` is or links to.
fn missing_target(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(to) => path = folder_of(&path).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::bad_input(format!("leads through more than {MAX_LINKS} links")))
}

/// Whether a file can be written as `path`: what a command asks before it begins. Its folder is there and takes new files,
/// and [`target`] has nothing against the name. Nothing is left behind.
///
/// # Errors
/// `BadInput` or `Io` that says what is in the way, with the path.
pub fn check_output(path: &Path) -> Result<()> {
    let check = || {
        let target = target(path)?;
        let folder = folder_of(&target);
        if !folder.is_dir() {
            let what = format!("its folder `{}` does not exist", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, what).into());
        }
        check_folder(folder, &target.file_name().unwrap_or_default().to_string_lossy())
    };
    check().at(|| path.display().to_string())
}

/// The same for files of these names in a folder that is there or can be made; it is not made.
///
/// # Errors
/// See [`check_output`].
pub fn check_outputs_in(folder: &Path, names: &[&str]) -> Result<()> {
    if folder.is_dir() {
        return names.iter().try_for_each(|name| check_output(&folder.join(name)));
    }
    let there = folder.ancestors().skip(1).find(|at| at.as_os_str().is_empty() || at.symlink_metadata().is_ok());
    let there = there.filter(|at| *at != Path::new("")).unwrap_or(Path::new("."));
    let check = || match folder.symlink_metadata() {
        Ok(_) => Err(Error::bad_input("is not a folder, expected one to write to")),
        Err(_) => check_folder(there, "folder"),
    };
    check().at(|| folder.display().to_string())
}

/// Whether a folder takes a new file. Asked by doing: permissions, quotas and read-only file systems have the last word.
fn check_folder(folder: &Path, name: &str) -> Result<()> {
    // What a run left that was killed while it asked.
    remove_stale(folder, &temp_prefix(name));
    Temp::create(folder, &temp_prefix(name)).map(drop).at(|| format!("no file can be made in `{}`", folder.display()))
}

/// Writes `path` with what `fill` writes: all of it, or nothing. An existing file is replaced, the one behind a symbolic link
/// is. When two writers meet, the one that finishes last wins, and neither sees bytes of the other.
///
/// # Errors
/// The error of `fill`, or `Io` of the operating system; what [`target`] refuses. Each with the path.
pub fn write_beside(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let buffered = |file: &File| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        Ok(out.flush()?)
    };
    write_in(path, buffered).at(|| path.display().to_string())
}

/// The same for a file of `n_bytes` that `fill` writes into at any place and in any order; what it leaves out is a hole that
/// reads as zeros and takes no room on file systems that know holes.
///
/// # Errors
/// See [`write_beside`].
pub fn write_beside_in_place(path: &Path, n_bytes: u64, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let sized = |file: &File| {
        file.set_len(n_bytes)?;
        fill(file)
    };
    write_in(path, sized).at(|| path.display().to_string())
}

/// Whether both paths lead to the same file, through links of either kind.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    let same_path = matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    #[cfg(unix)]
    let same_inode = {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
        id(a).is_some() && id(a) == id(b)
    };
    #[cfg(not(unix))]
    let same_inode = false;
    same_path || same_inode
}

/// Whether a path is written as that of a folder, with a separator at its end.
pub fn ends_as_folder(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().last().is_some_and(|b| std::path::is_separator(char::from(*b)))
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

fn write_in(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let target = target(path)?;
    let folder = folder_of(&target);
    let prefix = temp_prefix(&target.file_name().unwrap_or_default().to_string_lossy());
    remove_stale(folder, &prefix);

    let temp = Temp::create(folder, &prefix)?;
    fill(&temp.file)?;
    temp.file.sync_all()?;
    if self::target(path)? != target {
        return Err(Error::from(io::Error::other("became a link to another file while it was written")));
    }
    if let Ok(old) = target.metadata() {
        // Some file systems know no permissions.
        let _ = temp.file.set_permissions(old.permissions());
    }
    temp.rename_to(&target)?;
    sync_folder(folder);
    Ok(())
}

/// How temporary names for `name` begin. Long names are cut, so that the temporary name is never too long for a file
/// system that takes the final one; two names that then share a prefix stay apart by their locks.
fn temp_prefix(name: &str) -> String {
    let mut end = name.len().min(120);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}.", &name[..end])
}

/// A temporary file that is removed when it goes out of scope, also while a panic unwinds.
pub(super) struct Temp {
    pub(super) file: File,
    pub(super) path: PathBuf,
    renamed: bool,
}

impl Temp {
    pub(super) fn create(folder: &Path, prefix: &str) -> Result<Temp> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        // A name can be taken by a leftover of an earlier process with the same id, or a cleaner can be quicker than our
        // lock; both are rare, so a few tries are plenty.
        for _ in 0..100 {
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{prefix}{}-{n}{TEMP_SUFFIX}", std::process::id()));
            let file = match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(err) => return Err(err.into()),
            };
            let locked = file.try_lock();
            if matches!(locked, Err(TryLockError::WouldBlock)) {
                continue; // a cleaner holds it and removes it
            }
            let temp = Temp { file, path, renamed: false };
            // A cleaner may have come and gone before the lock.
            if temp.path.exists() {
                return Ok(temp);
            }
        }
        Err(Error::from(io::Error::other("no free temporary name")))
    }

    /// Renames to the final name while the lock is still held, so that no cleaner takes a finished file for a leftover.
    fn rename_to(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.renamed = true;
        // Said aloud, because closing is not enough: a child process that is just being started by another thread holds
        // a copy of the handle for a moment, and with it the lock on what is now an ordinary file.
        let _ = self.file.unlock();
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            // Nobody is left to tell; the next write to the same name tries again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes temporaries with this prefix whose writers are dead. Leftovers are no reason to fail, so errors are passed over.
pub(super) fn remove_stale(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let middle = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(TEMP_SUFFIX));
        let ours = middle.and_then(|m| m.split_once('-')).is_some_and(|(pid, n)| is_number(pid) && is_number(n));
        if !ours || !entry.file_type().is_ok_and(|ty| ty.is_file()) {
            continue;
        }
        if let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Brings the rename itself to disk where folders can be synced. The file is complete either way; without this a power
/// cut may bring back the old one.
fn sync_folder(folder: &Path) {
    if cfg!(unix)
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn an_error_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_beside(&path, |w| Ok(w.write_all(b"old")?)).unwrap();
        let err = write_beside(&path, |w| {
            w.write_all(&[0; 3 << 20])?;
            Err(Error::limit("stop here"))
        });
        let err = err.unwrap_err().to_string();
        assert!(err.contains("stop here") && err.contains(&*path.to_string_lossy()), "{err}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_panic_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let caught = std::panic::catch_unwind(|| write_beside(&path, |_| panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn leftovers_of_dead_runs_go_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let keep = [".a.12-x.longtake-tmp", ".a.12-0.longtake-tmp.bak", ".b.12-0.longtake-tmp", ".a.99-1.longtake-tmp"];
        for name in keep.iter().chain(&[".a.12-0.longtake-tmp"]) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        // This one belongs to a writer that is alive.
        let living = File::options().write(true).open(dir.path().join(".a.99-1.longtake-tmp")).unwrap();
        living.lock().unwrap();
        write_beside(&dir.path().join("a"), |w| Ok(w.write_all(b"new")?)).unwrap();
        let mut want: Vec<&str> = keep.to_vec();
        want.push("a");
        want.sort_unstable();
        assert_eq!(names(dir.path()), want);
    }

    #[test]
    fn writers_of_one_name_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for id in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_beside(path, |w| {
                            (0..50).try_for_each(|_| w.write_all(&[id; 997]))?;
                            Ok(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 50 * 997);
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_stay_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/file"), "old").unwrap();
        std::fs::set_permissions(at("real/file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real/file", at("one")).unwrap(); // relative to its own folder
        symlink(at("one"), at("two")).unwrap();
        symlink("real/none", at("dangling")).unwrap();
        symlink("round", at("round")).unwrap();
        symlink("nowhere/none", at("lost")).unwrap();
        for (name, file) in [("one", "real/file"), ("two", "real/file"), ("dangling", "real/none")] {
            check_output(&at(name)).unwrap();
            write_beside(&at(name), |w| Ok(w.write_all(name.as_bytes())?)).unwrap();
            assert_eq!(std::fs::read_to_string(at(file)).unwrap(), name);
            assert!(at(name).is_symlink() && !at(file).is_symlink(), "{name}");
        }
        assert_eq!(at("real/file").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(check_output(&at("round")).is_err());
        assert!(check_output(&at("lost")).unwrap_err().to_string().contains("does not exist"));
        assert_eq!(names(&at("real")), ["file", "none"]);
        assert_eq!(names(dir.path()), ["dangling", "lost", "one", "real", "round", "two"]);
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_file_stays_what_it_is() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        symlink("socket", at("link")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("sealed"), "kept").unwrap();
        let mut sealed = at("sealed").metadata().unwrap().permissions();
        sealed.set_readonly(true);
        std::fs::set_permissions(at("sealed"), sealed).unwrap();
        let refused = [
            ("socket", "device, pipe or socket"),
            ("link", "device, pipe or socket"),
            ("folder", "is a folder"),
            ("sealed", "read-only"),
            ("sealed/below", ""),
            ("none/below", ""),
        ];
        for (name, why) in refused {
            for err in [check_output(&at(name)), write_beside(&at(name), |_| Ok(()))] {
                let err = err.unwrap_err().to_string();
                assert!(err.contains(why) && err.contains(name), "{err}");
            }
        }
        assert!(at("socket").symlink_metadata().unwrap().file_type().is_socket());
        assert_eq!(std::fs::read(at("sealed")).unwrap(), b"kept");
        assert_eq!(names(dir.path()), ["folder", "link", "sealed", "socket"]);
    }

    #[test]
    fn files_of_a_folder_are_asked_about_before_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let check = |name: &str| check_outputs_in(&at(name), &["one", "two"]);
        check("new").unwrap();
        check("new/below/it").unwrap();
        std::fs::create_dir_all(at("there/two")).unwrap();
        assert!(check("there").unwrap_err().to_string().contains("two: is a folder"));
        std::fs::write(at("file"), "").unwrap();
        assert!(check("file").unwrap_err().to_string().contains("is not a folder"));
        assert!(check("file/below").is_err());
        check_outputs_in(Path::new("nowhere-yet"), &["one"]).unwrap();
        assert_eq!(names(dir.path()), ["file", "there"]);
    }

    #[test]
    fn long_names_and_bad_names() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("é".repeat(127));
        write_beside(&long, |w| Ok(w.write_all(b"x")?)).unwrap();
        assert_eq!(std::fs::read(&long).unwrap(), b"x");
        assert!(write_beside(dir.path(), |_| Ok(())).unwrap_err().to_string().contains("is a folder"));
        assert!(write_beside(&dir.path().join("no/such"), |_| Ok(())).is_err());
        assert!(write_beside(Path::new(".."), |_| Ok(())).is_err());
    }
}
