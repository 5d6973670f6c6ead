//! Tests of the room `gguf`: here the golden files, in the modules the fault checklist, split models, the writer and
//! `longtake inspect`.

pub mod build;
mod faults;
mod inspect;
mod split;
mod writer;

use crate::common::{golden, golden_json};
use longtake::ErrorKind;
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
        check_against_expected(&Gguf::open_with(&path, GgufOptions { mmap: false }).unwrap(), want);
        check_against_expected(&Gguf::from_vec("memory", std::fs::read(&path).unwrap()).unwrap(), want);
        n_checked += 1;
    }
    assert_eq!(n_checked, 2);
}

/// Many threads read one file.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Gguf>();
};

#[test]
fn big_endian_is_refused_by_name() {
    let err = Gguf::open(&golden().join("gguf/big_endian.gguf")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(err.to_string().contains("big-endian file of version `3`"), "{err}");
}

/// Every broken file is refused, and the error names the file and the thing that is wrong with it.
#[test]
fn broken_files_are_refused_with_the_reason() {
    let reasons = [
        ("bad_dims.gguf", "tensor `output_norm.weight`: `9` dimensions"),
        ("bad_tensor_type.gguf", "tensor type id `250`"),
        ("bad_value_type.gguf", "key `t.u8`: value type id `77`"),
        ("cut_in_metadata.gguf", "metadata keys cannot fit into the 376 bytes"),
        ("cut_in_tensor_data.gguf", "past the end of the file of 8276 bytes"),
        ("empty.gguf", "expected the magic `GGUF`"),
        ("huge_dim.gguf", "overflows 63 bits"),
        ("huge_key_length.gguf", "file ends inside a key: `4611686018427387904` bytes"),
        ("huge_kv_count.gguf", "`9223372036854775808` metadata keys"),
        ("huge_tensor_count.gguf", "`9223372036854775808` tensors"),
        ("magic.gguf", "expected the magic `GGUF`"),
        ("misaligned_offset.gguf", "tensor `output_norm.weight`: offset `3` is not aligned"),
        ("offset_past_end.gguf", "offset `1099511627776` with `28` bytes lies past the end"),
        ("short_header.gguf", "file ends inside the key count"),
        ("version_1.gguf", "version `1`"),
        ("version_99.gguf", "version `99`"),
    ];
    let index = golden_json("gguf/broken/index.json");
    let mut listed: Vec<&str> = index.as_object().unwrap().keys().map(String::as_str).collect();
    listed.sort_unstable();
    assert_eq!(listed, reasons.map(|(name, _)| name), "the golden list and this one agree");
    for (name, reason) in reasons {
        let path = golden().join("gguf/broken").join(name);
        for mmap in [true, false] {
            let err = Gguf::open_with(&path, GgufOptions { mmap }).unwrap_err().to_string();
            assert!(err.starts_with(&path.display().to_string()), "{err}");
            assert!(err.contains(reason), "{err}: expected {reason}");
        }
    }
}

#[test]
fn golden_models_open() {
    for (file, arch) in [("tiny-c.gguf", "qwen2vl"), ("mmproj-tiny-c.gguf", "clip")] {
        let gguf = Gguf::open(&golden().join("gguf_models").join(file)).unwrap();
        assert_eq!(gguf.meta().str("general.architecture").unwrap(), Some(arch));
        let index = golden_json("gguf_models/index.json");
        let listed = index[file]["tensors"].as_object().unwrap();
        assert_eq!(gguf.tensors().len(), listed.len(), "{file}");
        for (name, want) in listed {
            let tensor = gguf.tensor(name).unwrap();
            assert_eq!(
                (Some(tensor.ty.name()), serde_json::json!(tensor.ne)),
                (want["type"].as_str(), want["ne"].clone())
            );
        }
        gguf.check_unchanged().unwrap();
    }
}
