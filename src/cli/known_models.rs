//! Where this machine's models lie: `watch` notes it, so that `ask` needs no `--model`. The notes are the user's own; no path
//! that stands in a take is ever opened.

use std::path::{Path, PathBuf};

use super::environment::user_folder;
use crate::files::atomic::write_beside;
use crate::files::input::read_text;

/// Longest note, in bytes: a path.
const MAX_NOTE: u64 = 1 << 16;

/// Notes that the model of this fingerprint lies at `path`. Without a place for notes nothing happens: `ask` will want to be
/// told.
pub(super) fn remember(fingerprint: &str, path: &Path) {
    let (Some(note), Ok(path)) = (note(fingerprint), std::fs::canonicalize(path)) else { return };
    let Some(text) = path.to_str() else { return };
    if let Some(folder) = note.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = write_beside(&note, |out| Ok(out.write_all(text.as_bytes())?));
}

/// Where the model of this fingerprint was last seen, if it is still there.
pub(super) fn find(fingerprint: &str) -> Option<PathBuf> {
    let path = PathBuf::from(read_text(&note(fingerprint)?, MAX_NOTE).ok()?);
    path.is_file().then_some(path)
}

/// The note's file: in the user's cache folder. Fingerprints come from files, so only what looks like one is a name.
fn note(fingerprint: &str) -> Option<PathBuf> {
    if fingerprint.len() != 64 || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let cache = user_folder("XDG_CACHE_HOME", &[".cache"])?;
    Some(cache.join("longtake").join("models").join(fingerprint))
}
