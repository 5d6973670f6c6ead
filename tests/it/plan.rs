//! Limits on context, memory and time: what fits is taken, what was reduced is said, what cannot fit is refused with the
//! numbers; and a program that is stopped leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Arrays, max_abs_diff};

pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)
}

/// A command (`analyze-cache`: one below another) with the embedded model.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args[0].split('-')).arg("-m").arg(asset("demo.gguf")).arg("--mmproj").arg(asset("mmproj-demo.gguf"));
    command.args(&args[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn plan(flags: &[&str]) -> Output {
    command(&["plan", "--json", "--reserve", "100"]).args(flags).arg(asset("demo.mp4")).output().unwrap()
}

/// The plan as it is printed.
fn planned(flags: &[&str]) -> Value {
    let out = plan(flags);
    assert!(out.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

pub fn number(plan: &Value, path: &str) -> f64 {
    plan.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {plan}"))
}

#[test]
fn whatever_the_limit_the_plan_stays_within_and_says_what_it_cost() {
    let free = planned(&[]);
    assert_eq!(free["reduced"], serde_json::json!([]));
    let (n_tokens, memory) = (number(&free, "/n_tokens"), number(&free, "/memory/total"));
    assert_eq!(number(&free, "/n_ctx"), n_tokens + 100.0);
    let parts: f64 = ["weights", "cache", "working"].map(|part| number(&free, &format!("/memory/{part}"))).iter().sum();
    assert_eq!(parts, memory);

    let mut last = n_tokens;
    for n_ctx in [1500, 700, 400] {
        let tight = planned(&["-c", &n_ctx.to_string()]);
        let n = number(&tight, "/n_tokens");
        assert!(n + 100.0 <= f64::from(n_ctx) && n < last, "{n} tokens into {n_ctx}, {last} before");
        assert_eq!(number(&tight, "/n_ctx"), f64::from(n_ctx), "a context that was asked for is reserved whole");
        assert!(!tight["reduced"].as_array().unwrap().is_empty(), "{tight}");
        assert!(number(&tight, "/media/0/frames") >= 4.0, "{tight}");
        last = n;
    }

    // Halfway between the least and all of it.
    let limit = memory - number(&free, "/memory/cache") / 2.0;
    let tight = planned(&["--max-memory", &format!("{limit:.0}")]);
    assert!(number(&tight, "/memory/total") <= limit && number(&tight, "/n_tokens") < n_tokens, "{tight}");

    // The machine may be several times faster or slower at the next calibration: what was promised holds each time, and some
    // time it takes fewer tokens.
    let reduced = (0..10).any(|_| {
        let limit = number(&planned(&[]), "/seconds/total") / 3.0;
        let out = plan(&["--max-time", &format!("{limit:.6}s")]);
        let Ok(quick) = serde_json::from_slice::<Value>(&out.stdout) else {
            let message = String::from_utf8_lossy(&out.stderr).to_string();
            assert!(message.contains("not even"), "{message}");
            return false;
        };
        assert!(number(&quick, "/seconds/total") <= limit, "{quick}");
        number(&quick, "/n_tokens") < n_tokens
    });
    assert!(reduced, "a third of the time never took fewer tokens");
}

#[test]
fn what_cannot_fit_is_refused_with_the_numbers() {
    for (flags, expected) in [
        (&["-c", "102"][..], "into a context of `102`"),
        (&["--max-memory", "1M"], "into 1048576 bytes"),
        (&["--max-time", "0.000001s"], "s into 0 s"),
        (&["-c", "400", "--nframes", "40"], "40 frames"),
    ] {
        let out = plan(flags);
        let message = String::from_utf8_lossy(&out.stderr).to_string();
        assert_eq!(out.status.code(), Some(1), "{flags:?}: {message}");
        assert!(
            message.contains("demo.mp4") && message.contains("not even") && message.contains(expected),
            "{message}"
        );
        assert!(out.stdout.is_empty());
    }
}

/// `run` plans like `plan`, says so before it works, and answers within the limit.
#[test]
fn run_keeps_to_its_limits() {
    let run = |flags: &[&str]| {
        let mut command = command(&["run", "-p", "What is it?", "-n", "4", "--json", "--video"]);
        command.arg(asset("demo.mp4")).args(flags).output().unwrap()
    };
    let out = run(&["-c", "400"]);
    let message = String::from_utf8_lossy(&out.stderr).to_string();
    assert!(out.status.success(), "{message}");
    assert!(message.contains("reduced: ") && message.contains("a context of 400"), "{message}");
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(number(&answer, "/usage/total_tokens") <= 400.0, "{answer}");
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 4);
    let out = run(&["--max-memory", "100K"]);
    let message = String::from_utf8_lossy(&out.stderr).to_string();
    assert!(out.status.code() == Some(1) && message.contains("into 102400 bytes"), "{message}");
}

/// Fault 47: neither the number of threads nor the size of a step changes more than the last digits.
#[test]
fn threads_and_steps_change_no_more_than_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let logits = |flags: &[&str]| {
        let dump = dir.path().join("dump.safetensors");
        let mut command = command(&["run", "-p", "What is it?", "-n", "1", "-q", "--max-frames", "8"]);
        command.args(flags).arg("--dump").arg(&dump).arg("--video").arg(asset("demo.mp4"));
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Arrays::at(&dump).f32("logits_last4")
    };
    let want = logits(&["-t", "1"]);
    let scale = want.iter().fold(0f32, |top, v| top.max(v.abs()));
    assert!(logits(&["-t", "1"]) == want, "the same threads give the same bits");
    // Steps of 5 take the way of decoding.
    for flags in ["-t 2", "-t 3", "-t 7", "-b 33", "-b 100000", "-b 5", "-b 5 -t 3"] {
        let diff = max_abs_diff(&logits(&flags.split(' ').collect::<Vec<_>>()), &want);
        println!("{flags}: largest difference {diff:.1e} of {scale:.1}");
        assert!(diff <= 0.02 * scale, "{flags}: {diff} of {scale}");
    }
}

/// `analyze cache` on a real prompt: nothing is lost in F32, and most in the narrowest type.
#[test]
fn smaller_caches_are_compared_with_f32() {
    let mut analyze = command(&["analyze-cache", "-p", "What is it?", "-n", "6", "--max-frames", "4", "--json"]);
    analyze.args(["--types", "f32,f16,q8_0,q8_0/q4_0,q4_0,q4_0h"]).arg("--video").arg(asset("demo.mp4"));
    let out = analyze.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let kl: Vec<f64> = report["types"].as_array().unwrap().iter().map(|row| number(row, "/kl_mean")).collect();
    assert!(kl[0] < 1e-9 && number(&report, "/types/0/same_top") == 1.0, "{report}");
    // Rounding elsewhere is chaotic in a model of four bits: the finer types may change places.
    assert!(kl[1..].iter().all(|kl| *kl > 0.0 && *kl < 0.05) && kl[1].max(kl[2]) < kl[4], "{report}");
    let bytes: Vec<f64> =
        report["types"].as_array().unwrap().iter().map(|row| number(row, "/bytes_per_token")).collect();
    assert!(bytes[..5].windows(2).all(|pair| pair[0] > pair[1]) && bytes[4] == bytes[5], "{report}");
    let row = &report["types"][5];
    assert_eq!((row["type_k"].as_str(), report["full"][0].as_str()), (Some("Q4_0H"), Some("F32")), "{report}");
    let (mean, p99, most) = (number(row, "/kl_mean"), number(row, "/kl_p99"), number(row, "/kl_max"));
    assert!(0.0 < mean && mean <= p99 && p99 <= most && number(row, "/n_changed") <= 6.0, "{report}");
}

/// Fault 39: memory that the vision tower cannot have ends the question with an error, and a smaller one is answered.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_cannot_be_had_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |size: u32| {
        let path = dir.path().join(format!("{size}.png"));
        image::RgbImage::from_pixel(size, size, image::Rgb([90, 20, 200])).save(&path).unwrap();
        let run = command(&["run", "-t", "2", "-n", "3", "-p", "What is it?", "--max-pixels", "60000000", "--image"]);
        // Address space for the program, its threads and a small picture.
        let script = format!("ulimit -v {}; exec \"$0\" \"$@\"", 1400 << 10);
        let mut limited = Command::new("sh");
        limited.args(["-c", &script]).arg(run.get_program()).args(run.get_args()).arg(&path);
        limited.stdin(Stdio::null()).output().unwrap()
    };
    let out = ask(7600);
    let message = String::from_utf8_lossy(&out.stderr).to_string();
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert!(message.contains("7600.png") && message.contains("cannot be had"), "{message}");
    let out = ask(56);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Fault 59: told to stop while the external decoder hangs, the program ends with 130 and takes the decoder with it.
#[test]
#[cfg(target_os = "linux")]
fn stopping_takes_the_decoder_along() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, body: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let stream = r#"{"codec_name":"x","width":64,"height":64,"avg_frame_rate":"2/1","nb_frames":"8"}"#;
    script("ffprobe", &format!("echo '{{\"streams\":[{stream}]}}'"));
    let pid_file = dir.path().join("pid");
    script("ffmpeg", &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid_file.display()));
    let video = dir.path().join("clip.mkv");
    std::fs::write(&video, [0x1A, 0x45, 0xDF, 0xA3, 0, 0, 0, 0]).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    for signal in ["-TERM", "-INT"] {
        let _ = std::fs::remove_file(&pid_file);
        let mut child = command(&["run", "-p", "?", "--video"]).arg(&video).env("PATH", &path).spawn().unwrap();
        let started = Instant::now();
        let decoder = loop {
            if let Ok(pid) = std::fs::read_to_string(&pid_file) {
                break pid.trim().to_string();
            }
            assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no decoder");
            std::thread::sleep(Duration::from_millis(5));
        };
        let told = Instant::now();
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(130), "{signal}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(told.elapsed() < Duration::from_secs(10), "{signal}: it took {:?}", told.elapsed());
        assert!(!Path::new("/proc").join(&decoder).exists(), "{signal}: decoder {decoder} is still there");
    }
}
