//! Annotation files: parquet, JSON, JSON lines or TSV become rows of the fields that a task asks for.
//!
//! Nothing in such a file is trusted: bytes, rows and values are capped, fields that nobody asked for are skipped unread, and
//! an error names the file, the row and the field.

use std::cell::Cell as Counter;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::parquet_file;
use crate::error::Context;
use crate::files::input::read_capped;
use crate::{Error, Result};

/// Longest annotation file, in bytes. The published ones have up to some ten million.
pub const MAX_BYTES: u64 = 128 << 20;
/// Most rows of a file, and most values (items of lists included) of all its rows: some ten times what the published ones
/// have. A row takes most of a kilobyte here and a byte or two in a file that is made for it.
pub const MAX_ROWS: usize = 1 << 15;
pub const MAX_VALUES: usize = 1 << 18;
/// Most columns of a TSV file.
const MAX_COLUMNS: usize = 1 << 10;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Cell>),
    /// Maps, lists of lists.
    Nested,
}

impl Cell {
    fn kind(&self) -> &'static str {
        match self {
            Cell::Null => "nothing",
            Cell::Bool(_) => "true or false",
            Cell::Number(_) => "a number",
            Cell::Text(_) => "text",
            Cell::List(_) => "a list",
            Cell::Nested => "a nested value",
        }
    }
}

/// A row, and where it stands for error messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub place: String,
    pub cells: BTreeMap<String, Cell>,
}

impl Row {
    fn get(&self, field: &str) -> Option<&Cell> {
        self.cells.get(field).filter(|cell| **cell != Cell::Null)
    }

    /// An error about a field of this row.
    pub fn wrong(&self, field: &str, message: impl fmt::Display) -> Error {
        Error::format(format!("field `{field}`: {message}")).at(self.place.clone())
    }

    fn expected(&self, field: &str, cell: &Cell, expected: &str) -> Error {
        self.wrong(field, format!("is {}, expected {expected}", cell.kind()))
    }

    /// Text, or a number written as text; nothing if the field is missing or null.
    ///
    /// # Errors
    /// Another type.
    pub fn text(&self, field: &str) -> Result<Option<String>> {
        match self.get(field) {
            None => Ok(None),
            Some(Cell::Text(text)) => Ok(Some(text.clone())),
            Some(Cell::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.expected(field, other, "text")),
        }
    }

    /// The first of several fields that is there.
    ///
    /// # Errors
    /// None of them; another type than text.
    pub fn need_text(&self, fields: &[&str]) -> Result<String> {
        for field in fields {
            if let Some(text) = self.text(field)? {
                return Ok(text);
            }
        }
        Err(self.wrong(fields[0], "is missing"))
    }

    /// A finite number, also when it is written as text.
    ///
    /// # Errors
    /// Another type, text that is no number.
    pub fn number(&self, field: &str) -> Result<Option<f64>> {
        let number = match self.get(field) {
            None => return Ok(None),
            Some(Cell::Number(number)) => Some(*number),
            Some(Cell::Text(text)) => text.trim().parse().ok(),
            Some(other) => return Err(self.expected(field, other, "a number")),
        };
        match number.filter(|n: &f64| n.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(field, "is not a finite number")),
        }
    }

    /// A list of texts; in a TSV file, a JSON list.
    ///
    /// # Errors
    /// Another type.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<String>>> {
        let parsed;
        let list = match self.get(field) {
            None => return Ok(None),
            Some(Cell::List(list)) => list,
            Some(Cell::Text(text)) => {
                parsed = serde_json::from_str::<Vec<String>>(text)
                    .map_err(|err| self.wrong(field, format!("is text but no JSON list of texts: {err}")))?;
                return Ok(Some(parsed));
            }
            Some(other) => return Err(self.expected(field, other, "a list of texts")),
        };
        let text = |cell: &Cell| match cell {
            Cell::Text(text) => Ok(text.clone()),
            Cell::Number(number) => Ok(number.to_string()),
            other => Err(self.wrong(field, format!("an item is {}, expected text", other.kind()))),
        };
        list.iter().map(text).collect::<Result<Vec<_>>>().map(Some)
    }
}

/// The rows of an annotation file, with those of their fields that are called `fields`. What the file is follows from its
/// extension.
///
/// # Errors
/// An unreadable file; anything malformed or beyond the caps.
pub fn read(path: &Path, fields: &[&str]) -> Result<Vec<Row>> {
    let name = path.display().to_string();
    let place = || name.clone();
    let bytes = read_capped(path, MAX_BYTES).at(place)?;
    parse(path, bytes, fields)
}

