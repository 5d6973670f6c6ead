//! Y4M of any depth, from files and from pipes: the frames of 8 bits that lie behind it.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use longtake::media::live::LiveSource;
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};
use longtake::random::Rng;
use longtake::{ErrorKind, Result};

use super::faults::Room;
use super::video::distance_of;

fn open(path: &Path) -> Result<Box<dyn FrameSource>> {
    open_video_with(path, None)
}

/// Bytes of a frame of 8 bits.
fn frame_len(layout: &str, height: usize, width: usize) -> usize {
    let (h, w) = match layout {
        "420" => (height.div_ceil(2), width.div_ceil(2)),
        "422" => (height, width.div_ceil(2)),
        "411" => (height, width.div_ceil(4)),
        "444" => (height, width),
        _ => (0, 0),
    };
    height * width + 2 * h * w
}

fn file(fields: &str, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("YUV4MPEG2 {fields}\n").into_bytes();
    for (i, frame) in frames.iter().enumerate() {
        // Parameters of a frame are legal and say nothing here.
        bytes.extend(if i % 2 == 0 { &b"FRAME\n"[..] } else { b"FRAME Ip Xnote=a\n" });
        bytes.extend(frame);
    }
    bytes
}

/// All frames, as a file and as a pipe.
fn frames_of(bytes: &[u8], n: usize) -> Vec<Rgb> {
    let room = Room::new();
    let mut source = open(&room.file("a.y4m", bytes)).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(source.info().n_frames, n);
    let frames: Vec<Rgb> = (0..n).map(|i| source.frame(i).unwrap()).collect();
    let mut pipe = LiveSource::open(Cursor::new(bytes.to_vec()), "pipe", 1000.0, None, &|| false).unwrap();
    for frame in &frames {
        assert!(pipe.next(&|| false).unwrap().as_ref() == Some(frame), "a pipe shows what a file shows");
    }
    assert!(pipe.next(&|| false).unwrap().is_none());
    frames
}

/// Samples of more bits within half a level of 8-bit ones give the pictures of those.
#[test]
fn deep_samples_are_rounded_to_eight_bits() {
    let (height, width) = (5, 7);
    for layout in ["420", "422", "444", "mono"] {
        let mut dice = Rng(3);
        let len = frame_len(layout, height, width);
        let shallow: Vec<Vec<u8>> = (0..3).map(|_| (0..len).map(|_| dice.below(256) as u8).collect()).collect();
        let want = frames_of(&file(&format!("W7 H5 F25:1 C{layout}"), &shallow), 3);
        for bits in [9u32, 10, 12, 14, 16] {
            let unit = 1usize << (bits - 8);
            let deep: Vec<Vec<u8>> = shallow
                .iter()
                .map(|frame| {
                    let wide = frame.iter().flat_map(|&sample| {
                        // From half a level below (included) to half a level above (not).
                        let off = dice.below(unit);
                        ((usize::from(sample) * unit + off).saturating_sub(unit / 2) as u16).to_le_bytes()
                    });
                    wide.collect()
                })
                .collect();
            let p = if layout == "mono" { "" } else { "p" };
            for fields in [
                format!("W7 H5 F25:1 C{layout}{p}{bits}"),
                format!("W7  H5 F25:1 Ip A0:0 C{layout}{p}{bits} XYSCSS={}P{bits} Xsomething", layout.to_uppercase()),
            ] {
                assert!(frames_of(&file(&fields, &deep), 3) == want, "{fields}");
            }
        }
    }
}

