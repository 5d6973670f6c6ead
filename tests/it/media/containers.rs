//! Containers that ffmpeg reads: every frame is the file's own, judged by a number drawn into it.
//!
//! The videos are drawn here, sent as Y4M through the installed ffmpeg, and brought to the containers, cuts and joints that
//! people have. Where that ffmpeg cannot make one, the test says so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longtake::media::ffmpeg::{FfmpegSource, Tools};
use longtake::media::live::LiveSource;
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};
use longtake::{ErrorKind, Result};

use super::ffmpeg::tools;
use super::image_file::{assert_clean, media_dir};

const WIDTH: usize = 192;
const HEIGHT: usize = 80;
/// Binary digits of a frame's number, the lowest at the left.
const DIGITS: usize = 12;
const CELL: usize = WIDTH / DIGITS;

/// `n` frames at `rate` in Y4M: bright and dark cells below a moving edge, so that no two pictures are alike.
fn numbered(n: usize, rate: &str) -> Vec<u8> {
    let mut bytes = format!("YUV4MPEG2 W{WIDTH} H{HEIGHT} F{rate} Ip A1:1 C420jpeg\n").into_bytes();
    for number in 0..n {
        bytes.extend(b"FRAME\n");
        for y in 0..HEIGHT {
            bytes.extend((0..WIDTH).map(|x| match y {
                0..16 if x < number * 7 % WIDTH => 90,
                0..16 => 130,
                _ if number >> (x / CELL) & 1 == 1 => 210,
                _ => 40,
            }));
        }
        bytes.extend(vec![128; WIDTH * HEIGHT / 2]);
    }
    bytes
}

/// The number in a picture of any size.
fn number(rgb: &Rgb) -> usize {
    let bright = |digit: usize| {
        let x = (2 * digit + 1) * rgb.width / (2 * DIGITS);
        let rows = rgb.height / 2..rgb.height * 3 / 4;
        let sum: usize = rows.clone().map(|y| usize::from(rgb.data[(y * rgb.width + x) * 3 + 1])).sum();
        sum > 125 * rows.len()
    };
    (0..DIGITS).map(|digit| usize::from(bright(digit)) << digit).sum()
}

/// Runs ffmpeg over `input` on its standard input; says so when it cannot.
fn make(tools: &Tools, input: &[u8], args: &str, path: &Path) -> Option<()> {
    let mut child = Command::new(&tools.ffmpeg)
        .args(["-v", "fatal", "-y", "-i", "pipe:0"])
        .args(args.split_whitespace())
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // It fails when the child does, which its status tells.
    child.stdin.take().unwrap().write_all(input).ok();
    let made = child.wait().unwrap().success();
    if !made {
        eprintln!("SKIPPED: this ffmpeg cannot make {} with {args}", path.display());
    }
    made.then_some(())
}

/// A folder with one numbered video of `n` frames a second in it.
fn video(tools: &Tools, name: &str, n: usize, args: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    make(tools, &numbered(n, "25:1"), args, &path)?;
    Some((dir, path))
}

/// The numbers that all frames show.
fn numbers(source: &mut dyn FrameSource) -> Vec<usize> {
    (0..source.info().n_frames).map(|i| number(&source.frame(i).unwrap_or_else(|err| panic!("{err}")))).collect()
}

/// Checks that a file has exactly these frames at 25 a second, one after the other and by any choice.
fn assert_frames(path: &Path, tools: &Tools, want: &[usize]) {
    let mut source = FfmpegSource::open(path, tools).unwrap_or_else(|err| panic!("{err}"));
    let (name, info) = (path.display(), source.info().clone());
    assert_eq!(numbers(&mut source), want, "{name}: {info:?}");
    assert_eq!(source.skipped(), 0, "{name}");
    assert!((info.fps - 25.0).abs() < 0.02, "{name}: {info:?}");
    assert!((info.duration - want.len() as f64 / 25.0).abs() < 0.02, "{name}: {info:?}");
    let mut source = FfmpegSource::open(path, tools).unwrap();
    let last = want.len() - 1;
    for i in [0, last / 3, 2 * last / 3, last] {
        assert_eq!(number(&source.frame(i).unwrap()), want[i], "{name}: frame {i}");
        let shown = source.shown(i);
        assert!(shown.number == i && (shown.seconds - i as f64 / 25.0).abs() < 0.002, "{name}: {shown:?}");
    }
}

