//! The external decoder: real, where it is installed, and impostors that misbehave.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longtake::media::ffmpeg::{FfmpegSource, Tools};
use longtake::media::live::LiveSource;
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};
use longtake::{Error, ErrorKind};

use super::image_file::{assert_clean, media_dir};
use super::video::{TOLERANCE, distance, expected, expected_of};

/// The installed tools; says so when there are none.
pub fn tools() -> Option<Tools> {
    let tools = Tools::on_path();
    if tools.is_none() {
        eprintln!("SKIPPED: ffmpeg and ffprobe are not on the PATH, the external decoder is not tested against them");
    }
    tools
}

#[test]
fn every_file_decodes_through_ffmpeg() {
    let Some(tools) = tools() else { return };
    for row in expected() {
        // Irregular times are resampled, and where the size changes ffmpeg starts its filters anew and may repeat a frame.
        if ["edited.mp4", "vfr.mp4", "two_sizes.mp4"].contains(&row.file.as_str()) {
            continue;
        }
        let mut source = FfmpegSource::open(&media_dir().join(&row.file), &tools).unwrap_or_else(|err| panic!("{err}"));
        let info = source.info().clone();
        assert_eq!((info.n_frames, info.height, info.width), (row.n_frames, row.height, row.width), "{}", row.file);
        for (i, want) in row.means.iter().enumerate() {
            let rgb = source.frame(i).unwrap_or_else(|err| panic!("{err}"));
            let off = distance(&rgb, want);
            // Other versions of ffmpeg may scale and convert a little differently.
            assert!(off <= TOLERANCE + 2.0, "{} frame {i} is off by {off:.2}", row.file);
        }
        assert_eq!(source.skipped(), 0, "{}", row.file);
    }
}

#[test]
fn open_video_falls_back_to_ffmpeg_or_says_what_to_install() {
    for row in expected().iter().filter(|row| !row.built_in) {
        let path = media_dir().join(&row.file);
        let err = open_video_with(&path, None).err().unwrap_or_else(|| panic!("{} is built in", row.file));
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
        assert!(err.to_string().contains("install ffmpeg") && err.to_string().contains(&row.file), "{err}");
        assert_clean(&err);
        if let Some(tools) = tools() {
            let mut source = open_video_with(&path, Some(&tools)).unwrap();
            assert!(source.info().decoder.starts_with("ffmpeg"), "{}", source.info().decoder);
            assert!(distance(&source.frame(2).unwrap(), &row.means[2]) < TOLERANCE + 2.0);
        }
    }
}

/// A file that is built in does not go through ffmpeg, even where ffmpeg is.
#[test]
fn built_in_decoders_come_first() {
    let impostor = Tools { ffmpeg: "/absent".into(), ffprobe: "/absent".into(), timeout: Duration::from_secs(1) };
    let source = open_video_with(&media_dir().join("high_b.mp4"), Some(&impostor)).unwrap();
    assert_eq!(source.info().decoder, "mp4/h264 (built-in)");
    let err = open_video_with(&media_dir().join("hevc.mp4"), Some(&impostor)).err().unwrap();
    assert!(err.to_string().contains("/absent"), "{err}");
}

/// Fault 35: names that look like options or protocols, and files that name other files.
#[test]
fn hostile_names_and_playlists_reach_nothing() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let want = expected_of("vp9.webm");
    for name in ["-i", "-version", "line\nbreak.webm", "concat:a|b", "http:x", "%d.webm", "pipe:0", "sub,file,,x.webm"]
    {
        let path = dir.path().join(name);
        std::fs::copy(media_dir().join("vp9.webm"), &path).unwrap();
        let mut source = FfmpegSource::open(&path, &tools).unwrap_or_else(|err| panic!("{err}"));
        assert!(distance(&source.frame(3).unwrap(), &want.means[3]) < TOLERANCE + 2.0, "{name:?}");
    }
    for name in ["baseline.mp4", "playlist.m3u8", "concat.ffconcat"] {
        std::fs::copy(media_dir().join(name), dir.path().join(name)).unwrap();
    }
    std::fs::copy(media_dir().join("playlist.m3u8"), dir.path().join("playlist.mp4")).unwrap();
    for name in ["playlist.m3u8", "concat.ffconcat", "playlist.mp4"] {
        let err =
            open_video_with(&dir.path().join(name), Some(&tools)).err().unwrap_or_else(|| panic!("{name} opened"));
        assert!(err.to_string().contains(name), "{err}");
        assert_clean(&err);
    }
}

