//! Pictures beyond the plain ones: cut off, too large for one piece, in formats of other programs, and files that are none.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use longtake::media::ffmpeg::Tools;
use longtake::media::image_file::{decode_image, is_picture};
use longtake::media::limits::{MAX_PIXELS, MAX_SHRUNK_PIXELS};
use longtake::media::{ImageFile, load_image_with};
use longtake::{ErrorKind, media};

use super::image_file::{assert_clean, crc32, media_bytes, media_dir};

/// With what is installed.
fn open(path: &Path) -> longtake::Result<ImageFile> {
    ImageFile::open_with(path, Tools::on_path().as_ref())
}

/// With what is installed.
fn load(path: &Path) -> longtake::Result<media::Rgb> {
    load_image_with(path, Tools::on_path().as_ref())
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Four corners of their own colours, so that a turned or mirrored picture shows.
fn corners(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (2 * x < width, 2 * y < height) {
        (true, true) => Rgb([250, 10, 10]),
        (false, true) => Rgb([10, 250, 10]),
        (true, false) => Rgb([10, 10, 250]),
        (false, false) => Rgb([240, 240, 20]),
    })
}

/// The colour in the middle of each quarter: top left, top right, bottom left, bottom right.
fn quarters(rgb: &media::Rgb) -> [[u8; 3]; 4] {
    let at = |y: usize, x: usize| {
        let at = (rgb.height * y / 4 * rgb.width + rgb.width * x / 4) * 3;
        [rgb.data[at], rgb.data[at + 1], rgb.data[at + 2]]
    };
    [at(1, 1), at(1, 3), at(3, 1), at(3, 3)]
}

fn assert_quarters(rgb: &media::Rgb, want: [[u8; 3]; 4], what: &str) {
    let near = |a: [u8; 3], b: [u8; 3]| a.iter().zip(b).all(|(a, b)| a.abs_diff(b) < 25);
    let got = quarters(rgb);
    assert!(got.iter().zip(want).all(|(a, b)| near(*a, b)), "{what}: {got:?}, expected {want:?}");
}

const RED: [u8; 3] = [250, 10, 10];
const GREEN: [u8; 3] = [10, 250, 10];
const BLUE: [u8; 3] = [10, 10, 250];
const YELLOW: [u8; 3] = [240, 240, 20];
const UPRIGHT: [[u8; 3]; 4] = [RED, GREEN, BLUE, YELLOW];

/// Wherever a file is cut, there is an error or a word about it; and a whole one gets none, whatever stands behind it.
#[test]
fn a_cut_off_picture_is_never_taken_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let mut noisy = Vec::new();
    let noise = RgbImage::from_fn(90, 70, |x, y| Rgb([(x * x + y) as u8, (x * y) as u8, (y * 7 + x) as u8]));
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(std::io::Cursor::new(&mut noisy), 90);
    encoder.encode_image(&DynamicImage::from(noise)).unwrap();
    let mut n_warned = 0;
    for (name, bytes) in [
        ("baseline", noisy),
        ("rgb.jpg", media_bytes("rgb.jpg")),
        ("progressive.jpg", media_bytes("progressive.jpg")),
        ("gray.jpg", media_bytes("gray.jpg")),
        ("cmyk.jpg", media_bytes("cmyk.jpg")),
        ("exif_6.jpg", media_bytes("exif_6.jpg")),
        ("lossy.webp", media_bytes("lossy.webp")),
        ("rgba.webp", media_bytes("rgba.webp")),
    ] {
        let decode = |bytes: &[u8]| {
            let file = open(&write(dir.path(), name, bytes))?;
            file.decode(file.size(), &|| false)
        };
        assert_eq!(decode(&bytes).unwrap().warning, None, "{name}");
        assert_eq!(decode(&[&bytes[..], &[0; 9]].concat()).unwrap().warning, None, "{name} and a trailer");
        // All of the header, and of the rest every few bytes; the last two bytes are a JPEG's end marker.
        let cuts = (1..200).chain((200..bytes.len() - 2).step_by(37)).chain([bytes.len() - 2]);
        for cut in cuts.filter(|cut| *cut < bytes.len() - 1) {
            match decode(&bytes[..cut]) {
                Err(err) => assert_clean(&err),
                Ok(decoded) => {
                    let warning = decoded.warning.unwrap_or_else(|| panic!("{name} cut at {cut} of {}", bytes.len()));
                    assert!(warning.contains(&format!("cut off after {cut} bytes")), "{warning}");
                    n_warned += 1;
                }
            }
        }
    }
    assert!(n_warned > 20, "{n_warned} cuts were decoded");
}

