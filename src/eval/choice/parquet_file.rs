//! Parquet files: rows through the `parquet` crate, after the sizes that the file declares were checked.
//!
//! The crate reserves memory by what the schema and the page headers declare. So both are walked first, in their own encoding
//! (Thrift's compact protocol): a tiny file that declares gigabytes, or a schema nested a million deep, is an error.

use std::cell::Cell as Counter;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::table::{Cell, Cells, MAX_VALUES, check_rows};
use crate::error::Context;
use crate::{Error, Result};

const MAGIC: &[u8] = b"PAR1";
const MAX_FOOTER: usize = 8 << 20;
const MAX_SCHEMA: u64 = 512;
const MAX_ROW_GROUPS: u64 = 4096;
/// All pages of a column in one row group together, after decompression: their values refer to them.
const MAX_COLUMN: i64 = 16 << 20;
/// Most text, all cells together, in bytes: a dictionary can name one long text many times.
const MAX_TEXT: usize = 16 << 20;

fn refused(err: parquet::errors::ParquetError) -> Error {
    Error::format(err.to_string())
}

/// The rows of a file, with those of their columns that are called `fields`.
pub(super) fn read(bytes: Vec<u8>, fields: &[&str]) -> Result<Vec<Cells>> {
    check_footer(&bytes)?;
    // What the checks cannot see ends the reading, not the program.
    catch_unwind(AssertUnwindSafe(|| rows(Bytes::from(bytes), fields)))
        .unwrap_or_else(|_| Err(Error::format("the parquet reader gave up on this file")))
}

fn rows(bytes: Bytes, fields: &[&str]) -> Result<Vec<Cells>> {
    let reader = SerializedFileReader::new(bytes.clone()).map_err(refused)?;
    let (mut rows, mut n_values, n_text) = (Vec::new(), 0, Counter::new(0));
    for g in 0..reader.num_row_groups() {
        let group = reader.get_row_group(g).map_err(refused)?;
        let n_rows = usize::try_from(group.metadata().num_rows())
            .map_err(|_| Error::format(format!("row group {g} has `{}` rows", group.metadata().num_rows())))?;
        check_rows(rows.len().saturating_add(n_rows))?;
        let first = rows.len();
        rows.resize_with(first + n_rows, Cells::new);
        for (c, column) in group.metadata().columns().iter().enumerate() {
            let name = column.column_path().parts().first().cloned().unwrap_or_default();
            if !fields.contains(&name.as_str()) {
                continue;
            }
            let place = || format!("row group {g}, column `{name}`");
            n_values += check_pages(&bytes, column).at(place)?;
            if n_values > MAX_VALUES as i64 {
                return Err(Error::limit(format!("more than {MAX_VALUES} values")).at(place()));
            }
            let cells = values(group.get_column_reader(c).map_err(refused)?, column, n_rows, &n_text).at(place)?;
            for (row, cell) in rows[first..].iter_mut().zip(cells) {
                if row.insert(name.clone(), cell).is_some() {
                    return Err(
                        Error::unsupported("a column of maps, expected one of plain values or lists").at(place())
                    );
                }
            }
        }
    }
    Ok(rows)
}

/// The values of a column, one cell a row.
fn values(
    reader: ColumnReader,
    column: &ColumnChunkMetaData,
    n_rows: usize,
    n_text: &Counter<usize>,
) -> Result<Vec<Cell>> {
    let text = |bytes: ByteArray| {
        n_text.set(n_text.get() + bytes.len());
        if n_text.get() > MAX_TEXT {
            return Err(Error::limit(format!("more than {MAX_TEXT} bytes of text")));
        }
        let text = std::str::from_utf8(bytes.data()).map_err(|err| Error::format(format!("is not UTF-8: {err}")))?;
        Ok(Cell::Text(text.to_string()))
    };
    match reader {
        ColumnReader::ByteArrayColumnReader(r) => typed(r, column, n_rows, text),
        ColumnReader::BoolColumnReader(r) => typed(r, column, n_rows, |v| Ok(Cell::Bool(v))),
        ColumnReader::Int32ColumnReader(r) => typed(r, column, n_rows, |v| Ok(Cell::Number(f64::from(v)))),
        ColumnReader::Int64ColumnReader(r) => typed(r, column, n_rows, |v| Ok(Cell::Number(v as f64))),
        ColumnReader::FloatColumnReader(r) => typed(r, column, n_rows, |v| Ok(Cell::Number(f64::from(v)))),
        ColumnReader::DoubleColumnReader(r) => typed(r, column, n_rows, |v| Ok(Cell::Number(v))),
        _ => Err(Error::unsupported(format!("has type {}, expected text, numbers or lists", column.column_type()))),
    }
}

