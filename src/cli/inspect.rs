//! `longtake inspect`: what a GGUF file holds, for people or as JSON, and on request a scan of all its numbers. What the CPU
//! can do is told by `cpu.rs`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::out::stdout;
use crate::error::Context;
use crate::gguf::{Array, GgmlType, Gguf, TensorInfo, Value};
use crate::kernels::threads::in_rayon;
use crate::stream::take::{self, Take};
use crate::tensor::dequantize_row;
use crate::{Error, Result};

/// Show what a GGUF file holds, or what this CPU can run.
#[derive(clap::Args)]
pub struct Args {
    /// The GGUF file; of a split model, the first part
    #[arg(required_unless_present_any = ["cpu", "gpus"])]
    file: Option<PathBuf>,
    /// Print one JSON object, for a file with all arrays in full; numbers that are not finite appear as strings
    #[arg(long)]
    json: bool,
    /// Read all tensor data as well and look for NaN and infinity; exit code 1 if there are any
    #[arg(long)]
    check: bool,
    /// Show instead what this CPU can run, which kernels are used, on how many threads, and why
    #[arg(long, conflicts_with_all = ["file", "check"])]
    cpu: bool,
    /// Show instead the GPUs of this machine and whether this binary can use them
    #[arg(long, alias = "cards", conflicts_with_all = ["file", "check", "cpu"])]
    gpus: bool,
}

/// Runs the command.
///
/// # Errors
/// What [`Gguf::open`] says, and `Format` when `--check` found a number that is not finite; for `--cpu`, see `cpu.rs`.
pub fn run(args: Args) -> Result<()> {
    if args.gpus {
        return super::cards::list(args.json);
    }
    let Some(file) = args.file else { return super::cpu::run(args.json) };
    let gguf = Gguf::open(&file)?;
    let report = if args.check { Some(check(&gguf)?) } else { None };
    // A take is checked whole: its tables alone would say little.
    let is_take = gguf.meta().str("general.architecture").is_ok_and(|arch| arch == Some(take::ARCHITECTURE));
    let take = if is_take { Some(Take::open(&file, true)?) } else { None };
    let mut out = BufWriter::new(stdout());
    let printed = if args.json {
        write_json(&mut out, &Json { gguf: &gguf, report: report.as_ref(), take: take.as_ref() })
    } else {
        write_text(&mut out, &gguf, report.as_ref())
            .and_then(|()| take.iter().try_for_each(|t| write_take(&mut out, t)))
    };
    printed.and_then(|()| out.flush())?;
    match report.filter(|report| !report.bad.is_empty()) {
        None => Ok(()),
        Some(report) => {
            let n_bad = report.bad.len();
            Err(Error::format(format!("`{n_bad}` tensors hold numbers that are not finite")).at(file_name(&gguf)))
        }
    }
}

/// What `--check` found.
struct Report {
    bad: Vec<Bad>,
    /// Tensors of types without a decoder.
    skipped: Vec<(String, GgmlType)>,
    n_values: u64,
}

/// A tensor with numbers that are not finite.
#[derive(serde::Serialize)]
struct Bad {
    tensor: String,
    /// How many of its elements are NaN or infinite.
    count: u64,
    /// The first of them, counted through the whole tensor, fastest dimension first.
    first_index: u64,
    #[serde(serialize_with = "float")]
    first_value: f64,
}

/// Decodes every tensor and looks for NaN and infinity. A block scale that is not finite makes its elements so.
fn check(gguf: &Gguf) -> Result<Report> {
    let bar = ProgressBar::new(gguf.tensors().iter().map(|t| t.n_bytes as u64).sum());
    bar.set_style(
        ProgressStyle::with_template("checking {bar:40} {bytes}/{total_bytes} {eta}").expect("the template is valid"),
    );
    let mut report = Report { bad: Vec::new(), skipped: Vec::new(), n_values: 0 };
    for tensor in gguf.tensors() {
        if !has_decoder(tensor.ty) {
            report.skipped.push((tensor.name.clone(), tensor.ty));
            continue;
        }
        let found = check_tensor(tensor.ty, gguf.data(tensor), &bar).at(|| format!("tensor `{}`", tensor.name))?;
        report.n_values += tensor.n_elements() as u64;
        if let Some((count, first_index, first_value)) = found {
            report.bad.push(Bad { tensor: tensor.name.clone(), count, first_index, first_value });
        }
    }
    bar.finish_and_clear();
    gguf.check_unchanged()?;
    Ok(report)
}