#[test]
fn simple_formats_are_built_in() {
    let dir = tempfile::tempdir().unwrap();
    let want = corners(60, 40);
    for (name, format) in [("a.bmp", ImageFormat::Bmp), ("a.ico", ImageFormat::Ico), ("a.ppm", ImageFormat::Pnm)] {
        let path = dir.path().join(name);
        // Readers expect an icon's pixels to have alpha.
        match format {
            ImageFormat::Ico => DynamicImage::from(want.clone()).to_rgba8().save_with_format(&path, format).unwrap(),
            _ => want.save_with_format(&path, format).unwrap(),
        }
        let file = ImageFile::open_with(&path, None).unwrap();
        assert_eq!(file.size(), (40, 60), "{name}");
        assert!(file.decode((1, 1), &|| false).unwrap().rgb.data == *want.as_raw(), "{name}");
        assert!(is_picture(&path).unwrap(), "{name}");
    }
    // Transparent pixels are white.
    let clear = image::RgbaImage::from_pixel(9, 7, image::Rgba([0, 0, 0, 0]));
    let path = dir.path().join("clear.bmp");
    clear.save(&path).unwrap();
    assert!(load(&path).unwrap().data.iter().all(|v| *v == 255));
    let pgm = write(dir.path(), "a.pgm", b"P2 2 1 255\n7 200\n");
    assert_eq!(load(&pgm).unwrap().data, [7, 7, 7, 200, 200, 200]);
}

/// A TIFF of 8-bit RGB(A), without compression, with an orientation.
fn tiff(width: u16, height: u16, channels: u16, orientation: u16, pixels: &[u8]) -> Vec<u8> {
    let mut out = b"II*\0\x08\0\0\0".to_vec();
    let n_entries = 11u16;
    let after = 8 + 2 + u32::from(n_entries) * 12 + 4;
    // Tag, type (3: 16 bits, 4: 32 bits), count, value or offset.
    let entries = [
        (256u16, 3u16, 1u32, u32::from(width)),
        (257, 3, 1, u32::from(height)),
        (258, 3, u32::from(channels), after),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, after + 8),
        (274, 3, 1, u32::from(orientation)),
        (277, 3, 1, u32::from(channels)),
        (278, 3, 1, u32::from(height)),
        (279, 4, 1, pixels.len() as u32),
        // Of a fourth channel: alpha that colours are not multiplied with.
        (338, 3, 1, 2),
    ];
    out.extend(n_entries.to_le_bytes());
    for (tag, ty, count, value) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(ty.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend([0; 4]);
    out.extend([8u16; 4].map(u16::to_le_bytes).concat());
    out.extend(pixels);
    out
}