#[test]
fn every_container_gives_the_files_own_frames() {
    let Some(tools) = tools() else { return };
    let input = numbered(50, "25:1");
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("h264.mkv", "-c:v libx264 -bf 2"),
        ("h264.ts", "-c:v libx264 -bf 2 -g 12"),
        ("h264.flv", "-c:v libx264 -bf 2"),
        ("h264_no_b.flv", "-c:v libx264 -bf 0"),
        ("h264.avi", "-c:v libx264 -bf 2"),
        ("h264_pyramid.avi", "-c:v libx264 -bf 5 -x264-params b-pyramid=normal"),
        ("h264.asf", "-c:v libx264 -bf 2"),
        ("h264.264", "-c:v libx264 -bf 2"),
        ("mpeg1.mpg", "-c:v mpeg1video -b:v 1M"),
        ("mpeg2.mpg", "-c:v mpeg2video -bf 2 -b:v 1M"),
        ("mpeg2.vob", "-c:v mpeg2video -bf 2 -b:v 1M"),
        ("mpeg2.ts", "-c:v mpeg2video -bf 2 -b:v 1M"),
        ("mpeg2.mxf", "-c:v mpeg2video -bf 2 -b:v 1M"),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2 -b:v 1M"),
        ("mpeg4.3gp", "-c:v mpeg4 -b:v 1M"),
        ("mpeg4.mkv", "-c:v mpeg4 -bf 2 -b:v 1M"),
        ("vp8.webm", "-c:v libvpx -b:v 1M -auto-alt-ref 1 -lag-in-frames 16"),
        ("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 1M"),
        ("theora.ogv", "-c:v libtheora -q:v 8"),
        ("wmv2.wmv", "-c:v wmv2 -b:v 1M"),
        ("flv1.flv", "-c:v flv1 -b:v 1M"),
        ("hevc.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
        ("hevc.ts", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
        ("ten_bits.mkv", "-c:v libx264 -pix_fmt yuv420p10le"),
        ("four_two_two.ts", "-c:v libx264 -pix_fmt yuv422p"),
        ("interlaced.ts", "-c:v libx264 -flags +ildct+ilme -x264-params tff=1"),
        (
            "hdr.mkv",
            "-c:v libx264 -pix_fmt yuv420p10le -color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc",
        ),
        ("late.mkv", "-c:v libx264 -bf 2 -output_ts_offset 7.3"),
        ("mjpeg.avi", "-c:v mjpeg"),
    ] {
        let path = dir.path().join(name);
        if make(&tools, &input, args, &path).is_some() {
            assert_frames(&path, &tools, &(0..50).collect::<Vec<_>>());
        }
    }
}

/// With sound that begins before the pictures, times count from the first picture.
#[test]
fn sound_that_begins_earlier_is_no_content() {
    let Some(tools) = tools() else { return };
    for name in ["h264.mkv", "h264.ts", "h264.flv", "mpeg2.mpg"] {
        let codec = if name == "mpeg2.mpg" { "mpeg2video -b:v 1M" } else { "libx264" };
        let sound = format!("-itsoffset -1.5 -f lavfi -i sine=d=4 -map 0:v -map 1:a -c:v {codec} -bf 2");
        if let Some((_dir, path)) = video(&tools, name, 50, &sound) {
            assert_frames(&path, &tools, &(0..50).collect::<Vec<_>>());
        }
    }
}

/// The clock starts again, or goes on elsewhere: all of it counts, in order.
#[test]
fn recordings_joined_are_read_whole() {
    let Some(tools) = tools() else { return };
    let rows: [(&str, &str, &[&str]); 5] = [
        ("h264.ts", "-c:v libx264 -bf 2 -g 12", &["", ""]),
        ("three.ts", "-c:v libx264 -bf 3 -g 250", &["", "", ""]),
        ("mpeg2.ts", "-c:v mpeg2video -bf 2 -b:v 1M", &["", ""]),
        ("hours_later.ts", "-c:v libx264 -bf 2", &["", "-output_ts_offset 9000", "-output_ts_offset 300"]),
        ("mpeg2.mpg", "-c:v mpeg2video -bf 2 -b:v 1M", &["", ""]),
    ];
    for (name, args, parts) in rows {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, mut want) = (Vec::new(), Vec::new());
        for (i, offset) in parts.iter().enumerate() {
            // Parts of different lengths.
            let (n, part) = (25 + 10 * i, dir.path().join(format!("{i}{name}")));
            if make(&tools, &numbered(n, "25:1"), &format!("{args} {offset}"), &part).is_none() {
                return;
            }
            bytes.extend(std::fs::read(part).unwrap());
            want.extend(0..n);
        }
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        assert_frames(&path, &tools, &want);
    }
}