#[test]
fn frames_far_apart_are_reached_by_seeking() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.mkv");
    // 40 seconds whose brightness grows by one level every ten frames.
    let made = std::process::Command::new(&tools.ffmpeg)
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", "color=black:s=32x32:r=25:d=40"])
        .args(["-vf", "geq=lum='16+floor(N/10)':cb=128:cr=128", "-c:v", "ffv1", "-g", "50"])
        .arg(&path)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this ffmpeg cannot make the test video");
        return;
    }
    let mut source = FfmpegSource::open(&path, &tools).unwrap();
    assert_eq!(source.info().n_frames, 1000);
    let level = |i: usize| ((i / 10) as f64 * 255.0 / 219.0).floor();
    for i in [0, 9, 10, 700, 709, 710, 711, 990, 999, 999] {
        let got = f64::from(source.frame(i).unwrap().data[0]);
        assert!((got - level(i)).abs() <= 1.0, "frame {i}: level {got}, expected {}", level(i));
    }
}

/// A script that poses as a program; its process id goes into the file `pids` beside it.
#[cfg(unix)]
pub fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\necho $$ >> '{}/pids'\n{body}\n", dir.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Two scripts that pose as the tools.
#[cfg(unix)]
fn impostors(dir: &Path, ffprobe: &str, ffmpeg: &str) -> Tools {
    let write = |name: &str, body: &str| script(dir, name, body);
    Tools { ffprobe: write("ffprobe", ffprobe), ffmpeg: write("ffmpeg", ffmpeg), timeout: Duration::from_millis(700) }
}

const ANSWER: &str =
    r#"echo '{"streams":[{"codec_name":"x","width":4,"height":2,"avg_frame_rate":"25/1","nb_frames":"5"}]}'"#;

#[cfg(unix)]
fn run_impostors(ffprobe: &str, ffmpeg: &str) -> (Result<Vec<Rgb>, Error>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let tools = impostors(dir.path(), ffprobe, ffmpeg);
    let video = dir.path().join("video.bin");
    std::fs::write(&video, "content").unwrap();
    let started = Instant::now();
    let mut skipped = 0;
    let result = open_video_with(&video, Some(&tools)).and_then(|mut source| {
        let n = source.info().n_frames;
        let frames = (0..n).map(|i| source.frame(i)).collect();
        skipped = source.skipped();
        frames
    });
    assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
    assert_nothing_left(dir.path());
    (result, skipped)
}

/// Every [`script`] of the folder has ended and was reaped, and so has what it names in `grandchildren`.
#[cfg(unix)]
pub fn assert_nothing_left(dir: &Path) {
    let gone = |pid: &str| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    // What the children have started is killed with them; who reaps it is not up to this program.
    for pid in std::fs::read_to_string(dir.join("grandchildren")).unwrap_or_default().lines() {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(pid), "grandchild {pid} is still there");
    }
    // Every child is gone and reaped: a zombie would still be listed.
    for pid in std::fs::read_to_string(dir.join("pids")).unwrap_or_default().lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "process {pid} is still there");
    }
}

/// Fault 34: missing, hanging, failing, endless and short.
#[cfg(unix)]
#[test]
fn misbehaving_tools_give_one_clear_error() {
    let frames = |n: usize| format!("head -c {} /dev/zero", n * 24);
    let rows = [
        ("ffprobe hangs", "exec sleep 60", "", "no answer from ffprobe"),
        ("ffprobe fails", "echo 'no such codec' >&2; exit 3", "", "no such codec"),
        ("ffprobe talks nonsense", "echo nonsense", "", "not JSON"),
        ("ffprobe says nothing", "true", "", "not JSON"),
        ("ffprobe never stops", "exec cat /dev/zero", "", "ffprobe"),
        ("ffprobe finds no video", "echo '{}'", "", "no video"),
        ("ffmpeg hangs", ANSWER, "exec sleep 60", "no frame from ffmpeg"),
        ("ffmpeg hangs after two frames", ANSWER, &format!("{}; exec sleep 60", frames(2)), "no frame from ffmpeg"),
        ("ffmpeg fails", ANSWER, "echo '[h264 @ 0x55d5c8f0a2c0] broken' >&2; exit 1", "broken"),
        ("ffmpeg fails in the middle", ANSWER, &format!("{}; echo oops >&2; exit 1", frames(2)), "oops"),
        ("ffmpeg gives nothing", ANSWER, "exit 0", "no frame"),
        ("ffmpeg gives half a frame", ANSWER, "head -c 11 /dev/zero", "no frame"),
        ("ffmpeg closes its output and stays", ANSWER, "exec >&-; exec sleep 60", "did not end"),
    ];
    for (what, ffprobe, ffmpeg, words) in rows {
        let (result, _) = run_impostors(ffprobe, ffmpeg);
        let err = result.expect_err(what);
        assert!(err.to_string().contains(words) && err.to_string().contains("video.bin"), "{what}: {err}");
        assert_clean(&err);
    }
}