#[test]
fn other_formats_come_through_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let upright = corners(64, 48);
    let picture = tiff(64, 48, 3, 1, upright.as_raw());
    let path = write(dir.path(), "a.tif", &picture);
    // Without it, a word about what to install.
    let err = ImageFile::open_with(&path, None).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    let text = err.to_string();
    assert!(
        text.contains("a.tif") && text.contains("png, jpeg, webp or gif") && text.contains("install ffmpeg"),
        "{text}"
    );
    assert!(is_picture(&path).unwrap());
    let Some(tools) = Tools::on_path() else {
        eprintln!("SKIPPED: ffmpeg and ffprobe are not on the PATH, pictures are not decoded through them");
        return;
    };
    assert!(load(&path).unwrap().data == *upright.as_raw());
    // Orientation 6: shown turned by 90 degrees clockwise; 2 is mirrored; 3 stands on its head.
    for (orientation, size, want) in [
        (6, (64, 48), [BLUE, RED, YELLOW, GREEN]),
        (8, (64, 48), [GREEN, YELLOW, RED, BLUE]),
        (2, (48, 64), [GREEN, RED, YELLOW, BLUE]),
        (3, (48, 64), [YELLOW, BLUE, GREEN, RED]),
    ] {
        let path = write(dir.path(), "turned.tif", &tiff(64, 48, 3, orientation, upright.as_raw()));
        let file = open(&path).unwrap();
        let rgb = file.decode(size, &|| false).unwrap().rgb;
        assert_eq!((file.size(), (rgb.height, rgb.width)), (size, size), "orientation {orientation}");
        assert_quarters(&rgb, want, &format!("orientation {orientation}"));
    }
    // Half transparent on white.
    let clear = tiff(8, 8, 4, 1, &[0, 0, 0, 128].repeat(64));
    let rgb = load(&write(dir.path(), "clear.tif", &clear)).unwrap();
    assert!(rgb.data.iter().all(|v| v.abs_diff(127) <= 1), "{:?}", &rgb.data[..6]);
    // What ffmpeg itself can write; releases differ.
    let png = dir.path().join("a.png");
    upright.save(&png).unwrap();
    let mut made = Vec::new();
    for name in ["a.avif", "a.jp2", "a.sgi", "a.pcx", "a.dpx", "a.xwd", "a.qoi", "b.tif"] {
        let path = dir.path().join(name);
        let ended =
            Command::new(&tools.ffmpeg).args(["-v", "quiet", "-y", "-i"]).arg(&png).arg(&path).status().unwrap();
        if !ended.success() {
            continue;
        }
        let file = open(&path).unwrap();
        let decoded = file.decode(file.size(), &|| false).unwrap();
        assert_eq!((decoded.rgb.height, decoded.rgb.width), (48, 64), "{name}");
        assert_quarters(&decoded.rgb, UPRIGHT, name);
        made.push(name);
    }
    println!("through ffmpeg: {made:?}");
    assert!(made.len() >= 3, "{made:?}");
    // Cut off: an error, or a word of warning.
    for cut in [picture.len() - 1, picture.len() / 2, 200, 100, 9] {
        let path = write(dir.path(), "cut.tif", &picture[..cut]);
        match open(&path).and_then(|file| file.decode(file.size(), &|| false)) {
            Err(err) => assert_clean(&err),
            Ok(decoded) => assert!(decoded.warning.is_some(), "cut at {cut}"),
        }
    }
}

