//! `longtake bench --peer`: both programs on the same work.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::golden;

fn bench(args: &[&str]) -> Output {
    bench_of(&golden().join("gguf_models/tiny-c.gguf"), args)
}

fn bench_of(model: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(["bench", "-e", "none", "-r", "3", "-p", "20", "-n", "3", "-t", "1", "-m"]).arg(model);
    command.args(args).output().unwrap()
}

#[test]
fn the_peer_runs_every_text_test_beside_us() {
    for (depths, cache, how) in
        [("0,300", "f16", "--peer"), ("0,70", "q8_0", "--peer=no-repack"), ("100", "f32", "--peer=repack,no-fa")]
    {
        let out = bench(&["-d", depths, "-ctk", cache, "-ctv", cache, how, "-o", "json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let rows: Value = serde_json::from_slice(&out.stdout).unwrap();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 2 * depths.split(',').count());
        for row in rows {
            let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
            assert_eq!(row["peer_samples_ns"].as_array().unwrap().len(), 3);
            assert!(number("median_ts") > 0.0 && number("peer_median_ts") > 0.0 && number("ratio") > 0.0, "{row}");
            let options = row["peer_options"].as_str().unwrap();
            match how {
                "--peer=repack,no-fa" => assert_eq!(options, "repack no-fa"),
                // A quantized cache of values needs flash attention.
                "--peer=no-repack" => assert_eq!(options, "no-repack fa"),
                _ => assert!(options.ends_with("fa"), "{options}"),
            }
        }
    }
    for format in ["md", "csv"] {
        let out = bench(&["--peer", "-o", format]);
        let text = String::from_utf8(out.stdout).unwrap();
        let columns = text.lines().map(|line| line.matches([',', '|']).count()).collect::<Vec<_>>();
        assert!(columns.len() >= 3 && columns.windows(2).all(|w| w[0] == w[1]), "{text}");
        assert!(text.contains("ratio") && text.contains("fa"), "{text}");
    }
}

#[test]
fn what_the_peer_cannot_do_is_one_line() {
    for (out, word) in [
        (bench(&["--peer=quickly"]), "quickly"),
        (bench(&["--peer=no-fa", "-ctv", "q8_0"]), "llama.cpp"),
        (bench_of(Path::new("no/such.gguf"), &["--peer"]), "no/such.gguf"),
    ] {
        let err = String::from_utf8(out.stderr).unwrap();
        let lines = err.lines().filter(|line| !line.starts_with("warning: ggml was built without")).collect::<Vec<_>>();
        assert!(!out.status.success() && out.stdout.is_empty(), "{err}");
        assert!(lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains(word), "{err}");
    }
}