/// Cuts `at` of a file off its beginning, in whole units of `unit` bytes.
fn cut(path: &Path, at: f64, unit: usize) {
    let bytes = std::fs::read(path).unwrap();
    let from = (bytes.len() as f64 * at) as usize / unit * unit;
    std::fs::write(path, &bytes[from..]).unwrap();
}

/// What stands before the first key frame cannot be decoded and does not count.
#[test]
fn recordings_that_begin_in_the_middle_are_sampled_evenly() {
    let Some(tools) = tools() else { return };
    for (name, args, at, unit) in [
        ("h264.ts", "-c:v libx264 -bf 2 -g 20 -keyint_min 20", 0.2, 188),
        ("late.ts", "-c:v libx264 -bf 3 -g 40 -keyint_min 40 -sc_threshold 0", 0.1, 188),
        ("open.ts", "-c:v libx264 -x264-params open-gop=1:keyint=15:min-keyint=15:scenecut=0 -bf 2", 0.3, 188),
        ("mpeg2.ts", "-c:v mpeg2video -bf 2 -g 12 -b:v 1M", 0.2, 188),
        ("mpeg2.mpg", "-c:v mpeg2video -bf 2 -g 12 -b:v 1M", 0.2, 2048),
        ("hevc.ts", "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=15:min-keyint=15", 0.2, 188),
    ] {
        let Some((_dir, path)) = video(&tools, name, 75, args) else { continue };
        cut(&path, at, unit);
        let mut source = FfmpegSource::open(&path, &tools).unwrap_or_else(|err| panic!("{err}"));
        let (got, info) = (numbers(&mut source), source.info().clone());
        let want: Vec<usize> = (75 - got.len()..75).collect();
        assert!(got == want && (10..73).contains(&got.len()), "{name}: {got:?}, {info:?}");
        assert_eq!(source.skipped(), 0, "{name}");
        assert_frames(&path, &tools, &want);
    }
}

#[test]
fn a_recording_without_a_key_frame_is_said_to_be_one() {
    let Some(tools) = tools() else { return };
    for (name, args) in [
        ("h264.ts", "-c:v libx264 -bf 2 -g 250 -sc_threshold 0"),
        ("no_b.ts", "-c:v libx264 -bf 0 -g 250 -sc_threshold 0"),
        ("hevc.ts", "-c:v libx265 -preset ultrafast -x265-params log-level=none:scenecut=0"),
        ("mpeg2.ts", "-c:v mpeg2video -g 250 -bf 0 -sc_threshold 1000000000 -b:v 1M"),
    ] {
        let Some((_dir, path)) = video(&tools, name, 60, args) else { continue };
        cut(&path, 0.4, 188);
        let err = FfmpegSource::open(&path, &tools).err().unwrap_or_else(|| panic!("{name} opened"));
        assert!(err.to_string().contains("no key frame in it") && err.kind() == ErrorKind::Format, "{err}");
        assert_clean(&err);
    }
}

/// The same stream gives the same frames from any container, through the built-in decoder and through ffmpeg.
#[test]
fn irregular_rates_choose_the_same_frames_in_any_container() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (what, times) in [
        ("25 then 5 a second", "if(lt(N\\,30)\\,N*40\\,1200+(N-30)*200)"),
        ("shaken", "N*40+mod(N*7\\,23)"),
        ("a long first frame", "if(N\\,4000+N*33\\,0)"),
        ("pauses", "N*40+floor(N/20)*3000"),
    ] {
        let mp4 = dir.path().join("vfr.mp4");
        let args = format!("-vf settb=1/1000,setpts={times} -vsync vfr -enc_time_base 1/1000 -c:v libx264 -bf 2 -g 25");
        if make(&tools, &numbered(60, "25:1"), &args, &mp4).is_none() {
            return;
        }
        let mut built_in = open_video_with(&mp4, None).unwrap();
        let want = numbers(&mut *built_in);
        assert_eq!(want[0], 0, "{what}: the first frame is lost");
        for name in ["vfr.mkv", "vfr.ts", "vfr.flv", "vfr.mov"] {
            let path = dir.path().join(name);
            let copied = Command::new(&tools.ffmpeg)
                .args(["-v", "fatal", "-nostdin", "-y", "-i"])
                .args([&mp4, Path::new("-c"), Path::new("copy"), &path])
                .status();
            assert!(copied.unwrap().success(), "{name}");
            let mut source = FfmpegSource::open(&path, &tools).unwrap();
            let info = source.info().clone();
            assert_eq!(info.n_frames, want.len(), "{name}, {what}");
            assert_eq!(numbers(&mut source), want, "{name}, {what}: {info:?}");
            assert!(source.skipped() == 0 && (info.fps / built_in.info().fps - 1.0).abs() < 0.002, "{what}: {info:?}");
        }
    }
}

