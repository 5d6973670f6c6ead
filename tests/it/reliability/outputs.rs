//! Names that cannot be written: refused before any work, never replaced, nothing left behind.
#![cfg(unix)]

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{SMALL, asset, longtake, names, said, stream, with_model};

/// Every command that writes a file of a name that is given, with that name as `out`.
fn writers(dir: &Path, out: &str) -> Vec<Command> {
    let video = asset("demo.mp4");
    let mut watch = with_model(dir, &["watch", &video, "-o", out, "--reserve", "200"]);
    watch.args(SMALL);
    let mut camera = with_model(dir, &["watch", "-", "-o", out, "--reserve", "200"]);
    camera.args(SMALL).stdin(std::fs::File::open(stream(dir, 8)).unwrap());
    vec![
        watch,
        camera,
        with_model(dir, &["run", "-p", "x", "-n", "1", "--dump", out]),
        longtake(dir, &["demo", "--tokens", "144", "-o", out]),
        longtake(dir, &["eval", "mlvu", ".", "-m", &asset("demo.gguf"), "-o", out]),
    ]
}

#[test]
fn what_is_no_file_is_refused_by_every_writer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(Command::new("mkfifo").arg(dir.join("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    std::fs::create_dir(dir.join("folder")).unwrap();
    symlink("pipe", dir.join("link")).unwrap();
    let before = ["folder", "link", "pipe", "socket"];
    for out in ["pipe", "socket", "folder", "link", "no/such/folder/f", "socket/f"] {
        for mut command in writers(dir, out) {
            let result = command.output().unwrap();
            let stderr = said(&result);
            // One line: nothing was begun.
            assert!(matches!(result.status.code(), Some(1 | 2)), "{command:?}: {}: {stderr}", result.status);
            assert!(
                stderr.lines().count() == 1 && stderr.contains(out.split('/').next().unwrap()),
                "{command:?}: {stderr}"
            );
            assert_eq!(names(dir), before, "{command:?}");
        }
    }
    assert!(dir.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    // Folders of outputs, and a dialogue that is to be saved.
    for mut command in
        [longtake(dir, &["eval", "niah", "-o", "pipe"]), longtake(dir, &["analyze", "theory", "-o", "pipe"])]
    {
        let result = command.output().unwrap();
        assert!(result.status.code() == Some(2) && said(&result).contains("is not a folder"), "{}", said(&result));
    }
    let mut chat = with_model(dir, &["chat", "-c", "512"]).stdin(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"/save pipe\n").unwrap();
    let result = chat.wait_with_output().unwrap();
    assert!(
        !result.status.success() && said(&result).contains("pipe: is a device, pipe or socket"),
        "{}",
        said(&result)
    );
    assert_eq!(names(dir), before);
}

#[test]
fn a_link_is_followed_by_every_writer_and_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("far")).unwrap();
    for mut command in writers(dir, "link").into_iter().take(4) {
        for there in [false, true] {
            let _ = std::fs::remove_file(dir.join("link"));
            let _ = std::fs::remove_file(dir.join("far/file"));
            symlink("far/file", dir.join("link")).unwrap();
            let is_watch = command.get_args().next().is_some_and(|arg| arg == "watch");
            if there {
                // A take is replaced when that is wanted only, and what is no take is not.
                if is_watch {
                    continue;
                }
                std::fs::write(dir.join("far/file"), "old").unwrap();
            }
            let result = command.output().unwrap();
            assert!(result.status.success(), "{command:?}: {}", said(&result));
            assert!(dir.join("link").is_symlink() && dir.join("far/file").metadata().unwrap().len() > 100);
            assert_eq!((names(dir), names(&dir.join("far"))), (vec!["far".into(), "link".into()], vec!["file".into()]));
        }
    }
}

/// A file beyond the limit of the process is a failed write like any other.
#[test]
fn beyond_the_file_size_limit_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for command in writers(dir, "out").into_iter().take(4) {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -f 2; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        limited.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).env("TMPDIR", dir.join("tmp"));
        limited.stdin(std::fs::File::open(stream(dir, 8)).unwrap());
        let result = limited.output().unwrap();
        let stderr = said(&result);
        assert!(
            result.status.code() == Some(1) && stderr.contains("out") && stderr.contains("large"),
            "{command:?}: {:?}: {stderr}",
            result.status
        );
        assert_eq!(names(dir), Vec::<String>::new(), "{command:?}");
    }
}