#[test]
fn legal_headers_of_any_kind_are_read() {
    let mut dice = Rng(5);
    let frame: Vec<u8> = (0..frame_len("420", 4, 8)).map(|_| dice.below(256) as u8).collect();
    let want = frames_of(&file("W8 H4 F25:1 C420jpeg", std::slice::from_ref(&frame)), 1);
    for fields in [
        "W8 H4",
        "H4 W8 F30000:1001 Ib A128:117",
        "W8 H4 F0:0 I? A0:0 Xa Xb=c X",
        "W8 H4 F25:1 It C420mpeg2 XCOLORRANGE=LIMITED",
        "W8 H4 C420paldv",
        "W8 H4 XYSCSS=420JPEG",
    ] {
        assert!(frames_of(&file(fields, std::slice::from_ref(&frame)), 1) == want, "{fields}");
    }
    // Four luma samples share a chroma sample.
    let narrow: Vec<u8> = (0..frame_len("411", 4, 8)).map(|i| if i < 32 { 100 } else { (i * 5) as u8 }).collect();
    let rgb = &frames_of(&file("W8 H4 C411", &[narrow]), 1)[0];
    let pixels = rgb.data.as_chunks::<3>().0;
    assert!(pixels.chunks(4).all(|cell| cell.iter().all(|p| *p == cell[0])) && pixels[0] != pixels[4]);
}

/// What a header declares is checked before anything is made of it.
#[test]
fn hostile_headers_are_refused() {
    let room = Room::new();
    for fields in [
        "W18446744073709551615 H18446744073709551615 F25:1",
        "W4294967295 H4294967295 C444p16",
        "W65536 H65536 Cmono16",
        "W99999999999999999999 H2",
        "W-1 H2",
        "W2 H2 F25:0",
        "W2 H2 C420p99",
        "W2 H2 C420p4294967296",
        "W2 H2 Cmono1",
    ] {
        let path = room.file("hostile.y4m", format!("YUV4MPEG2 {fields}\nFRAME\n").as_bytes());
        let err = open(&path).err().unwrap_or_else(|| panic!("{fields} was taken"));
        assert!(
            matches!(err.kind(), ErrorKind::Limit | ErrorKind::Format | ErrorKind::Unsupported),
            "{fields}: {err:?}"
        );
    }
    // The largest frame there may be, of which nothing comes: no memory for it.
    let err = open(&room.file("short.y4m", b"YUV4MPEG2 W8192 H8192 C444p16\nFRAME\nshort")).err().unwrap();
    assert!(err.kind() == ErrorKind::Format && err.to_string().contains("no whole frame"), "{err}");
}

/// What ffmpeg writes at any depth, beside the same video that ffmpeg itself brought to 8 bits.
#[test]
fn ffmpegs_deep_files_agree_with_its_own_rounding() {
    let room = Room::new();
    let make = |pixels: &str, from: &Path, to: &Path| {
        let source: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=5:duration=1"];
        let from = from.display().to_string();
        let input = if from.is_empty() { source } else { &["-i", &from] };
        let output = ["-pix_fmt", pixels, "-strict", "-1", "-f", "yuv4mpegpipe"];
        let made =
            Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(input).args(output).arg(to).status();
        made.is_ok_and(|status| status.success())
    };
    let mut n_compared = 0;
    for (deep, shallow) in [
        ("yuv420p10le", "yuv420p"),
        ("yuv422p10le", "yuv422p"),
        ("yuv444p12le", "yuv444p"),
        ("yuv420p14le", "yuv420p"),
        ("yuv444p16le", "yuv444p"),
        ("gray10le", "gray"),
        ("gray16le", "gray"),
    ] {
        let (wide, narrow) = (room.file("deep.y4m", b""), room.file("shallow.y4m", b""));
        if !make(deep, Path::new(""), &wide) || !make(shallow, &wide, &narrow) {
            eprintln!("SKIPPED: no ffmpeg that writes {deep} as Y4M");
            continue;
        }
        n_compared += 1;
        let (mut ours, mut theirs) = (open(&wide).unwrap(), open(&narrow).unwrap());
        for i in 0..5 {
            let (a, b) = (ours.frame(i).unwrap(), theirs.frame(i).unwrap());
            // A level of luma or chroma is up to 1.2 or 2.1 levels of a colour; it dithers where it rounds.
            let off = a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            let limit = if deep.starts_with("gray") { 1 } else { 4 };
            assert!(off <= limit && distance_of(&a, &b) < 1.0, "{deep}: frame {i} is off by {off}");
        }
    }
    assert!(n_compared == 0 || n_compared >= 5, "{n_compared} depths compared");
}
