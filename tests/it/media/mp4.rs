//! MP4 files as cameras, phones and editors make them: turned and mirrored, with several tracks, with edit lists, at
//! irregular rates, damaged. Beside ffmpeg where it is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use longtake::ErrorKind;
use longtake::media::ffmpeg::Tools;
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};

use super::boxes::{ORIENTATIONS, be, find, matrix, mp4_box, patch, replace, with_moov};
use super::image_file::{media_bytes, media_dir};

struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Room {
        Room(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn open(path: &Path) -> Box<dyn FrameSource> {
    open_video_with(path, None).unwrap_or_else(|err| panic!("{err}"))
}

fn frames(path: &Path) -> Vec<Rgb> {
    let mut source = open(path);
    (0..source.info().n_frames).map(|i| source.frame(i).unwrap()).collect()
}

fn ffmpeg() -> Option<Tools> {
    let tools = Tools::on_path();
    if tools.is_none() {
        eprintln!("SKIPPED beside ffmpeg: ffmpeg is not installed");
    }
    tools
}

/// All frames as ffmpeg shows them, each once.
fn ffmpeg_frames(tools: &Tools, path: &Path, height: usize, width: usize) -> Vec<Vec<u8>> {
    let output = Command::new(&tools.ffmpeg)
        .args(["-nostdin", "-v", "quiet", "-i"])
        .arg(path)
        .args(["-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .unwrap();
    output.stdout.chunks_exact(height * width * 3).map(<[u8]>::to_vec).collect()
}

fn worst(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

fn mean(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len().max(1) as f64
}

/// What the matrix does, pixel by pixel: (x, y) goes to (a x + c y, b x + d y), moved so that nothing is negative.
fn moved(rgb: &Rgb, [a, b, c, d]: [i32; 4]) -> Rgb {
    let (h, w) = (rgb.height as i32, rgb.width as i32);
    let (width, height) = if a == 0 { (h, w) } else { (w, h) };
    let mut data = vec![0; rgb.data.len()];
    for y in 0..h {
        for x in 0..w {
            let to = (a * x + c * y, b * x + d * y);
            let to = (to.0 + if a + c < 0 { width - 1 } else { 0 }, to.1 + if b + d < 0 { height - 1 } else { 0 });
            let (from, to) = (((y * w + x) * 3) as usize, ((to.1 * width + to.0) * 3) as usize);
            data[to..to + 3].copy_from_slice(&rgb.data[from..from + 3]);
        }
    }
    Rgb { height: height as usize, width: width as usize, data }
}

const TKHD: [&[u8; 4]; 2] = [b"trak", b"tkhd"];

/// Phones mirror what the front camera sees; every orientation, in both containers, in the track, in the movie, in both.
#[test]
fn all_eight_orientations_are_shown_as_ffmpeg_shows_them() {
    let room = Room::new();
    let tools = ffmpeg();
    for name in ["baseline.mp4", "moving.mov"] {
        let plain = frames(&media_dir().join(name)).swap_remove(2);
        for (i, abcd) in ORIENTATIONS.into_iter().enumerate() {
            let second = ORIENTATIONS[(i + 3) % 8];
            let both = {
                let ([a, b, c, d], [e, f, g, h]) = (abcd, second);
                [a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h]
            };
            let rows = [
                ("track", abcd, [1, 0, 0, 1], abcd),
                ("movie", [1, 0, 0, 1], abcd, abcd),
                ("both", abcd, second, both),
            ];
            for (where_, track, movie, want) in rows {
                let bytes = with_moov(&media_bytes(name), |moov| {
                    patch(moov, &TKHD, 40, &matrix(track));
                    patch(moov, &[b"mvhd"], 36, &matrix(movie));
                });
                let path = room.file(name, &bytes);
                let mut source = open(&path);
                let got = source.frame(2).unwrap();
                let want = moved(&plain, want);
                assert_eq!((source.info().height, source.info().width), (want.height, want.width), "{name} {abcd:?}");
                assert!(got == want, "{name}: matrix {abcd:?} in {where_}");
                if let Some(tools) = &tools {
                    let judge = ffmpeg_frames(tools, &path, want.height, want.width);
                    let off = worst(&got.data, &judge[2]);
                    assert!(off <= 4, "{name}: matrix {abcd:?} in {where_}: {off} beside ffmpeg");
                }
            }
        }
    }
}

/// Scales and shears move nothing, and what is no quarter turn is left to ffmpeg.
#[test]
fn other_matrices_are_read_as_ffmpeg_reads_them() {
    let room = Room::new();
    let tools = ffmpeg();
    let plain = frames(&media_dir().join("baseline.mp4")).swap_remove(1);
    let fixed = |abcd: [f64; 4]| {
        let [a, b, c, d] = abcd.map(|v| (v * 65536.0) as i32 as u32);
        [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    };
    let with = |m: [u32; 9]| with_moov(&media_bytes("baseline.mp4"), |moov| patch(moov, &TKHD, 40, &m));
    for (m, want) in [
        (fixed([0.5, 0.0, 0.0, 2.0]), [1, 0, 0, 1]),
        (fixed([1.0, 0.0, 0.5, 1.0]), [1, 0, 0, 1]),
        (fixed([0.0, 1.5, -0.25, 0.0]), [0, 1, -1, 0]),
        (fixed([-3.0, 0.0, 0.0, 1.0]), [-1, 0, 0, 1]),
        ([0; 9], [1, 0, 0, 1]),
    ] {
        let path = room.file("scaled.mp4", &with(m));
        let (got, want) = (open(&path).frame(1).unwrap(), moved(&plain, want));
        assert!(got == want, "{m:?}");
        if let Some(tools) = &tools {
            let judge = ffmpeg_frames(tools, &path, want.height, want.width);
            assert!(worst(&got.data, &judge[1]) <= 4, "{m:?} beside ffmpeg");
        }
    }
    let path = room.file("tilted.mp4", &with(fixed([0.8, 0.6, -0.6, 0.8])));
    let err = open_video_with(&path, None).err().unwrap();
    assert!(err.kind() == ErrorKind::Unsupported && err.to_string().contains("37"), "{err}");
}

/// The content of the first track of a file, as a `trak` box, with its number changed and some flags.
fn track(name: &str, id: u32, is_enabled: bool) -> Vec<u8> {
    let bytes = media_bytes(name);
    let (at, end) = find(&bytes, &[b"moov", b"trak"]);
    let mut trak = bytes[at..end].to_vec();
    patch(&mut trak, &TKHD, 0, &[u32::from(is_enabled)]);
    patch(&mut trak, &TKHD, 12, &[id]);
    trak
}

/// A track of another kind, or of a video of another codec, that nothing can be read from.
fn stranger(kind: &[u8; 4], codec: &[u8; 4], [width, height]: [u16; 2], is_enabled: bool) -> Vec<u8> {
    let tkhd = [be(&[u32::from(is_enabled), 0, 0, 77, 0, 0]), vec![0; 60]].concat();
    let hdlr = [be(&[0, 0]), kind.to_vec(), vec![0; 13]].concat();
    let sides = [width, height].map(u16::to_be_bytes).concat();
    let entry = mp4_box(codec, &[vec![0; 24], sides, vec![0; 50]].concat());
    let stsd = mp4_box(b"stsd", &[be(&[0, 1]), entry].concat());
    let minf = mp4_box(b"minf", &mp4_box(b"stbl", &stsd));
    let mdhd = mp4_box(b"mdhd", &be(&[0, 0, 0, 1000, 1000, 0]));
    let mdia = mp4_box(b"mdia", &[mdhd, mp4_box(b"hdlr", &hdlr), minf].concat());
    mp4_box(b"trak", &[mp4_box(b"tkhd", &tkhd), mdia].concat())
}

/// `baseline.mp4` with these tracks instead of its own, which is one of them.
fn with_tracks(tracks: &[Vec<u8>]) -> Vec<u8> {
    with_moov(&media_bytes("baseline.mp4"), |moov| replace(moov, &[b"trak"], &tracks.concat()))
}

/// Both tracks show the same media; a turn in the header tells which of them was taken.
fn turned(mut trak: Vec<u8>) -> Vec<u8> {
    patch(&mut trak, &TKHD, 40, &matrix([0, 1, -1, 0]));
    trak
}

#[test]
fn the_track_that_players_show_is_taken() {
    let room = Room::new();
    let plain = frames(&media_dir().join("baseline.mp4")).swap_remove(0);
    let ours = |enabled| turned(track("baseline.mp4", 9, enabled));
    let other = |enabled| track("baseline.mp4", 1, enabled);
    let large = [4000, 3000];
    // A track whose chapters are pictures of another one.
    let with_chapters = |mut trak: Vec<u8>, id: u32| {
        trak.extend(mp4_box(b"tref", &mp4_box(b"chap", &be(&[id]))));
        let len = trak.len() as u32;
        trak[..4].copy_from_slice(&len.to_be_bytes());
        trak
    };
    let rows: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("the first is not enabled", vec![other(false), ours(true)]),
        ("the second is not enabled", vec![ours(true), other(false)]),
        ("two not enabled before it", vec![other(false), other(false), ours(true)]),
        ("the first of equals", vec![ours(true), other(true)]),
        ("none is enabled", vec![ours(false), other(false)]),
        (
            "sound and text first",
            vec![stranger(b"soun", b"mp4a", [0, 0], true), stranger(b"text", b"tx3g", [0, 0], true), ours(true)],
        ),
        ("a cover first", vec![stranger(b"vide", b"jpeg", large, true), ours(true)]),
        ("a cover last", vec![ours(true), stranger(b"vide", b"png ", large, true)]),
        ("a thumbnail first", vec![stranger(b"vide", b"avc1", [16, 16], true), ours(true)]),
        ("another codec that is not enabled", vec![stranger(b"vide", b"hvc1", large, false), ours(true)]),
        ("pictures of chapters", vec![stranger(b"vide", b"avc1", large, true), with_chapters(ours(true), 77)]),
    ];
    for (what, tracks) in rows {
        let path = room.file("tracks.mp4", &with_tracks(&tracks));
        let got = open(&path).frame(0).unwrap();
        assert!(got == moved(&plain, [0, 1, -1, 0]), "{what}");
    }
    // The one to show is not ours to decode, and this is said rather than another one shown.
    let path = room.file("tracks.mp4", &with_tracks(&[other(false), stranger(b"vide", b"hvc1", large, true)]));
    let err = open_video_with(&path, None).err().unwrap();
    assert!(err.kind() == ErrorKind::Unsupported && err.to_string().contains("`hvc1`"), "{err}");
}

#[test]
fn no_video_is_said_in_words() {
    let room = Room::new();
    let strangers = |kinds: &[&[u8; 4]]| -> Vec<Vec<u8>> {
        kinds.iter().map(|kind| stranger(kind, b"none", [0, 0], true)).collect()
    };
    let rows = [
        (strangers(&[b"soun"]), "`soun`"),
        (strangers(&[b"text"]), "`text`"),
        (strangers(&[b"sbtl", b"soun"]), "`sbtl`, `soun`"),
        (strangers(&[b"\x01\xFF'`"]), "no video"),
        (strangers(&[b"soun"; 1000]), "`soun`"),
        (vec![], "no track"),
    ];
    for (tracks, words) in rows {
        let path = room.file("silent.mp4", &with_tracks(&tracks));
        // Asking ffmpeg would not help.
        for tools in [None, Tools::on_path()] {
            let err = open_video_with(&path, tools.as_ref()).err().unwrap();
            let text = err.to_string();
            assert_eq!(err.kind(), ErrorKind::Format, "{text}");
            assert!(text.contains("no video in it") && text.contains(words) && text.len() < 300, "{text}");
        }
    }
}

/// `baseline.mp4` (12 frames) with these durations of its frames in milliseconds, and no edit list.
fn with_durations(durations: &[u32; 12]) -> Vec<u8> {
    with_moov(&media_bytes("baseline.mp4"), |moov| {
        let entries: Vec<u32> = durations.iter().flat_map(|&d| [1, d]).collect();
        replace(
            moov,
            &[b"trak", b"mdia", b"minf", b"stbl", b"stts"],
            &mp4_box(b"stts", &[be(&[0, 12]), be(&entries)].concat()),
        );
        patch(moov, &[b"trak", b"mdia", b"mdhd"], 12, &[1000]);
        replace(moov, &[b"trak", b"edts"], &[]);
    })
}

/// Screen recordings, phones, busy beginnings: sampled by time, and the first and the last frame are always among them.
#[test]
fn irregular_rates_lose_neither_end() {
    let room = Room::new();
    let all = frames(&media_dir().join("baseline.mp4"));
    let cases: [(&str, [u32; 12]); 5] = [
        ("long first frame", [4000, 33, 33, 33, 33, 33, 33, 33, 33, 33, 33, 33]),
        ("busy beginning", [33, 33, 33, 33, 33, 33, 33, 33, 33, 33, 5000, 33]),
        ("25 then 5 a second", [40, 40, 40, 40, 40, 40, 200, 200, 200, 200, 200, 200]),
        ("a phone", [31, 35, 33, 30, 37, 33, 33, 36, 29, 34, 33, 33]),
        ("a last frame that stays", [40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 40, 60_000]),
    ];
    for (what, durations) in cases {
        let path = room.file("vfr.mp4", &with_durations(&durations));
        let mut source = open(&path);
        assert_eq!(source.info().n_frames, 12, "{what}");
        let times: Vec<u32> = durations
            .iter()
            .scan(0, |t, d| {
                let now = *t;
                *t += d;
                Some(now)
            })
            .collect();
        let mut before = 0;
        for i in 0..12 {
            let shown = source.shown(i);
            assert!(shown.number >= before, "{what}");
            before = shown.number;
            assert!((shown.seconds * 1000.0 - f64::from(times[shown.number])).abs() < 1e-6, "{what}: {shown:?}");
            assert!(source.frame(i).unwrap() == all[shown.number], "{what}: {i} is not frame {}", shown.number);
        }
        assert_eq!((source.shown(0).number, source.shown(11).number), (0, 11), "{what}");
        if matches!(what, "a phone" | "a last frame that stays") {
            assert!((0..12).all(|i| source.shown(i).number == i), "{what}: every frame in its place");
        }
    }
}

/// What an editor cut out stays out, at the beginning, in the middle and at the end.
#[test]
fn edit_lists_are_followed() {
    let room = Room::new();
    let all = frames(&media_dir().join("baseline.mp4"));
    let tools = ffmpeg();
    /// What, (duration, start) of each part, frames to be shown.
    type Case = (&'static str, &'static [(u32, i32)], &'static [usize]);
    let cases: [Case; 5] = [
        ("start", &[(300, 600)], &[6, 7, 8]),
        ("end", &[(400, 0)], &[0, 1, 2, 3]),
        ("pause first", &[(500, -1), (200, 600)], &[6, 7]),
        ("middle", &[(300, 0), (400, 600)], &[0, 1, 2, 6, 7, 8, 9]),
        ("three parts", &[(100, 0), (200, 600), (100, 1000)], &[0, 6, 7, 10]),
    ];
    for (what, edits, want) in cases {
        let bytes = with_moov(&with_durations(&[100; 12]), |moov| {
            patch(moov, &[b"mvhd"], 12, &[1000]);
            let entries: Vec<u32> = edits.iter().flat_map(|&(d, start)| [d, start as u32, 1 << 16]).collect();
            let elst = mp4_box(b"elst", &[be(&[0, edits.len() as u32]), be(&entries)].concat());
            let tkhd = find(moov, &TKHD);
            let tkhd = moov[tkhd.0..tkhd.1].to_vec();
            replace(moov, &TKHD, &[tkhd, mp4_box(b"edts", &elst)].concat());
        });
        let path = room.file("edited.mp4", &bytes);
        let mut source = open(&path);
        let got: Vec<Rgb> = (0..source.info().n_frames).map(|i| source.frame(i).unwrap()).collect();
        let number = |rgb: &Rgb| all.iter().position(|frame| frame == rgb).unwrap();
        assert_eq!(got.iter().map(number).collect::<Vec<_>>(), want, "{what}");
        if let Some(tools) = &tools {
            let judge = ffmpeg_frames(tools, &path, got[0].height, got[0].width);
            assert_eq!(judge.len(), want.len(), "{what} beside ffmpeg");
            assert!(got.iter().zip(&judge).all(|(a, b)| worst(&a.data, b) <= 4), "{what} beside ffmpeg");
        }
    }
}

/// Fault 32: some bytes damaged in the first group of pictures. What follows moves on and looks about as it should.
#[test]
fn damage_is_concealed() {
    let room = Room::new();
    for (name, tools) in
        [("baseline.mp4", ffmpeg()), ("high_b.mp4", ffmpeg()), ("main_b.mp4", ffmpeg()), ("moving.mov", ffmpeg())]
    {
        let bytes = media_bytes(name);
        let all = frames(&media_dir().join(name));
        let (mdat, end) = find(&bytes, &[b"mdat"]);
        let mut n_hurt = 0;
        for seed in 0..12usize {
            let mut hurt = bytes.clone();
            // One slice after the first picture, in its middle.
            let mut at = mdat + 8;
            let mut slices = Vec::new();
            while at + 5 < end {
                let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
                if bytes[at + 4] & 0x1F == 1 && len > 24 {
                    slices.push((at + 4, len));
                }
                at += 4 + len;
            }
            let (start, len) = slices[seed % slices.len().min(4)];
            for k in 0..(1 + seed).min(len / 4) {
                hurt[start + len / 2 + k] ^= (0x55 + seed * 7 + k * 13) as u8;
            }
            let path = room.file("hurt.mp4", &hurt);
            let mut source = open(&path);
            assert_eq!(source.info().n_frames, all.len());
            let got: Vec<Rgb> = (0..all.len()).map(|i| source.frame(i).unwrap()).collect();
            n_hurt += usize::from(source.skipped() > 0);
            let same = got.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(same <= 1, "{name}, seed {seed}: {same} pictures repeat the one before");
            // B-frames take vectors from what is damaged and may fail with it.
            assert!(source.skipped() <= 6, "{name}, seed {seed}: {} packets counted", source.skipped());
            let off: f64 = got.iter().zip(&all).map(|(a, b)| mean(&a.data, &b.data)).sum::<f64>() / all.len() as f64;
            let Some(tools) = &tools else {
                assert!(off < 12.0, "{name}, seed {seed}: {off}");
                continue;
            };
            let judge = ffmpeg_frames(tools, &path, all[0].height, all[0].width);
            let theirs: f64 = judge.iter().zip(&all).map(|(a, b)| mean(a, &b.data)).sum::<f64>() / all.len() as f64;
            assert!(off <= theirs * 1.5 + 3.0, "{name}, seed {seed}: {off:.1} levels away, ffmpeg {theirs:.1}");
        }
        assert!(n_hurt >= 6, "{name}: damage was noticed {n_hurt} times of 12");
    }
}

/// The same in the very first picture, which everything up to the next key frame refers to.
#[test]
fn a_damaged_first_picture_does_not_stop_the_film() {
    let room = Room::new();
    for name in ["baseline.mp4", "high_b.mp4", "main_b.mp4"] {
        let bytes = media_bytes(name);
        let all = frames(&media_dir().join(name));
        let (mdat, end) = find(&bytes, &[b"mdat"]);
        let mut at = mdat + 8;
        while bytes[at + 4] & 0x1F != 5 {
            at += 4 + u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        }
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert!(at + len < end);
        for part in [3, 5, 8] {
            let mut hurt = bytes.clone();
            let middle = at + 4 + len * part / 10;
            hurt[middle..middle + 8].fill(0xFF);
            let mut source = open(&room.file("hurt.mp4", &hurt));
            let got: Vec<Rgb> = (0..all.len()).map(|i| source.frame(i).unwrap()).collect();
            let same = got.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(same <= 1, "{name}, part {part}: {same} pictures repeat the one before");
            // The last one has but this key frame.
            let last = all.len() - 1;
            assert!(
                name == "main_b.mp4" || got[last] == all[last],
                "{name}, part {part}: the next group of pictures is whole"
            );
        }
    }
}

/// A pipe waits for a writer that may never come.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused_at_once() {
    let room = Room::new();
    let path = room.0.path().join("pipe.mp4");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    for path in [&path, Path::new("/dev/zero"), Path::new("/dev/null")] {
        let err = open_video_with(path, None).err().unwrap();
        assert!(err.kind() == ErrorKind::BadInput && err.to_string().contains("pipe or a device"), "{err}");
        assert!(
            longtake::media::mp4::Mp4Source::open(path, None).err().unwrap().to_string().contains("not a regular file")
        );
    }
}

/// Of a recording that breaks off inside a fragment, what is left is shown, and that something is missing is said.
#[test]
fn a_cut_inside_a_fragment_is_counted() {
    let whole = std::fs::read(media_dir().join("fragments.mp4")).unwrap();
    let (mut at, mut tops) = (0, Vec::new());
    while let Some(head) = whole.get(at..at + 8) {
        tops.push((at, head[4..].to_vec()));
        at += u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    }
    let second = tops.iter().filter(|top| top.1 == b"moof").nth(1).expect("two fragments").0;
    let end = tops.iter().find(|top| top.1 == b"mfra").map_or(whole.len(), |top| top.0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.mp4");
    for cut in (second..second + 48).chain((second + 48..end).step_by(29)) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let source = open_video_with(&path, None).unwrap_or_else(|err| panic!("{err}"));
        let at_edge = tops.iter().any(|top| top.0 == cut && top.1 == b"moof");
        assert_eq!(source.skipped() == 0, at_edge, "cut at {cut}");
    }
}
