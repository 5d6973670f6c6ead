//! Telling files apart, by a cryptographic hash of blocks of them.
//!
//! What a take is of, a video's [`content`], is hashed whole up to four gigabytes; of a larger one four thousand blocks at even
//! distances are, the first and the last among them, and its size. What is loaded or planned often, a [`model`] or the
//! [`media`] of a conversation, is told apart in milliseconds by a bounded part of it: that changes with anything a converter,
//! a training run or an encoder does, but a change of single bytes in the middle of a weight can escape it.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::Context;
use crate::files::input::open_regular;
use crate::gguf::Gguf;
use crate::media::{Rgb, folder};

/// Which blocks of a file are hashed: so many at most, at even distances; all of it where they reach.
#[derive(Clone, Copy)]
struct Blocks {
    n_bytes: u64,
    n_max: u64,
}

/// Two megabytes of a file.
const SOME: Blocks = Blocks { n_bytes: 16 << 10, n_max: 128 };
/// All of nearly every video.
const ALL: Blocks = Blocks { n_bytes: 1 << 20, n_max: 4096 };

/// Identifies a model file: SHA-256 over header, keys and tensor table whole, and the beginning and the end of every
/// tensor's data.
pub fn model(file: &Gguf) -> String {
    let mut hash = Sha256::new();
    for front in file.fronts() {
        hash.update((front.len() as u64).to_le_bytes());
        hash.update(front);
    }
    for tensor in file.tensors() {
        let data = file.data(tensor);
        let end = SOME.n_bytes as usize;
        hash.update(&data[..data.len().min(end)]);
        hash.update(&data[data.len().saturating_sub(end)..]);
    }
    hex(hash)
}

/// Identifies a media file by its size and samples of its bytes, or a folder by the names, sizes and samples of its files: for
/// as long as a conversation lasts. Returns the hash and the size in bytes.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn media(path: &Path) -> Result<(String, u64)> {
    blocks_of(path, SOME)
}

/// Identifies a video by its content, whatever it is called: a file, or a folder of pictures with their names. Returns the hash
/// and the size in bytes. Reads all of up to 4 GiB, of a larger file as much.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn content(path: &Path) -> Result<(String, u64)> {
    blocks_of(path, ALL)
}

fn blocks_of(path: &Path, blocks: Blocks) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let meta = std::fs::metadata(path).at(|| path.display().to_string())?;
    let mut n_bytes = 0;
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).at(|| path.display().to_string())?;
        let mut names: Vec<_> = entries.flatten().map(|entry| (entry.file_name(), entry.path())).collect();
        names.retain(|(_, path)| !folder::is_hidden(path) && path.is_file());
        names.sort();
        for (name, path) in names {
            hash.update(name.as_encoded_bytes());
            hash.update([0]);
            n_bytes += hash_file(&path, blocks, &mut hash).at(|| path.display().to_string())?;
        }
    } else {
        n_bytes = hash_file(path, blocks, &mut hash).at(|| path.display().to_string())?;
    }
    hash.update(n_bytes.to_le_bytes());
    Ok((hex(hash), n_bytes))
}

/// Identifies a picture by its pixels.
pub fn pixels(picture: &Rgb) -> String {
    let mut hash = Sha256::new();
    hash.update((picture.width as u64).to_le_bytes());
    hash.update(&picture.data);
    hex(hash)
}

/// Hashes blocks of a file and its size, which is returned.
fn hash_file(path: &Path, Blocks { n_bytes, n_max }: Blocks, hash: &mut Sha256) -> Result<u64> {
    let (mut file, meta) = open_regular(path)?;
    let len = meta.len();
    let n_blocks = len.div_ceil(n_bytes).min(n_max);
    // Blocks that reach stand side by side, else the last one ends with the file.
    let is_whole = n_blocks * n_bytes >= len;
    let last = len.saturating_sub(n_bytes);
    let mut buffer = Vec::new();
    buffer.reserve_exact(n_bytes.min(len) as usize);
    for i in 0..n_blocks {
        if !is_whole {
            let at = u128::from(last) * u128::from(i) / u128::from(n_blocks - 1);
            file.seek(SeekFrom::Start(at as u64))?;
        }
        buffer.clear();
        Read::by_ref(&mut file).take(n_bytes).read_to_end(&mut buffer)?;
        hash.update(&buffer);
    }
    hash.update(len.to_le_bytes());
    Ok(len)
}

fn hex(hash: Sha256) -> String {
    in_hex(&hash.finalize())
}

/// A hash as it is written in files.
pub(super) fn in_hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(n: u32) -> Vec<u8> {
        (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn any_difference_in_size_or_sampled_bytes_tells() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            media(&path).unwrap()
        };
        let long = pattern(5_000_000);
        let (same, n_bytes) = of("a", &long);
        assert_eq!((of("b", &long).0, n_bytes), (same.clone(), 5_000_000));
        assert_ne!(of("c", &long[..4_999_999]).0, same);
        let mut changed = long.clone();
        changed[4_999_999] ^= 1;
        assert_ne!(of("d", &changed).0, same);
        assert_ne!(of("e", b"").0, of("f", b"x").0);
        assert_ne!(media(dir.path()).unwrap().0, same);
    }

    #[test]
    fn content_tells_every_byte_of_a_file_and_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut bytes = pattern(3_500_000);
        std::fs::write(&path, &bytes).unwrap();
        let (file, folder) = (content(&path).unwrap(), content(dir.path()).unwrap());
        assert_eq!((file.1, folder.1), (3_500_000, 3_500_000));
        for at in (0..bytes.len()).step_by(1_234_567).chain([bytes.len() - 1]) {
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert_ne!(content(&path).unwrap().0, file.0, "byte {at}");
            assert_ne!(content(dir.path()).unwrap().0, folder.0, "byte {at}");
            bytes[at] ^= 0x10;
        }
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(dir.path().join(".hidden"), "left by a file manager").unwrap();
        assert_eq!((content(&path).unwrap(), content(dir.path()).unwrap()), (file, folder.clone()));
        std::fs::rename(&path, dir.path().join("b")).unwrap();
        assert_ne!(content(dir.path()).unwrap().0, folder.0, "another name of a picture");
    }

    /// More blocks than are read: both ends, and blocks between them, still count.
    #[test]
    fn a_file_beyond_the_blocks_is_sampled_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut hash = Sha256::new();
            let n = hash_file(&path, Blocks { n_bytes: 100, n_max: 3 }, &mut hash).unwrap();
            assert_eq!(n, bytes.len() as u64);
            hex(hash)
        };
        for (n, seen, unseen) in
            [(1000, vec![0, 99, 450, 549, 900, 999], vec![100, 449, 550, 899]), (300, vec![0, 150, 299], vec![])]
        {
            let bytes = pattern(n);
            let same = of(&bytes);
            let flipped = |at: usize| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                of(&bytes)
            };
            seen.iter().for_each(|at| assert_ne!(flipped(*at), same, "byte {at} of {n}"));
            unseen.iter().for_each(|at| assert_eq!(flipped(*at), same, "byte {at} of {n}"));
        }
    }
}
