//! Where media come from: a file, or bytes that stand in the conversation itself.
//!
//! Conversations name media by paths, by `file:` URLs (percent-decoded; the host must be absent or `localhost`) or by `data:`
//! URLs (base64 or percent-encoded; what the bytes are follows from the bytes, never from the declared type). Other URLs are
//! refused: this program never uses a network. The bytes of a `data:` URL are never shown: in words it is its declared type
//! and its length.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::{Error, Result};

/// Where a medium comes from.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// A file, or a folder of pictures.
    Path(PathBuf),
    /// The bytes of a file.
    Data(Data),
}

/// The bytes of a `data:` URL; copies share them.
#[derive(Clone, PartialEq)]
pub struct Data {
    /// As declared; empty when that is no type.
    media_type: String,
    bytes: Arc<[u8]>,
}

impl Data {
    /// Bytes that came in another way, of the declared type.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Data {
        Data { media_type: media_type.to_string(), bytes: bytes.into() }
    }

    /// What the URL held.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Source {
    /// What `text` names: a path, or a `file:` or `data:` URL.
    ///
    /// # Errors
    /// `BadInput` for anything else that looks like a URL, for malformed URLs and for empty text.
    pub fn parse(text: &str) -> Result<Source> {
        if text.is_empty() {
            return Err(Error::bad_input("the path is empty"));
        }
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        match scheme.to_ascii_lowercase().as_str() {
            "data" if rest.contains(',') => data_url(rest).map(Source::Data),
            "file" if rest.starts_with('/') => file_url(text, rest).map(Source::Path),
            "http" | "https" if rest.starts_with("//") => Err(Error::bad_input(format!(
                "`{}` is on a network, which is never used here; download it and give the file",
                short(text)
            ))),
            // One letter is a drive of Windows.
            scheme if scheme.len() > 1 && rest.starts_with("//") && scheme.bytes().all(is_scheme) => {
                let message = format!("a URL of the scheme `{}`, expected a path, file: or data:", short(scheme));
                Err(Error::bad_input(message))
            }
            _ => Ok(Source::Path(text.into())),
        }
    }

    /// The same from a word of the command line, which may be no Unicode; then it is a path.
    ///
    /// # Errors
    /// As [`Source::parse`].
    pub fn from_word(word: &OsStr) -> Result<Source> {
        word.to_str().map_or_else(|| Ok(Source::Path(word.into())), Source::parse)
    }

    /// The path, unless the bytes are here.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::Path(path) => Some(path),
            Source::Data(_) => None,
        }
    }

    /// The text that [`Source::parse`] reads: with all bytes, for files only. A path that is not UTF-8 becomes a `file:` URL
    /// where it is absolute, and loses what cannot be said otherwise.
    pub(super) fn to_text(&self) -> String {
        match self {
            Source::Data(Data { media_type, bytes }) => format!("data:{media_type};base64,{}", BASE64.encode(bytes)),
            Source::Path(path) => match path.to_str() {
                Some(text) if !text.contains("://") && !text.starts_with("data:") => text.to_string(),
                _ if path.is_absolute() => format!("file://{}", percent_encode(path.as_os_str().as_encoded_bytes())),
                _ => path.display().to_string(),
            },
        }
    }
}

/// For people and templates.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(path) => path.display().fmt(f),
            Source::Data(Data { media_type, bytes }) => write!(f, "data:{media_type};… ({} bytes)", bytes.len()),
        }
    }
}

/// As in words: nobody wants to read a video in a failed assertion.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Source {
        Source::Path(path.into())
    }
}

/// Takes padding or none.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, INDIFFERENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, INDIFFERENT);
const INDIFFERENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// What stands behind `data:`.
fn data_url(rest: &str) -> Result<Data> {
    let wrong = |what: &str| Error::bad_input(format!("a data: URL {what}"));
    let (head, payload) = rest.split_once(',').ok_or_else(|| wrong("without a comma"))?;
    let mut words = head.split(';').map(str::trim);
    let declared = words.next().unwrap_or_default();
    let is_type = declared.len() <= 40 && declared.bytes().all(|b| is_scheme(b) || b == b'/' || b == b'_');
    let media_type = if is_type { declared.to_string() } else { String::new() };
    let bytes = if words.any(|word| word.eq_ignore_ascii_case("base64")) {
        let mut code = if payload.contains('%') {
            percent_decode(payload).ok_or_else(|| wrong("with a `%` that is not followed by two digits"))?
        } else {
            payload.as_bytes().to_vec()
        };
        code.retain(|b| !b.is_ascii_whitespace());
        let engine = if code.iter().any(|b| matches!(b, b'-' | b'_')) { &BASE64_URL } else { &BASE64 };
        engine.decode(&code).map_err(|_| wrong("whose text is not base64"))?
    } else {
        percent_decode(payload).ok_or_else(|| wrong("with a `%` that is not followed by two digits"))?
    };
    if bytes.is_empty() {
        return Err(wrong("without content"));
    }
    Ok(Data { media_type, bytes: bytes.into() })
}