/// What the field met: another video behind the name, other flags, no video; and the ways on.
#[test]
fn watch_says_what_a_take_is_of_and_asking_says_what_is_answered_from() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let draw = |seed: &str, name: &str| {
        let out = longtake(dir, &["demo", "--tokens", "144", "--seed", seed, "-o", name, "-n", "1"]).output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
    };
    draw("1", "cam.mp4");
    draw("5", "other.mp4");
    let watch = |args: &[&str]| {
        let mut command = with_model(dir, &["watch", "--reserve", "200"]);
        let out = command.args(args).args(SMALL).output().unwrap();
        (out.status.code(), said(&out))
    };
    let (code, stderr) = watch(&["cam.mp4"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = watch(&["cam.mp4"]);
    assert!(code == Some(0) && stderr.contains("cam.take: complete"), "{stderr}");
    let (code, stderr) = watch(&["cam.mp4", "--nframes", "2"]);
    assert!(code == Some(2) && stderr.contains("--nframes `not given`, this is `2`"), "{stderr}");
    let (code, stderr) = watch(&["cam.mp4", "-c", "900"]);
    assert!(code == Some(2) && stderr.contains("--ctx-size `not given`, this is `900`"), "{stderr}");
    let (code, stderr) = watch(&["other.mp4", "-o", "cam.take"]);
    assert!(code == Some(2) && stderr.contains("another video") && stderr.contains("other.mp4"), "{stderr}");
    let (code, stderr) = watch(&["gone.mp4", "-o", "cam.take"]);
    assert!(code == Some(1) && stderr.contains("gone.mp4") && stderr.contains("cannot be compared"), "{stderr}");
    std::fs::rename(dir.join("other.mp4"), dir.join("cam.mp4")).unwrap();
    let (code, stderr) = watch(&["cam.mp4"]);
    assert!(code == Some(2) && stderr.contains("--again") && stderr.contains("--output"), "{stderr}");
    let out = longtake(dir, &["ask", "cam.take", "x", "-n", "1"]).output().unwrap();
    assert!(out.status.success() && said(&out).contains("warning: cam.mp4 has "), "{}", said(&out));
    let before = std::fs::read(dir.join("cam.take")).unwrap();
    let (code, stderr) = watch(&["cam.mp4", "--again"]);
    assert!(code == Some(0) && stderr.contains("watched"), "{stderr}");
    assert!(std::fs::read(dir.join("cam.take")).unwrap() != before);
    let (code, stderr) = watch(&["cam.mp4"]);
    assert!(code == Some(0) && stderr.contains("complete"), "{stderr}");
    // A stream's take is replaced when that is wanted only.
    let camera = |args: &[&str]| {
        let mut command = with_model(dir, &["watch", "-", "-o", "cam.take", "--reserve", "200"]);
        command.args(args).args(SMALL).stdin(std::fs::File::open(stream(dir, 8)).unwrap());
        let out = command.output().unwrap();
        (out.status.code(), said(&out))
    };
    let (code, stderr) = camera(&[]);
    assert!(code == Some(2) && stderr.contains("exists already"), "{stderr}");
    let (code, stderr) = camera(&["--again"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = watch(&["cam.mp4"]);
    assert!(code == Some(2) && stderr.contains("a stream, `standard input`"), "{stderr}");
    // What is answered from.
    let out = longtake(dir, &["ask", "cam.take", "x", "-n", "1"]).output().unwrap();
    let line = said(&out).lines().next().unwrap().to_string();
    assert!(line.starts_with("cam.take: standard input (") && line.contains(" ago with "), "{line}");
    let mut chat = longtake(dir, &["chat", "--take", "cam.take", "-n", "1"]).stdin(Stdio::piped()).spawn().unwrap();
    drop(chat.stdin.take());
    let out = chat.wait_with_output().unwrap();
    assert!(said(&out).contains("cam.take: standard input (") && said(&out).contains("watched"), "{}", said(&out));
}
