//! What a file is that is no GGUF file, in words: most mistakes are the right download in the wrong place.
#![forbid(unsafe_code)]

use std::path::Path;

use byteorder::{ByteOrder, LE};

use crate::{Error, Result};

/// How a kind of file begins, and what to do with one.
struct Kind {
    at: usize,
    magic: &'static [u8],
    what: &'static str,
}

const fn kind(at: usize, magic: &'static [u8], what: &'static str) -> Kind {
    Kind { at, magic, what }
}

const GGML: &str = "a ggml file from before GGUF; get or make the model as GGUF";
const ARCHIVE: &str = "an archive; unpack it first";
const PYTHON: &str = "a Python pickle, which runs code when it is loaded, so it is not read; save the checkpoint as safetensors \
                      and convert its folder with `longtake convert`";
const WEB_PAGE: &str = "a web page; the download brought that instead of the model";
const PICTURE: &str = "a picture; give it as --image";
const VIDEO: &str = "a video; give it as --video";

/// The more telling ones first.
const KINDS: &[Kind] = &[
    kind(
        0,
        b"version https://git-lfs",
        "a Git LFS pointer in place of the file; fetch the file itself (`git lfs pull`)",
    ),
    kind(0, b"lmgg", GGML),
    kind(0, b"fmgg", GGML),
    kind(0, b"tjgg", GGML),
    kind(0, b"algg", GGML),
    kind(
        0,
        b"PK\x03\x04",
        "a zip archive, as PyTorch checkpoints are; unpack it, or save the checkpoint as safetensors",
    ),
    kind(0, b"\x1f\x8b", ARCHIVE),
    kind(0, b"\x28\xb5\x2f\xfd", ARCHIVE),
    kind(0, b"\xfd7zXZ\0", ARCHIVE),
    kind(0, b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    kind(0, b"BZh", ARCHIVE),
    kind(0, b"Rar!", ARCHIVE),
    kind(257, b"ustar", ARCHIVE),
    kind(0, b"\x80\x02", PYTHON),
    kind(0, b"\x80\x03", PYTHON),
    kind(0, b"\x80\x04", PYTHON),
    kind(0, b"\x89HDF\r\n", "an HDF5 file; a GGUF file is needed"),
    kind(0, b"\x7fELF", "a program"),
    kind(0, b"MZ", "a program"),
    kind(4, b"ftyp", VIDEO),
    kind(0, b"\x1a\x45\xdf\xa3", VIDEO),
    kind(0, b"\x89PNG", PICTURE),
    kind(0, b"\xff\xd8\xff", PICTURE),
    kind(0, b"GIF8", PICTURE),
];

/// What bytes without GGUF's magic are, if they tell.
pub(super) fn what_is(bytes: &[u8]) -> Option<&'static str> {
    let found = KINDS.iter().find(|kind| bytes.get(kind.at..).is_some_and(|rest| rest.starts_with(kind.magic)));
    if let Some(kind) = found {
        return Some(kind.what);
    }
    let header = bytes.get(..8).map(LE::read_u64);
    if header.is_some_and(|n| n < bytes.len() as u64) && bytes.get(8) == Some(&b'{') {
        return Some(
            "a safetensors file; convert the folder that it lies in with `longtake convert FOLDER -o models/`",
        );
    }
    let head = &bytes[..bytes.len().min(4096)];
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some(WEB_PAGE);
    }
    if text.starts_with('{') && text.contains("application/vnd.ollama") {
        return Some(
            "an ollama manifest; the model is the blob of its layer `application/vnd.ollama.image.model`, the projector \
             that of `application/vnd.ollama.image.projector`",
        );
    }
    if text.starts_with('{') {
        return Some(
            "a JSON file; if it is part of a checkpoint, convert its folder with `longtake convert FOLDER -o models/`",
        );
    }
    None
}

/// Refuses a folder, with what is in it.
///
/// # Errors
/// `BadInput` when `path` is a folder.
pub(super) fn refuse_folder(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    let shown = path.display();
    let mut names: Vec<String> = std::fs::read_dir(path)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    let models: Vec<&str> = names
        .iter()
        .filter(|name| name.to_ascii_lowercase().ends_with(".gguf") && !name.starts_with('.'))
        .map(String::as_str)
        .collect();
    let is_checkpoint = names.iter().any(|name| name == "config.json" || name.ends_with(".safetensors"));
    Err(Error::bad_input(match models.as_slice() {
        [] if is_checkpoint => format!(
            "is a checkpoint folder, expected a GGUF file; `longtake convert {shown} -o models/ --outtype Q4_K_M` makes one"
        ),
        [] => "is a folder without GGUF files, expected a GGUF file".to_string(),
        [first, ..] => format!(
            "is a folder, expected a GGUF file; it holds {} of them, such as `{}`",
            models.len(),
            path.join(first).display()
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::what_is;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        let safetensors = [&2u64.to_le_bytes()[..], b"{}", &[0; 8]].concat();
        let rows: &[(&[u8], &str)] = &[
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"tjgg\x03\0\0\0", "before GGUF"),
            (b"PK\x03\x04\x14\0", "zip"),
            (&tar, "archive"),
            (&safetensors, "longtake convert"),
            (b"\x80\x02}q\0", "pickle"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"{\"layers\":[{\"mediaType\":\"application/vnd.ollama.image.model\"}]}", "ollama"),
            (b"\xef\xbb\xbf{\"model_type\": \"qwen2_vl\"}", "JSON"),
            (b"\0\0\0\x18ftypmp42", "--video"),
            (b"\x89PNG\r\n\x1a\n", "--image"),
        ];
        for (bytes, want) in rows {
            let found = what_is(bytes).unwrap_or_else(|| panic!("{}", bytes.escape_ascii()));
            assert!(found.contains(want), "{found}");
        }
        for bytes in [&b""[..], b"G", b"FUGG", &[0xff; 300], b"\x10\0\0\0\0\0\0\0{"] {
            assert_eq!(what_is(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