/// A film is no picture, however much ffmpeg could make of it; and nothing else than a picture format is opened.
#[test]
fn what_is_no_picture_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["baseline.mp4", "moving.mov", "vp9.webm", "yuv420p.y4m"] {
        let err = open(&media_dir().join(name)).unwrap_err();
        assert!(err.to_string().contains("a video, expected a picture"), "{err}");
        assert!(!is_picture(&media_dir().join(name)).unwrap());
    }
    for (name, bytes) in [
        ("list.tif", &b"ffconcat version 1.0\nfile /etc/hostname\n"[..]),
        ("play.bmp", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
        ("text", b"hello"),
        ("empty.avif", b""),
    ] {
        let err = open(&write(dir.path(), name, bytes)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
        assert!(err.to_string().contains(name) && err.to_string().contains("expected a png, jpeg"), "{err}");
        assert!(!is_picture(&dir.path().join(name)).unwrap());
    }
    // What moves is a video, unless it is given as a picture.
    for (name, picture) in [("two.gif", false), ("two.webp", false), ("two.apng.png", false), ("lossy.webp", true)] {
        assert_eq!(is_picture(&media_dir().join(name)).unwrap(), picture, "{name}");
    }
    assert!(!is_picture(dir.path()).unwrap());
    assert!(is_picture(&dir.path().join("absent")).is_err());
}

#[test]
#[cfg(unix)]
fn a_pipe_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("photo.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let link = dir.path().join("link.png");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    let started = Instant::now();
    for path in [pipe.as_path(), &link, Path::new("/dev/null"), Path::new("/dev/zero")] {
        for err in [open(path).unwrap_err(), load(path).unwrap_err(), is_picture(path).map(drop).unwrap_err()] {
            assert!(err.to_string().contains("not a regular file"), "{err}");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// A PNG of two grey levels, written row by row.
fn large_png(path: &Path, width: u32, height: u32, level: impl Fn(u32, u32) -> bool) {
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(std::fs::File::create(path).unwrap()), width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for y in 0..height {
        let byte = |x: u32| (0..8).fold(0u8, |byte, bit| byte << 1 | u8::from(level(8 * x + bit, y)));
        let row: Vec<u8> = (0..width.div_ceil(8)).map(byte).collect();
        std::io::Write::write_all(&mut stream, &row).unwrap();
    }
    stream.finish().unwrap();
}

#[test]
fn pictures_beyond_the_cap_are_shrunk_while_they_are_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.png");
    // White left of a slanted line; on its right every other pixel, which is grey from afar.
    let (width, height) = (9001, 8003);
    large_png(&path, width, height, |x, y| x < 2000 + y / 4 || (x + y) % 2 == 0);
    assert!(u64::from(width) * u64::from(height) > MAX_PIXELS);
    let file = open(&path).unwrap();
    assert_eq!(file.size(), (8003, 9001));
    let rgb = file.decode((1000, 1100), &|| false).unwrap().rgb;
    // At least twice as large as wanted, and a whole part of the original.
    assert_eq!((rgb.height, rgb.width), (8003usize.div_ceil(4), 9001usize.div_ceil(4)));
    for (y, x, want) in [(10, 10, 255), (1000, 500, 255), (100, 1500, 128), (1990, 2200, 128)] {
        let got = rgb.data[(y * rgb.width + x) * 3];
        assert!(got.abs_diff(want) <= 1, "{got} at {y}, {x}");
    }
    let stopped = file.decode((1000, 1100), &|| true).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    let whole = load(&path).unwrap_err();
    assert!(whole.kind() == ErrorKind::Limit && whole.to_string().contains(&MAX_PIXELS.to_string()), "{whole}");
    // Cut off: the row is named.
    let bytes = std::fs::read(&path).unwrap();
    let cut = open(&write(dir.path(), "cut.png", &bytes[..bytes.len() / 2])).unwrap();
    let err = cut.decode((1000, 1100), &|| false).unwrap_err();
    assert!(err.to_string().contains("cut off in row"), "{err}");
}

#[test]
fn large_jpegs_are_shrunk_in_their_blocks() {
    let Some(tools) = Tools::on_path() else {
        eprintln!("SKIPPED: ffmpeg is not on the PATH, which makes large JPEGs for this test");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for (name, pixels, filter) in
        [("colour", "yuvj420p", "null"), ("wide", "yuvj422p", "null"), ("fine", "yuvj444p", "hflip")]
    {
        let path = dir.path().join(format!("{name}.jpg"));
        let source = "color=c=red:s=9000x8000,drawbox=x=4500:y=0:w=4500:h=8000:color=blue:t=fill";
        let made = Command::new(&tools.ffmpeg)
            .args(["-v", "error", "-f", "lavfi", "-i", source, "-frames:v", "1", "-vf", filter, "-pix_fmt", pixels])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        let file = open(&path).unwrap();
        assert_eq!(file.size(), (8000, 9000));
        let rgb = file.decode((900, 1000), &|| false).unwrap().rgb;
        assert_eq!((rgb.height, rgb.width), (2000, 2250), "{name}: a quarter");
        let (red, blue) = ([254, 0, 0], [0, 0, 254]);
        match name {
            "fine" => assert_quarters(&rgb, [blue, red, blue, red], name),
            _ => assert_quarters(&rgb, [red, blue, red, blue], name),
        }
    }
}

/// What cannot be had in strips is refused from its header, with a way out.
#[test]
fn what_cannot_be_shrunk_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let header = |width: u32, height: u32, interlaced: u8| {
        let mut png = media_bytes("rgb.png");
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        png[28] = interlaced;
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        png
    };
    let mut gif = media_bytes("two.gif");
    gif[6..10].copy_from_slice(&[0xFF, 0x7F, 0xFF, 0x7F]);
    for (name, bytes, limit) in [
        ("interlaced.png", header(9000, 8000, 1), MAX_PIXELS),
        ("bomb.png", header(60_000, 60_000, 0), MAX_SHRUNK_PIXELS),
        ("large.gif", gif, MAX_PIXELS),
    ] {
        let err = open(&write(dir.path(), name, &bytes)).unwrap_err();
        let text = err.to_string();
        assert_eq!(err.kind(), ErrorKind::Limit, "{text}");
        assert!(text.contains(name) && text.contains(&limit.to_string()) && text.contains("smaller first"), "{text}");
    }
    // The size alone is no reason.
    let path = write(dir.path(), "large.png", &header(9000, 8000, 0));
    assert_eq!(open(&path).unwrap().size(), (8000, 9000));
    assert!(decode_image(&std::fs::read(&path).unwrap()).is_err());
}