#[cfg(unix)]
#[test]
fn endless_and_short_output_are_bounded() {
    let (result, skipped) = run_impostors(ANSWER, "exec cat /dev/zero");
    assert_eq!((result.unwrap().len(), skipped), (5, 0));
    // Three frames instead of five: the last one stays.
    let (result, skipped) = run_impostors(ANSWER, "head -c 72 /dev/zero");
    assert_eq!((result.unwrap().len(), skipped), (5, 2));
    // Complaints without end do not block the child.
    let (result, _) = run_impostors(ANSWER, "yes complaint | head -n 200000 >&2; head -c 120 /dev/zero");
    assert_eq!(result.unwrap().len(), 5);
}

#[cfg(unix)]
#[test]
fn absurd_answers_are_refused_before_anything_is_allocated() {
    let answer = |fields: &str| format!("echo '{{\"streams\":[{{\"codec_name\":\"x\",{fields}}}]}}'");
    let rows = [
        (r#""width":100000,"height":100000,"nb_frames":"5""#, ErrorKind::Limit),
        (r#""width":0,"height":10,"nb_frames":"5""#, ErrorKind::Format),
        (r#""width":-4,"height":10,"nb_frames":"5""#, ErrorKind::Format),
        (r#""width":4,"height":2,"nb_frames":"99999999999""#, ErrorKind::Limit),
        (r#""width":4,"height":2,"avg_frame_rate":"25/1","duration":"1e300""#, ErrorKind::Limit),
        (r#""width":4,"height":2,"avg_frame_rate":"0/0""#, ErrorKind::Format),
    ];
    for (fields, kind) in rows {
        let (result, _) = run_impostors(&answer(fields), "exec cat /dev/zero");
        assert_eq!(result.expect_err(fields).kind(), kind, "{fields}");
    }
}

/// A shell command that goes on in the background and keeps the pipes of its parent open.
#[cfg(unix)]
pub const GRANDCHILD: &str = r#"sleep 60 & echo $! >> "$(dirname "$0")/grandchildren""#;

/// A grandchild that keeps the pipe open holds nobody up, and does not outlive its use.
#[cfg(unix)]
#[test]
fn grandchildren_go_with_their_parents() {
    let probes = format!("{GRANDCHILD}; {ANSWER}");
    let (result, _) = run_impostors(&probes, "head -c 120 /dev/zero");
    assert_eq!(result.unwrap().len(), 5);
    let (result, skipped) = run_impostors(ANSWER, &format!("{GRANDCHILD}; head -c 120 /dev/zero"));
    assert_eq!((result.unwrap().len(), skipped), (5, 0));
    let (result, skipped) = run_impostors(ANSWER, &format!("{GRANDCHILD}; head -c 72 /dev/zero"));
    assert_eq!((result.unwrap().len(), skipped), (5, 2));
    for (ffprobe, ffmpeg, words) in [
        (format!("{GRANDCHILD}; exit 3"), String::new(), "ffprobe ended"),
        (format!("{GRANDCHILD}; wait"), String::new(), "no answer from ffprobe"),
        (ANSWER.into(), format!("{GRANDCHILD}; head -c 48 /dev/zero; echo oops >&2; exit 1"), "oops"),
        (ANSWER.into(), format!("{GRANDCHILD}; wait"), "no frame from ffmpeg"),
        (ANSWER.into(), format!("({GRANDCHILD}; wait) & wait"), "no frame from ffmpeg"),
    ] {
        let err = run_impostors(&ffprobe, &ffmpeg).0.unwrap_err();
        assert!(err.to_string().contains(words), "{err}");
    }
}

/// One that has left the group cannot be found, but nobody waits for it.
#[cfg(target_os = "linux")]
#[test]
fn nobody_waits_for_a_stranger_with_the_pipe() {
    let stranger = "setsid sleep 15 &";
    let (result, _) = run_impostors(&format!("{stranger} {ANSWER}"), &format!("{stranger} head -c 120 /dev/zero"));
    assert_eq!(result.unwrap().len(), 5);
    let (result, skipped) = run_impostors(ANSWER, &format!("{stranger} head -c 72 /dev/zero"));
    assert_eq!((result.unwrap().len(), skipped), (5, 2));
}

/// The list of packets is checked like everything else.
#[cfg(unix)]
#[test]
fn lists_of_packets_are_not_believed_blindly() {
    let listing = |list: &str| format!(r#"case "$*" in *packet=*) {list};; *) {ANSWER};; esac"#);
    let line = |pts: i64| format!("echo 'pts={pts}|dts={pts}|duration=1|flags=K_|'");
    let ok: [(&str, String, usize); 6] = [
        ("nothing", "true".into(), 5),
        ("words", "echo no list at all".into(), 5),
        ("one", line(0), 1),
        ("absurd times", [line(i64::MAX), line(i64::MIN), line(0), line(-5)].join(";"), 4),
        ("three, then failure", format!("{};{};{}; exit 1", line(0), line(1), line(2)), 3),
        (
            "no times",
            "echo 'pts=N/A|dts=N/A|duration=N/A|flags=K_'; echo 'pts=N/A|dts=N/A|duration=N/A|flags=__'".into(),
            2,
        ),
    ];
    for (what, list, n) in ok {
        let (result, _) = run_impostors(&listing(&list), "exec cat /dev/zero");
        assert_eq!(result.unwrap_or_else(|err| panic!("{what}: {err}")).len(), n, "{what}");
    }
    for (list, words) in [
        ("exec cat /dev/zero", "list of packets"),
        ("exec sleep 60", "no packet from ffprobe"),
        ("echo broken >&2; exit 1", "broken"),
        ("echo 'pts=1|dts=1|duration=1|flags=__'", "no key frame"),
    ] {
        let err = run_impostors(&listing(list), "exec cat /dev/zero").0.unwrap_err();
        assert!(err.to_string().contains(words) && err.to_string().contains("video.bin"), "{err}");
    }
    // Complaints without end, and nothing else.
    let err = run_impostors(ANSWER, "yes complaint >&2").0.unwrap_err();
    assert!(err.to_string().contains("no frame from ffmpeg"), "{err}");
}

/// A stream through an impostor ends with it, or with whoever listens.
#[cfg(unix)]
#[test]
fn streams_end_with_their_decoder() {
    let header = r"printf 'YUV4MPEG2 W4 H2 F1:1 Cmono
FRAME
01234567'";
    for (body, n_frames, words) in [
        (format!("{GRANDCHILD}; {header}"), 1, None),
        (format!("{header}; {GRANDCHILD}; exit 1"), 1, Some("ended with")),
        ("exec >&-; exit 0".to_string(), 0, Some("no whole video")),
        ("exec cat /dev/zero".to_string(), 0, Some("longer than")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tools = impostors(dir.path(), "", &body);
        let started = Instant::now();
        let input = std::io::Cursor::new(b"no Y4M".to_vec());
        let (mut n, mut error) = (0, None);
        match LiveSource::open(input, "standard input", 1.0, Some(tools), &|| false) {
            Ok(mut source) => loop {
                match source.next(&|| false) {
                    Ok(Some(_)) => n += 1,
                    Ok(None) => break,
                    Err(err) => {
                        error = Some(err.to_string());
                        break;
                    }
                }
            },
            Err(err) => error = Some(err.to_string()),
        }
        assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
        let said = error.clone().unwrap_or_default();
        assert!(n == n_frames && words.is_none_or(|words| said.contains(words)), "{body}: {n} frames, {error:?}");
        assert_eq!(error.is_some(), words.is_some(), "{body}: {error:?}");
    }
}

/// Dropping a source in the middle leaves no process behind; dropping it often leaves no threads behind either.
#[cfg(target_os = "linux")]
#[test]
fn dropping_a_source_frees_everything() {
    let dir = tempfile::tempdir().unwrap();
    let tools = impostors(dir.path(), ANSWER, "exec cat /dev/zero");
    let video = dir.path().join("video.bin");
    std::fs::write(&video, "content").unwrap();
    for _ in 0..20 {
        let mut source = FfmpegSource::open(&video, &tools).unwrap();
        source.frame(1).unwrap();
    }
    for pid in std::fs::read_to_string(dir.path().join("pids")).unwrap().lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "process {pid} is still there");
    }
    let named = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("ffmpeg output")).count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    // Other tests run their own sources at the same time.
    while named() > 5 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(named() <= 5, "{} threads are left", named());
}
