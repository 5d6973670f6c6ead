//! H.264 decoded in a child process: the same pictures, whatever is wrong with the file, and an error whatever is wrong with
//! the child.

use std::path::{Path, PathBuf};

use longtake::media::{Decoders, FrameSource, Rgb, SafeDecoder};
use longtake::random::Rng;
use longtake::{Error, ErrorKind};

use super::image_file::{media_bytes, media_dir};
use super::video::expected;

/// The program of this build.
fn longtake() -> SafeDecoder {
    SafeDecoder::new(PathBuf::from(env!("CARGO_BIN_EXE_longtake")))
}

fn open(path: &Path, child: Option<&SafeDecoder>) -> Result<Box<dyn FrameSource>, Error> {
    Decoders { tools: None, h264: child.cloned() }.open(path)
}

/// All that a video gives: every `step`th frame or what is wrong with it, and how many packets were damaged.
fn read(path: &Path, child: Option<&SafeDecoder>, step: usize) -> Result<(Vec<Result<Rgb, String>>, usize), String> {
    let mut source = open(path, child).map_err(|err| format!("{:?} {err}", err.kind()))?;
    let indices = (0..source.info().n_frames).step_by(step);
    let frames = indices.map(|i| source.frame(i).map_err(|err| err.to_string())).collect();
    Ok((frames, source.skipped()))
}

/// Every file of the repository that holds H.264 or seems to.
fn files() -> Vec<String> {
    let rows = expected().into_iter().map(|row| row.file);
    rows.filter(|name| name.ends_with(".mp4") || name.ends_with(".mov")).collect()
}

#[test]
fn every_file_gives_the_same_both_ways() {
    let child = longtake();
    let mut n_decoded = 0;
    for name in files() {
        let path = media_dir().join(&name);
        for step in [1, 4] {
            let here = read(&path, None, step);
            assert!(here == read(&path, Some(&child), step), "{name}: every {step}. frame");
            n_decoded += here.map_or(0, |(frames, _)| frames.len());
        }
    }
    assert!(n_decoded > 200, "{n_decoded}");
}

/// Bits flipped, bytes lost, samples overwritten: concealed alike, counted alike.
#[test]
fn damaged_files_give_the_same_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let child = longtake();
    let (mut n_damaged, mut random) = (0, Rng(7));
    for name in ["high_b.mp4", "open_gop.mp4", "baseline.mp4", "moving.mov", "fragments.mp4", "two_sizes.mp4"] {
        let whole = media_bytes(name);
        let data = whole.windows(4).position(|w| w == b"mdat").unwrap() + 4;
        let size = u32::from_be_bytes(whole[data - 8..data - 4].try_into().unwrap()) as usize;
        let n = (size - 8).min(whole.len() - data);
        for kind in 0..6 {
            let mut bytes = whole.clone();
            for _ in 0..1 << kind {
                let at = data + random.below(n);
                match kind {
                    0..4 => bytes[at] ^= 1 << random.below(8),
                    4 => bytes[at] = 0,
                    _ => bytes[at..whole.len().min(at + 40).min(data + n)].fill(0xFF),
                }
            }
            let path = dir.path().join(format!("{kind}-{name}"));
            std::fs::write(&path, bytes).unwrap();
            let here = read(&path, None, 1);
            assert!(here == read(&path, Some(&child), 1), "{}", path.display());
            n_damaged += here.map_or(0, |(_, skipped)| skipped);
        }
    }
    assert!(n_damaged > 20, "{n_damaged}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let video = media_dir().join("high_b.mp4");
    let err = open(&video, Some(&SafeDecoder::new("/nowhere/longtake".into()))).err().unwrap();
    let message = err.to_string();
    assert!(message.contains("high_b.mp4") && message.contains("/nowhere/longtake"), "{message}");
}

/// What is not H.264 needs no child.
#[test]
fn other_formats_start_no_child() {
    let nobody = SafeDecoder::new("/nowhere/longtake".into());
    for name in ["yuv420p.y4m", "moving.gif"] {
        assert!(open(&media_dir().join(name), Some(&nobody)).unwrap().frame(0).is_ok());
    }
}

#[cfg(unix)]
mod impostors {
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::media::ffmpeg::{GRANDCHILD, assert_nothing_left, script};
    use crate::media::image_file::assert_clean;

    /// An answer to the first request, of a picture of 0x01010101 pixels each way, and what no message begins with.
    const HUGE: &str = r"printf 'LTH1\001\000\000\000\002\000\000\000\001\001\001\001\001\001\001\001'";
    const SMALL: &str = r"printf 'LTH1\001\000\000\000\002\000\000\000\002\000\000\000\002\000\000\000'";

    /// How long those are waited for that do not answer, and those that do, on a machine with much else to do.
    const SHORT: Duration = Duration::from_millis(700);
    const LONG: Duration = Duration::from_secs(20);

    fn impostor(dir: &Path, body: &str, timeout: Duration) -> SafeDecoder {
        SafeDecoder { program: script(dir, "decoder", body), timeout }
    }

    fn run(signal: &str, dir: &Path) {
        let pid = std::fs::read_to_string(dir.join("pids")).unwrap();
        let pid = pid.lines().next_back().unwrap();
        assert!(std::process::Command::new("kill").args([signal, pid]).status().unwrap().success());
    }