/// Far apart, in groups of pictures longer than any margin.
#[test]
fn seeking_finds_the_same_frames_as_reading_on() {
    let Some(tools) = tools() else { return };
    let input = numbered(1500, "25:1");
    let dir = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("h264.mkv", "-c:v libx264 -preset ultrafast -bf 2 -g 250 -sc_threshold 0"),
        ("h264.ts", "-c:v libx264 -preset ultrafast -bf 2 -g 250 -sc_threshold 0"),
        ("h264.flv", "-c:v libx264 -preset ultrafast -bf 2 -g 250 -sc_threshold 0"),
        ("h264.avi", "-c:v libx264 -preset ultrafast -bf 2 -g 250 -sc_threshold 0"),
        ("mpeg2.mpg", "-c:v mpeg2video -bf 2 -g 50 -b:v 1M"),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2 -g 100 -b:v 1M"),
        ("vp8.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 1M -g 250"),
        ("theora.ogv", "-c:v libtheora -q:v 8 -g 64"),
        ("wmv2.wmv", "-c:v wmv2 -g 100 -b:v 1M"),
        ("raw.264", "-c:v libx264 -preset ultrafast -bf 2"),
        ("vfr.mkv", "-vf settb=1/1000,setpts=N*40+floor(N/20)*700 -vsync vfr -c:v libx264 -preset ultrafast -bf 2"),
    ] {
        let path = dir.path().join(name);
        if make(&tools, &input, args, &path).is_none() {
            continue;
        }
        let mut source = FfmpegSource::open(&path, &tools).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(source.info().n_frames, 1500, "{name}");
        for i in [0, 1, 700, 701, 1205, 1210, 1499] {
            let want = source.shown(i).number;
            assert_eq!(number(&source.frame(i).unwrap()), want, "{name}: frame {i}");
        }
        assert_eq!(source.skipped(), 0, "{name}");
    }
}

/// Pictures that change their size in mid-stream come out in the first size, each of them once.
#[test]
fn a_change_of_size_loses_no_frame() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, input) = (Vec::new(), numbered(25, "25:1"));
    for (i, size) in ["192:80", "384:160", "96:40"].iter().enumerate() {
        let part = dir.path().join(format!("{i}.ts"));
        let args = format!("-vf scale={size}:flags=area -c:v libx264 -bf 2 -output_ts_offset {i}");
        if make(&tools, &input, &args, &part).is_none() {
            return;
        }
        bytes.extend(std::fs::read(part).unwrap());
    }
    let path = dir.path().join("sizes.ts");
    std::fs::write(&path, bytes).unwrap();
    let mut source = FfmpegSource::open(&path, &tools).unwrap();
    assert_eq!((source.info().height, source.info().width), (80, 192));
    assert_eq!(numbers(&mut source), [0..25, 0..25, 0..25].into_iter().flatten().collect::<Vec<_>>());
}

