//! Split models: file names `NAME-00001-of-00003.gguf` and the keys `split.no`, `split.count`, `split.tensors.count`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::Metadata;
use super::limits::MAX_SHARDS;
use crate::{Error, Result};

/// The number of this file, from 0.
pub(super) const NO_KEY: &str = "split.no";
/// The number of files; absent, 0 or 1 when the model is not split (merging tools leave a 0 behind).
pub(super) const COUNT_KEY: &str = "split.count";
/// The number of tensors in all files together.
pub(super) const TENSORS_KEY: &str = "split.tensors.count";

/// The keys that only make sense in a part: whoever writes a split model into one file leaves them out.
pub const SPLIT_KEYS: [&str; 3] = [NO_KEY, COUNT_KEY, TENSORS_KEY];

/// A file name of a split model, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardName {
    folder: PathBuf,
    stem: String,
    /// From 1, as in the name.
    pub no: u64,
    pub count: u64,
}

impl ShardName {
    /// The parts of `path`, if it is named like a shard.
    pub(super) fn of(path: &Path) -> Option<ShardName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (name, count) = name.rsplit_once("-of-")?;
        let (stem, no) = name.rsplit_once('-')?;
        let number = |s: &str| {
            let plain = s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
            if plain { s.parse::<u64>().ok() } else { None }
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Some(ShardName { folder, stem: stem.to_string(), no: number(no)?, count: number(count)? })
    }

    /// The path of shard `no`, from 1.
    pub(super) fn path(&self, no: u64) -> PathBuf {
        self.folder.join(format!("{}-{no:05}-of-{:05}.gguf", self.stem, self.count))
    }
}

/// How many files the model has whose first file is `path` with the keys `meta`; 1 when it is not split.
///
/// # Errors
/// `BadInput` when `path` is a later shard, `Mismatch` when name and keys disagree, `Limit` for too many files.
pub(super) fn n_shards(path: &Path, meta: &Metadata) -> Result<u64> {
    let count = meta.uint(COUNT_KEY)?;
    let by_keys = count.unwrap_or(0).max(1);
    let name = ShardName::of(path);
    let by_name = name.as_ref().map_or(1, |name| name.count.max(1));
    if by_keys != by_name {
        let said = count.map_or("absent".to_string(), |n| format!("`{n}`"));
        return Err(Error::mismatch(format!(
            "key `{COUNT_KEY}` is {said} and the file name says {by_name} files, expected them to agree (names end in `-00001-of-0000N.gguf`)"
        )));
    }
    if by_keys == 1 {
        return Ok(1);
    }
    if by_keys > MAX_SHARDS {
        return Err(Error::limit(format!("split into `{by_keys}` files, at most {MAX_SHARDS} are accepted")));
    }
    if let Some(name) = name.filter(|name| name.no != 1) {
        let first = name.path(1);
        return Err(Error::bad_input(format!(
            "is part `{}` of {} of a split model, open the first part `{}`",
            name.no,
            name.count,
            first.display()
        )));
    }
    Ok(by_keys)
}

/// Checks the keys of shard number `no`, from 0, against those of the first shard.
///
/// # Errors
/// `Mismatch` naming the key.
pub(super) fn check_shard(no: u64, meta: &Metadata, first: &Metadata) -> Result<()> {
    let here = meta.need_uint(NO_KEY)?;
    if here != no {
        return Err(Error::mismatch(format!("key `{NO_KEY}` is `{here}`, expected {no} by the file name")));
    }
    for key in [COUNT_KEY, TENSORS_KEY] {
        let (here, there) = (meta.need_uint(key)?, first.need_uint(key)?);
        if here != there {
            return Err(Error::mismatch(format!("key `{key}` is `{here}`, the first part says {there}")));
        }
    }
    // The first shard carries all keys. Where a later one repeats a key, another value means another model.
    // The alignment is a property of each file.
    for (key, value) in meta.iter().filter(|(key, _)| *key != NO_KEY && *key != super::parse::ALIGNMENT_KEY) {
        if first.get(key).is_some_and(|there| there != value) {
            return Err(Error::mismatch(format!("key `{key}` differs from the first part: files of different models")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let name = ShardName::of(Path::new("/m/A-of-B-00002-of-00010.gguf")).unwrap();
        assert_eq!((name.stem.as_str(), name.no, name.count), ("A-of-B", 2, 10));
        assert_eq!(name.path(10), Path::new("/m/A-of-B-00010-of-00010.gguf"));
        for other in
            ["a.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "a-00001-of-0000x.gguf", "a-+0001-of-00002.gguf"]
        {
            assert_eq!(ShardName::of(Path::new(other)), None, "{other}");
        }
    }
}
