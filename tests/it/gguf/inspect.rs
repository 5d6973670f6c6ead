//! `longtake inspect`, as a user runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use longtake::gguf::*;
use serde_json::json;

use super::build::{Build, string};
use crate::common::{golden, golden_json};

fn inspect(args: &[&str], file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtake")).arg("inspect").args(args).arg(file).output().unwrap()
}

/// Standard output of a run that succeeds in silence otherwise.
#[track_caller]
fn answer(args: &[&str], file: &Path) -> String {
    let out = inspect(args, file);
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert_eq!(out.status.code(), Some(0));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn text_shows_header_keys_tensors_and_totals() {
    let text = answer(&[], &golden().join("gguf/align64.gguf"));
    for line in
        ["version  3", "align    64", "keys     31", "tensors  11", "total    2666 elements, 2539 bytes of tensor data"]
    {
        assert!(text.lines().any(|l| l == line), "no line `{line}` in\n{text}");
    }
    let has = |words: &[&str]| text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>() == words);
    assert!(has(&["general.architecture", "string", "\"qwen2vl\""]), "{text}");
    assert!(has(&["blk.0.attn_q.bias", "F32", "16", "bytes", "[4]"]), "{text}");
    assert!(has(&["Q8_0", "1", "tensors", "1632", "bytes"]), "{text}");
}

