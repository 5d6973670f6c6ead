//! What a file holds, for programs: one JSON object.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Totals;
use super::model::Known;
use super::scan::{Bad, Report};
use crate::gguf::{Array, Gguf, Value};
use crate::stream::take::Take;

pub(super) fn write_json(out: &mut dyn Write, json: &Json<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, json).map_err(io::Error::from)?;
    writeln!(out)
}

/// The whole answer as JSON.
pub(super) struct Json<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) report: Option<&'a Report>,
    pub(super) take: Option<&'a Take>,
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
                "forgotten_pairs": take.header.n_forgotten, "compressed": take.header.is_compressed,
                "complete": take.is_complete(), "written": take.written(), "checkpoints": take.n_checkpoints(), "seconds": take.seconds(),
            });
            map.serialize_entry("take", &state)?;
        }
        map.serialize_entry("files", &files.collect::<Vec<_>>())?;
        map.serialize_entry("version", &gguf.version())?;
        map.serialize_entry("alignment", &gguf.alignment())?;
        if let Some(known) = Known::of(gguf) {
            map.serialize_entry("model", &known.to_json())?;
        }
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

pub(super) fn float<S: Serializer>(v: &f64, s: S) -> std::result::Result<S::Ok, S::Error> {
    if v.is_finite() { s.serialize_f64(*v) } else { s.collect_str(v) }
}
