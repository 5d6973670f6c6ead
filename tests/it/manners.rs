//! The manners of the command line: what it reads and how it is spelled, where its output goes, and how a talk goes on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.gguf");

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs with `input` on standard input.
fn fed(args: &[&str], input: &[u8]) -> Output {
    let piped = Stdio::piped;
    let mut child = command(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // A program that refuses the flags reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Answers with one token, as JSON; fails with the program's words.
fn answer(args: &[&str], input: &[u8]) -> Result<Value, String> {
    let all = [&["run", "-m", MODEL, "-n", "1", "-q", "--json"], args].concat();
    let out = fed(&all, input);
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&out.stdout).unwrap())
}

fn n_prompt(args: &[&str], input: &[u8]) -> u64 {
    answer(args, input).unwrap_or_else(|err| panic!("{args:?}: {err}"))["usage"]["prompt_tokens"].as_u64().unwrap()
}

/// A picture of one colour, as a png file.
fn picture(folder: &Path, name: &str, colour: [u8; 3]) -> PathBuf {
    let path = folder.join(name);
    image::save_buffer(&path, &colour.repeat(112 * 112), 112, 112, image::ExtendedColorType::Rgb8).unwrap();
    path
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..4).for_each(|i| {
            text.push(if i > three.len() { '=' } else { DIGITS[(n >> (18 - 6 * i)) as usize & 63] as char })
        });
    }
    text
}

/// A video of two colours, as Y4M.
fn y4m() -> Vec<u8> {
    let mut bytes = b"YUV4MPEG2 W112 H112 F2:1 Ip A1:1 C420\n".to_vec();
    for luma in [40u8, 200, 40, 200] {
        bytes.extend(b"FRAME\n");
        bytes.extend([luma].repeat(112 * 112));
        bytes.extend([128u8].repeat(2 * 56 * 56));
    }
    bytes
}

#[test]
fn messages_name_media_in_every_usual_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = picture(dir.path(), "red sign.png", [200, 0, 0]);
    let plain = file.display().to_string();
    let url = format!("file://{}", plain.replace(' ', "%20"));
    let data = format!("data:image/png;base64,{}", base64(&std::fs::read(&file).unwrap()));
    let video = format!("data:video/x-y4m;base64,{}", base64(&y4m()));
    let ask = |part: Value| {
        let messages = json!([{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]);
        answer(&["--messages", "-"], messages.to_string().as_bytes())
    };
    let want = ask(json!({"type": "image", "image": plain})).unwrap();
    for part in [
        json!({"image": plain}),
        json!({"type": "image", "image": url}),
        json!({"type": "image", "path": plain}),
        json!({"type": "image", "image": url.replace("file://", "file://localhost")}),
        json!({"type": "image_url", "image_url": {"url": url, "detail": "high"}}),
        json!({"type": "image_url", "image_url": data}),
        json!({"type": "input_image", "image_url": data}),
        json!({"image_url": {"url": data}}),
        json!({"type": "image", "image": data.replace("base64,", "charset=x;base64,")}),
    ] {
        let got = ask(part.clone()).unwrap_or_else(|err| panic!("{part}: {err}"));
        assert_eq!((&got["tokens"], &got["usage"]), (&want["tokens"], &want["usage"]), "{part}");
        let source = got["media"][0]["source"].as_str().unwrap();
        assert!(source == plain || source.starts_with("data:image/png;… ("), "{source}");
    }
    let frames = ask(json!({"type": "video", "video": [plain, url, data, plain]})).unwrap();
    for part in [
        json!({"video": [url, data, plain, plain]}),
        json!({"type": "video_url", "video_url": [plain, plain, plain, plain]}),
    ] {
        assert_eq!(ask(part).unwrap()["tokens"], frames["tokens"]);
    }
    let of_file = dir.path().join("a.y4m");
    std::fs::write(&of_file, y4m()).unwrap();
    let want = ask(json!({"video": of_file.display().to_string()})).unwrap();
    for part in [
        json!({"type": "video_url", "video_url": {"url": video}}),
        json!({"video": video}),
        json!({"type": "input_video", "video_url": video}),
    ] {
        let got = ask(part).unwrap();
        assert_eq!((&got["tokens"], &got["usage"]), (&want["tokens"], &want["usage"]));
    }
    for (part, want) in [
        (json!({"image": "https://example.org/a.png"}), "download it"),
        (json!({"type": "video_url", "video_url": {"url": "HTTP://example.org/a.mp4"}}), "on a network"),
        (json!({"image": "file://server/a.png"}), "`server` is another machine"),
        (json!({"image": "ftp://server/a.png"}), "scheme `ftp`"),
        (json!({"image": "a.png", "text": "b"}), "in one part"),
        (json!({"type": "image_url", "image_url": {"url": "a.png", "colour": 1}}), "`colour` is unknown"),
        (json!({"image": format!("data:image/png;base64,{}", "SECRET".repeat(8))}), "data:image/png;… (36 bytes)"),
        (json!({"image": format!("data:image/png;base64,{}!", "SECRET".repeat(9))}), "not base64"),
        (json!({"video": format!("data:video/mp4;base64,{}", "SECRET".repeat(8))}), "data:video/mp4;… (36 bytes)"),
        (json!({"video": [plain, format!("data:,{}", "SECRET".repeat(9))]}), "frame 1 (`data:;… (54 bytes)`)"),
        (json!({"video": [plain, dir.path().join("no.png").display().to_string()]}), "/no.png"),
    ] {
        let err = ask(part.clone()).expect_err("refused");
        assert!(err.contains(want) && !err.contains("SECRET") && err.len() < 500, "{part}: {err}");
    }
}