/// The same from the bytes of a file that is called `path`.
///
/// # Errors
/// Anything malformed or beyond the caps.
pub fn parse(path: &Path, bytes: Vec<u8>, fields: &[&str]) -> Result<Vec<Row>> {
    let name = path.display().to_string();
    let place = || name.clone();
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let rows = match extension.as_str() {
        "parquet" => parquet_file::read(bytes, fields),
        "json" => json(&bytes, fields),
        "jsonl" => json_lines(&bytes, fields),
        "tsv" => tsv(&bytes, fields),
        other => Err(Error::unsupported(format!("extension `{other}` is none of parquet, json, jsonl, tsv"))),
    };
    let rows = rows.at(place)?;
    let row = |(i, cells)| Row { place: format!("{name}: row {}", i + 1), cells };
    Ok(rows.into_iter().enumerate().map(row).collect())
}

/// The fields of a row by name.
pub(super) type Cells = BTreeMap<String, Cell>;

fn json(bytes: &[u8], fields: &[&str]) -> Result<Vec<Cells>> {
    let n_values = Counter::new(0);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let rows = Rows(Wanted { fields, n_values: &n_values }).deserialize(&mut deserializer);
    let rows = rows.and_then(|rows| deserializer.end().map(|()| rows));
    rows.map_err(|err| json_error(err, &n_values))
}

fn json_lines(bytes: &[u8], fields: &[&str]) -> Result<Vec<Cells>> {
    let n_values = Counter::new(0);
    let mut rows = Vec::new();
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        check_rows(rows.len() + 1)?;
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let row = OneRow(Wanted { fields, n_values: &n_values }).deserialize(&mut deserializer);
        let row = row.and_then(|row| deserializer.end().map(|()| row));
        rows.push(row.map_err(|err| json_error(err, &n_values).at(format!("line {}", i + 1)))?);
    }
    Ok(rows)
}

fn json_error(err: serde_json::Error, n_values: &Counter<usize>) -> Error {
    if n_values.get() > MAX_VALUES {
        return Error::limit(format!("more than {MAX_VALUES} values"));
    }
    Error::format(err.to_string())
}

pub(super) fn check_rows(n: usize) -> Result<()> {
    if n > MAX_ROWS { Err(Error::limit(format!("more than {MAX_ROWS} rows"))) } else { Ok(()) }
}

/// Tab-separated: names in the first line, a row in each further one. There is no quoting.
fn tsv(bytes: &[u8], fields: &[&str]) -> Result<Vec<Cells>> {
    let text = std::str::from_utf8(bytes).map_err(|err| Error::format(format!("is not UTF-8: {err}")))?;
    let mut lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line));
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').take(MAX_COLUMNS + 1).collect();
    if names.len() > MAX_COLUMNS {
        return Err(Error::limit(format!("more than {MAX_COLUMNS} columns")));
    }
    let mut rows = Vec::new();
    for (i, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        check_rows(rows.len() + 1)?;
        let n_cells = line.split('\t').count();
        if n_cells != names.len() {
            let message = format!("`{n_cells}` cells, the first line has {}", names.len());
            return Err(Error::format(message).at(format!("line {}", i + 2)));
        }
        let cells = names.iter().zip(line.split('\t')).filter(|(name, _)| fields.contains(name));
        rows.push(cells.map(|(name, cell)| (name.to_string(), Cell::Text(cell.to_string()))).collect());
    }
    Ok(rows)
}

/// Which fields to keep, and how many values were kept so far.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    fields: &'a [&'a str],
    n_values: &'a Counter<usize>,
}

/// A list of rows.
struct Rows<'a>(Wanted<'a>);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Cells>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Cells>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Cells>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of questions")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Cells>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element_seed(OneRow(self.0))? {
            rows.push(row);
            check_rows(rows.len()).map_err(A::Error::custom)?;
        }
        Ok(rows)
    }
}

/// One row.
struct OneRow<'a>(Wanted<'a>);

impl<'de> DeserializeSeed<'de> for OneRow<'_> {
    type Value = Cells;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cells, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneRow<'_> {
    type Value = Cells;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a question as a map")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cells, A::Error> {
        let mut cells = Cells::new();
        while let Some(key) = map.next_key::<String>()? {
            if !self.0.fields.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let cell = map.next_value_seed(OneCell { n_values: self.0.n_values, in_list: false })?;
            if cells.insert(key.clone(), cell).is_some() {
                return Err(A::Error::custom(format!("field `{key}` is there twice")));
            }
        }
        Ok(cells)
    }
}

/// One value.
struct OneCell<'a> {
    n_values: &'a Counter<usize>,
    in_list: bool,
}

impl<'de> DeserializeSeed<'de> for OneCell<'_> {
    type Value = Cell;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cell, D::Error> {
        self.n_values.set(self.n_values.get() + 1);
        if self.n_values.get() > MAX_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneCell<'_> {
    type Value = Cell;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Cell, E> {
        Ok(Cell::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Cell, E> {
        Ok(Cell::Number(v as f64))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Cell, E> {
        Ok(Cell::Number(v as f64))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Cell, E> {
        Ok(Cell::Number(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Cell, E> {
        Ok(Cell::Text(v.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Cell, A::Error> {
        if self.in_list {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Cell::Nested);
        }
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(OneCell { n_values: self.n_values, in_list: true })? {
            items.push(item);
        }
        Ok(Cell::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }
}
