//! Pictures are planned like videos: made smaller to fit and said so, or refused with the numbers before any work.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::plan::{asset, command, number};

/// A picture of one colour, in the format of its name.
fn picture(dir: &Path, name: &str, width: u32, height: u32) -> PathBuf {
    let path = dir.join(name);
    RgbImage::from_pixel(width, height, Rgb([90, 20, 200])).save(&path).unwrap();
    path
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).to_string()
}

/// The object on stdout.
fn object(out: &Output) -> Value {
    assert!(out.status.success(), "{}", text(out));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn run(flags: &[&str], pictures: &[&Path]) -> Output {
    let mut command = command(&["run", "-p", "What is it?", "-n", "2", "--json"]);
    command.args(flags);
    for path in pictures {
        command.arg("--image").arg(path);
    }
    command.output().unwrap()
}

#[test]
fn pictures_become_smaller_until_they_fit_the_context() {
    let dir = tempfile::tempdir().unwrap();
    for (name, width, height) in [
        ("wide.png", 4032, 3024),
        ("tall.jpg", 1000, 3000),
        ("square.bmp", 1400, 1400),
        ("thin.webp", 3000, 200),
        ("small.png", 300, 200),
    ] {
        let path = picture(dir.path(), name, width, height);
        for n_ctx in [700, 300, 60] {
            let out = run(&["-c", &n_ctx.to_string()], &[&path]);
            let (answer, message) = (object(&out), text(&out));
            assert!(number(&answer, "/usage/total_tokens") <= f64::from(n_ctx), "{name}: {answer}");
            assert!(message.contains(&format!("a context of {n_ctx}")), "{message}");
            let (w, h) = (number(&answer, "/media/0/width"), number(&answer, "/media/0/height"));
            let said = format!("reduced: {}: size from ", path.display());
            if name == "small.png" && n_ctx >= 300 {
                assert!(!message.contains("reduced"), "{message}");
            } else {
                assert!(message.contains(&said) && message.contains(&format!(" to {w}x{h}")), "{n_ctx}: {message}");
            }
            // The shape stays within what whole tokens allow.
            assert!(n_ctx < 300 || (w / h / f64::from(width) * f64::from(height)).ln().abs() < 0.5, "{name}: {w}x{h}");
        }
    }
}

#[test]
fn what_cannot_fit_is_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "photo.png", 4032, 3024);
    let scan = picture(dir.path(), "scan.jpg", 2000, 2800);
    for (flags, pictures, expected) in [
        (&["-c", "20"][..], &[&*photo][..], &["not even a picture of", "into a context of `20`; raise -c"][..]),
        (&["-c", "30"], &[&*photo, &scan], &["not even a picture of", "photo.png", "scan.jpg", "give fewer media"]),
        (&["--max-memory", "5M"], &[&*photo], &["bytes into 5242880 bytes; raise --max-memory"]),
        (&["--max-time", "0.00001s"], &[&*scan], &["s into 0 s; raise --max-time"]),
        (&["-c", "300", "--min-pixels", "1000000"], &[&*photo], &["into a context of `300`"]),
    ] {
        let started = Instant::now();
        let out = run(flags, pictures);
        let message = text(&out);
        assert_eq!(out.status.code(), Some(1), "{flags:?}: {message}");
        assert!(expected.iter().all(|words| message.contains(words)), "{flags:?}: {message}");
        assert!(!message.contains("picture:") && out.stdout.is_empty(), "{message}");
        // A second on an idle machine.
        assert!(started.elapsed() < Duration::from_secs(20), "{flags:?}: {:?}", started.elapsed());
    }
}

fn plan(flags: &[&str]) -> Output {
    command(&["plan", "--json", "--reserve", "100"]).args(flags).output().unwrap()
}

