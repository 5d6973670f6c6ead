//! Writing GGUF v3: deterministic bytes, written beside the final name and renamed when complete.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use byteorder::{ByteOrder, LE};

use super::parse::{MAGIC, alignment_of, check_name, pad, parse_front, shown, tensor_bytes};
use super::{Array, GgmlType, Metadata, TensorInfo, Value};
use crate::error::Context;
use crate::files::atomic;
use crate::{Error, Result};

/// Collects metadata and tensor shapes, then streams tensor data in the declared order.
///
/// The same metadata, tensors and data give the same bytes. Memory stays at the header plus the largest single tensor.
pub struct GgufWriter {
    meta: Metadata,
    tensors: Vec<TensorInfo>,
    names: HashSet<String>,
}

impl GgufWriter {
    /// A writer with this metadata; `general.alignment` in it, if any, sets the alignment (default 32).
    pub fn new(meta: Metadata) -> GgufWriter {
        GgufWriter { meta, tensors: Vec::new(), names: HashSet::new() }
    }

    /// Declares the next tensor: dimensions fastest first.
    ///
    /// # Errors
    /// A bad name, a duplicate, a bad shape, a row that is not a whole number of blocks.
    pub fn tensor(&mut self, name: impl Into<String>, ty: GgmlType, ne: &[usize]) -> Result<()> {
        let name = name.into();
        let place = || format!("tensor `{}`", shown(&name));
        check_name(&name)?;
        let dims: Vec<u64> = ne.iter().map(|n| *n as u64).collect();
        let n_bytes = tensor_bytes(ty, &dims).at(place)?;
        let n_bytes = usize::try_from(n_bytes)
            .map_err(|_| Error::limit(format!("`{n_bytes}` bytes do not fit into memory")).at(place()))?;
        let alignment = alignment_of(&self.meta)?;
        let offset = match self.tensors.last() {
            None => Some(0),
            Some(last) => last.offset.checked_add(last.n_bytes as u64).and_then(|end| pad(end, alignment)),
        };
        let offset = offset.ok_or_else(|| Error::format("offset overflows").at(place()))?;
        if !self.names.insert(name.clone()) {
            return Err(Error::format("is declared twice").at(place()));
        }
        self.tensors.push(TensorInfo { name, ty, ne: ne.to_vec(), offset, n_bytes, shard: 0 });
        Ok(())
    }

    /// Bytes of the finished file.
    ///
    /// # Errors
    /// As [`GgufWriter::write`] for its header.
    pub fn file_bytes(&self) -> Result<u64> {
        self.header().map(|(_, file_bytes)| file_bytes)
    }

    /// Writes the file: `fill(index, buf)` is called once per declared tensor, in order, with `buf` empty, and must push
    /// exactly the tensor's bytes. The file appears under `path` only when complete; on any error nothing is left behind.
    ///
    /// # Errors
    /// The error of `fill`; `Mismatch` when it pushed another number of bytes; a key or value that a reader would refuse;
    /// `Io` of the operating system. Each names the file and, where there is one, the tensor or key.
    pub fn write(&self, path: &Path, fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<()> {
        let (header, _) = self.header().at(|| path.display().to_string())?;
        atomic::write_beside(path, |out| self.stream(&header, out, fill))
    }

    /// Everything before the tensor data, padding included.
    ///
    /// # Errors
    /// A key or value that a reader would refuse.
    pub fn front(&self) -> Result<Vec<u8>> {
        self.header().map(|(front, _)| front)
    }

    /// [`GgufWriter::write`] in any order: `fill(file, starts)` writes where it wants into the tensors, which begin at `starts`
    /// and are holes of zeros where it does not. What it leaves can be filled in place later.
    ///
    /// # Errors
    /// See [`GgufWriter::write`].
    pub fn write_in_place(&self, path: &Path, fill: impl FnOnce(&File, &[u64]) -> Result<()>) -> Result<()> {
        let (header, file_bytes) = self.header().at(|| path.display().to_string())?;
        // The header's end is padded, and its size was computed before: no sum overflows.
        let starts: Vec<u64> = self.tensors.iter().map(|tensor| header.len() as u64 + tensor.offset).collect();
        atomic::write_beside_in_place(path, file_bytes, |mut file| {
            file.write_all(&header)?;
            fill(file, &starts)
        })
    }

    /// The whole file as bytes (tests, small files).
    pub fn to_bytes(&self, fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
        let (header, file_bytes) = self.header()?;
        let mut out = Vec::new();
        let room = usize::try_from(file_bytes).ok().filter(|n| out.try_reserve_exact(*n).is_ok());
        room.ok_or_else(|| Error::limit(format!("file of `{file_bytes}` bytes does not fit into memory")))?;
        self.stream(&header, &mut out, fill)?;
        Ok(out)
    }

    /// Everything before the tensor data, padding included, and the size of the whole file. The reader's own check has
    /// the last word on it: nothing is written that could not be opened again.
    fn header(&self) -> Result<(Vec<u8>, u64)> {
        let alignment = alignment_of(&self.meta)?;
        let mut out = Vec::new();
        out.extend(MAGIC);
        put(&mut out, &[3], LE::write_u32_into);
        put(&mut out, &[self.tensors.len() as u64, self.meta.len() as u64], LE::write_u64_into);
        for (key, value) in self.meta.iter() {
            put_string(&mut out, key);
            put(&mut out, &[value.value_type().id()], LE::write_u32_into);
            put_value(&mut out, value);
        }
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            put(&mut out, &[tensor.ne.len() as u32], LE::write_u32_into);
            tensor.ne.iter().for_each(|n| put(&mut out, &[*n as u64], LE::write_u64_into));
            put(&mut out, &[tensor.ty.id()], LE::write_u32_into);
            put(&mut out, &[tensor.offset], LE::write_u64_into);
        }
        let overflow = || Error::format("file size overflows");
        let data_start = pad(out.len() as u64, alignment).ok_or_else(overflow)?;
        out.resize(usize::try_from(data_start).map_err(|_| overflow())?, 0);
        let file_bytes = match self.tensors.last() {
            None => Some(data_start),
            // The last tensor is padded like all others.
            Some(last) => last
                .offset
                .checked_add(last.n_bytes as u64)
                .and_then(|end| pad(end, alignment))
                .and_then(|end| end.checked_add(data_start)),
        };
        let file_bytes = file_bytes.ok_or_else(overflow)?;
        parse_front(&out, file_bytes)?;
        Ok((out, file_bytes))
    }

