//! From bytes to tables: the header, the keys and the tensor table of one GGUF file, checked completely.
//!
//! [`parse`] is a pure function; mapping or reading the file is somebody else's job. Every length passes through one
//! checked step (`Cursor::take`), every count is compared with the bytes that are left before memory is reserved for
//! it, and the ranges of all tensors are validated before a caller sees the first one.
//!
//! Tensor offsets must be exactly cumulative: each tensor starts where the previous one ends, rounded up to the
//! alignment. That is stricter than the specification and what llama.cpp demands, so every file in circulation fulfils
//! it; it rules out overlap, backward steps and unexplained holes at once. Bytes after the last tensor are allowed.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use byteorder::{ByteOrder, LE, ReadBytesExt};

use super::foreign::what_is;
use super::limits::*;
use super::{Array, GgmlType, Metadata, TensorInfo, Value, ValueType};
use crate::error::Context;
use crate::{Error, Result};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The key that sets the alignment of tensor data.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment of files that do not set [`ALIGNMENT_KEY`].
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// What the front part of a GGUF file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// 2 or 3; the two differ only in what they allow, not in layout.
    pub version: u32,
    /// Alignment of the data section and of every tensor in it, in bytes.
    pub alignment: u64,
    /// Keys and values in file order.
    pub meta: Metadata,
    /// Tensors in file order, which is also the order of their data; `shard` is 0.
    pub tensors: Vec<TensorInfo>,
    /// Byte offset of the data section within the file. Without tensors it may lie past the end.
    pub data_start: u64,
}

/// Reads and checks the tables of a whole GGUF file in memory.
///
/// # Errors
/// `Format` for malformed files, `Unsupported` for big-endian files, other versions, nested arrays and unknown tensor
/// types, `Limit` beyond a cap of [`limits`](super::limits). The message names the field and the byte where it matters.
pub fn parse(bytes: &[u8]) -> Result<Tables> {
    parse_front(bytes, bytes.len() as u64)
}

/// The same for the front part alone of a file of `file_len` bytes: the writer judges its own header with it.
pub(super) fn parse_front(bytes: &[u8], file_len: u64) -> Result<Tables> {
    let mut cur = Cursor { bytes, at: 0 };
    let version = cur.magic_and_version().at(|| "header")?;
    let n_tensors = cur.u64("the tensor count").at(|| "header")?;
    let n_keys = cur.u64("the key count").at(|| "header")?;
    // A key record takes at least a length, one byte, a type and one byte; a tensor record at least a length, one
    // byte, one dimension with its count, a type and an offset.
    let n_keys = cur.count(n_keys, MAX_KEYS, 8 + 1 + 4 + 1, "metadata keys").at(|| "header")?;
    let n_tensors = cur.count(n_tensors, MAX_TENSORS, 8 + 1 + 4 + 8 + 4 + 8, "tensors").at(|| "header")?;

    let meta = cur.metadata(n_keys)?;
    let alignment = alignment_of(&meta)?;
    let tensors = cur.tensor_table(n_tensors)?;
    let data_start = pad(cur.at as u64, alignment).ok_or_else(|| Error::format("data section start overflows"))?;
    check_ranges(&tensors, alignment, data_start, file_len)?;
    Ok(Tables { version, alignment, meta, tensors, data_start })
}

