//! What the program does when the machine does not play along: killed, cut files, flipped bits, outputs that cannot be written,
//! threads without a stack. A small share of each runs here; `docs/reliability.md` says how to run all of it, and with what result.

mod cut;
mod flips;
mod kills;
mod outputs;
mod takes;
mod torn;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A file of the random model.
fn asset(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name);
    path.to_str().unwrap().to_string()
}

/// The program in `dir`, which also gets its notes and temporary files.
fn longtake(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let temp = dir.join("tmp");
    std::fs::create_dir_all(&temp).unwrap();
    command.env("XDG_CACHE_HOME", dir.join("cache")).env("TMPDIR", temp);
    command
}

/// The same with the random model.
fn with_model(dir: &Path, args: &[&str]) -> Command {
    let mut command = longtake(dir, args);
    command.args(["-m", &asset("demo.gguf"), "--mmproj", &asset("mmproj-demo.gguf"), "-t", "1"]);
    command
}

/// Flags that keep frames small.
const SMALL: [&str; 4] = ["--max-pixels", "15680", "--min-pixels", "3136"];

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).to_string()
}

/// The names in a folder, without those that every run leaves: notes and the folder for temporary files.
fn names(dir: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.filter(|name| !["cache", "tmp"].contains(&name.as_str())).collect();
    names.sort();
    names
}

/// How often to do what takes time: the environment's number, or a share that is soon done.
fn count(variable: &str, share: usize) -> usize {
    std::env::var(variable).map_or(share, |text| text.parse().expect("a number"))
}

/// Bytes of a stream of `n` frames for standard input, in a file.
fn stream(dir: &Path, n: usize) -> PathBuf {
    let path = dir.join("tmp").join("stream.y4m");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, crate::endless::y4m(2, 0..n)).unwrap();
    path
}

/// Every command that starts threads does its work when the environment asks for stacks that are none.
#[test]
fn a_stack_size_of_the_environment_is_no_reason_to_die() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, video) = (asset("demo.gguf"), asset("demo.mp4"));
    let run = |mut command: Command| {
        let out = command.env("RUST_MIN_STACK", "1").output().unwrap();
        assert!(out.status.success(), "{command:?}: {}: {}", out.status, said(&out));
    };
    run(longtake(dir, &["inspect", &model, "--check"]));
    run(longtake(dir, &["analyze", "theory", "--only", "E1", "-o", "plots"]));
    run(longtake(dir, &["quantize", &model, "small.gguf", "Q8_0"]));
    run(longtake(dir, &["demo", "--tokens", "576", "-t", "4"]));
    run(with_model(dir, &["plan", &video]));
    for args in [
        &["run", "--video", &video, "-p", "x", "-n", "2", "-t", "4"][..],
        &["watch", &video, "-o", "a.take", "-t", "4"],
    ] {
        let mut command = longtake(dir, args);
        command.args(["-m", &model, "--mmproj", &asset("mmproj-demo.gguf")]).args(SMALL);
        run(command);
    }
    let mut command = with_model(dir, &["watch", "-", "-o", "b.take"]);
    command.args(SMALL).stdin(std::fs::File::open(stream(dir, 20)).unwrap());
    run(command);
    run(longtake(dir, &["ask", "a.take", "x", "-n", "2", "-t", "4"]));
}