/// Elements that are decoded at a time: some blocks of every format, little enough for the cache.
const CHUNK: usize = 16 * 1024;

fn has_decoder(ty: GgmlType) -> bool {
    is_integer(ty) || ty == GgmlType::F64 || dequantize_row(ty, &[], &mut []).is_ok()
}

fn is_integer(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64)
}

/// The number of elements that are not finite, with index and value of the first.
fn check_tensor(ty: GgmlType, data: &[u8], bar: &ProgressBar) -> Result<Option<(u64, u64, f64)>> {
    if is_integer(ty) {
        bar.inc(data.len() as u64);
        return Ok(None);
    }
    let chunk_bytes = ty.row_bytes(CHUNK).expect("the chunk is a whole number of blocks of every type");
    let scan = |(i, chunk): (usize, &[u8])| {
        let n = chunk.len() / ty.block_bytes() * ty.block_len();
        let values: Vec<f64> = if ty == GgmlType::F64 {
            chunk.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        } else {
            let mut values = vec![0f32; n];
            dequantize_row(ty, chunk, &mut values)?;
            values.into_iter().map(f64::from).collect()
        };
        bar.inc(chunk.len() as u64);
        let mut bad = values.iter().enumerate().filter(|(_, v)| !v.is_finite());
        let first = bad.next().map(|(k, v)| ((i * CHUNK + k) as u64, *v));
        Ok(first.map(|(index, value)| (1 + bad.count() as u64, index, value)))
    };
    let first_of = |a: Option<(u64, u64, f64)>, b: Option<(u64, u64, f64)>| match (a, b) {
        (Some(a), Some(b)) => {
            let first = if a.1 < b.1 { a } else { b };
            Some((a.0 + b.0, first.1, first.2))
        }
        (a, b) => a.or(b),
    };
    in_rayon(|| data.par_chunks(chunk_bytes).enumerate().map(scan).try_reduce(|| None, |a, b| Ok(first_of(a, b))))?
}

/// Sums over the tensor table.
struct Totals {
    n_elements: u128,
    n_bytes: u64,
    /// Per type: tensors and bytes.
    by_type: BTreeMap<GgmlType, (usize, u64)>,
}

impl Totals {
    fn of(tensors: &[TensorInfo]) -> Totals {
        let mut totals = Totals { n_elements: 0, n_bytes: 0, by_type: BTreeMap::new() };
        for tensor in tensors {
            let (count, bytes) = totals.by_type.entry(tensor.ty).or_default();
            *count += 1;
            *bytes += tensor.n_bytes as u64;
            totals.n_elements += tensor.n_elements() as u128;
            totals.n_bytes += tensor.n_bytes as u64;
        }
        totals
    }
}

fn file_name(gguf: &Gguf) -> String {
    gguf.path().display().to_string()
}