/// The path of `file:///path`, `file://localhost/path` or `file:/path`.
fn file_url(url: &str, rest: &str) -> Result<PathBuf> {
    let wrong = |what: String| Error::bad_input(format!("`{}`: {what}", short(url)));
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => {
            let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
            if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                let message = format!("`{}` is another machine, expected file:///PATH with a whole path", short(host));
                return Err(wrong(message));
            }
            &rest[host.len()..]
        }
    };
    if path.is_empty() {
        return Err(wrong("the path is empty".to_string()));
    }
    let bytes = percent_decode(path).ok_or_else(|| wrong("`%` is not followed by two digits".to_string()))?;
    if bytes.contains(&0) {
        return Err(wrong("a path holds no NUL".to_string()));
    }
    let decoded = native(bytes).ok_or_else(|| wrong("the path is not UTF-8".to_string()))?;
    // Some programs put `file://` before a name as it is; a file of that very name is then meant.
    let plain = native(path.as_bytes().to_vec()).unwrap_or_default();
    Ok(if !decoded.exists() && plain.exists() { plain } else { decoded })
}

/// Bytes as a path of this system.
#[cfg(unix)]
fn native(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(std::ffi::OsString::from_vec(bytes).into())
}

/// Bytes as a path of this system, where `/C:/x` is `C:/x`.
#[cfg(not(unix))]
fn native(bytes: Vec<u8>) -> Option<PathBuf> {
    let text = String::from_utf8(bytes).ok()?;
    let drive = text.strip_prefix('/').filter(|rest| {
        cfg!(windows) && rest.starts_with(|c: char| c.is_ascii_alphabetic()) && rest[1..].starts_with([':', '|'])
    });
    Some(drive.map_or_else(|| text.clone(), |rest| rest.replacen('|', ":", 1)).into())
}

/// `None` for a `%` without two hexadecimal digits behind it.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || (rest.next()? as char).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    Some(bytes)
}

fn percent_encode(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    bytes.iter().map(|b| if plain(*b) { (*b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// At most 80 characters of what comes from outside.
fn short(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(80).collect();
    if chars.next().is_some() { start + "…" } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str) -> String {
        Source::parse(url).unwrap_or_else(|err| panic!("{url}: {err}")).path().unwrap().display().to_string()
    }

    #[test]
    fn file_urls_become_paths() {
        for (url, want) in [
            ("file:///a/b.mp4", "/a/b.mp4"),
            ("file://localhost/a/b.mp4", "/a/b.mp4"),
            ("FILE://LocalHost/a%20b/%C3%A4.png", "/a b/ä.png"),
            ("file:/a/b", "/a/b"),
            ("/a/b%20c", "/a/b%20c"),
            ("file.mp4", "file.mp4"),
            ("a:b.mp4", "a:b.mp4"),
            ("file:a", "file:a"),
            ("data:nothing", "data:nothing"),
            ("C:\\clips\\a.mp4", "C:\\clips\\a.mp4"),
        ] {
            assert_eq!(path(url), want, "{url}");
        }
        for (url, want) in [
            ("file://server/a.mp4", "`server` is another machine"),
            ("file://a.mp4", "`a.mp4` is another machine"),
            ("file:///a%2", "not followed by two digits"),
            ("file:///a%zz", "not followed by two digits"),
            ("file:///a%00b", "no NUL"),
            ("https://example.org/a.mp4", "download it"),
            ("HTTP://example.org", "on a network"),
            ("s3://bucket/a", "scheme `s3`"),
            ("file://", "the path is empty"),
            ("file://localhost", "the path is empty"),
            ("", "empty"),
        ] {
            let err = Source::parse(url).unwrap_err().to_string();
            assert!(err.contains(want), "{url}: {err}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn file_urls_name_any_file() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"\xff\xfe.png");
        let whole = dir.path().join(name);
        let source = Source::Path(whole.clone());
        assert_eq!(Source::parse(&source.to_text()).unwrap().path(), Some(&*whole));
        // A name that only looks encoded.
        let plain = dir.path().join("50%25.png");
        std::fs::write(&plain, "x").unwrap();
        assert_eq!(Source::parse(&format!("file://{}", plain.display())).unwrap().path(), Some(&*plain));
    }

    #[test]
    fn data_urls_hold_bytes_and_never_show_them() {
        for (url, bytes, shown) in [
            ("data:image/png;base64,AAEC", &[0, 1, 2][..], "data:image/png;… (3 bytes)"),
            ("data:image;base64,+/8=", &[0xfb, 0xff], "data:image;… (2 bytes)"),
            ("DATA:;BASE64,-_8", &[0xfb, 0xff], "data:;… (2 bytes)"),
            ("data:image/png;charset=utf-8;base64,%2B%2F8%3D", &[0xfb, 0xff], "data:image/png;… (2 bytes)"),
            ("data:video/mp4;base64,AA\r\n EC", &[0, 1, 2], "data:video/mp4;… (3 bytes)"),
            ("data:,a%00b", b"a\0b", "data:;… (3 bytes)"),
            ("data:<b>;base64,AAEC", &[0, 1, 2], "data:;… (3 bytes)"),
        ] {
            let source = Source::parse(url).unwrap_or_else(|err| panic!("{url}: {err}"));
            let Source::Data(data) = &source else { panic!("{url}: a path") };
            assert_eq!(data.bytes(), bytes, "{url}");
            assert_eq!(source.to_string(), shown);
            assert_eq!(format!("{source:?}"), format!("`{shown}`"));
            assert!(Source::parse(&source.to_text()).unwrap() == source, "{url}");
        }
        for (url, want) in [
            ("data:image/png;base64,SECRET!", "is not base64"),
            ("data:image/png;base64,", "without content"),
            ("data:image/png,SECRET%4", "two digits"),
        ] {
            let err = Source::parse(url).unwrap_err().to_string();
            assert!(err.contains(want) && !err.contains("SECRET"), "{url}: {err}");
        }
    }
}
