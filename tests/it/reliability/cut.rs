//! Files that are cut short while they are mapped: an error with the file's name, and nothing wrong is kept.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use longtake::gguf::{Gguf, GgufWriter};
use longtake::stream::Take;

use super::{SMALL, asset, longtake, said, stream, with_model};

/// Waits for the first words on stdout, then cuts `path`, and waits for the end: exit code and stderr.
fn cut_while(mut child: Child, path: &Path, to: u64) -> (Option<i32>, String) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = Vec::new();
    stdout.by_ref().take(1).read_to_end(&mut first).unwrap();
    assert!(!first.is_empty(), "{}", said(&child.wait_with_output().unwrap()));
    let reader = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    File::options().write(true).open(path).unwrap().set_len(to).unwrap();
    let started = Instant::now();
    let out = child.wait_with_output().unwrap();
    reader.join().unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "it went on for {:?}", started.elapsed());
    (out.status.code(), said(&out))
}

fn is_named(path: &Path, (code, stderr): (Option<i32>, String)) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let last = stderr.lines().last().unwrap_or_default();
    assert!(code == Some(1) && last.starts_with("error: ") && last.contains(name), "{code:?}: {stderr}");
}

/// Answers without an end.
const ENDLESS: [&str; 10] = ["-p", "x", "--ignore-eos", "-n", "40000", "-c", "41000", "-q", "-t", "1"];

#[test]
fn a_model_that_is_cut_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.gguf");
    let whole = std::fs::metadata(asset("demo.gguf")).unwrap().len();
    for to in [0, 20_000, whole / 2, whole - 5000, whole - 1] {
        std::fs::copy(asset("demo.gguf"), &path).unwrap();
        let mut command = longtake(dir.path(), &["run", "-m", path.to_str().unwrap()]);
        is_named(&path, cut_while(command.args(ENDLESS).spawn().unwrap(), &path, to));
    }
    // Read into memory, it is no longer needed.
    std::fs::copy(asset("demo.gguf"), &path).unwrap();
    let mut command = longtake(dir.path(), &["run", "-m", path.to_str().unwrap(), "--no-mmap"]);
    command.args(["-p", "x", "--ignore-eos", "-n", "300", "-q", "-t", "1"]);
    let (code, stderr) = cut_while(command.spawn().unwrap(), &path, 0);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_part_of_a_split_model_that_is_cut_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Gguf::open(asset("demo.gguf").as_ref()).unwrap();
    let n = whole.tensors().len();
    let halves = [0..n / 2, n / 2..n];
    let paths = [1, 2].map(|no| dir.path().join(format!("mine-0000{no}-of-00002.gguf")));
    let write = || {
        for (no, range) in halves.iter().enumerate() {
            let mut meta = whole.meta().clone();
            meta.set("split.no", no as u16);
            meta.set("split.count", 2u16);
            meta.set("split.tensors.count", n as i32);
            let mut writer = GgufWriter::new(meta);
            let tensors = &whole.tensors()[range.clone()];
            tensors.iter().for_each(|t| writer.tensor(&t.name, t.ty, &t.ne).unwrap());
            let fill = |i: usize, buf: &mut Vec<u8>| {
                buf.extend_from_slice(whole.data(&tensors[i]));
                Ok(())
            };
            writer.write(&paths[no], fill).unwrap();
        }
    };
    for cut in &paths {
        write();
        let mut command = longtake(dir.path(), &["run", "-m", paths[0].to_str().unwrap()]);
        is_named(cut, cut_while(command.args(ENDLESS).spawn().unwrap(), cut, 4096));
    }
}

/// Neither a projector nor a model that is cut leaves wrong rows in the take: it goes on with the files as they were, to the
/// same content.
#[test]
fn what_is_cut_while_watching_leaves_the_take_sound() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let video = dir.join("long.y4m");
    std::fs::rename(stream(dir, 600), &video).unwrap();
    let files = ["demo.gguf", "mmproj-demo.gguf"].map(|name| dir.join(name));
    let restore = || {
        for file in &files {
            std::fs::copy(asset(file.file_name().unwrap().to_str().unwrap()), file).unwrap();
        }
    };
    let watch = |take: &str| {
        let mut command =
            longtake(dir, &["watch", video.to_str().unwrap(), "-o", take, "-b", "16", "--json", "-t", "1"]);
        command.args(["-m", files[0].to_str().unwrap(), "--mmproj", files[1].to_str().unwrap(), "--checkpoint", "0"]);
        command.args(SMALL).args(["--max-frames", "600"]);
        command
    };
    restore();
    assert!(watch("want.take").output().unwrap().status.success());
    let content = |take: &str| {
        let take = Take::open(&dir.join(take), true).unwrap();
        assert!(take.is_complete());
        let cache = take.cache().unwrap();
        cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect::<Vec<u8>>()
    };
    let want = content("want.take");
    for cut in &files {
        let _ = std::fs::remove_file(dir.join("a.take"));
        is_named(cut, cut_while(watch("a.take").spawn().unwrap(), cut, 4096));
        restore();
        let out = watch("a.take").output().unwrap();
        assert!(out.status.success(), "{}", said(&out));
        assert!(content("a.take") == want, "{}: other content than without a cut", cut.display());
    }
}

#[test]
fn a_take_that_is_cut_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let video = asset("demo.mp4");
    let mut command = with_model(dir, &["watch", &video, "-o", "mine.take", "--reserve", "42000", "-q"]);
    assert!(command.args(SMALL).output().unwrap().status.success());
    let (path, copy) = (dir.join("mine.take"), dir.join("copy.take"));
    std::fs::rename(&path, &copy).unwrap();
    let whole = copy.metadata().unwrap().len();
    for to in [0, 20_000, whole / 2, whole - 1] {
        std::fs::copy(&copy, &path).unwrap();
        let mut command = longtake(dir, &["ask", "mine.take", "x", "--ignore-eos", "-n", "40000", "-q", "-t", "1"]);
        is_named(&path, cut_while(command.spawn().unwrap(), &path, to));
    }
}

/// A SIGBUS that somebody sends ends the process, as it would without us: the handler of the standard library, which was there
/// before ours, lets the first one pass.
#[test]
fn a_bus_error_that_is_not_ours_is_left_alone() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let mut child = longtake(dir.path(), &["run", "-m", &asset("demo.gguf")]).args(ENDLESS).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.fill_buf().unwrap();
    let reader = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    for _ in 0..2 {
        let sent = std::process::Command::new("kill").args(["-BUS", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGBUS));
    reader.join().unwrap().unwrap();
}