/// Damage in the middle: frames that do not decode are made up for, and those after them keep their places.
#[test]
fn damage_does_not_shift_what_comes_after_it() {
    let Some(tools) = tools() else { return };
    for (name, args) in [
        ("h264.mkv", "-c:v libx264 -preset ultrafast -bf 2 -g 25 -keyint_min 25"),
        ("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 2M -g 25"),
        ("mpeg4.mkv", "-c:v mpeg4 -bf 2 -g 25 -q:v 2"),
    ] {
        // Noise, so that packets are large beside the damage.
        let args = &format!("-vf noise=alls=40:allf=t {args}");
        let Some((_dir, path)) = video(&tools, name, 125, args) else { continue };
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() * 2 / 5;
        // Within a packet or two, so that the container can be read on.
        bytes[middle..middle + 40].fill(0x55);
        std::fs::write(&path, bytes).unwrap();
        let mut source = FfmpegSource::open(&path, &tools).unwrap_or_else(|err| panic!("{err}"));
        let n = source.info().n_frames;
        assert!((123..=125).contains(&n), "{name}: {n} frames");
        let got = numbers(&mut source);
        assert_eq!((got[0], got[n - 1]), (0, 124), "{name}: {got:?}");
        let right = got.iter().enumerate().filter(|(i, number)| i.abs_diff(**number) <= 125 - n).count();
        assert!(right > 90, "{name}: {right} of {n}: {got:?}");
    }
}