    #[test]
    fn misbehaving_children_give_one_clear_error() {
        let other = r"printf 'LTH1\011\000\000\000\001\000\000\000\000\000\000\000\000\000\000\000'; exec sleep 60";
        let grandchild = format!("{GRANDCHILD}; exit 3");
        let cut_off = format!("{SMALL}; printf abc; exit 3");
        let huge = format!("{HUGE}; exec cat /dev/zero");
        let rows = [
            ("crashes", "kill -SEGV $$", "ended with signal: 11"),
            ("aborts with words", "echo 'free(): corrupted at 0x55d5c8f0a2c0' >&2; kill -ABRT $$", "corrupted"),
            ("hangs", "exec sleep 60", "no picture from the H.264 decoder in 0.7 seconds"),
            ("hangs after reading", "cat > /dev/null; exec sleep 60", "no picture"),
            ("hangs in an answer", &format!("{SMALL}; exec sleep 60"), "no picture"),
            ("dies in an answer", &cut_off, "ended with exit status: 3"),
            ("says nothing", "exit 0", "ended with exit status: 0"),
            ("talks nonsense", "exec yes nonsense", "something else than pictures"),
            ("repeats what it hears", "exec cat", "something else than pictures"),
            ("never stops", "exec cat /dev/zero", "something else than pictures"),
            ("promises too much", &huge, "`16843009x16843009`"),
            ("answers something else", other, "was not asked"),
            ("closes its output and stays", "exec >&-; exec sleep 60", "did not end"),
            ("leaves somebody behind", &grandchild, "ended with exit status: 3"),
        ];
        for (what, body, words) in rows {
            let dir = tempfile::tempdir().unwrap();
            let started = Instant::now();
            let timeout =
                if ["no picture", "did not end"].iter().any(|end| words.starts_with(end)) { SHORT } else { LONG };
            let child = impostor(dir.path(), body, timeout);
            let err = open(&media_dir().join("high_b.mp4"), Some(&child)).err().expect(what);
            assert!(started.elapsed() < Duration::from_secs(8), "{what}: took {:?}", started.elapsed());
            let message = err.to_string();
            assert!(message.contains(words) && message.contains("high_b.mp4"), "{what}: {message}");
            assert!(message.contains("convert it"), "{what}: {message}");
            assert_eq!(err.kind(), ErrorKind::Io, "{what}");
            assert_clean(&err);
            assert_nothing_left(dir.path());
        }
    }

    /// The real decoder, which tells its process id; the video and the frame before something happens to it.
    fn begun(dir: &Path, timeout: Duration) -> (Box<dyn FrameSource>, Rgb) {
        let child = impostor(dir, &format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_longtake")), timeout);
        let mut source = open(&media_dir().join("high_b.mp4"), Some(&child)).unwrap_or_else(|err| panic!("{err}"));
        let frame = source.frame(1).unwrap();
        (source, frame)
    }

    #[test]
    fn a_child_that_is_killed_in_the_middle_is_an_error_for_its_video_only() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut source, frame) = begun(dir.path(), LONG);
        let (mut neighbour, _) = begun(other.path(), LONG);
        run("-KILL", dir.path());
        let last = source.info().n_frames - 1;
        let first = source.frame(last).unwrap_err().to_string();
        assert!(first.contains("ended with signal: 9") && first.contains("high_b.mp4"), "{first}");
        assert!(first.contains(&format!("frame {last}")), "{first}");
        // It stays so, at once.
        let again = source.frame(last).unwrap_err().to_string();
        assert_eq!(first, again);
        assert_nothing_left(dir.path());
        assert!(neighbour.frame(1).unwrap() == frame && neighbour.frame(last).is_ok());
        drop(neighbour);
        assert_nothing_left(other.path());
    }

    #[test]
    fn a_child_that_stops_in_the_middle_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (mut source, _) = begun(dir.path(), 4 * SHORT);
        run("-STOP", dir.path());
        let last = source.info().n_frames - 1;
        let message = source.frame(last).unwrap_err().to_string();
        assert!(message.contains("no picture") && message.contains("high_b.mp4"), "{message}");
        assert_nothing_left(dir.path());

        let dir = tempfile::tempdir().unwrap();
        let (mut source, _) = begun(dir.path(), LONG);
        run("-STOP", dir.path());
        source.stopper().unwrap().store(true, Ordering::Relaxed);
        let started = Instant::now();
        assert_eq!(source.frame(last).unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(started.elapsed() < LONG / 4, "{:?}", started.elapsed());
        assert_nothing_left(dir.path());
    }

    /// What the operating system does not let it do.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_child_gives_up_what_it_does_not_need() {
        let dir = tempfile::tempdir().unwrap();
        let (_source, _) = begun(dir.path(), LONG);
        let pid = std::fs::read_to_string(dir.path().join("pids")).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.trim())).unwrap();
        for (name, most) in
            [("Max address space", 1 << 30), ("Max open files", 3), ("Max file size", 0), ("Max core file size", 0)]
        {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let values: Vec<&str> = line.split_whitespace().take(2).collect();
            assert_eq!(values, [most.to_string(), most.to_string()], "{name}");
        }
    }

    /// Requests that are too long, or cut off: it ends with a word, and takes no memory for what is announced.
    #[test]
    fn the_child_checks_what_it_is_asked() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let huge = [&u32::MAX.to_le_bytes()[..], &[0; 8], &[1; 100]].concat();
        let cut_off = [&100u32.to_le_bytes()[..], &[0; 8], &[1; 50]].concat();
        for (request, words) in [(huge, "`4294967295` bytes"), (cut_off, "cut off")] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
            command.arg(longtake::media::DECODE_COMMAND).stdin(Stdio::piped());
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&request).unwrap();
            let out = child.wait_with_output().unwrap();
            assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0));
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(said.contains(words), "{said}");
        }
    }
}