fn write_text(out: &mut dyn Write, gguf: &Gguf, report: Option<&Report>) -> io::Result<()> {
    for (path, n_bytes, data_start) in gguf.files() {
        writeln!(out, "file     {} ({n_bytes} bytes, data from {data_start})", path.display())?;
    }
    writeln!(out, "version  {}", gguf.version())?;
    writeln!(out, "align    {}", gguf.alignment())?;

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
fn write_take(out: &mut dyn Write, take: &Take) -> io::Result<()> {
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
    if header.n_forgotten > 0 {
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

fn write_json(out: &mut dyn Write, json: &Json<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, json).map_err(io::Error::from)?;
    writeln!(out)
}

/// The whole answer as JSON.
struct Json<'a> {
    gguf: &'a Gguf,
    report: Option<&'a Report>,
    take: Option<&'a Take>,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        use serde_json::json;
        let gguf = self.gguf;
        let mut map = s.serialize_map(None)?;
        let files = gguf.files().map(|(path, n_bytes, data_start)| {
            json!({ "path": path.display().to_string(), "bytes": n_bytes, "data_start": data_start })
        });
        if let Some(take) = self.take {
            let state = json!({
                "source": take.header.source, "n_tokens": take.header.n_tokens(), "n_done": take.n_done(),
                "forgotten_pairs": take.header.n_forgotten, "complete": take.is_complete(), "written": take.written(), "checkpoints": take.n_checkpoints(), "seconds": take.seconds(),
            });
            map.serialize_entry("take", &state)?;
        }
        map.serialize_entry("files", &files.collect::<Vec<_>>())?;
        map.serialize_entry("version", &gguf.version())?;
        map.serialize_entry("alignment", &gguf.alignment())?;
        map.serialize_entry("metadata", &JsonKeys(gguf))?;
        let tensors = gguf.tensors().iter().map(|t| {
            json!({
                "name": t.name, "type": t.ty.name(), "ne": t.ne, "bytes": t.n_bytes, "offset": t.offset, "file": t.shard,
            })
        });
        map.serialize_entry("tensors", &tensors.collect::<Vec<_>>())?;
        let totals = Totals::of(gguf.tensors());
        let by_type: serde_json::Map<String, serde_json::Value> = (totals.by_type.iter())
            .map(|(ty, (count, n_bytes))| (ty.name().to_string(), json!({ "tensors": count, "bytes": n_bytes })))
            .collect();
        map.serialize_entry(
            "totals",
            &json!({
                "tensors": gguf.tensors().len(), "elements": u64::try_from(totals.n_elements).ok(),
                "tensor_bytes": totals.n_bytes, "file_bytes": gguf.file_bytes(), "by_type": by_type,
            }),
        )?;
        if let Some(report) = self.report {
            let skipped = report.skipped.iter().map(|(name, ty)| json!({ "tensor": name, "type": ty.name() }));
            let check = JsonCheck { values: report.n_values, bad: &report.bad, skipped: skipped.collect() };
            map.serialize_entry("check", &check)?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
struct JsonCheck<'a> {
    values: u64,
    bad: &'a [Bad],
    skipped: Vec<serde_json::Value>,
}

/// The keys in file order: `{ KEY: { "type": …, "value": … } }`.
struct JsonKeys<'a>(&'a Gguf);

impl Serialize for JsonKeys<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Entry<'a> {
            r#type: &'static str,
            value: JsonValue<'a>,
        }
        let pairs = self.0.meta().iter();
        s.collect_map(pairs.map(|(key, v)| (key, Entry { r#type: v.type_name(), value: JsonValue(v) })))
    }
}

struct JsonValue<'a>(&'a Value);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Value::U8(v) => v.serialize(s),
            Value::I8(v) => v.serialize(s),
            Value::U16(v) => v.serialize(s),
            Value::I16(v) => v.serialize(s),
            Value::U32(v) => v.serialize(s),
            Value::I32(v) => v.serialize(s),
            Value::F32(v) => JsonF32(*v).serialize(s),
            Value::Bool(v) => v.serialize(s),
            Value::String(v) => v.serialize(s),
            Value::U64(v) => v.serialize(s),
            Value::I64(v) => v.serialize(s),
            Value::F64(v) => JsonF64(*v).serialize(s),
            Value::Array(array) => match array {
                Array::U8(v) => v.serialize(s),
                Array::I8(v) => v.serialize(s),
                Array::U16(v) => v.serialize(s),
                Array::I16(v) => v.serialize(s),
                Array::U32(v) => v.serialize(s),
                Array::I32(v) => v.serialize(s),
                Array::F32(v) => s.collect_seq(v.iter().map(|x| JsonF32(*x))),
                Array::Bool(v) => v.serialize(s),
                Array::String(v) => v.serialize(s),
                Array::U64(v) => v.serialize(s),
                Array::I64(v) => v.serialize(s),
                Array::F64(v) => s.collect_seq(v.iter().map(|x| JsonF64(*x))),
            },
        }
    }
}

/// A float as its shortest decimal, or as a string where JSON has no number for it.
struct JsonF32(f32);

impl Serialize for JsonF32 {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        if self.0.is_finite() { s.serialize_f32(self.0) } else { s.collect_str(&self.0) }
    }
}

/// See [`JsonF32`].
struct JsonF64(f64);

impl Serialize for JsonF64 {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        float(&self.0, s)
    }
}

fn float<S: Serializer>(v: &f64, s: S) -> std::result::Result<S::Ok, S::Error> {
    if v.is_finite() { s.serialize_f64(*v) } else { s.collect_str(v) }
}
