//! Telling files apart: a cryptographic hash that reads a bounded part of each, so that it takes milliseconds for a model of
//! gigabytes and still changes with any change that a person makes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::error::Context;
use crate::gguf::Gguf;
use crate::media::Rgb;

/// Bytes of each sample.
const SAMPLE: usize = 16 << 10;
/// Samples of a media file, at even distances.
const SAMPLES: u64 = 128;

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
        hash.update(&data[..data.len().min(SAMPLE)]);
        hash.update(&data[data.len().saturating_sub(SAMPLE)..]);
    }
    hex(hash)
}

/// Identifies a media file by its size and samples of its bytes, or a folder by the names and sizes of its files. Returns
/// the hash and the size in bytes.
///
/// # Errors
/// A file or folder that cannot be read.
pub fn media(path: &Path) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let meta = std::fs::metadata(path).at(|| path.display().to_string())?;
    let mut n_bytes = meta.len();
    if meta.is_dir() {
        let entries = std::fs::read_dir(path).at(|| path.display().to_string())?;
        let mut names: Vec<_> = entries.flatten().map(|entry| (entry.file_name(), entry.path())).collect();
        names.sort();
        n_bytes = 0;
        for (name, path) in names {
            let len = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            n_bytes += len;
            hash.update(name.as_encoded_bytes());
            hash.update([0]);
            hash.update(len.to_le_bytes());
        }
    } else {
        sample(path, n_bytes, &mut hash).at(|| path.display().to_string())?;
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

fn sample(path: &Path, n_bytes: u64, hash: &mut Sha256) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = Vec::with_capacity(SAMPLE);
    let last = n_bytes.saturating_sub(SAMPLE as u64);
    for i in 0..SAMPLES {
        let at = (u128::from(last) * u128::from(i) / u128::from(SAMPLES - 1)) as u64;
        file.seek(SeekFrom::Start(at))?;
        buffer.clear();
        Read::by_ref(&mut file).take(SAMPLE as u64).read_to_end(&mut buffer)?;
        hash.update(&buffer);
        if last == 0 {
            break; // that was all of it
        }
    }
    Ok(())
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

    #[test]
    fn any_difference_in_size_or_sampled_bytes_tells() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            media(&path).unwrap()
        };
        let long: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (same, n_bytes) = of("a", &long);
        assert_eq!((of("b", &long).0, n_bytes), (same.clone(), 5_000_000));
        assert_ne!(of("c", &long[..4_999_999]).0, same);
        let mut changed = long.clone();
        changed[4_999_999] ^= 1;
        assert_ne!(of("d", &changed).0, same);
        assert_ne!(of("e", b"").0, of("f", b"x").0);
        assert_ne!(media(dir.path()).unwrap().0, same);
    }
}
