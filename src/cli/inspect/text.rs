//! What a file holds, for people.

use std::io::{self, Write};

use super::super::ask::left_of;
use super::Totals;
use super::model::Known;
use super::scan::Report;
use crate::gguf::{Array, Gguf, Value};
use crate::stream::take::Take;

pub(super) fn write_text(out: &mut dyn Write, gguf: &Gguf, report: Option<&Report>) -> io::Result<()> {
    for (path, n_bytes, data_start) in gguf.files() {
        writeln!(out, "file     {} ({n_bytes} bytes, data from {data_start})", path.display())?;
    }
    writeln!(out, "version  {}", gguf.version())?;
    writeln!(out, "align    {}", gguf.alignment())?;

    if let Some(known) = Known::of(gguf) {
        known.write(out)?;
    }

    writeln!(out, "\nkeys     {}", gguf.meta().len())?;
    let width = column(gguf.meta().iter().map(|(key, _)| escaped(key, usize::MAX)));
    for (key, value) in gguf.meta().iter() {
        let key = escaped(key, usize::MAX);
        writeln!(out, "  {key:width$}  {:15}  {}", value.type_name(), short(value))?;
    }

    writeln!(out, "\ntensors  {}", gguf.tensors().len())?;
    let width = column(gguf.tensors().iter().map(|t| escaped(&t.name, usize::MAX)));
    for t in gguf.tensors() {
        let name = escaped(&t.name, usize::MAX);
        writeln!(out, "  {name:width$}  {:7}  {:>12} bytes  {:?}", t.ty.name(), t.n_bytes, t.ne)?;
    }

    let totals = Totals::of(gguf.tensors());
    writeln!(out, "\ntotal    {} elements, {} bytes of tensor data", totals.n_elements, totals.n_bytes)?;
    for (ty, (count, n_bytes)) in &totals.by_type {
        writeln!(out, "  {:7}  {count:5} tensors  {n_bytes:>12} bytes", ty.name())?;
    }

    let Some(report) = report else { return Ok(()) };
    let verdict = if report.bad.is_empty() { "all finite".to_string() } else { format!("{} bad", report.bad.len()) };
    writeln!(out, "\ncheck    {} numbers read: {verdict}", report.n_values)?;
    for bad in &report.bad {
        let name = escaped(&bad.tensor, usize::MAX);
        writeln!(out, "  {name}: {} not finite, the first is {} at {}", bad.count, bad.first_value, bad.first_index)?;
    }
    for (name, ty) in &report.skipped {
        writeln!(out, "  {}: not checked, type {ty} cannot be decoded", escaped(name, usize::MAX))?;
    }
    Ok(())
}

/// The width of a column, within reason.
fn column(cells: impl Iterator<Item = String>) -> usize {
    cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(60)
}

/// Text for a terminal: control characters cannot act, and nothing is longer than `max` characters.
fn escaped(text: &str, max: usize) -> String {
    let cut = text.char_indices().nth(max).map_or(text, |(at, _)| &text[..at]);
    let mut out = String::new();
    for c in cut.chars() {
        match c {
            // A quote needs no backslash here; `escape_debug` leaves printable characters of all scripts alone.
            '"' | '\'' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    if cut.len() < text.len() {
        out.push_str(&format!("… ({} bytes)", text.len()));
    }
    out
}

/// A value in one line.
fn short(value: &Value) -> String {
    const MAX_CHARS: usize = 100;
    fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
        const MAX_ITEMS: usize = 8;
        let head: Vec<String> = items.iter().take(MAX_ITEMS).map(show).collect();
        let more = if items.len() > MAX_ITEMS { format!(", … ({} in all)", items.len()) } else { String::new() };
        format!("[{}{more}]", head.join(", "))
    }
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::F32(v) => format!("{v:?}"),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => format!("\"{}\"", escaped(v, MAX_CHARS)),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F64(v) => format!("{v:?}"),
        Value::Array(array) => match array {
            Array::U8(v) => list(v, u8::to_string),
            Array::I8(v) => list(v, i8::to_string),
            Array::U16(v) => list(v, u16::to_string),
            Array::I16(v) => list(v, i16::to_string),
            Array::U32(v) => list(v, u32::to_string),
            Array::I32(v) => list(v, i32::to_string),
            Array::F32(v) => list(v, |x| format!("{x:?}")),
            Array::Bool(v) => list(v, bool::to_string),
            Array::String(v) => list(v, |x| format!("\"{}\"", escaped(x, 24))),
            Array::U64(v) => list(v, u64::to_string),
            Array::I64(v) => list(v, i64::to_string),
            Array::F64(v) => list(v, |x| format!("{x:?}")),
        },
    }
}

/// What a take has seen so far.
pub(super) fn write_take(out: &mut dyn Write, take: &Take) -> io::Result<()> {
    let (header, n_done) = (&take.header, take.n_done());
    writeln!(out, "\ntake     {}", escaped(&header.source, usize::MAX))?;
    writeln!(
        out,
        "  {} frames of {}x{}, {} tokens with what surrounds them, watched with {}",
        header.frames.len(),
        header.width,
        header.height,
        header.n_tokens(),
        escaped(&header.model_name, usize::MAX)
    )?;
    if let Some(what) = left_of(header) {
        writeln!(out, "  of a stream; {what}")?;
    } else if header.n_forgotten > 0 {
        writeln!(out, "  of a stream, whose first {} frames were forgotten", 2 * header.n_forgotten)?;
    }
    let n_free = header.shape.n_ctx - header.n_tokens();
    let state = if take.is_complete() { "complete" } else { "to be continued with `longtake watch`" };
    writeln!(
        out,
        "  {n_done} tokens are in ({state}), {:.1} s of work in {} checkpoints",
        take.seconds(),
        take.n_checkpoints()
    )?;
    writeln!(out, "  room for {n_free} more tokens of questions and answers; every hash agrees")
}
