//! The type of every tensor, as llama.cpp's own quantizer chose it (`llama_types.py` asked it).

use longtake::convert::{FileType, QuantizeOptions, quantize};
use longtake::gguf::{GgmlType, GgufWriter, Metadata};
use serde_json::Value as Json;

#[test]
fn types_are_those_of_llama_cpp() {
    let judged: Json = serde_json::from_str(include_str!("llama_types.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut n_checked = 0;
    for (title, model) in judged.as_object().unwrap() {
        let path = dir.path().join(format!("{title}.gguf"));
        write_model(&path, model);
        for (name, types) in model["types"].as_object().unwrap() {
            let mut options =
                QuantizeOptions::new(&path, dir.path().join("out.gguf"), FileType::from_name(name).unwrap());
            options.dry_run = true;
            options.pure = model["pure"].as_bool().unwrap();
            let report = quantize(&options, &mut ()).unwrap();
            let mut wrong = Vec::new();
            for (pattern, want) in types.as_object().unwrap() {
                let want: Vec<&str> = want.as_str().unwrap().split(' ').collect();
                for block in 0..n_of(pattern, model) {
                    let tensor = pattern.replace("{}", &block.to_string());
                    let row = report.tensors.iter().find(|t| t.name == tensor).unwrap();
                    let want = want[block % want.len()];
                    if row.to.name() != want {
                        wrong.push(format!("{tensor}: {} instead of {want}", row.to));
                    }
                    n_checked += 1;
                }
            }
            assert!(wrong.is_empty(), "{title}, {name}: {}", wrong.join(", "));
        }
    }
    assert!(n_checked > 10_000, "{n_checked}");
    assert!(!dir.path().join("out.gguf").exists(), "a dry run writes nothing");
}

fn n_of(pattern: &str, model: &Json) -> usize {
    if pattern.contains("{}") { model["n_layer"].as_u64().unwrap() as usize } else { 1 }
}

/// The model of `llama_types.py`, two rows per matrix.
fn write_model(path: &std::path::Path, model: &Json) {
    let arch = model["arch"].as_str().unwrap();
    let uint = |key: &str| model[key].as_u64().unwrap() as u32;
    let mut meta = Metadata::default();
    meta.set("general.architecture", arch);
    if arch != "clip" {
        meta.set(format!("{arch}.block_count"), uint("n_layer"));
        meta.set(format!("{arch}.attention.head_count"), uint("n_head"));
        meta.set(format!("{arch}.attention.head_count_kv"), uint("n_head_kv"));
    }
    let mut writer = GgufWriter::new(meta);
    let mut sizes = Vec::new();
    for (pattern, width) in model["matrices"].as_object().unwrap() {
        let ne: Vec<usize> = match width.as_u64() {
            Some(n) => vec![n as usize, 2],
            None => vec![14, 14, 3, 2],
        };
        for block in 0..n_of(pattern, model) {
            writer.tensor(pattern.replace("{}", &block.to_string()), GgmlType::F32, &ne).unwrap();
            sizes.push(ne.iter().product::<usize>() * 4);
        }
    }
    writer
        .write(path, |i, buf| {
            buf.resize(sizes[i], 0);
            Ok(())
        })
        .unwrap();
}