    fn stream(
        &self,
        header: &[u8],
        out: &mut dyn Write,
        mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let alignment = alignment_of(&self.meta)?;
        out.write_all(header)?;
        let mut buf = Vec::new();
        for (i, tensor) in self.tensors.iter().enumerate() {
            let place = || format!("tensor `{}`", shown(&tensor.name));
            buf.clear();
            fill(i, &mut buf).at(place)?;
            if buf.len() != tensor.n_bytes {
                let what = format!("filled with `{}` bytes, expected {}", buf.len(), tensor.n_bytes);
                return Err(Error::mismatch(what).at(place()));
            }
            let padded = pad(buf.len() as u64, alignment).and_then(|n| usize::try_from(n).ok());
            buf.resize(padded.ok_or_else(|| Error::limit("does not fit into memory").at(place()))?, 0);
            out.write_all(&buf).at(place)?;
        }
        Ok(())
    }
}

/// Appends `values` in the byte order of `write`.
fn put<T>(out: &mut Vec<u8>, values: &[T], write: fn(&[T], &mut [u8])) {
    let start = out.len();
    out.resize(start + size_of_val(values), 0);
    write(values, &mut out[start..]);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put(out, &[text.len() as u64], LE::write_u64_into);
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.push(v.cast_unsigned()),
        Value::U16(v) => put(out, &[*v], LE::write_u16_into),
        Value::I16(v) => put(out, &[*v], LE::write_i16_into),
        Value::U32(v) => put(out, &[*v], LE::write_u32_into),
        Value::I32(v) => put(out, &[*v], LE::write_i32_into),
        Value::F32(v) => put(out, &[*v], LE::write_f32_into),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => put(out, &[*v], LE::write_u64_into),
        Value::I64(v) => put(out, &[*v], LE::write_i64_into),
        Value::F64(v) => put(out, &[*v], LE::write_f64_into),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    put(out, &[array.value_type().id()], LE::write_u32_into);
    put(out, &[array.len() as u64], LE::write_u64_into);
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().map(|x| x.cast_unsigned())),
        Array::U16(v) => put(out, v, LE::write_u16_into),
        Array::I16(v) => put(out, v, LE::write_i16_into),
        Array::U32(v) => put(out, v, LE::write_u32_into),
        Array::I32(v) => put(out, v, LE::write_i32_into),
        Array::F32(v) => put(out, v, LE::write_f32_into),
        Array::Bool(v) => out.extend(v.iter().map(|x| u8::from(*x))),
        Array::String(v) => v.iter().for_each(|x| put_string(out, x)),
        Array::U64(v) => put(out, v, LE::write_u64_into),
        Array::I64(v) => put(out, v, LE::write_i64_into),
        Array::F64(v) => put(out, v, LE::write_f64_into),
    }
}
