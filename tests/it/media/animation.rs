//! Animated pictures (GIF, WebP, APNG) made here, frame by frame and composed by a second implementation; and what they
//! must not cost.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use longtake::media::limits::{MAX_ANIMATION_FRAMES, MAX_ANIMATION_PIXELS};
use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb, load_image};
use longtake::random::Rng;
use longtake::{ErrorKind, Result};

use super::faults::{Room, exhaust};
use super::image_file::media_bytes;
use super::video::distance_of;

/// One frame to be drawn.
#[derive(Clone)]
struct Cel {
    left: u32,
    top: u32,
    /// Of GIF, opacity is all or nothing.
    picture: RgbaImage,
    millis: u32,
    over: bool,
    /// 0 stays, 1 is cleared, 2 is taken back (WebP cannot).
    disposal: u8,
}

fn chunk_be(to: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    to.extend((data.len() as u32).to_be_bytes());
    let start = to.len();
    to.extend(name);
    to.extend(data);
    let sum = crc32fast::hash(&to[start..]);
    to.extend(sum.to_be_bytes());
}

fn encoded(picture: &RgbaImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The content of the chunks of that name in a PNG.
fn png_data(bytes: &[u8], name: &[u8; 4]) -> Vec<u8> {
    let (mut at, mut data) = (8, Vec::new());
    while at < bytes.len() {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if &bytes[at + 4..at + 8] == name {
            data.extend(&bytes[at + 8..at + 8 + len]);
        }
        at += len + 12;
    }
    data
}

/// `default`: the picture for those who know no animation is not part of it.
fn apng(height: u32, width: u32, cels: &[Cel], default: bool) -> Vec<u8> {
    apng_of((height, width), cels, default, 6, None)
}

/// The same with colours of type `kind` (0, 2 or 6) and a chunk that says what is transparent.
fn apng_of((height, width): (u32, u32), cels: &[Cel], default: bool, kind: u8, trns: Option<&[u8]>) -> Vec<u8> {
    let pixels = |picture: &RgbaImage| {
        let (picture, mut bytes) = (DynamicImage::from(picture.clone()), Cursor::new(Vec::new()));
        let picture = match kind {
            0 => DynamicImage::from(picture.into_luma8()),
            2 => DynamicImage::from(picture.into_rgb8()),
            _ => picture,
        };
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        png_data(&bytes.into_inner(), b"IDAT")
    };
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk_be(&mut out, b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, kind, 0, 0, 0]].concat());
    if let Some(trns) = trns {
        chunk_be(&mut out, b"tRNS", trns);
    }
    chunk_be(&mut out, b"acTL", &[(cels.len() as u32).to_be_bytes(), [0; 4]].concat());
    if default {
        let picture = RgbaImage::from_pixel(width, height, Rgba([9, 9, 9, 255]));
        chunk_be(&mut out, b"IDAT", &pixels(&picture));
    }
    let mut number = 0u32;
    for (i, cel) in cels.iter().enumerate() {
        let fields = [number, cel.picture.width(), cel.picture.height(), cel.left, cel.top];
        let mut control = fields.map(u32::to_be_bytes).concat();
        control.extend((cel.millis as u16).to_be_bytes());
        control.extend(1000u16.to_be_bytes());
        control.extend([cel.disposal, u8::from(cel.over)]);
        chunk_be(&mut out, b"fcTL", &control);
        number += 1;
        let data = pixels(&cel.picture);
        if i == 0 && !default {
            chunk_be(&mut out, b"IDAT", &data);
            continue;
        }
        // In two pieces, as encoders do with long ones.
        for piece in [&data[..data.len() / 2], &data[data.len() / 2..]] {
            chunk_be(&mut out, b"fdAT", &[&number.to_be_bytes(), piece].concat());
            number += 1;
        }
    }
    chunk_be(&mut out, b"IEND", b"");
    out
}

fn chunk_le(to: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    to.extend(name);
    to.extend((data.len() as u32).to_le_bytes());
    to.extend(data);
    to.extend(&[0][..data.len() % 2]);
}