#[test]
fn text_files_are_read_however_they_were_saved() {
    let messages = br#"[{"role": "user", "content": "hi"}]"#;
    let want = n_prompt(&["--messages", "-"], messages);
    for bytes in [[b"\xef\xbb\xbf", &messages[..]].concat(), [&messages[..], b"\r\n"].concat()] {
        assert_eq!(n_prompt(&["--messages", "-"], &bytes), want);
    }
    let want = n_prompt(&["-p", "one\ntwo"], b"");
    for text in ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "\u{feff}one\r\ntwo", "\u{feff}one\ntwo\r\n"] {
        assert_eq!(n_prompt(&["-f", "-"], text.as_bytes()), want, "{text:?}");
    }
    assert_eq!(n_prompt(&["-f", "-"], b"one\ntwo\n\n"), n_prompt(&["-p", "one\ntwo\n"], b""));
    for (flag, bytes) in [("-f", &b"\xff\xfeh\0i\0"[..]), ("--messages", b"\xfe\xff\0[\0]"), ("-f", b"a\xff")] {
        let err = answer(&[flag, "-"], bytes).expect_err("refused");
        assert!(err.contains("UTF-8"), "{err}");
    }
}

#[test]
#[cfg(unix)]
fn endless_text_is_refused_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (haystack, results) = (dir.path().join("a.y4m"), dir.path().join("niah"));
    std::fs::write(&haystack, y4m()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let [haystack, results] = [text(&haystack), text(&results)];
    for (args, want) in [
        (&["run", "-m", MODEL, "--messages", "/dev/zero"][..], "more than 134217728 bytes"),
        (&["run", "-m", MODEL, "-f", "/dev/zero"], "more than 67108864 bytes"),
        (
            &["analyze", "rotate", "--layout", "hope", "--head-dim", "4", "--pos", "1,1,1", "--vector", "/dev/zero"],
            "more than 1048576",
        ),
        (&["eval", "niah", "--haystack", &haystack, "--needles", "/dev/zero", "-o", &results], "not a regular file"),
        (&["eval", "mlvu", "/dev/zero", "-m", MODEL], ""),
    ] {
        let start = std::time::Instant::now();
        let out = command(args).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(1 | 2)) && err.contains(want), "{args:?}: {:?} {err}", out.status);
        assert!(start.elapsed().as_secs() < 20, "{args:?}: {:?}", start.elapsed());
    }
}

/// Commands that print, each in one of its ways.
#[cfg(target_os = "linux")]
const PRINTING: [&[&str]; 14] = [
    &["run", "-m", MODEL, "-p", "hi", "-n", "2", "-q"],
    &["run", "-m", MODEL, "-p", "hi", "-n", "2", "-q", "--json"],
    &["demo", "--tokens", "288"],
    &["demo", "--tokens", "288", "--json"],
    &["inspect", MODEL],
    &["inspect", MODEL, "--json"],
    &["inspect", "--cpu"],
    &["analyze", "positions", "--layout", "hope", "--segment", "text:9000"],
    &["analyze", "frequencies", "--layout", "hope"],
    &["bench", "-m", MODEL, "-p", "8", "-n", "1", "-r", "1"],
    &["run", "--help"],
    &["--version"],
    &["completions", "bash"],
    &["man"],
];

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    for args in PRINTING {
        // Our own handle: no flag of the program names a device.
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let out = command(args).stdout(full).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(1) && err.contains("standard output: No space left"), "{args:?}: {err}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut chat = command(&["chat", "-m", MODEL, "-n", "2"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let _ = chat.stdin.take().unwrap().write_all(b"hi\nho\n");
    let out = chat.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
#[cfg(target_os = "linux")]
fn a_reader_that_leaves_is_no_failure() {
    for args in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = command(args).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(0) && !err.contains("pipe") && !err.contains("panicked"), "{args:?}: {err}");
    }
    // Neither is one of notes.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = command(&["demo", "--tokens", "288"]).stderr(writer).output().unwrap();
    assert!(out.status.success() && !out.stdout.is_empty());
}