fn typed<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    column: &ColumnChunkMetaData,
    n_rows: usize,
    cell: impl Fn(T::T) -> Result<Cell>,
) -> Result<Vec<Cell>> {
    let (max_def, max_rep) = (column.column_descr().max_def_level(), column.column_descr().max_rep_level());
    if max_rep > 1 {
        return Err(Error::unsupported("a list of lists, expected plain values or lists"));
    }
    let (mut defs, mut reps, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut n_read = 0;
    while n_read < n_rows {
        let (n, _, _) =
            reader.read_records(n_rows - n_read, Some(&mut defs), Some(&mut reps), &mut values).map_err(refused)?;
        if n == 0 {
            break;
        }
        n_read += n;
    }
    let mut values = values.into_iter();
    // A level below the largest stands for a value that is not there.
    let mut next = |def: i16| if def == max_def { values.next().map(&cell).transpose() } else { Ok(None) };
    let mut cells = Vec::new();
    if max_rep == 0 {
        let defs = if max_def == 0 { vec![0; n_read] } else { defs };
        for def in defs {
            cells.push(next(def)?.unwrap_or(Cell::Null));
        }
    } else {
        for (def, rep) in defs.into_iter().zip(reps) {
            if rep == 0 {
                cells.push(Cell::List(Vec::new()));
            }
            if let (Some(Cell::List(list)), Some(value)) = (cells.last_mut(), next(def)?) {
                list.push(value);
            }
        }
    }
    if cells.len() != n_rows {
        return Err(Error::format(format!("has `{}` rows, the row group {n_rows}", cells.len())));
    }
    Ok(cells)
}

/// Walks the footer and checks what the crate reserves or recurses by.
fn check_footer(bytes: &[u8]) -> Result<()> {
    let wrong = || Error::format("is no parquet file: it does not begin and end with `PAR1`");
    let n = bytes.len();
    if n < 12 || !bytes.starts_with(MAGIC) || !bytes.ends_with(MAGIC) {
        return Err(wrong());
    }
    let footer = u32::from_le_bytes(bytes[n - 8..n - 4].try_into().expect("four bytes")) as usize;
    if footer > MAX_FOOTER || footer > n - 12 {
        return Err(Error::limit(format!("footer of `{footer}` bytes in a file of {n}, at most {MAX_FOOTER}")));
    }
    let mut compact = Compact { bytes: &bytes[n - 8 - footer..n - 8], at: 0 };
    compact.fields(0, &mut |compact, id, kind| match (id, kind) {
        // The schema: its elements, and the children that each declares.
        (2, Compact::LIST) => {
            let (n, _) = compact.list()?;
            if n > MAX_SCHEMA {
                return Err(Error::limit(format!("schema of `{n}` elements, at most {MAX_SCHEMA}")));
            }
            for _ in 0..n {
                compact.fields(1, &mut |compact, id, kind| {
                    if (id, kind) != (5, Compact::I32) {
                        return Ok(false);
                    }
                    let n = compact.zigzag()?;
                    if !(0..=MAX_SCHEMA as i64).contains(&n) {
                        return Err(Error::limit(format!("schema element with `{n}` children, at most {MAX_SCHEMA}")));
                    }
                    Ok(true)
                })?;
            }
            Ok(true)
        }
        (4, Compact::LIST) => {
            let (n, kind) = compact.list()?;
            if n > MAX_ROW_GROUPS {
                return Err(Error::limit(format!("`{n}` row groups, at most {MAX_ROW_GROUPS}")));
            }
            (0..n).try_for_each(|_| compact.skip(kind, 1))?;
            Ok(true)
        }
        _ => Ok(false),
    })
}

/// Walks the page headers of a column chunk and checks the sizes that they declare. Returns the number of values.
fn check_pages(bytes: &[u8], column: &ColumnChunkMetaData) -> Result<i64> {
    let first = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let size = column.compressed_size();
    let range = usize::try_from(first).ok().zip(usize::try_from(size).ok());
    let chunk = range.and_then(|(first, size)| bytes.get(first..first.checked_add(size)?));
    let chunk =
        chunk.ok_or_else(|| Error::format(format!("lies at `{first}` with `{size}` bytes, outside the file")))?;
    let (mut at, mut n_values, mut total) = (0, 0, 0);
    while at < chunk.len() {
        let mut compact = Compact { bytes: chunk, at };
        let (mut unpacked, mut packed) = (0, 0);
        compact.fields(0, &mut |compact, id, kind| match (id, kind) {
            (2, Compact::I32) => {
                unpacked = compact.zigzag()?;
                Ok(true)
            }
            (3, Compact::I32) => {
                packed = compact.zigzag()?;
                Ok(true)
            }
            // Data page, dictionary page, data page of version 2: each begins with its number of values.
            (5 | 7 | 8, Compact::STRUCT) => {
                compact.fields(1, &mut |compact, id, kind| {
                    if (id, kind) != (1, Compact::I32) {
                        return Ok(false);
                    }
                    let n = compact.zigzag()?;
                    if !(0..=MAX_VALUES as i64).contains(&n) {
                        return Err(Error::limit(format!("page of `{n}` values, at most {MAX_VALUES}")));
                    }
                    n_values += n;
                    Ok(true)
                })?;
                Ok(true)
            }
            _ => Ok(false),
        })?;
        total += unpacked.max(0);
        if unpacked < 0 || total > MAX_COLUMN {
            return Err(Error::limit(format!("page of `{unpacked}` bytes, at most {MAX_COLUMN} in a column")));
        }
        let next = usize::try_from(packed).ok().and_then(|packed| compact.at.checked_add(packed));
        at = next.filter(|next| *next <= chunk.len()).ok_or_else(|| {
            Error::format(format!("page of `{packed}` bytes where {} are left", chunk.len() - compact.at))
        })?;
    }
    Ok(n_values)
}

/// What takes a field, or leaves it to be skipped (`false`).
type Take<'f> = dyn FnMut(&mut Compact<'_>, i64, u8) -> Result<bool> + 'f;

