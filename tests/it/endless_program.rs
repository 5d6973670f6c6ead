//! Streams as the program's users meet them: pipes, cameras, signals.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::endless::{QUESTION, y4m};

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name).to_str().unwrap().to_string()
}

/// The program with its standard input open.
fn longtake(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("XDG_CACHE_HOME", dir.join("cache"));
    command
}

fn with_model(dir: &Path, args: &[&str]) -> Command {
    let mut command = longtake(dir, args);
    command.args(["-m", &asset("demo.gguf"), "--mmproj", &asset("mmproj-demo.gguf"), "-b", "16"]);
    command.args(["--max-pixels", "4704", "--min-pixels", "3136"]);
    command
}

fn ask(dir: &Path, take: &str) -> String {
    let out = longtake(dir, &["ask", take, QUESTION, "-n", "6", "--quiet"]).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Gives `bytes` to a child, closes the pipe, and waits for (exit code, stdout, stderr).
fn give(mut child: Child, bytes: &[u8]) -> (Option<i32>, String, String) {
    let mut stdin = child.stdin.take().unwrap();
    // A child that has read enough closes the pipe.
    let _ = stdin.write_all(bytes);
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_string();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn the_program_answers_about_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str], bytes: &[u8]| {
        let args = [&["run", "--video", "-", "-p", QUESTION, "-n", "6"], args].concat();
        give(with_model(dir.path(), &args).spawn().unwrap(), bytes)
    };
    let bytes = y4m(2, 0..20);
    let path = dir.path().join("frames.y4m");
    std::fs::write(&path, &bytes).unwrap();
    let args = ["run", "--video", path.to_str().unwrap(), "-p", QUESTION, "-n", "6"];
    let (code, want, err) = give(with_model(dir.path(), &args).spawn().unwrap(), b"");
    assert_eq!(code, Some(0), "{err}");
    let (code, got, err) = run(&[], &bytes);
    assert_eq!((code, &got), (Some(0), &want), "{err}");
    assert!(err.contains("6.0 a second") && err.contains("the stream is over: 20 frames"), "{err}");
    // Cut off: the answer is about what came, the error comes last.
    let (code, got, err) = run(&["-c", "200", "--when-full", "forget"], &bytes[..bytes.len() - 100]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        !got.is_empty() && err.trim_end().lines().last().unwrap().contains("error: standard input: frame 19: "),
        "{err}"
    );
    let (code, _, err) = run(&["-c", "150"], &y4m(2, 0..200));
    assert!(code == Some(0) && err.contains("the context is full"), "{err}");
    let (code, _, err) = run(&["-c", "150", "--when-full", "forget"], &y4m(2, 0..200));
    assert!(code == Some(0) && err.contains("200 frames, the first"), "{err}");
    for (args, says) in
        [(&["--nframes", "4"][..], "nframes"), (&["--video", "x.mp4"], "alone"), (&["--when-full", "x"], "x")]
    {
        let (code, _, err) = run(args, &bytes);
        assert!(code == Some(2) && err.contains(says), "{err}");
    }
    let (code, got, err) =
        give(with_model(dir.path(), &["plan", "-", "--json", "-c", "8000"]).spawn().unwrap(), &bytes);
    assert!(code == Some(0) && got.contains("\"tokens_per_second\":6.0"), "{got}{err}");
}

/// The frame that fills the last pair is the one that stands there twice, not one that never came; what broke is said.
#[test]
fn frames_of_a_pipe_have_their_own_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for (n, fps, want) in
        [(60, 25, vec![0, 13, 25, 38, 50, 50]), (3, 2, vec![0, 1, 2, 2]), (16, 10, vec![0, 5, 10, 15])]
    {
        let args = ["run", "--video", "-", "-p", QUESTION, "-n", "1", "--json"];
        let mut bytes = y4m(fps, 0..n);
        let (code, out, err) = give(with_model(dir.path(), &args).spawn().unwrap(), &bytes);
        assert_eq!(code, Some(0), "{err}");
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        let times: Vec<f64> = want.iter().map(|i| f64::from(*i) / fps as f64).collect();
        assert_eq!(answer["media"][0]["frames"], serde_json::json!(want), "{answer}");
        assert_eq!(answer["media"][0]["times"], serde_json::json!(times), "{answer}");
        assert_eq!(answer["warnings"], serde_json::json!([]));
        bytes.extend(b"no frame\n");
        let (code, out, err) = give(with_model(dir.path(), &args).spawn().unwrap(), &bytes);
        assert_ne!(code, Some(0), "{err}");
        let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(answer["warnings"][0].as_str().is_some_and(|text| text.contains("frame")), "{answer}");
    }
}

/// A camera goes on, somebody asks meanwhile, a signal ends it.
#[test]
#[cfg(unix)]
fn a_camera_can_be_asked_about_while_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let take: PathBuf = dir.path().join("camera.take");
    let name = take.to_str().unwrap();
    let (code, _, err) = give(with_model(dir.path(), &["watch", "-"]).spawn().unwrap(), b"");
    assert!(code == Some(2) && err.contains("--output"), "{err}");
    let args = ["watch", "-", "-o", name, "--json", "--save-every", "0.01", "--when-full", "forget"];
    let mut command = with_model(dir.path(), &args);
    let mut child = command.args(["-c", "180", "--reserve", "60"]).spawn().unwrap();
    let mut camera = child.stdin.take().unwrap();
    camera.write_all(&y4m(2, 0..200)).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut wait_for = |what: &str| while !lines.next().expect("more events").unwrap().contains(what) {};
    wait_for("\"saved\"");
    assert!(!ask(dir.path(), name).is_empty());
    // Frames this small go through the vision tower by the dozen; the last ones wait for more, or for the end.
    wait_for("\"pairs\":85,");
    // The pipe stays open: a signal ends the stream.
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let rest = std::thread::spawn(move || lines.map_while(std::result::Result::ok).collect::<Vec<_>>());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    drop((camera, rest.join().unwrap()));
    assert!(said.contains("stopped on request: 200 frames, the first"), "{said}");
    let shown = longtake(dir.path(), &["inspect", name]).stdin(Stdio::null()).output().unwrap().stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("of a stream, whose first") && shown.contains("(complete)"), "{shown}");
    assert!(!ask(dir.path(), name).is_empty());
    let (code, _, err) = give(with_model(dir.path(), &["watch", "-", "-o", name]).spawn().unwrap(), &y4m(2, 0..4));
    assert!(code == Some(2) && err.contains("exists already"), "{err}");
}