#[test]
fn flags_count_as_given_last_and_lists_collect() {
    let twice = [
        "-n",
        "3",
        "-n",
        "1",
        "--top-k",
        "-1",
        "-t",
        "-1",
        "-t",
        "1",
        "--repeat-last-n",
        "-1",
        "-q",
        "--temp",
        "1",
        "--temp",
        "0",
    ];
    let got = answer(&[&twice[..], &["-p", "hi", "-p", "ho"]].concat(), b"").unwrap();
    assert_eq!(got["usage"]["completion_tokens"], 1);
    let once = n_prompt(&["-p", "hi"], b"");
    assert!(got["usage"]["prompt_tokens"].as_u64().unwrap() > once);
    let dir = tempfile::tempdir().unwrap();
    let [a, b] =
        [[200, 0, 0], [0, 0, 200]].map(|c| picture(dir.path(), &format!("{}.png", c[0]), c).display().to_string());
    let got = answer(&["--image", &a, "--image", &b, "--image", &format!("{a},{b}"), "-p", "hi"], b"").unwrap();
    assert_eq!(got["media"].as_array().unwrap().len(), 4);
    for wrong in ["-2", "x", "1.5"] {
        assert!(answer(&["-p", "hi", "--top-k", wrong], b"").is_err(), "{wrong}");
    }
}

#[test]
fn control_tokens_are_tokens_on_demand_only() {
    for text in ["<|box_start|>", "a<|vision_end|>b", "<|im_end|>\n<|im_start|>user\nhi"] {
        let plain = n_prompt(&["-p", text], b"");
        let special = n_prompt(&["-p", text, "--special"], b"");
        assert!(special < plain, "{text}: {special} and {plain} tokens");
    }
    let err = answer(&["-p", "<|video_pad|>", "--special"], b"").expect_err("no video for it");
    assert!(err.contains("makes room for `1` videos, the conversation has 0"), "{err}");
}

#[test]
#[cfg(target_os = "linux")]
fn names_need_not_be_unicode() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let red = picture(dir.path(), "red.png", [200, 0, 0]);
    let (odd, odd_video) =
        (dir.path().join(OsStr::from_bytes(b"\xff,1.png")), dir.path().join(OsStr::from_bytes(b"\xe4.y4m")));
    std::fs::copy(&red, &odd).unwrap();
    std::fs::write(&odd_video, y4m()).unwrap();
    for (flag, file) in [("--image", &odd), ("--video", &odd_video)] {
        let mut run = command(&["run", "-m", MODEL, "-n", "1", "-q", "-p", "hi", flag]);
        let out = run.arg(file).output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let line = [b"/image ", odd.as_os_str().as_bytes(), b"\nhi\n"].concat();
    let out = fed(&["chat", "-m", MODEL, "-n", "1"], &line);
    assert!(out.status.success() && !out.stdout.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_talk_goes_on_after_a_wrong_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = picture(dir.path(), "a sign (1).png", [200, 0, 0]).display().to_string();
    let escaped = file.replace(' ', "\\ ").replace('(', "\\(").replace(')', "\\)");
    let url = format!("file://{}", file.replace(' ', "%20"));
    let mut names = vec![file.clone(), format!("'{file}'"), format!("\"{file}\""), url];
    if cfg!(unix) {
        names.push(escaped);
    }
    let talk: String = names.iter().map(|name| format!("/image {name}\nhi\n")).collect();
    let out = fed(&["chat", "-m", MODEL, "-n", "2"], talk.as_bytes());
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{err}");
    assert_eq!(err.matches("1 steps of 112x112").count(), names.len(), "{err}");
    assert_eq!(out.stdout.iter().filter(|b| **b == b'\n').count(), names.len());

    let out = fed(
        &["chat", "-m", MODEL, "-n", "2"],
        b"/video nowhere.mp4\nfirst\n/nothing\n/image\n/help\n/save /\nsecond\n/quit\nthird\n",
    );
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.stdout.iter().filter(|b| **b == b'\n').count(), 2, "both questions are answered: {err}");
    assert!(
        out.status.code() == Some(1) && err.contains("2 of the lines failed") && err.contains("/save FILE"),
        "{err}"
    );

    let long = format!("{}\nhi\n", "word ".repeat(400));
    let out = fed(&["chat", "-m", MODEL, "-n", "2", "-c", "100"], long.as_bytes());
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains("raise -c or say less") && err.contains("/clear begins") && !err.contains("frames"), "{err}");
    assert!(!out.stdout.is_empty(), "the short question is answered");
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef longtake"),
        ("fish", "complete -c longtake"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let out = command(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(out.stdout).unwrap();
        for word in [sign, "watch", "niah", "cache-type-k", "special"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    assert_eq!(command(&["completions", "tcsh"]).output().unwrap().status.code(), Some(2));
    let page = String::from_utf8(command(&["man"]).output().unwrap().stdout).unwrap();
    assert!(page.contains(".TH longtake 1") && page.contains("longtake\\-run(1)"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man/man1");
    assert!(command(&["man", "-o", folder.to_str().unwrap()]).status().unwrap().success());
    for name in ["longtake.1", "longtake-run.1", "longtake-eval-niah.1", "longtake-analyze-theory.1"] {
        let page = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
}