/// A walk over Thrift's compact protocol.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Compact<'_> {
    const I32: u8 = 5;
    const LIST: u8 = 9;
    const STRUCT: u8 = 12;
    /// Nesting of parquet's own structures is far below this.
    const MAX_DEPTH: usize = 24;

    fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| Error::format("a header ends in the middle"))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::format("a header has a number of more than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Length and element type of a list.
    fn list(&mut self) -> Result<(u64, u8)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // Every element takes a byte or more.
        if n > (self.bytes.len() - self.at.min(self.bytes.len())) as u64 {
            return Err(Error::format(format!("a header has a list of `{n}` elements, more than bytes")));
        }
        Ok((n, head & 0x0F))
    }

    /// Goes over the fields of a struct.
    fn fields(&mut self, depth: usize, take: &mut Take<'_>) -> Result<()> {
        if depth > Compact::MAX_DEPTH {
            return Err(Error::limit(format!("a header nested more than {} deep", Compact::MAX_DEPTH)));
        }
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.zigzag()?,
                delta => id.saturating_add(i64::from(delta)),
            };
            let kind = head & 0x0F;
            if !take(self, id, kind)? {
                // A boolean field has its value in its type.
                if kind > 2 {
                    self.skip(kind, depth)?;
                }
            }
        }
    }

    /// Goes past a value (in a list, also a boolean takes a byte).
    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        if depth > Compact::MAX_DEPTH {
            return Err(Error::limit(format!("a header nested more than {} deep", Compact::MAX_DEPTH)));
        }
        match kind {
            1..=3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let n = self.varint()?;
                self.pass(n)
            }
            9 | 10 => {
                let (n, kind) = self.list()?;
                (0..n).try_for_each(|_| self.skip(kind, depth + 1))
            }
            11 => {
                let n = self.varint()?;
                if n == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..n).try_for_each(|_| {
                    self.skip(kinds >> 4, depth + 1)?;
                    self.skip(kinds & 0x0F, depth + 1)
                })
            }
            12 => self.fields(depth + 1, &mut |_, _, _| Ok(false)),
            13 => self.pass(16),
            _ => Err(Error::format(format!("a header has a value of type `{kind}`"))),
        }
    }

    fn pass(&mut self, n: u64) -> Result<()> {
        let next = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n)).filter(|at| *at <= self.bytes.len());
        self.at = next.ok_or_else(|| Error::format("a header ends in the middle"))?;
        Ok(())
    }
}
