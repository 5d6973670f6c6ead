//! What a build without ggml says when it is asked for.

use std::process::Command;

#[test]
fn the_peer_of_the_bench_says_how_to_get_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    let out = command.args(["bench", "-m", "any.gguf", "--peer"]).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{err}");
    assert!(err.lines().count() == 1 && err.contains("--features ggml") && err.contains("target-cpu=native"), "{err}");
}