/// Types that nothing here makes are shown with their names and sizes, as ggml has them; of those that are not even read, it is said.
#[test]
fn types_that_are_not_made_are_shown() {
    let rows: &[(u32, &str, u64, usize)] = &[
        (9, "Q8_1", 32, 36),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (29, "IQ1_M", 256, 56),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for (id, name, block_len, block_bytes) in rows {
        let n_bytes = 768 / *block_len as usize * block_bytes;
        let build = Build::new().key("general.name", 8, &string("x")).tensor("t", &[256, 3], *id, 0);
        std::fs::write(&path, build.data(n_bytes.next_multiple_of(32)).bytes()).unwrap();
        let text = answer(&["--check"], &path);
        let line = text.lines().find(|line| line.trim_start().starts_with("t ")).unwrap_or_else(|| panic!("{text}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1..4], [*name, &n_bytes.to_string(), "bytes"], "{line}");
        let is_unread = text.contains(&format!("type {name} cannot be decoded"));
        assert_eq!(is_unread, name.starts_with("Q8"), "{text}");
        assert!(answer(&["--json"], &path).contains(&format!("\"type\":\"{name}\"")));
    }
}

#[test]
fn long_values_are_shortened_and_harmless_to_terminals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut meta = Metadata::default();
    meta.set("tokens", (0..1000).map(|i| format!("token{i}")).collect::<Vec<String>>());
    meta.set("long", "x".repeat(100_000));
    meta.set("esc", "\x1b[2Jüñ\u{7}");
    GgufWriter::new(meta).write(&path, |_, _| Ok(())).unwrap();
    let text = answer(&[], &path);
    assert!(text.len() < 2000, "{text}");
    assert!(text.contains("\"token7\", … (1000 in all)]") && text.contains("… (100000 bytes)"), "{text}");
    assert!(text.contains("\\u{1b}[2Jüñ") && !text.contains('\x1b') && !text.contains('\u{7}'), "{text}");
    // JSON holds all of it.
    let json: serde_json::Value = serde_json::from_str(&answer(&["--json"], &path)).unwrap();
    assert_eq!(json["metadata"]["tokens"]["value"].as_array().unwrap().len(), 1000);
    assert_eq!(json["metadata"]["long"]["value"].as_str().unwrap().len(), 100_000);
    assert_eq!(json["metadata"]["esc"]["value"], "\x1b[2Jüñ\u{7}");
}

#[test]
fn json_says_what_the_reference_says() {
    for want in golden_json("gguf/expected.json").as_array().unwrap().iter().filter(|want| want["endian"] == "little") {
        let path = golden().join("gguf").join(want["file"].as_str().unwrap());
        let got: serde_json::Value = serde_json::from_str(&answer(&["--json", "--check"], &path)).unwrap();
        assert_eq!(got["version"], 3);
        assert_eq!(got["alignment"], want["alignment"]);
        let file =
            json!({ "path": path.display().to_string(), "bytes": want["bytes"], "data_start": want["data_offset"] });
        assert_eq!(got["files"], json!([file]));
        let keys = |v: &serde_json::Value| v["metadata"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&got), keys(want));
        for (key, got) in got["metadata"].as_object().unwrap() {
            let want = &want["metadata"][key];
            assert!(got["type"].as_str().is_some());
            if !want[0].as_str().unwrap().contains("float") {
                assert_eq!(got["value"], want[1], "{key}");
            }
        }
        let names: Vec<&str> = got["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
        assert_eq!(json!(names), want["tensor_order"]);
        let mut n_elements = 0;
        for got in got["tensors"].as_array().unwrap() {
            let want = &want["tensors"][got["name"].as_str().unwrap()];
            for field in ["type", "ne", "bytes", "offset"] {
                assert_eq!(got[field], want[field], "{got}");
            }
            n_elements += want["ne"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
        }
        assert_eq!(got["totals"]["elements"], n_elements);
        assert_eq!(got["totals"]["tensors"], names.len());
        assert_eq!(got["check"], json!({ "values": n_elements, "bad": [], "skipped": [] }));
    }
}

#[test]
fn numbers_that_json_lacks_are_strings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut meta = Metadata::default();
    meta.set("f", vec![f32::NAN, f32::INFINITY, 1e-6]);
    meta.set("d", f64::NEG_INFINITY);
    meta.set("u", u64::MAX);
    GgufWriter::new(meta).write(&path, |_, _| Ok(())).unwrap();
    let text = answer(&["--json"], &path);
    assert!(text.contains(r#"["NaN","inf",0.000001]"#) && text.contains(r#""-inf""#), "{text}");
    assert!(text.contains("18446744073709551615"), "{text}");
}

#[test]
fn broken_files_give_one_line_on_stderr_and_exit_code_1() {
    let broken = golden().join("gguf/broken");
    let mut files: Vec<_> = std::fs::read_dir(&broken).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "gguf"));
    files.push(golden().join("gguf/big_endian.gguf"));
    files.push(broken.join("not there.gguf"));
    assert_eq!(files.len(), 18);
    for path in files {
        let out = inspect(&["--check"], &path);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        assert!(out.stdout.is_empty());
        assert!(stderr.starts_with(&format!("error: {}: ", path.display())), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// Fault 19: NaN and infinity in values and in block scales are found, with tensor and index.
#[test]
fn check_finds_what_is_not_finite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut writer = GgufWriter::new(Metadata::default());
    let n = 40_000; // more than one chunk of the scan
    writer.tensor("good", GgmlType::F32, &[n]).unwrap();
    writer.tensor("f32", GgmlType::F32, &[n]).unwrap();
    writer.tensor("f16", GgmlType::F16, &[64]).unwrap();
    writer.tensor("bf16", GgmlType::BF16, &[64]).unwrap();
    writer.tensor("f64", GgmlType::F64, &[64]).unwrap();
    writer.tensor("scale", GgmlType::Q8_0, &[32, 4]).unwrap();
    writer.tensor("whole", GgmlType::I32, &[8]).unwrap();
    writer.tensor("unknown", GgmlType::Q8_K, &[256]).unwrap();
    let fill = |i: usize, buf: &mut Vec<u8>| {
        match i {
            0 => buf.resize(4 * n, 0),
            1 => {
                buf.resize(4 * n, 0);
                for (at, value) in [(20_000, f32::INFINITY), (39_999, f32::NAN)] {
                    buf[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
                }
            }
            2 => {
                buf.resize(128, 0);
                buf[126..].copy_from_slice(&0xfc00u16.to_le_bytes()); // -inf
            }
            3 => {
                buf.resize(128, 0);
                buf[..2].copy_from_slice(&0x7fc0u16.to_le_bytes()); // NaN
            }
            4 => {
                buf.resize(512, 0);
                buf[80..88].copy_from_slice(&f64::NAN.to_le_bytes());
            }
            5 => {
                buf.resize(4 * 34, 0);
                buf[34..36].copy_from_slice(&0x7c00u16.to_le_bytes()); // the scale of block 1: inf, times 0 is NaN
            }
            6 => buf.resize(32, 0xff),
            _ => buf.resize(292, 0xff),
        }
        Ok(())
    };
    writer.write(&path, fill).unwrap();

    let out = inspect(&["--check", "--json"], &path);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("`5` tensors hold numbers that are not finite"));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let bad = |tensor: &str, count: u64, first: u64, value: &str| json!({ "tensor": tensor, "count": count, "first_index": first, "first_value": value });
    let want = json!([
        bad("f32", 2, 20_000, "inf"),
        bad("f16", 1, 63, "-inf"),
        bad("bf16", 1, 0, "NaN"),
        bad("f64", 1, 10, "NaN"),
        bad("scale", 32, 32, "NaN"),
    ]);
    assert_eq!(json["check"]["bad"], want);
    assert_eq!(json["check"]["skipped"], json!([{ "tensor": "unknown", "type": "Q8_K" }]));

    let out = inspect(&["--check"], &path);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("f32: 2 not finite, the first is inf at 20000"), "{text}");
    assert!(text.contains("unknown: not checked, type Q8_K cannot be decoded"), "{text}");
    // Without --check nobody reads the data.
    assert_eq!(inspect(&[], &path).status.code(), Some(0));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let path = golden().join("gguf_models/tiny-c.gguf");
    for args in [&["inspect"][..], &["inspect", "--json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_longtake"))
            .args(args)
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        assert_eq!(out.status.code(), Some(0));
    }
}

#[test]
fn wrong_use_is_exit_code_2() {
    let out = Command::new(env!("CARGO_BIN_EXE_longtake")).arg("inspect").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(out.stdout.is_empty());
}
