//! Tests of the room `gguf`.

use crate::common::{golden, golden_json};
use longtake::gguf::*;
use sha2::{Digest, Sha256};

/// The value as `expected.json` writes it: a type name and JSON.
fn as_json(value: &Value) -> (String, serde_json::Value) {
    use serde_json::json;
    let name = match value.value_type() {
        ValueType::U8 => "uint8",
        ValueType::I8 => "int8",
        ValueType::U16 => "uint16",
        ValueType::I16 => "int16",
        ValueType::U32 => "uint32",
        ValueType::I32 => "int32",
        ValueType::F32 => "float32",
        ValueType::Bool => "bool",
        ValueType::String => "string",
        ValueType::U64 => "uint64",
        ValueType::I64 => "int64",
        ValueType::F64 => "float64",
        ValueType::Array => "array",
    };
    let many = |name: &str, values: Vec<serde_json::Value>| (format!("array[{name}]"), values.into());
    macro_rules! each {
        ($name:literal, $v:expr) => {
            many($name, $v.iter().map(|x| json!(x)).collect())
        };
    }
    let one = match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(f64::from(*v)),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => {
            return match array {
                Array::U8(v) => each!("uint8", v),
                Array::I8(v) => each!("int8", v),
                Array::U16(v) => each!("uint16", v),
                Array::I16(v) => each!("int16", v),
                Array::U32(v) => each!("uint32", v),
                Array::I32(v) => each!("int32", v),
                Array::F32(v) => many("float32", v.iter().map(|x| json!(f64::from(*x))).collect()),
                Array::Bool(v) => each!("bool", v),
                Array::String(v) => each!("string", v),
                Array::U64(v) => each!("uint64", v),
                Array::I64(v) => each!("int64", v),
                Array::F64(v) => each!("float64", v),
            };
        }
    };
    (name.to_string(), one)
}

/// Equality of the JSON of a value. The JSON parser may miss the nearest double by one unit in the last place, so doubles
/// may differ by that; floats, which are far coarser, must be the same after rounding.
fn same(ty: &str, ours: &serde_json::Value, want: &serde_json::Value) -> bool {
    if let (Some(ours), Some(want)) = (ours.as_array(), want.as_array()) {
        return ours.len() == want.len() && ours.iter().zip(want).all(|(a, b)| same(ty, a, b));
    }
    if !ty.contains("float") {
        return ours == want;
    }
    let (ours, want) = (ours.as_f64().unwrap(), want.as_f64().unwrap());
    if ty.contains("float32") { ours as f32 == want as f32 } else { ours.to_bits().abs_diff(want.to_bits()) <= 1 }
}

/// Compares everything that `expected.json` says about a file.
fn check_against_expected(gguf: &Gguf, want: &serde_json::Value) {
    let file = want["file"].as_str().unwrap();
    assert_eq!(gguf.version(), 3, "{file}");
    assert_eq!(Some(gguf.alignment()), want["alignment"].as_u64(), "{file}");
    assert_eq!(Some(gguf.file_bytes()), want["bytes"].as_u64(), "{file}");
    assert_eq!(gguf.files().next().map(|f| f.2), want["data_offset"].as_u64(), "{file}");

    let meta = want["metadata"].as_object().unwrap();
    let keys: Vec<&str> = gguf.meta().iter().map(|(key, _)| key).collect();
    assert_eq!(keys, meta.keys().map(String::as_str).collect::<Vec<_>>(), "{file}: keys in order");
    for (key, value) in gguf.meta().iter() {
        let (ty, json) = as_json(value);
        let (want_ty, want) = (&meta[key][0], &meta[key][1]);
        assert_eq!(Some(ty.as_str()), want_ty.as_str(), "{file}: {key}");
        assert!(same(&ty, &json, want), "{file}: {key}: {json} instead of {want}");
    }

    let order: Vec<&str> = want["tensor_order"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, order, "{file}: tensors in order");
    for tensor in gguf.tensors() {
        let want = &want["tensors"][&tensor.name];
        let place = format!("{file}: {}", tensor.name);
        assert_eq!(Some(tensor.ty.name()), want["type"].as_str(), "{place}");
        assert_eq!(Some(u64::from(tensor.ty.id())), want["ggml_type"].as_u64(), "{place}");
        assert_eq!(serde_json::json!(tensor.ne), want["ne"], "{place}");
        assert_eq!(Some(tensor.offset), want["offset"].as_u64(), "{place}");
        let data = gguf.data(tensor);
        assert_eq!(Some(data.len() as u64), want["bytes"].as_u64(), "{place}");
        let hash: String = Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Some(hash.as_str()), want["sha256"].as_str(), "{place}");
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor), "{place}");
    }
    assert_eq!(gguf.tensor("no such tensor"), None);
}

#[test]
fn golden_files_hold_what_the_reference_says() {
    let expected = golden_json("gguf/expected.json");
    let mut n_checked = 0;
    for want in expected.as_array().unwrap() {
        if want["endian"] == "big" {
            continue; // see `big_endian_is_refused_by_name`
        }
        let path = golden().join("gguf").join(want["file"].as_str().unwrap());
        check_against_expected(&Gguf::open(&path).unwrap(), want);
        check_against_expected(&Gguf::open_with(&path, OpenOptions { mmap: false }).unwrap(), want);
        check_against_expected(&Gguf::from_vec("memory", std::fs::read(&path).unwrap()).unwrap(), want);
        n_checked += 1;
    }
    assert_eq!(n_checked, 2);
}

/// A writer with the content of `gguf`, and the function that fills it.
fn rewrite(gguf: &Gguf) -> GgufWriter {
    let mut writer = GgufWriter::new(gguf.meta().clone());
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, tensor.ty, &tensor.ne).unwrap();
    }
    writer
}

/// `fill` for [`GgufWriter`]: the tensors of `gguf` as they are.
fn data_of(gguf: &Gguf) -> impl FnMut(usize, &mut Vec<u8>) -> longtake::Result<()> {
    |i, buf| {
        buf.extend(gguf.data(&gguf.tensors()[i]));
        Ok(())
    }
}

#[test]
fn writing_what_was_read_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["mixed.gguf", "align64.gguf"] {
        let original = golden().join("gguf").join(name);
        let gguf = Gguf::open(&original).unwrap();
        let path = dir.path().join(name);
        for _ in 0..2 {
            rewrite(&gguf).write(&path, data_of(&gguf)).unwrap();
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&original).unwrap(), "{name}");
        }
        assert!(rewrite(&gguf).to_bytes(data_of(&gguf)).unwrap() == std::fs::read(&original).unwrap(), "{name}");
        assert_eq!(rewrite(&gguf).file_bytes().unwrap(), gguf.file_bytes());
        let again = Gguf::open(&path).unwrap();
        assert_eq!(again.meta(), gguf.meta());
        assert_eq!(again.tensors(), gguf.tensors());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}