fn triple(n: u32) -> [u8; 3] {
    n.to_le_bytes()[..3].try_into().unwrap()
}

/// `picture` gives the chunks of a frame.
fn webp(height: u32, width: u32, cels: &[Cel], picture: impl Fn(&RgbaImage) -> Vec<u8>) -> Vec<u8> {
    let mut out = b"RIFF\0\0\0\0WEBP".to_vec();
    let size = [triple(width - 1), triple(height - 1)].concat();
    chunk_le(&mut out, b"VP8X", &[&[0x12, 0, 0, 0], &size[..]].concat());
    chunk_le(&mut out, b"ANIM", &[0, 0, 255, 255, 0, 0]);
    for cel in cels {
        let (w, h) = cel.picture.dimensions();
        let mut data = [cel.left / 2, cel.top / 2, w - 1, h - 1, cel.millis].map(triple).concat();
        data.push(u8::from(!cel.over) << 1 | u8::from(cel.disposal == 1));
        data.extend(picture(&cel.picture));
        chunk_le(&mut out, b"ANMF", &data);
    }
    let len = out.len() as u32 - 8;
    out[4..8].copy_from_slice(&len.to_le_bytes());
    out
}

/// What follows the header of a WebP file.
fn lossless(picture: &RgbaImage) -> Vec<u8> {
    encoded(picture, ImageFormat::WebP)[12..].to_vec()
}

/// Colours of 4 levels each in a palette of 64, then a transparent one; pixels without compression, one code of 8 bits each
/// after a clear code often enough.
fn gif(height: u32, width: u32, cels: &[Cel]) -> Vec<u8> {
    let short = |n: u32| (n as u16).to_le_bytes();
    let mut out = [b"GIF89a", &short(width)[..], &short(height), &[0xF6, 0, 0]].concat();
    out.extend((0..128u8).flat_map(|i| [i >> 4 & 3, i >> 2 & 3, i & 3].map(|level| level * 85)));
    for cel in cels {
        let (w, h) = cel.picture.dimensions();
        let flags = [4, 8, 12][cel.disposal as usize] | u8::from(cel.over);
        out.extend([&[0x21, 0xF9, 4, flags], &short(cel.millis / 10)[..], &[64, 0]].concat());
        out.push(0x2C);
        out.extend([cel.left, cel.top, w, h].map(short).concat());
        out.extend([0, 7]);
        let codes = cel.picture.pixels().enumerate().flat_map(|(i, &Rgba([r, g, b, a]))| {
            let code = if a == 0 { 64 } else { u16::from(r / 85 * 16 + g / 85 * 4 + b / 85) };
            (i % 100 == 0).then_some(128).into_iter().chain([code])
        });
        let data: Vec<u8> = codes.chain([129]).map(|code| code as u8).collect();
        for block in data.chunks(255) {
            out.push(block.len() as u8);
            out.extend(block);
        }
        out.push(0);
    }
    out.push(0x3B);
    out
}

/// All frames as a browser shows them, composed in f64 with opacity and put on white at the end.
fn composed(height: u32, width: u32, cels: &[Cel]) -> Vec<Vec<u8>> {
    let mut canvas = vec![[0.0f64; 4]; (height * width) as usize];
    let mut shown = Vec::new();
    for cel in cels {
        let before = canvas.clone();
        let inside = |x: u32, y: u32| {
            (x + cel.left < width && y + cel.top < height).then(|| ((y + cel.top) * width + x + cel.left) as usize)
        };
        for (x, y, pixel) in cel.picture.enumerate_pixels() {
            let Some(at) = inside(x, y) else { continue };
            let a = f64::from(pixel.0[3]) / 255.0;
            let below = if cel.over { canvas[at] } else { [0.0; 4] };
            // Premultiplied.
            canvas[at] = std::array::from_fn(|c| match c {
                3 => a + below[3] * (1.0 - a),
                _ => f64::from(pixel.0[c]) * a + below[c] * (1.0 - a),
            });
        }
        shown
            .push(canvas.iter().flat_map(|p| [0, 1, 2].map(|c| (p[c] + 255.0 * (1.0 - p[3])).round() as u8)).collect());
        match cel.disposal {
            1 => cel.picture.enumerate_pixels().for_each(|(x, y, _)| {
                if let Some(at) = inside(x, y) {
                    canvas[at] = [0.0; 4];
                }
            }),
            2 => canvas = before,
            _ => {}
        }
    }
    shown
}

