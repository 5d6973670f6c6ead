//! Still images: every flavour decodes to what Pillow makes of it; hostile files are refused.

use std::path::{Path, PathBuf};

use longtake::media::image_file::{decode_image, image_size};
use longtake::media::limits::MAX_PIXELS;
use longtake::media::load_image;
use longtake::random::Rng;
use longtake::{Error, ErrorKind};

/// These files belong to the repository, whichever golden data the other tests use.
pub fn media_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media")
}

pub fn media_bytes(name: &str) -> Vec<u8> {
    let path = media_dir().join(name);
    std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

pub fn media_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&media_bytes(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// A name of a place in memory in an error message would be a leak.
pub fn assert_clean(err: &Error) {
    let text = err.to_string();
    let address = text.match_indices("0x").any(|(at, _)| {
        // Not the end of a width that a height follows.
        !text[..at].ends_with(|c: char| c.is_ascii_digit())
            && text[at + 2..].chars().take_while(char::is_ascii_hexdigit).count() > 4
    });
    assert!(!address && !text.contains('\n') && text.len() < 400, "{text}");
}

/// Bytes written in hex.
pub fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn pictures() -> Vec<(String, usize, usize, u8, Vec<u8>)> {
    let rows = media_json("pictures.json");
    let count = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let name = row["file"].as_str().unwrap().to_string();
            let rgb = hex(row["rgb"].as_str().unwrap());
            (name, count(&row["height"]), count(&row["width"]), count(&row["tolerance"]) as u8, rgb)
        })
        .collect()
}

/// Fault 30: grey with alpha, palettes, 16 bits, CMYK, animation, orientation.
#[test]
fn every_flavour_decodes_like_pillow() {
    let mut failures = Vec::new();
    let pictures = pictures();
    assert!(pictures.len() >= 20);
    for (name, height, width, tolerance, want) in pictures {
        let got = match load_image(&media_dir().join(&name)) {
            Ok(got) => got,
            Err(err) => {
                failures.push(format!("{name}: {err}"));
                continue;
            }
        };
        let worst = got.data.iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        if (got.height, got.width, got.data.len()) != (height, width, want.len()) || worst > tolerance {
            failures.push(format!("{name}: {}x{}, off by {worst}, allowed {tolerance}", got.height, got.width));
        }
        assert_eq!(image_size(&media_bytes(&name)).unwrap(), (height, width), "{name}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Fault 30: the content decides, not the name.
#[test]
fn a_wrong_extension_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.jpg");
    std::fs::write(&path, media_bytes("rgb.png")).unwrap();
    assert!(load_image(&path).unwrap() == load_image(&media_dir().join("rgb.png")).unwrap());
}

pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

/// A PNG that declares `width` x `height`, with a correct checksum.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut png = media_bytes("rgb.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

/// Fault 28: a tiny file that declares a huge picture is refused from its header.
#[test]
fn decompression_bombs_are_refused_from_the_header() {
    let mut gif = media_bytes("two.gif");
    gif[6..10].copy_from_slice(&[0xFF; 4]);
    let mut jpeg = media_bytes("rgb.jpg");
    let sof = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[sof + 5..sof + 9].copy_from_slice(&[0xFF; 4]);
    for (name, bytes) in [("png", png_of(65_535, 65_535)), ("gif", gif), ("jpeg", jpeg)] {
        for result in [decode_image(&bytes).map(|_| ()), image_size(&bytes).map(|_| ())] {
            let err = result.expect_err(name);
            assert_eq!(err.kind(), ErrorKind::Limit, "{name}: {err}");
            assert!(err.message().contains(&MAX_PIXELS.to_string()), "{name}: {err}");
        }
    }
    // Just within the cap, with no data to fill it: an error, whatever was allocated.
    assert!(decode_image(&png_of(8192, 8192)).is_err());
}

/// Fault 29: no pixels, or only one.
#[test]
fn empty_pictures_are_refused_and_single_pixels_are_not() {
    for (w, h) in [(0, 0), (0, 7), (7, 0)] {
        let err = decode_image(&png_of(w, h)).expect_err("refused");
        assert_clean(&err);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.png");
    image::RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])).save(&path).unwrap();
    assert_eq!(load_image(&path).unwrap().data, [1, 2, 3]);
}

/// Fault 30: whatever is missing or flipped, there is a picture or a clean error.
#[test]
fn damaged_pictures_never_panic() {
    for (name, ..) in pictures() {
        let bytes = media_bytes(&name);
        for cut in 0..bytes.len().min(400) {
            if let Err(err) = decode_image(&bytes[..cut]) {
                assert_clean(&err);
            }
        }
        let mut random = Rng(1);
        for _ in 0..300 {
            let mut hurt = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(hurt.len());
                hurt[at] ^= random.below(256) as u8 | 1;
            }
            if let Err(err) = decode_image(&hurt) {
                assert_clean(&err);
            }
        }
    }
}

#[test]
fn errors_name_the_file_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load_image(&dir.path().join("absent.png")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("absent.png"));
    assert!(load_image(dir.path()).is_err(), "a folder is not a picture");
    let text = dir.path().join("text.png");
    for content in ["", "hello", "<svg xmlns='http://www.w3.org/2000/svg'/>", "BX"] {
        std::fs::write(&text, content).unwrap();
        let err = load_image(&text).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.to_string().contains("text.png") && err.to_string().contains("png, jpeg, webp or gif"), "{err}");
    }
}
