//! Inputs to begin with, from the golden data that the tests use.

use std::path::{Path, PathBuf};

/// Longest file that becomes a seed: fuzzers want small ones.
const MAX_SEED: u64 = 96 << 10;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// A file of the golden data.
///
/// # Panics
/// When it is not there: a fuzzer runs from a checkout.
pub(crate) fn file(path: &str) -> Vec<u8> {
    let path = golden(path);
    std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The files of a folder of the golden data whose names end in one of `ends`, but for large ones; in order of their names.
///
/// # Panics
/// When there is none.
pub(crate) fn files(folder: &str, ends: &[&str]) -> Vec<Vec<u8>> {
    let folder = golden(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let small = path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_SEED);
        small && ends.iter().any(|end| path.to_string_lossy().ends_with(end))
    });
    paths.sort();
    assert!(!paths.is_empty(), "{}: no file ends in one of {ends:?}", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))).collect()
}