/// Writes a display matrix into the only video track of an MP4 file.
fn set_matrix(path: &Path, [a, b, c, d]: [i32; 4]) {
    let mut bytes = std::fs::read(path).unwrap();
    let tkhd = bytes.windows(4).position(|w| w == b"tkhd").unwrap();
    let matrix = tkhd + 4 + 40;
    for (at, value) in [(0, a), (4, b), (12, c), (16, d)] {
        bytes[matrix + at..matrix + at + 4].copy_from_slice(&(value << 16).to_be_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn pictures_are_turned_before_their_size_is_told() {
    let Some(tools) = tools() else { return };
    for (what, matrix, size) in [
        ("as it is", [1, 0, 0, 1], (80, 192)),
        ("a quarter", [0, 1, -1, 0], (192, 80)),
        ("half", [-1, 0, 0, -1], (80, 192)),
        ("three quarters", [0, -1, 1, 0], (192, 80)),
    ] {
        let Some((_dir, path)) = video(&tools, "turned.mp4", 30, "-c:v mpeg4 -b:v 1M") else { continue };
        set_matrix(&path, matrix);
        let mut source = FfmpegSource::open(&path, &tools).unwrap();
        assert_eq!((source.info().height, source.info().width), size, "{what}");
        let rgb = source.frame(21).unwrap();
        assert_eq!((rgb.height, rgb.width), size, "{what}");
        let turned_back = |y: usize, x: usize| match what {
            "a quarter" => (x, HEIGHT - 1 - y),
            "half" => (HEIGHT - 1 - y, WIDTH - 1 - x),
            "three quarters" => (WIDTH - 1 - x, y),
            _ => (y, x),
        };
        let mut data = Vec::new();
        for (y, x) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (y, x))) {
            let (y, x) = turned_back(y, x);
            data.extend(&rgb.data[(y * rgb.width + x) * 3..][..3]);
        }
        assert_eq!(number(&Rgb { height: HEIGHT, width: WIDTH, data }), 21, "{what}");
    }
}

/// Sound, text and rubbish have no video in them, and that is all there is to say.
#[test]
fn what_holds_no_video_is_said_to_hold_none() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut files = vec![media_dir().join("audio_only.mp4")];
    for (name, args) in [("s.mp3", ""), ("s.mkv", ""), ("s.wav", ""), ("s.ogg", ""), ("s.ts", "-c:a mp2")] {
        let path = dir.path().join(name);
        let args = format!("-f lavfi -i sine=d=1 -map 1:a {args}");
        if make(&tools, &numbered(1, "25:1"), &args, &path).is_some() {
            files.push(path);
        }
    }
    for (name, bytes) in [
        ("text.txt", b"hello world, this is no video\n".repeat(50)),
        ("noise.bin", (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("zeros.mkv", vec![0; 5000]),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        files.push(dir.path().join(name));
    }
    for path in files {
        let err = open_video_with(&path, Some(&tools)).err().unwrap_or_else(|| panic!("{} opened", path.display()));
        let text = err.to_string();
        assert!(text.contains("no video") && !text.contains("exit status"), "{text}");
        assert_clean(&err);
        if path.ends_with("audio_only.mp4") {
            continue;
        }
        let err = stream(std::fs::read(&path).unwrap(), &tools).err().unwrap().to_string();
        assert!(err.contains("standard input: no video") && err.len() < 200, "{}: {err}", path.display());
    }
}

fn stream(bytes: Vec<u8>, tools: &Tools) -> Result<Vec<Rgb>> {
    let input = std::io::Cursor::new(bytes);
    let mut source = LiveSource::open(input, "standard input", 25.0, Some(tools.clone()), &|| false)?;
    let mut frames = Vec::new();
    while let Some(frame) = source.next(&|| false)? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn streams_are_read_or_the_reason_is_given() {
    let Some(tools) = tools() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Too much for ffmpeg to keep while it looks for the end.
    let noise = "-filter_complex [0:v]loop=3:50,scale=480:-2,noise=alls=60:allf=t";
    let last = "give it as a file";
    for (name, args, reason) in [
        ("h264.ts", "-c:v libx264 -bf 2", None),
        ("h264.mkv", "-c:v libx264 -bf 2", None),
        ("front.mp4", "-c:v libx264 -movflags +faststart", None),
        ("end.mp4", &format!("{noise} -c:v libx264 -preset ultrafast -qp 10"), Some(last)),
        ("end.mov", &format!("{noise} -c:v mpeg4 -q:v 1"), Some(last)),
        ("large.gif", noise, Some(last)),
    ] {
        let path = dir.path().join(name);
        if make(&tools, &numbered(50, "25:1"), args, &path).is_none() {
            continue;
        }
        match (stream(std::fs::read(&path).unwrap(), &tools), reason) {
            (Ok(frames), None) => {
                assert_eq!(frames.iter().map(number).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>(), "{name}");
            }
            (Err(err), Some(reason)) => {
                assert!(err.to_string().contains(reason) && err.kind() == ErrorKind::Format, "{name}: {err}");
            }
            (result, _) => panic!("{name}: {:?}", result.map(|frames| frames.len())),
        }
    }
}

/// The marked one, else the largest, else the first; a cover never.
#[test]
fn of_several_streams_the_one_that_players_show_is_chosen() {
    let Some(tools) = tools() else { return };
    let small = "-filter_complex [0:v]split[a][b];[a]scale=48:20[a] -map [a] -map [b] -c:v mpeg4";
    let small_last = "-filter_complex [0:v]split[a][b];[a]scale=48:20[a] -map [b] -map [a] -c:v mpeg4";
    let second = "-disposition:v:0 0 -disposition:v:1 default";
    let first = "-disposition:v:0 default -disposition:v:1 0";
    let none = "-disposition:v:0 0 -disposition:v:1 0";
    for (name, args, width) in [
        ("marked.mkv", format!("{small} {second}"), WIDTH),
        ("marked_small.mkv", format!("{small} {first}"), 48),
        ("unmarked.mkv", format!("{small} {none} -default_mode passthrough"), WIDTH),
        ("largest.ts", small.into(), WIDTH),
        ("largest.avi", small.into(), WIDTH),
        ("largest.nut", small_last.into(), WIDTH),
    ] {
        let Some((_dir, path)) = video(&tools, name, 10, &args) else { continue };
        let mut source = FfmpegSource::open(&path, &tools).unwrap();
        assert_eq!(source.info().width, width, "{name}");
        let last = source.info().n_frames - 1;
        assert_eq!(source.frame(last).unwrap().width, width, "{name}");
    }
}

#[test]
fn pictures_and_cut_off_streams_are_told_apart_from_whole_ones() {
    let Some(tools) = tools() else { return };
    for name in ["rgb.png", "rgb.jpg", "rgba.webp", "two.webp", "two.apng.png", "exif_1.png"] {
        let err = stream(std::fs::read(media_dir().join(name)).unwrap(), &tools).err().unwrap().to_string();
        assert!(err.contains("still image") && err.contains("give it as a file"), "{name}: {err}");
    }
    for (name, args) in [
        ("cut.mkv", "-c:v mpeg4"),
        ("cut_fragments.mp4", "-c:v mpeg4 -g 10 -movflags frag_keyframe+empty_moov"),
        ("cut_front.mp4", "-c:v mpeg4 -movflags +faststart"),
    ] {
        let Some((_dir, path)) = video(&tools, name, 100, args) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        assert!(stream(bytes.clone(), &tools).is_ok(), "{name}");
        let err = stream(bytes[..bytes.len() * 2 / 3].to_vec(), &tools).err();
        assert!(err.is_some_and(|err| err.to_string().contains("cut off")), "{name}");
    }
}
