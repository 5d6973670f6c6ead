//! The header of a safetensors file, checked strictly, and reading ranges of its data.
//!
//! The reference crate checks what offsets must obey; it reads from a buffer that holds the whole file and keeps the
//! last of two equal names, so this file reads the header alone, entry by entry, and refuses repeated names.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use byteorder::{LE, ReadBytesExt};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::{Error, Result};

/// Largest header that is read, the reference implementation's limit.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Most tensors in one file.
const MAX_TENSORS: usize = 1 << 20;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// A tensor of an open file.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    pub name: String,
    pub dtype: Dtype,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Where its data begins in the file.
    pub offset: u64,
    /// Bytes of data.
    pub n_bytes: u64,
}

/// Reads and checks the header of `file`; the tensors come in the order of their data.
///
/// # Errors
/// `Limit` for a header beyond the caps, `Format` for everything else that the format forbids: a header past the end,
/// not JSON, a repeated name, an unknown type, offsets with holes, overlaps or wrong lengths, bytes after the last tensor.
pub(crate) fn read_header(file: &mut (impl Read + Seek)) -> Result<Vec<StoredTensor>> {
    let n_file = file.seek(SeekFrom::End(0))?;
    if n_file < 8 {
        return Err(Error::format(format!("a safetensors file of `{n_file}` bytes, expected at least 8")));
    }
    file.seek(SeekFrom::Start(0))?;
    let n_header = file.read_u64::<LE>()?;
    if n_header > MAX_HEADER {
        return Err(Error::limit(format!("header length `{n_header}` exceeds {MAX_HEADER} bytes")));
    }
    if n_header > n_file - 8 {
        return Err(Error::format(format!("header length `{n_header}` exceeds the file's `{n_file}` bytes")));
    }
    let mut header = vec![0; n_header as usize];
    file.read_exact(&mut header)?;
    parse(&header, n_file - 8 - n_header, 8 + n_header)
}

/// Reads `buf.len()` bytes of `tensor`'s data from byte `at` on.
pub(crate) fn read_data(file: &mut File, tensor: &StoredTensor, at: u64, buf: &mut [u8]) -> Result<()> {
    debug_assert!(at + buf.len() as u64 <= tensor.n_bytes);
    file.seek(SeekFrom::Start(tensor.offset + at))?;
    file.read_exact(buf)?;
    Ok(())
}

fn parse(header: &[u8], n_data: u64, start: u64) -> Result<Vec<StoredTensor>> {
    if header.first() != Some(&b'{') {
        return Err(Error::format("header does not start with `{`"));
    }
    let text = std::str::from_utf8(header).map_err(|err| Error::format(format!("header is not UTF-8: {err}")))?;
    let Entries(mut entries) = serde_json::from_str(text).map_err(|err| Error::format(format!("header: {err}")))?;
    entries.sort_by_key(|(_, info)| info.data_offsets);
    // From here on the reference crate judges offsets and sizes.
    let names: Vec<String> = entries.iter().map(|(name, _)| name.clone()).collect();
    let meta = Metadata::new(None, entries).map_err(|err| Error::format(format!("header: {err}")))?;
    if meta.data_len() as u64 != n_data {
        return Err(Error::format(format!(
            "tensors cover `{}` bytes of data, the file has `{n_data}`",
            meta.data_len()
        )));
    }
    let stored = |name: String| {
        let info = meta.info(&name).expect("it was just entered");
        let (begin, end) = info.data_offsets;
        StoredTensor {
            dtype: info.dtype,
            shape: info.shape.clone(),
            offset: start + begin as u64,
            n_bytes: (end - begin) as u64,
            name,
        }
    };
    Ok(names.into_iter().map(stored).collect())
}

/// The entries of a header but for `__metadata__`, each name once.
struct Entries(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = HashSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("name `{name}` stands twice")));
                    }
                    if seen.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<Strings>()?;
                        continue;
                    }
                    let info: TensorInfo = map.next_value()?;
                    if info.shape.len() > MAX_DIMS {
                        let n = info.shape.len();
                        return Err(A::Error::custom(format!(
                            "tensor `{name}` has {n} dimensions, at most {MAX_DIMS}"
                        )));
                    }
                    entries.push((name, info));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// The free-form table of a header: strings under names that stand once; nothing here is used.
struct Strings;

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strings, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Strings;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let mut seen = HashSet::new();
                while let Some((name, _)) = map.next_entry::<String, String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`__metadata__`: name `{name}` stands twice")));
                    }
                }
                Ok(Strings)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, n_data: u64, want: &str) {
        match parse(header.as_bytes(), n_data, 0) {
            Ok(_) => assert_eq!(want, "", "{header} was accepted"),
            Err(err) => assert!(!want.is_empty() && err.to_string().contains(want), "{header}: {err}"),
        }
    }

    #[test]
    fn headers_are_judged_one_defect_at_a_time() {
        let t = |begin: u64, end: u64| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{begin},{end}]}}"#);
        check(&format!(r#"{{"a":{},"b":{}}}   "#, t(0, 8), t(8, 16)), 16, "");
        check(&format!(r#"{{"b":{},"a":{},"__metadata__":{{"format":"pt"}}}}"#, t(8, 16), t(0, 8)), 16, "");
        check("{}", 0, "");
        check(&format!(r#"{{"a":{},"a":{}}}"#, t(0, 8), t(8, 16)), 16, "`a` stands twice");
        check(r#"{"__metadata__":{"x":"1","x":"2"}}"#, 0, "`x` stands twice");
        check(r#"{"__metadata__":{"x":1}}"#, 0, "expected a string");
        check(&format!(r#"{{"a":{}}}"#, t(0, 8)), 9, "cover `8`");
        check(&format!(r#"{{"a":{}}}"#, t(0, 8)), 7, "cover `8`");
        check(&format!(r#"{{"a":{},"b":{}}}"#, t(0, 8), t(9, 17)), 17, "offset");
        check(&format!(r#"{{"a":{},"b":{}}}"#, t(0, 8), t(4, 12)), 12, "offset");
        check(&format!(r#"{{"a":{}}}"#, t(8, 0)), 8, "offset");
        check(&format!(r#"{{"a":{}}}"#, t(0, 9)), 9, "shape");
        check(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0, "overflow");
        check(r#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, 4, "F31");
        check(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "-1");
        check(r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#, 4, "duplicate");
        check(r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#, 4, "dimensions");
        check("[]", 0, "start");
        check(" {}", 0, "start");
        check("{} x", 0, "trailing");
        check(r#"{"a":"#, 0, "EOF");
        check(&format!(r#"{{"a":{}"#, "[".repeat(100_000)), 0, "header");
    }
}