/// Frames of any place, size, opacity and disposal.
fn random_cels(dice: &mut Rng, height: u32, width: u32, n: usize, whole_alpha: bool, disposals: usize) -> Vec<Cel> {
    let mut cel = || {
        let is_whole = dice.below(3) == 0;
        let mut side = |n: u32| match is_whole {
            true => (0, n),
            false => {
                let at = dice.below(n as usize - 2) as u32 / 2 * 2;
                (at, 1 + dice.below((n - at) as usize) as u32)
            }
        };
        let ((left, w), (top, h)) = (side(width), side(height));
        let over = dice.below(2) == 0;
        let picture = RgbaImage::from_fn(w, h, |_, _| {
            let alpha = match (whole_alpha, over) {
                (true, true) => [0, 255][dice.below(2)],
                (true, false) => 255,
                (false, _) => [0, 77, 128, 254, 255][dice.below(5)],
            };
            Rgba([dice.below(4) as u8 * 85, dice.below(4) as u8 * 85, dice.below(4) as u8 * 85, alpha])
        });
        Cel { left, top, picture, millis: 100, over, disposal: dice.below(disposals) as u8 }
    };
    (0..n).map(|_| cel()).collect()
}

fn open(path: &Path) -> Result<Box<dyn FrameSource>> {
    open_video_with(path, None)
}

/// Shows the frames of a file at rising choices of indices and compares every one.
fn assert_shows(path: &Path, want: &[Vec<u8>], tolerance: u8, what: &str) {
    for step in [1, 2, 3, 7] {
        let mut source = open(path).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!(source.info().n_frames, want.len(), "{what}");
        for i in (step / 2..want.len()).step_by(step) {
            for _ in 0..2 {
                let got = source.frame(i).unwrap_or_else(|err| panic!("{what}: {err}"));
                let off = got.data.iter().zip(&want[i]).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(off <= tolerance && got.data.len() == want[i].len(), "{what}: frame {i} is off by {off}");
            }
        }
        assert_eq!(source.skipped(), 0, "{what}");
    }
}

#[test]
fn frames_are_composed_as_browsers_do() {
    let room = Room::new();
    for seed in 0..12 {
        let mut dice = Rng(seed);
        let (height, width) = (3 + dice.below(20) as u32, 3 + dice.below(30) as u32);
        let cels = random_cels(&mut dice, height, width, 24, true, 3);
        let want = composed(height, width, &cels);
        assert_shows(&room.file("a.gif", &gif(height, width, &cels)), &want, 0, &format!("gif {seed}"));

        let cels = random_cels(&mut dice, height, width, 24, false, 3);
        // Each of several layers of opacity is rounded once.
        let want = composed(height, width, &cels);
        let bytes = apng(height, width, &cels, seed % 2 == 0);
        assert_shows(&room.file("a.png", &bytes), &want, 2, &format!("apng {seed}"));

        let cels = random_cels(&mut dice, height, width, 24, false, 2);
        let want = composed(height, width, &cels);
        let path = room.file("a.webp", &webp(height, width, &cels, lossless));
        assert_shows(&path, &want, 2, &format!("webp {seed}"));
        // As a picture it is what it always was: the first one, or the default one.
        assert!(load_image(&path).is_ok());
    }
}