#[test]
fn pictures_keep_to_memory_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = picture(dir.path(), "photo.png", 2000, 1500);
    let path = path.to_str().unwrap();
    let free = object(&plan(&[path]));
    let (n_tokens, memory) = (number(&free, "/n_tokens"), number(&free, "/memory/total"));
    let least = number(&object(&plan(&[path, "--max-pixels", "3136"])), "/memory/total");
    assert!(least < memory, "{least} of {memory}");
    let limit = (memory + least) / 2.0;
    let tight = object(&plan(&[path, "--max-memory", &format!("{limit:.0}")]));
    assert!(number(&tight, "/memory/total") <= limit && number(&tight, "/n_tokens") < n_tokens, "{tight}");
    assert!(tight["reduced"][0].as_str().unwrap().contains("size from"), "{tight}");
    // The machine may be several times faster or slower at the next calibration; what was promised holds each time.
    let reduced = (0..10).any(|_| {
        let limit = number(&object(&plan(&[path])), "/seconds/total") / 3.0;
        let out = plan(&[path, "--max-time", &format!("{limit:.6}s")]);
        if !out.status.success() {
            assert!(text(&out).contains("not even"), "{}", text(&out));
            return false;
        }
        let quick = object(&out);
        assert!(number(&quick, "/seconds/total") <= limit, "{quick}");
        number(&quick, "/n_tokens") < n_tokens
    });
    assert!(reduced, "a third of the time never took fewer tokens");
}