/// The alignment that `meta` asks for, or the default.
///
/// # Errors
/// `Format` when the key is not a u32, not a power of two or outside the caps.
pub(super) fn alignment_of(meta: &Metadata) -> Result<u64> {
    let alignment = match meta.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(v)) => u64::from(*v),
        Some(other) => {
            return Err(Error::format(format!("key `{ALIGNMENT_KEY}` is `{}`, expected u32", other.type_name())));
        }
    };
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(Error::format(format!(
            "key `{ALIGNMENT_KEY}` is `{alignment}`, expected a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        )));
    }
    Ok(alignment)
}

/// `n` rounded up to a multiple of `alignment`, or `None` on overflow.
pub(super) fn pad(n: u64, alignment: u64) -> Option<u64> {
    n.checked_next_multiple_of(alignment)
}

/// Checks a tensor name: 1 to 63 bytes without NUL.
pub(super) fn check_name(name: &str) -> Result<()> {
    match name.len() as u64 {
        0 => Err(Error::format("tensor name is empty")),
        1..=MAX_NAME if name.contains('\0') => Err(Error::format(format!("tensor name `{}` holds NUL", shown(name)))),
        1..=MAX_NAME => Ok(()),
        n => Err(Error::limit(format!("tensor name `{}` has `{n}` bytes, at most {MAX_NAME} fit", shown(name)))),
    }
}

/// Bytes of a tensor of type `ty` with dimensions `ne`, fastest first.
///
/// # Errors
/// `Format` when there are none or more than four dimensions, one is 0, a row is not a whole number of blocks, or a size
/// overflows.
pub(super) fn tensor_bytes(ty: GgmlType, ne: &[u64]) -> Result<u64> {
    if ne.is_empty() || ne.len() > MAX_DIMS as usize {
        return Err(Error::format(format!("`{}` dimensions, expected 1 to {MAX_DIMS}", ne.len())));
    }
    if let Some(i) = ne.iter().position(|n| *n == 0) {
        return Err(Error::format(format!("dimension `{i}` of shape `{ne:?}` is 0, expected at least 1")));
    }
    // ggml counts elements in signed 64 bits.
    let overflow = || Error::format(format!("size of shape `{ne:?}` of type `{ty}` overflows 63 bits"));
    let within = |n: &u64| i64::try_from(*n).is_ok();
    let n_elements = ne.iter().try_fold(1u64, |all, n| all.checked_mul(*n).filter(within)).ok_or_else(overflow)?;
    let (block_len, block_bytes) = (ty.block_len() as u64, ty.block_bytes() as u64);
    if !ne[0].is_multiple_of(block_len) {
        return Err(Error::format(format!(
            "row length `{}` is not a whole number of `{ty}` blocks of {block_len}",
            ne[0]
        )));
    }
    (n_elements / block_len).checked_mul(block_bytes).filter(within).ok_or_else(overflow)
}

/// `text` as it may stand in a message: control characters escaped, cut to a readable length.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

/// Checks that the offsets are exactly cumulative and that the last byte of every tensor lies within the file.
fn check_ranges(tensors: &[TensorInfo], alignment: u64, data_start: u64, file_len: u64) -> Result<()> {
    let mut expected = 0u64;
    for tensor in tensors {
        let place = || format!("tensor `{}`", shown(&tensor.name));
        let offset = tensor.offset;
        if !offset.is_multiple_of(alignment) {
            let what = format!("offset `{offset}` is not aligned, expected a multiple of {alignment}");
            return Err(Error::format(what).at(place()));
        }
        let end = data_start.checked_add(offset).and_then(|n| n.checked_add(tensor.n_bytes as u64));
        if end.is_none_or(|end| end > file_len) {
            let what = format!(
                "offset `{offset}` with `{}` bytes lies past the end of the file of {file_len} bytes (data starts at {data_start})",
                tensor.n_bytes
            );
            return Err(Error::format(what).at(place()));
        }
        if offset != expected {
            let how = if offset < expected { "overlaps the tensor before it" } else { "leaves a gap" };
            return Err(Error::format(format!("offset `{offset}` {how}, expected `{expected}`")).at(place()));
        }
        // In range of the file, hence far from overflow before padding.
        expected = pad(offset + tensor.n_bytes as u64, alignment)
            .ok_or_else(|| Error::format("size with padding overflows").at(place()))?;
    }
    Ok(())
}

/// A reading position in the front part of a file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `n` bytes: the one step through which every length passes.
    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8]> {
        let (at, left) = (self.at, self.left());
        if n > left {
            return Err(Error::format(format!("file ends inside {what}: `{n}` bytes at byte {at}, {left} are left")));
        }
        let end = at as u64 + n;
        if end > MAX_HEADER {
            let what = format!("{what} of `{n}` bytes at byte {at} makes the header longer than {MAX_HEADER} bytes");
            return Err(Error::limit(what));
        }
        // `end` is within the slice, so it fits usize.
        self.at = end as usize;
        Ok(&self.bytes[at..self.at])
    }

    /// Bytes that are left.
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(4, what).map(LE::read_u32)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(8, what).map(LE::read_u64)
    }

    /// Checks a count of things that take at least `min_bytes` each, before anything is reserved for them.
    fn count(&self, n: u64, cap: u64, min_bytes: u64, what: &str) -> Result<usize> {
        if n > cap {
            return Err(Error::limit(format!("`{n}` {what}, at most {cap} are accepted")));
        }
        if n > self.left() / min_bytes {
            return Err(Error::format(format!("`{n}` {what} cannot fit into the {} bytes that are left", self.left())));
        }
        Ok(n as usize) // at most `cap`, which fits everywhere
    }

    fn magic_and_version(&mut self) -> Result<u32> {
        let magic = &self.bytes[..self.bytes.len().min(MAGIC.len())];
        if magic != MAGIC {
            let found = match magic {
                [] => "file is empty".to_string(),
                magic => format!("file begins with `{}`", magic.escape_ascii()),
            };
            return Err(Error::format(match what_is(self.bytes) {
                Some(what) => format!("this is {what} ({found}, expected the magic `GGUF`)"),
                None => format!("{found}, expected the magic `GGUF`"),
            }));
        }
        self.take(MAGIC.len() as u64, "the magic")?;
        match self.u32("the version")? {
            v @ (2 | 3) => Ok(v),
            // There is no flag for the byte order; a swapped version is its only trace.
            v if v != 0 && v & 0xffff == 0 => {
                let v = v.swap_bytes();
                Err(Error::unsupported(format!("big-endian file of version `{v}`, expected little-endian")))
            }
            v => Err(Error::unsupported(format!("version `{v}` is not supported, expected 2 or 3"))),
        }
    }

    fn metadata(&mut self, n_keys: usize) -> Result<Metadata> {
        let mut pairs = Vec::with_capacity(n_keys);
        let mut seen = HashSet::with_capacity(n_keys);
        for i in 0..n_keys {
            let key = self.string(MAX_KEY, "a key").at(|| format!("key number {i}"))?;
            let place = || format!("key `{}`", shown(key));
            if key.is_empty() || key.contains('\0') {
                return Err(Error::format("expected a key that is not empty and holds no NUL").at(place()));
            }
            if !seen.insert(key) {
                return Err(Error::format("occurs twice").at(place()));
            }
            let value =
                self.u32("a value type").and_then(ValueType::from_id).and_then(|ty| self.value(ty)).at(place)?;
            pairs.push((key.to_string(), value));
        }
        Ok(Metadata::from_distinct(pairs))
    }

    /// A string of at most `cap` bytes: length, then UTF-8 without terminator.
    fn string(&mut self, cap: u64, what: &str) -> Result<&'a str> {
        let n = self.u64("a string length")?;
        if n > cap && n <= self.left() {
            return Err(Error::limit(format!("{what} has `{n}` bytes, at most {cap} are accepted")));
        }
        let bytes = self.take(n, what)?;
        std::str::from_utf8(bytes).map_err(|err| {
            let at = self.at - bytes.len() + err.valid_up_to();
            Error::format(format!("{what} is not UTF-8 at byte {at}"))
        })
    }

    fn value(&mut self, ty: ValueType) -> Result<Value> {
        const WHAT: &str = "a value";
        Ok(match ty {
            ValueType::U8 => Value::U8(self.take(1, WHAT)?[0]),
            ValueType::I8 => Value::I8(self.take(1, WHAT)?[0].cast_signed()),
            ValueType::U16 => Value::U16(LE::read_u16(self.take(2, WHAT)?)),
            ValueType::I16 => Value::I16(LE::read_i16(self.take(2, WHAT)?)),
            ValueType::U32 => Value::U32(LE::read_u32(self.take(4, WHAT)?)),
            ValueType::I32 => Value::I32(LE::read_i32(self.take(4, WHAT)?)),
            ValueType::F32 => Value::F32(LE::read_f32(self.take(4, WHAT)?)),
            ValueType::U64 => Value::U64(LE::read_u64(self.take(8, WHAT)?)),
            ValueType::I64 => Value::I64(LE::read_i64(self.take(8, WHAT)?)),
            ValueType::F64 => Value::F64(LE::read_f64(self.take(8, WHAT)?)),
            ValueType::Bool => Value::Bool(bool_of(self.take(1, WHAT)?[0])?),
            ValueType::String => Value::String(self.string(MAX_STRING, "a string")?.to_string()),
            ValueType::Array => Value::Array(self.array()?),
        })
    }

    fn array(&mut self) -> Result<Array> {
        let ty = ValueType::from_id(self.u32("an element type")?)?;
        let n = self.u64("an element count")?;
        Ok(match ty {
            ValueType::U8 => Array::U8(self.plain(n, |bytes, values| values.copy_from_slice(bytes))?),
            ValueType::I8 => Array::I8(
                self.plain(n, |mut bytes, values| bytes.read_i8_into(values).expect("as many bytes as values"))?,
            ),
            ValueType::U16 => Array::U16(self.plain(n, LE::read_u16_into)?),
            ValueType::I16 => Array::I16(self.plain(n, LE::read_i16_into)?),
            ValueType::U32 => Array::U32(self.plain(n, LE::read_u32_into)?),
            ValueType::I32 => Array::I32(self.plain(n, LE::read_i32_into)?),
            ValueType::F32 => Array::F32(self.plain(n, LE::read_f32_into)?),
            ValueType::U64 => Array::U64(self.plain(n, LE::read_u64_into)?),
            ValueType::I64 => Array::I64(self.plain(n, LE::read_i64_into)?),
            ValueType::F64 => Array::F64(self.plain(n, LE::read_f64_into)?),
            ValueType::Bool => {
                let bytes = self.plain(n, |bytes, values: &mut [u8]| values.copy_from_slice(bytes))?;
                Array::Bool(bytes.into_iter().map(bool_of).collect::<Result<_>>()?)
            }
            ValueType::String => {
                // Every string takes at least its length field.
                let n = self.count(n, MAX_ARRAY, 8, "array elements")?;
                let mut strings = Vec::with_capacity(n);
                for i in 0..n {
                    let string = self.string(MAX_STRING, "a string").at(|| format!("element {i}"))?;
                    strings.push(string.to_string());
                }
                Array::String(strings)
            }
            ValueType::Array => return Err(Error::unsupported("array of arrays, expected an array of plain values")),
        })
    }

    /// An array of `n` plain values.
    fn plain<T: Copy + Default>(&mut self, n: u64, read: fn(&[u8], &mut [T])) -> Result<Vec<T>> {
        let n = self.count(n, MAX_ARRAY, size_of::<T>() as u64, "array elements")?;
        let mut values = vec![T::default(); n];
        read(self.take(size_of_val(&*values) as u64, "an array")?, &mut values);
        Ok(values)
    }

    fn tensor_table(&mut self, n_tensors: usize) -> Result<Vec<TensorInfo>> {
        let mut tensors = Vec::with_capacity(n_tensors);
        let mut seen = HashSet::with_capacity(n_tensors);
        for i in 0..n_tensors {
            let name = self.string(MAX_NAME, "a tensor name").at(|| format!("tensor number {i}"))?;
            check_name(name).at(|| format!("tensor number {i}"))?;
            let place = || format!("tensor `{}`", shown(name));
            if !seen.insert(name) {
                return Err(Error::format("occurs twice").at(place()));
            }
            tensors.push(self.tensor(name).at(place)?);
        }
        Ok(tensors)
    }

    /// The rest of a tensor record, after its name.
    fn tensor(&mut self, name: &str) -> Result<TensorInfo> {
        let n_dims = self.u32("a dimension count")?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return Err(Error::format(format!("`{n_dims}` dimensions, expected 1 to {MAX_DIMS}")));
        }
        let ne = (0..n_dims).map(|_| self.u64("a dimension")).collect::<Result<Vec<u64>>>()?;
        let ty = GgmlType::from_id(self.u32("a tensor type")?)?;
        let offset = self.u64("a tensor offset")?;
        let n_bytes = tensor_bytes(ty, &ne)?;
        let too_big = || Error::limit(format!("shape `{ne:?}` does not fit into this machine's memory"));
        let n_bytes = usize::try_from(n_bytes).map_err(|_| too_big())?;
        let ne = ne.iter().map(|n| usize::try_from(*n).map_err(|_| too_big())).collect::<Result<Vec<usize>>>()?;
        Ok(TensorInfo { name: name.to_string(), ty, ne, offset, n_bytes, shard: 0 })
    }
}

fn bool_of(byte: u8) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::format(format!("bool byte `{byte}`, expected 0 or 1"))),
    }
}