/// Lossy frames, with opacity in a chunk of its own and without.
#[test]
fn lossy_webp_frames_have_their_opacity() {
    let still = media_bytes("lossy.webp");
    let at = still.windows(4).position(|w| w == b"VP8 ").unwrap();
    let picture = image::load_from_memory(&still).unwrap().into_rgba8();
    let (w, h) = picture.dimensions();
    let cel = |left, over| Cel { left, top: 2, picture: picture.clone(), millis: 40, over, disposal: 0 };
    let mut faded = cel(2, true);
    faded.picture.pixels_mut().enumerate().for_each(|(i, p)| p.0[3] = (i * 7 % 256) as u8);
    let cels = [cel(0, false), cel(4, true), faded];
    let bytes = webp(h + 5, w + 6, &cels, |picture| {
        let mut chunks = Vec::new();
        let alpha: Vec<u8> = picture.pixels().map(|p| p.0[3]).collect();
        if alpha.iter().any(|a| *a < 255) {
            chunk_le(&mut chunks, b"ALPH", &[&[0], &alpha[..]].concat());
        }
        chunk_le(&mut chunks, b"XTRA", b"unknown");
        chunks.extend(&still[at..]);
        chunks
    });
    let room = Room::new();
    let path = room.file("lossy.webp", &bytes);
    assert_shows(&path, &composed(h + 5, w + 6, &cels), 1, "lossy");
    let info = open(&path).unwrap().info().clone();
    assert!((info.fps - 25.0).abs() < 1e-9 && info.decoder == "webp (built-in)", "{info:?}");
}

/// The frames' own numbers and times; 10 ms and less count as 100 ms.
#[test]
fn irregular_delays_tell_numbers_and_times() {
    let room = Room::new();
    let cels: Vec<Cel> = [40, 0, 10, 400, 2000, 40, 20]
        .iter()
        .enumerate()
        .map(|(i, &millis)| {
            let picture = RgbaImage::from_pixel(4, 4, Rgba([i as u8 % 4 * 85, i as u8 / 4 * 85, 0, 255]));
            Cel { left: 0, top: 0, picture, millis, over: false, disposal: 0 }
        })
        .collect();
    let starts = [0.0, 0.04, 0.14, 0.24, 0.64, 2.64, 2.68];
    let files = [
        room.file("a.gif", &gif(4, 4, &cels)),
        room.file("a.webp", &webp(4, 4, &cels, lossless)),
        room.file("a.png", &apng(4, 4, &cels, true)),
    ];
    let mut all = Vec::new();
    for path in files {
        let mut source = open(&path).unwrap();
        let n = source.info().n_frames;
        assert!(n == 7 && (source.info().duration - 2.7).abs() < 0.02, "{:?}", source.info());
        let shown: Vec<_> = (0..n).map(|i| source.shown(i)).collect();
        for (i, shown) in shown.iter().enumerate() {
            assert!((shown.seconds - starts[shown.number]).abs() < 1e-9, "{}: {shown:?}", path.display());
            let want = [shown.number as u8 % 4 * 85, shown.number as u8 / 4 * 85, 0];
            assert_eq!(source.frame(i).unwrap().data[..3], want, "{}", path.display());
        }
        assert!(shown.iter().filter(|s| s.number == 4).count() >= 3, "most of the time it is the fifth: {shown:?}");
        all.push(shown);
    }
    assert!(all[0] == all[1] && all[0] == all[2], "one timeline whatever the format: {all:?}");
}

#[test]
fn still_pictures_are_told_apart() {
    let room = Room::new();
    let picture = RgbaImage::from_pixel(6, 4, Rgba([255, 0, 0, 255]));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let err = open(&room.file("still", &encoded(&picture, format))).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::BadInput);
        assert!(err.to_string().contains("a still image, expected a video"), "{err}");
    }
    // Extended, but not animated.
    let mut extended = b"RIFF\0\0\0\0WEBP".to_vec();
    chunk_le(&mut extended, b"VP8X", &[0, 0, 0, 0, 5, 0, 0, 3, 0, 0]);
    extended.extend(lossless(&picture));
    assert!(open(&room.file("still", &extended)).err().unwrap().to_string().contains("a still image"));
    // An animation of one frame is a video of one frame.
    let cel = Cel { left: 0, top: 0, picture, millis: 100, over: false, disposal: 0 };
    let one = [cel];
    for bytes in [gif(4, 6, &one), webp(4, 6, &one, lossless), apng(4, 6, &one, false)] {
        let mut source = open(&room.file("one", &bytes)).unwrap();
        assert_eq!((source.info().n_frames, source.frame(0).unwrap().data[..3].to_vec()), (1, vec![255, 0, 0]));
    }
}

