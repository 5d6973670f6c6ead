//! Hostile and damaged videos: an error or a video, never a panic, a hang or a flood of memory. Named after the faults of
//! the project's checklist (28 to 36).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longtake::media::limits::{MAX_ANIMATION_FRAMES, MAX_PIXELS};
use longtake::media::sample::{SampleOptions, frame_indices};
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};
use longtake::random::Rng;
use longtake::{ErrorKind, Result};

use super::image_file::{assert_clean, media_bytes, media_dir};
use super::video::{TOLERANCE, distance, expected, expected_of, open};

/// A folder for one test's files.
pub struct Room(pub tempfile::TempDir);

impl Room {
    pub fn new() -> Room {
        Room(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn open_path(path: &Path) -> Result<Box<dyn FrameSource>> {
    open_video_with(path, None)
}

/// Opens and decodes everything; what matters is that this returns, and soon.
pub fn exhaust(path: &Path) -> Result<(Vec<Rgb>, usize)> {
    let started = Instant::now();
    let result = open_path(path).and_then(|mut source| {
        let frames = (0..source.info().n_frames.min(200)).map(|i| source.frame(i)).collect::<Result<Vec<_>>>()?;
        let info = source.info();
        assert!(info.fps > 0.0 && info.fps.is_finite() && info.duration > 0.0 && info.duration.is_finite(), "{info:?}");
        for rgb in &frames {
            assert_eq!((rgb.height, rgb.width), (info.height, info.width));
            assert_eq!(rgb.data.len(), rgb.height * rgb.width * 3);
        }
        Ok((frames, source.skipped()))
    });
    if let Err(err) = &result {
        assert_clean(err);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    result
}

const VIDEOS: [&str; 8] = [
    "baseline.mp4",
    "high_b.mp4",
    "fragments.mp4",
    "moving.mov",
    "two_sizes.mp4",
    "edited.mp4",
    "yuv420p.y4m",
    "moving.gif",
];

/// Faults 30 and 32: cut off at any byte.
#[test]
fn cut_off_videos_give_what_is_left_or_an_error() {
    let room = Room::new();
    for name in VIDEOS {
        let bytes = media_bytes(name);
        let step = (bytes.len() / 120).max(1);
        for len in (0..bytes.len()).step_by(step) {
            let path = room.file("cut", &bytes[..len]);
            if let Err(err) = exhaust(&path) {
                assert_ne!(err.kind(), ErrorKind::Io, "{name} cut at {len}: {err}");
            }
        }
    }
}

/// Fault 32: the index at the end is missing from a recording that was cut off.
#[test]
fn a_missing_index_is_named() {
    let bytes = media_bytes("high_b.mp4");
    let moov = bytes.windows(4).position(|w| w == b"moov").unwrap();
    let room = Room::new();
    let err = exhaust(&room.file("cut.mp4", &bytes[..moov - 4])).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Format);
    assert!(err.to_string().contains("cut.mp4") && err.to_string().contains("moov"), "{err}");
}

/// Fault 32: media data cut off behind an intact index.
#[test]
fn frames_that_are_not_in_the_file_are_counted() {
    let bytes = media_bytes("baseline.mp4");
    let row = expected_of("baseline.mp4");
    let room = Room::new();
    let path = room.file("cut.mp4", &bytes[..bytes.len() - 1500]);
    let mut source = open_path(&path).unwrap();
    let n = source.info().n_frames;
    assert!(n < 12 && n > 3, "{n} frames");
    assert_eq!(source.skipped(), 12 - n);
    for i in 0..n {
        assert!(distance(&source.frame(i).unwrap(), &row.means[i]) < TOLERANCE, "frame {i}");
    }
}

/// Fault 32: a damaged picture is skipped with a count, and the next group of pictures is whole again.
#[test]
fn damaged_packets_are_skipped_with_a_count() {
    let bytes = media_bytes("baseline.mp4");
    let row = expected_of("baseline.mp4");
    let mdat = bytes.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    // Samples follow one another; the second one is the first small one after the first picture.
    let room = Room::new();
    let mut hurt = bytes.clone();
    let first = u32::from_be_bytes(bytes[mdat..mdat + 4].try_into().unwrap());
    let mut at = mdat;
    let mut n_nal = 0;
    while at + 5 < bytes.len() {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        // Slices that are not key frames, of the first group only.
        if bytes[at + 4] & 0x1F == 1 && n_nal < 1 {
            hurt[at + 5..at + 4 + len].fill(0xFF);
            n_nal += 1;
        }
        at += 4 + len;
    }
    assert!(first > 0 && n_nal == 1);
    let mut source = open_path(&room.file("hurt.mp4", &hurt)).unwrap();
    assert_eq!(source.info().n_frames, 12, "the count comes from the index");
    let frames: Vec<Rgb> = (0..12).map(|i| source.frame(i).unwrap()).collect();
    assert!(source.skipped() >= 1, "{} skipped", source.skipped());
    for i in [0, 6, 7, 8, 9, 10, 11] {
        assert!(distance(&frames[i], &row.means[i]) < TOLERANCE, "frame {i}");
    }
}

/// Fault 32: when nothing decodes, that is an error.
#[test]
fn no_frame_at_all_is_an_error() {
    let mut bytes = media_bytes("baseline.mp4");
    let mdat = bytes.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    bytes[mdat..].fill(0);
    let room = Room::new();
    assert!(exhaust(&room.file("empty.mp4", &bytes)).is_err());
    let err = exhaust(&media_dir().join("audio_only.mp4")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Format, "{err}");
    assert!(err.to_string().contains("no video"), "{err}");
    for content in [&b""[..], b"x", b"\0\0\0\x08ftyp", b"YUV4MPEG2 ", b"GIF89a"] {
        let err = exhaust(&room.file("tiny", content)).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Format | ErrorKind::Unsupported), "{err:?}");
    }
    assert_eq!(exhaust(&room.0.path().join("absent.mp4")).unwrap_err().kind(), ErrorKind::NotFound);
    for name in ["rgb.png", "rgb.jpg", "lossy.webp"] {
        assert_eq!(exhaust(&media_dir().join(name)).unwrap_err().kind(), ErrorKind::BadInput, "{name} is not a video");
    }
}

/// Random damage, much of it in the index.
#[test]
fn flipped_bytes_never_panic() {
    let room = Room::new();
    for name in VIDEOS {
        let bytes = media_bytes(name);
        let n_rounds = if name.ends_with("gif") || name.ends_with("y4m") { 150 } else { 250 };
        let seed0 = std::env::var("LONGTAKE_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0u64);
        for seed in seed0..seed0 + n_rounds {
            let mut dice = Rng(seed);
            let mut hurt = bytes.clone();
            for _ in 0..=dice.below(6) {
                let at = dice.below(hurt.len());
                match dice.below(4) {
                    0 => hurt[at] = 0,
                    1 => hurt[at] = 0xFF,
                    2 => hurt[at] ^= 1 << dice.below(8),
                    _ => hurt[at] = dice.below(256) as u8,
                }
            }
            let path = room.file("hurt", &hurt);
            std::panic::catch_unwind(|| exhaust(&path).map(|_| ()).ok())
                .unwrap_or_else(|_| panic!("{name} with seed {seed} panicked"));
        }
    }
}

/// Overwrites the 32-bit number `at` bytes after the start of the content of the first box of that name.
fn patch(bytes: &mut [u8], name: &[u8; 4], at: usize, value: u32) {
    let start = bytes.windows(4).position(|w| w == name).unwrap() + 4;
    bytes[start + at..start + at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Every number of the index, set to extremes: nothing is believed.
#[test]
fn absurd_index_numbers_are_harmless() {
    let room = Room::new();
    let extremes = [0, 1, 2, 7, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF];
    let tables: [(&[u8; 4], usize); 10] = [
        (b"stsz", 48),
        (b"stsc", 28),
        (b"stco", 12),
        (b"stts", 16),
        (b"ctts", 40),
        (b"stss", 16),
        (b"mdhd", 24),
        (b"mvhd", 24),
        (b"elst", 20),
        (b"tkhd", 84),
    ];
    let bytes = media_bytes("high_b.mp4");
    for (name, len) in tables {
        for at in (0..len).step_by(4) {
            for value in extremes {
                let mut hurt = bytes.clone();
                patch(&mut hurt, name, at, value);
                exhaust(&room.file("hurt.mp4", &hurt)).ok();
            }
        }
    }
    // Sizes of the boxes themselves.
    for name in [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1", b"avcC", b"stsz", b"mdat", b"ftyp"] {
        let at = bytes.windows(4).position(|w| w == name).unwrap() - 4;
        for value in extremes {
            let mut hurt = bytes.clone();
            hurt[at..at + 4].copy_from_slice(&value.to_be_bytes());
            exhaust(&room.file("hurt.mp4", &hurt)).ok();
        }
    }
    // Fragment headers.
    let bytes = media_bytes("fragments.mp4");
    for name in [b"moof", b"traf", b"tfhd", b"tfdt", b"trun", b"trex", b"mvex"] {
        for at in (0..40).step_by(4) {
            for value in extremes {
                let mut hurt = bytes.clone();
                patch(&mut hurt, name, at, value);
                exhaust(&room.file("hurt.mp4", &hurt)).ok();
            }
        }
    }
}

/// Fault 32: times that are negative, equal or out of order still give every picture once, in the order of the times.
#[test]
fn strange_timestamps_keep_the_frames() {
    let room = Room::new();
    for delta in [0u32, 1, 0x7FFF_FFFF, 0xFFFF_FFFF] {
        let mut bytes = media_bytes("baseline.mp4");
        // The edit list would hide what is later than it knows.
        let edits = bytes.windows(4).position(|w| w == b"edts").unwrap();
        bytes[edits..edits + 4].copy_from_slice(b"free");
        patch(&mut bytes, b"stts", 12, delta);
        let (frames, skipped) = exhaust(&room.file("times.mp4", &bytes)).unwrap();
        let row = expected_of("baseline.mp4");
        assert_eq!((frames.len(), skipped), (12, 0), "delta {delta}");
        for (i, rgb) in frames.iter().enumerate() {
            assert!(distance(rgb, &row.means[i]) < TOLERANCE, "delta {delta}, frame {i}");
        }
    }
}

/// Fault 32: one frame is a video too.
#[test]
fn one_frame_makes_a_pair() {
    let mut source = open("one_frame.mp4").unwrap();
    let info = source.info().clone();
    let indices = frame_indices(
        info.n_frames,
        info.fps,
        &SampleOptions::default(),
        &longtake::model::family::VideoRules::of(longtake::model::family::QWEN2_VL.video),
    )
    .unwrap();
    assert_eq!(indices, [0, 0]);
    let frames: Vec<Rgb> = indices.iter().map(|&i| source.frame(i).unwrap()).collect();
    assert!(frames[0] == frames[1]);
}

/// Faults 28 and 33: huge pictures are refused from the header.
#[test]
fn declared_giants_are_refused() {
    let room = Room::new();
    let path = room.file("giant.y4m", b"YUV4MPEG2 W65535 H65535 F25:1 C444\nFRAME\n");
    let err = exhaust(&path).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Limit);
    assert!(err.to_string().contains(&MAX_PIXELS.to_string()), "{err}");
    let mut gif = media_bytes("moving.gif");
    gif[6..10].copy_from_slice(&[0xFF; 4]);
    assert_eq!(exhaust(&room.file("giant.gif", &gif)).unwrap_err().kind(), ErrorKind::Limit);
}

/// Fault 28: more frames than anyone means to show.
#[test]
fn gif_with_too_many_frames_is_refused_before_decoding() {
    let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xFF\xFF\xFF".to_vec();
    for _ in 0..=MAX_ANIMATION_FRAMES {
        gif.extend_from_slice(b"\x2C\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0");
    }
    gif.push(0x3B);
    let room = Room::new();
    let started = Instant::now();
    let err = exhaust(&room.file("long.gif", &gif)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
    assert!(started.elapsed() < Duration::from_secs(2));
    // A thousand of them are fine.
    let path = room.file("short.gif", &gif[..19 + 1000 * 15]);
    assert_eq!(open_path(&path).unwrap().info().n_frames, 1000);
}

/// A frame of a Y4M file that is cut off is left out and counted.
#[test]
fn a_cut_off_last_frame_is_counted() {
    let bytes = media_bytes("yuv420p.y4m");
    let room = Room::new();
    let (frames, skipped) = exhaust(&room.file("cut.y4m", &bytes[..bytes.len() - 1])).unwrap();
    assert_eq!((frames.len(), skipped), (2, 1));
}

fn png(level: u8, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([level; 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn a_folder_of_images_is_a_list_of_frames() {
    let room = Room::new();
    for i in 1..=11u8 {
        room.file(&format!("frame{i}.png"), &png(i * 10, 8, 6));
    }
    room.file(".hidden", b"not an image");
    room.file("Thumbs.db", b"not an image either");
    let mut source = open_path(room.0.path()).unwrap();
    let info = source.info().clone();
    assert!(source.is_frame_list());
    assert_eq!((info.n_frames, info.height, info.width, info.fps), (11, 6, 8, 2.0));
    let options = SampleOptions { whole: true, ..Default::default() };
    let indices = frame_indices(
        info.n_frames,
        info.fps,
        &options,
        &longtake::model::family::VideoRules::of(longtake::model::family::QWEN2_VL.video),
    )
    .unwrap();
    let levels: Vec<u8> = indices.iter().map(|&i| source.frame(i).unwrap().data[0]).collect();
    assert_eq!(levels, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 110], "counted like people do, padded to even");
    assert!(source.frame(11).is_err());
}

/// Fault 36: what is called a picture must be one, all of one size; the frame and the file are named.
#[test]
fn folders_with_broken_members_are_refused() {
    let broken: [(&str, Vec<u8>, &str); 4] = [
        ("frame3.png", png(1, 9, 6), "9x6"),
        ("frame3", png(1, 6, 8), "6x8"),
        ("frame3.png", b"\x89PNG\r\n\x1a\nbroken".to_vec(), "damaged"),
        ("frame3.JPG", Vec::new(), "expected a png"),
    ];
    for (name, bytes, words) in broken {
        let room = Room::new();
        for i in [1, 2, 4] {
            room.file(&format!("frame{i}.png"), &png(50, 8, 6));
        }
        room.file(name, &bytes);
        let err = open_path(room.0.path()).err().unwrap_or_else(|| panic!("{name} {words}"));
        let text = err.to_string();
        assert!(text.contains("frame 2") && text.contains(name) && text.contains(words), "{text}");
    }
    // A member that goes away later is an error of its frame.
    let room = Room::new();
    let path = room.file("a.png", &png(1, 4, 4));
    let mut source = open_path(room.0.path()).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(source.frame(0).unwrap_err().to_string().contains("frame 0"));
}

/// What lies among the frames and is no picture is left out, and the video says so.
#[test]
fn strangers_in_a_folder_are_left_out_and_named() {
    let room = Room::new();
    for i in [1, 2, 10] {
        room.file(&format!("frame{i}.png"), &png(i as u8 * 10, 8, 6));
    }
    room.file("frame9", &png(90, 8, 6));
    room.file("frame5.dat", &png(50, 8, 6));
    room.file(".DS_Store", b"hidden");
    assert_eq!(open_path(room.0.path()).unwrap().info().decoder, "images");
    room.file("meta.json", b"{}");
    let one = "images, `meta.json` left out, not a picture";
    assert_eq!(open_path(room.0.path()).unwrap().info().decoder, one);
    room.file("frame3.txt", b"notes");
    room.file("source.mp4", &media_bytes("one_frame.mp4"));
    room.file("empty", b"");
    std::fs::create_dir(room.0.path().join("inner")).unwrap();
    let mut source = open_path(room.0.path()).unwrap();
    assert_eq!(source.info().decoder, "images, `empty` and 4 more left out, not a picture");
    let levels: Vec<u8> = (0..5).map(|i| source.frame(i).unwrap().data[0]).collect();
    assert_eq!((source.info().n_frames, levels), (5, vec![10, 20, 50, 90, 100]));
    // Nothing but strangers, or nothing at all.
    let room = Room::new();
    assert_eq!(open_path(room.0.path()).err().unwrap().kind(), ErrorKind::BadInput);
    room.file("meta.json", b"{}");
    let err = open_path(room.0.path()).err().unwrap();
    assert!(err.kind() == ErrorKind::BadInput && err.to_string().contains("`meta.json`"), "{err}");
}

/// Fault F2: a pipe that nobody writes into does not hold anything up.
#[test]
#[cfg(unix)]
fn pipes_in_a_folder_are_not_waited_for() {
    for (name, words) in [("frame2.png", "not a regular file"), ("control", "`control` left out")] {
        let room = Room::new();
        room.file("frame1.png", &png(50, 8, 6));
        let made = std::process::Command::new("mkfifo").arg(room.0.path().join(name)).status().unwrap();
        assert!(made.success());
        let started = Instant::now();
        let said = match open_path(room.0.path()) {
            Ok(source) => source.info().decoder.clone(),
            Err(err) => err.to_string(),
        };
        assert!(said.contains(words) && said.contains(name), "{said}");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

/// The files of the repository are the ones the other tests think they are.
#[test]
fn test_files_cover_the_kinds() {
    let rows = expected();
    assert!(rows.iter().filter(|row| row.built_in).count() >= 20 && rows.iter().any(|row| !row.built_in));
    for name in VIDEOS {
        assert!(rows.iter().any(|row| row.file == name), "{name}");
    }
}