/// Any mix, in the order given, and the same sizes that `run` takes.
#[test]
fn plan_takes_any_mix_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "photo.png", 1200, 900);
    let icon = picture(dir.path(), "icon.bmp", 112, 112);
    // What a file is does not follow from its name.
    let misnamed = dir.path().join("clip.png");
    std::fs::copy(asset("demo.mp4"), &misnamed).unwrap();
    let (photo, icon, misnamed) = (photo.to_str().unwrap(), icon.to_str().unwrap(), misnamed.to_str().unwrap());
    let clip = asset("demo.mp4");
    let clip = clip.to_str().unwrap();

    let mixed = object(&plan(&[misnamed, "--image", icon, photo, "--video", clip, "-p", "What?", "-c", "2000"]));
    let kinds: Vec<&str> = mixed["media"].as_array().unwrap().iter().map(|m| m["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["video", "image", "image", "video"], "{mixed}");
    let n = |at: usize| number(&mixed, &format!("/media/{at}/n_tokens"));
    assert_eq!((0..4).map(n).sum::<f64>(), number(&mixed, "/n_tokens"));
    assert!(number(&mixed, "/n_text") > 2.0 && number(&mixed, "/n_ctx") == 2000.0, "{mixed}");
    assert!(number(&mixed, "/n_tokens") + number(&mixed, "/n_text") + 100.0 <= 2000.0, "{mixed}");
    // The small picture keeps all of it, and the three others get about as much as each other.
    assert_eq!(n(1), number(&object(&plan(&[icon])), "/n_tokens"));
    assert!(n(0).min(n(2)).min(n(3)) * 1.5 > n(0).max(n(2)).max(n(3)), "{mixed}");
    assert_eq!(mixed["reduced"].as_array().unwrap().iter().filter(|r| r.as_str().unwrap().contains("icon")).count(), 0);

    // A conversation from a file, and `run` with the same one.
    let messages = dir.path().join("messages.json");
    let parts = serde_json::json!([
        {"type": "video", "video": clip, "nframes": 4}, {"type": "text", "text": "and"}, {"type": "image", "image": icon},
    ]);
    std::fs::write(&messages, serde_json::json!([{"role": "user", "content": parts}]).to_string()).unwrap();
    let messages = messages.to_str().unwrap();
    let planned = object(&plan(&["--messages", messages]));
    let out = command(&["run", "-n", "1", "--json", "--messages", messages]).output().unwrap();
    let ran = object(&out);
    assert_eq!(number(&planned, "/n_tokens") + number(&planned, "/n_text"), number(&ran, "/usage/prompt_tokens"));
    assert_eq!((&ran["media"][0]["type"], &ran["media"][1]["type"]), (&"video".into(), &"image".into()));
    assert_eq!(ran["warnings"], serde_json::json!([]));
    let frames = ran["media"][0]["frames"].as_array().unwrap();
    let times: Vec<f64> = ran["media"][0]["times"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
    assert_eq!((frames.len(), times.len(), number(&ran, "/media/0/pairs")), (4, 4, 2.0));
    assert!(times.is_sorted() && times[0] == 0.0 && times[3] > 0.0, "{ran}");

    // Words on stderr, one line a medium, in order; and text alone.
    let out = command(&["plan", icon, clip]).output().unwrap();
    let lines = text(&out);
    assert!(lines.find("picture: ").unwrap() < lines.find("video: ").unwrap(), "{lines}");
    let words = object(&plan(&["-p", "just words"]));
    assert!(number(&words, "/n_tokens") == 0.0 && number(&words, "/n_ctx") == number(&words, "/n_text") + 100.0);
    for (flags, expected) in [
        (&[][..], "nothing to answer"),
        (&["-", clip], "planned alone"),
        (&["--video", "-"], "planned alone"),
        (&["absent.png"], "absent.png"),
    ] {
        let out = plan(flags);
        assert!(!out.status.success() && text(&out).contains(expected), "{flags:?}: {}", text(&out));
    }
}

/// In a talk, too, a picture may have what is left of the context; what is wrong with one is said when it is given.
#[test]
fn a_talk_makes_pictures_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "photo.png", 1600, 1200);
    let torn = dir.path().join("torn.jpg");
    let whole = std::fs::read(picture(dir.path(), "whole.jpg", 300, 300)).unwrap();
    std::fs::write(&torn, &whole[..whole.len() - 50]).unwrap();
    let talk = |lines: String| {
        let mut child = command(&["chat", "-c", "900", "-n", "2"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let out =
        talk(format!("/image {0}\n/image {0}\nwhat is it?\n/image {1}\nand that?\n", photo.display(), torn.display()));
    let message = text(&out);
    assert!(out.status.success(), "{message}");
    assert_eq!(message.matches("reduced: ").count(), 2, "{message}");
    assert!(message.contains("warning: ") && message.contains("torn.jpg: the jpeg file is cut off"), "{message}");
}

#[test]
fn a_cut_off_picture_is_a_warning_in_words_and_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(picture(dir.path(), "whole.jpg", 400, 300)).unwrap();
    let torn = dir.path().join("torn.jpg");
    std::fs::write(&torn, &whole[..whole.len() / 2]).unwrap();
    let out = run(&[], &[&torn]);
    let answer = object(&out);
    assert!(text(&out).contains("torn.jpg: the jpeg file is cut off"), "{}", text(&out));
    assert_eq!(answer["warnings"].as_array().unwrap().len(), 1, "{answer}");
    assert!(answer["warnings"][0].as_str().unwrap().contains("torn.jpg"), "{answer}");
}

/// A comma separates names in any encoding.
#[cfg(unix)]
#[test]
fn lists_of_names_that_are_not_unicode_are_split() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &[u8]| {
        let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::copy(picture(dir.path(), "plain.png", 60, 60), &path).unwrap();
        path
    };
    let (odd, even) = (named(b"\xff\xfe.png"), named(b"caf\xe9.png"));
    let list = [odd.as_os_str().as_bytes(), b",", even.as_os_str().as_bytes()].concat();
    let answer = object(&run(&[], &[Path::new(std::ffi::OsStr::from_bytes(&list))]));
    assert_eq!(answer["media"].as_array().map(Vec::len), Some(2), "{answer}");
    let both = named(b"one,\xff.png");
    assert_eq!(object(&run(&[], &[&both]))["media"].as_array().map(Vec::len), Some(1));
}