/// Frames beyond the canvas are clipped, empty ones draw nothing, and a picture of another size than its frame is damage.
#[test]
fn odd_rectangles_do_no_harm() {
    let room = Room::new();
    let red = |w, h| RgbaImage::from_pixel(w, h, Rgba([255, 0, 0, 255]));
    let cel = |left, top, picture, disposal| Cel { left, top, picture, millis: 100, over: false, disposal };
    let cels = [cel(0, 0, red(2, 2), 0), cel(6, 4, red(9, 9), 2), cel(40, 2, red(5, 5), 1), cel(2, 40, red(1, 1), 0)];
    let want = composed(8, 10, &cels);
    for (name, bytes) in
        [("gif", gif(8, 10, &cels)), ("webp", webp(8, 10, &cels[..1], lossless)), ("apng", apng(8, 10, &cels, true))]
    {
        let n = open(&room.file(name, &bytes)).unwrap().info().n_frames;
        assert_shows(&room.file(name, &bytes), &want[..n], 0, name);
    }
    let mut empty = gif(8, 10, &cels[..2]);
    let at = empty.windows(5).rposition(|w| w == [0x2C, 6, 0, 4, 0]).unwrap();
    empty[at + 5..at + 7].copy_from_slice(&[0, 0]);
    assert_shows(&room.file("empty.gif", &empty), &[want[0].clone(), want[0].clone()], 0, "empty");
    // The second frame says 3x1 and holds 9x9.
    let mut other = webp(8, 10, &[cels[0].clone(), cels[1].clone()], lossless);
    let at = other.windows(4).rposition(|w| w == b"ANMF").unwrap() + 8;
    other[at + 6] = 2;
    let mut source = open(&room.file("other.webp", &other)).unwrap();
    assert!(source.frame(0).unwrap().data == want[0] && source.frame(1).unwrap().data == want[0]);
    assert_eq!(source.skipped(), 1);
}

fn samples() -> [(&'static str, Vec<u8>); 4] {
    let mut dice = Rng(7);
    let hard = random_cels(&mut dice, 20, 30, 8, true, 3);
    let soft = random_cels(&mut dice, 20, 30, 8, false, 2);
    [
        ("gif", gif(20, 30, &hard)),
        ("webp", webp(20, 30, &soft, lossless)),
        ("apng", apng(20, 30, &soft, true)),
        ("apng without a default picture", apng(20, 30, &hard, false)),
    ]
}

#[test]
fn cut_off_animations_give_what_is_left_or_an_error() {
    let room = Room::new();
    for (name, bytes) in samples() {
        for len in (0..bytes.len()).step_by(bytes.len() / 150) {
            if let Err(err) = exhaust(&room.file("cut", &bytes[..len])) {
                assert_ne!(err.kind(), ErrorKind::Io, "{name} cut at {len}: {err}");
            }
        }
        // All but the last frame are whole.
        let (frames, skipped) = exhaust(&room.file("cut", &bytes[..bytes.len() - 30])).unwrap();
        assert!(frames.len() >= 7 && skipped <= 1, "{name}: {} frames, {skipped} skipped", frames.len());
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let room = Room::new();
    for (name, bytes) in samples() {
        for seed in 0..200 {
            let mut dice = Rng(seed);
            let mut hurt = bytes.clone();
            for _ in 0..=dice.below(6) {
                let at = dice.below(hurt.len());
                hurt[at] = [0, 0xFF, hurt[at] ^ 1 << dice.below(8), dice.below(256) as u8][dice.below(4)];
            }
            let path = room.file("hurt", &hurt);
            std::panic::catch_unwind(|| exhaust(&path).map(|_| ()).ok())
                .unwrap_or_else(|_| panic!("{name} with seed {seed} panicked"));
        }
    }
}

/// A frame of one pixel on a canvas of any size.
fn dot(millis: u32) -> Cel {
    let picture = RgbaImage::from_pixel(1, 1, Rgba([255, 0, 0, 255]));
    Cel { left: 0, top: 0, picture, millis, over: false, disposal: 0 }
}

/// A few kilobytes may declare any canvas and any number of frames: refused from the headers, with a way out.
#[test]
fn small_files_that_declare_hours_of_pixels_are_refused() {
    let room = Room::new();
    let dots = |n| vec![dot(100); n];
    let picture = lossless(&dot(100).picture);
    let files = [
        ("canvas.gif", gif(8192, 8192, &dots(2000))),
        ("long.gif", gif(1024, 2048, &dots(30_000))),
        ("canvas.webp", webp(4096, 16384, &dots(700), |_| picture.clone())),
        ("canvas.png", apng(1 << 16, 1 << 10, &dots(300), false)),
        ("many.webp", webp(2, 2, &dots(MAX_ANIMATION_FRAMES + 1), |_| picture.clone())),
    ];
    for (name, bytes) in files {
        let path = room.file(name, &bytes);
        let started = Instant::now();
        let err = open(&path).err().unwrap_or_else(|| panic!("{name} was taken"));
        assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
        let text = err.to_string();
        assert!(text.contains(name) && text.contains("ffmpeg"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(3), "{name}: {:?}", started.elapsed());
    }
    // A frame may be larger than its canvas, and is then what counts.
    let mut wide = gif(4, 4, &dots(2000));
    let image = [0x2C, 0, 0, 0, 0, 1, 0, 1, 0];
    for at in (0..wide.len() - 9).filter(|&at| wide[at..at + 9] == image).collect::<Vec<_>>() {
        wide[at + 5..at + 9].copy_from_slice(&[0, 32, 0, 32]);
    }
    assert_eq!(open(&room.file("wide.gif", &wide)).err().unwrap().kind(), ErrorKind::Limit);
    // Within the cap only what is asked for is composed: many frames of one pixel cost little beside a copy of the canvas.
    let n = (MAX_ANIMATION_PIXELS / (1024 * 1024)) as usize;
    let mut source = open(&room.file("within.gif", &gif(1024, 1024, &dots(n)))).unwrap();
    let started = Instant::now();
    for i in (0..n).step_by(n / 20) {
        source.frame(i).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Files are walked over, not read: what lies behind the last frame, or in a comment, costs no memory.
#[test]
fn sparse_files_are_not_read_whole() {
    let room = Room::new();
    for (name, bytes) in [
        ("sparse.gif", gif(2, 2, &[dot(100)])),
        ("sparse.webp", webp(2, 2, &[dot(100)], lossless)),
        ("sparse.png", apng(2, 2, &[dot(100)], true)),
    ] {
        let path = room.file(name, &bytes);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(900 << 20).unwrap();
        let started = Instant::now();
        let mut source = open(&path).unwrap();
        assert_eq!(
            (source.info().n_frames, source.frame(0).unwrap().data[..3].to_vec()),
            (1, vec![255, 0, 0]),
            "{name}"
        );
        assert!(started.elapsed() < Duration::from_secs(2), "{name}: {:?}", started.elapsed());
    }
    let path = room.file("huge.gif", &gif(2, 2, &[dot(100)]));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2 << 30).unwrap();
    assert_eq!(open(&path).err().unwrap().kind(), ErrorKind::Limit);
}

/// Whether the installed ffmpeg could make the file.
fn ffmpeg(args: &[&str], to: &Path) -> bool {
    let made = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(args).arg(to).status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        eprintln!("SKIPPED: no ffmpeg that makes {}", to.display());
    }
    made
}

/// Files that encoders made, with rectangles and disposals of their own choice, against what ffmpeg shows of them.
#[test]
fn encoders_files_agree_with_ffmpeg() {
    let room = Room::new();
    let source = ["-f", "lavfi", "-i", "testsrc2=size=96x72:rate=10:duration=1.5"];
    let palette = "split[a][b];[a]palettegen=64:reserve_transparent=1[p];[b][p]paletteuse=dither=bayer";
    let kinds: [(&str, &[&str]); 4] = [
        ("plain.gif", &[]),
        ("dithered.gif", &["-vf", palette]),
        ("plain.apng", &["-f", "apng", "-plays", "0"]),
        ("moving.webp", &["-c:v", "libwebp_anim", "-lossless", "1", "-pix_fmt", "bgra"]),
    ];
    for (name, args) in kinds {
        let path: PathBuf = room.file(name, b"");
        if !ffmpeg(&[&source, args].concat(), &path) {
            continue;
        }
        let mut ours = open(&path).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!((ours.info().n_frames, ours.info().height, ours.info().width), (15, 72, 96), "{name}");
        assert!((ours.info().fps - 10.0).abs() < 0.01, "{:?}", ours.info());
        // ffmpeg 5 reads no animated WebP; a lossless one has the frames that went in.
        let raw = room.file("raw", b"");
        let input = path.display().to_string();
        let from: &[&str] = if name.ends_with("webp") { &source } else { &["-i", &input] };
        let to_rgb = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "0"];
        assert!(ffmpeg(&[from, &to_rgb].concat(), &raw), "{name}");
        let raw = std::fs::read(&raw).unwrap();
        assert_eq!(raw.len(), 15 * 72 * 96 * 3, "{name}");
        for (i, want) in raw.chunks_exact(72 * 96 * 3).enumerate() {
            let want = Rgb { height: 72, width: 96, data: want.to_vec() };
            let off = distance_of(&ours.frame(i).unwrap(), &want);
            assert!(off < 2.0, "{name}: frame {i} is off by {off}");
        }
    }
}

/// What is cleared is black where the kind of colours knows no transparency, as ffmpeg shows it.
#[test]
fn what_an_opaque_png_clears_is_black() {
    let room = Room::new();
    let cel = |(left, top), (width, height), disposal| Cel {
        left,
        top,
        picture: RgbaImage::from_pixel(width, height, Rgba([80, 80, 80, 255])),
        millis: 100,
        over: false,
        disposal,
    };
    for (last, gone) in [((2, 2), 1), ((5, 1), 1), ((1, 4), 1)] {
        let cels = [cel((0, 0), (8, 6), gone), cel((1, 1), last, 1), cel((3, 2), (2, 2), 0)];
        for (kind, trns, level) in [
            (0, None, 0),
            (2, None, 0),
            (6, None, 255),
            (0, Some(&[0, 9][..]), 255),
            (2, Some(&[0, 9, 0, 9, 0, 9]), 255),
        ] {
            let path = room.file("a.png", &apng_of((6, 8), &cels, false, kind, trns));
            let mut source = open(&path).unwrap();
            let frames: Vec<Rgb> = (0..3).map(|i| source.frame(i).unwrap()).collect();
            for (frame, n_painted) in frames.iter().zip([48, (last.0 * last.1) as usize, 4]) {
                let count = |level: u8| frame.data.iter().filter(|&&c| c == level).count() / 3;
                assert_eq!((count(80), count(level)), (n_painted, 48 - n_painted), "type {kind}, {trns:?}");
            }
            let raw = room.file("raw", b"");
            let input =
                ["-f", "apng", "-i", path.to_str().unwrap(), "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "0"];
            if level == 0 && ffmpeg(&input, &raw) {
                let ours: Vec<u8> = frames.into_iter().flat_map(|frame| frame.data).collect();
                assert!(ours == std::fs::read(&raw).unwrap(), "type {kind}: ffmpeg shows something else");
            }
        }
    }
}
