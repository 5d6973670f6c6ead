//! Streams, animations and pictures from bytes, for `crate::fuzzing`. H.264 and its container have files of their own.

use std::io::{BufReader, Cursor};

use super::animation::AnimationSource;
pub(crate) use super::h264::fuzz::{h264, h264_seeds};
use super::limits::{MAX_FPS, MAX_PIXELS};
use super::video::FrameSource;
use super::y4m::Y4mStream;
use super::{Rgb, apng, gif, image_file, webp};
use crate::fuzzing::{self, Sparse, choice};

/// Pictures above so many pixels are judged by their header alone: decoding them would take the fuzzer's time.
const FUZZ_PIXELS: usize = 1 << 16;

/// A stream: header, frames, and the first of them as a picture.
pub(crate) fn y4m(input: &[u8]) {
    let Some(file) = Sparse::new(input) else { return };
    let Ok(mut stream) = Y4mStream::new(BufReader::with_capacity(256, file)) else { return };
    let (height, width) = stream.size();
    assert!(height > 0 && width > 0 && (height * width) as u64 <= MAX_PIXELS);
    assert!(stream.fps() > 0.0 && stream.fps() <= MAX_FPS);
    let mut n = 0;
    while n < 16 && matches!(stream.advance(), Ok(true)) {
        if n == 0 && height * width <= FUZZ_PIXELS {
            check_picture(&stream.rgb(), (height, width));
        }
        n += 1;
    }
}

pub(crate) fn y4m_seeds() -> Vec<Vec<u8>> {
    fuzzing::files("media", &[".y4m"]).iter().map(|file| Sparse::input(file)).collect()
}

fn check_picture(rgb: &Rgb, size: (usize, usize)) {
    assert_eq!((rgb.height, rgb.width), size);
    assert_eq!(rgb.data.len(), rgb.height * rgb.width * 3);
}

/// An animation, by the first byte a GIF, a WebP or an APNG: its blocks, and its frames where there are few and small ones.
pub(crate) fn animation(input: &[u8]) {
    let Some((kind, bytes)) = choice(input) else { return };
    let format = [&gif::FORMAT, &webp::FORMAT, &apng::FORMAT][usize::from(kind) % 3];
    let file = Box::new(Cursor::new(bytes.to_vec()));
    let Ok(Some(mut source)) = AnimationSource::new(file, bytes.len() as u64, "fuzz".to_string(), format) else {
        return;
    };
    let info = source.info().clone();
    assert!(info.n_frames > 0 && (info.height * info.width) as u64 <= MAX_PIXELS);
    assert!(info.fps > 0.0 && info.fps <= MAX_FPS && info.duration > 0.0 && info.duration.is_finite());
    // A frame has some bytes of its own in any of them.
    assert!(info.n_frames <= bytes.len());
    if info.height * info.width * info.n_frames.min(8) <= FUZZ_PIXELS {
        for index in 0..info.n_frames.min(8) {
            let Ok(rgb) = source.frame(index) else { continue };
            check_picture(&rgb, (info.height, info.width));
        }
    }
}

pub(crate) fn animation_seeds() -> Vec<Vec<u8>> {
    let kinds = [(0, ".gif"), (1, ".webp"), (2, ".png")];
    let seeds =
        kinds.iter().flat_map(|(kind, end)| fuzzing::files("media", &[end]).into_iter().map(|file| (*kind, file)));
    seeds.map(|(kind, file)| [&[kind], &file[..]].concat()).collect()
}

/// A picture of any format: its size, and what is decoded when that is small.
pub(crate) fn image(input: &[u8]) {
    let Ok(size) = image_file::image_size(input) else { return };
    assert!(size.0 > 0 && size.1 > 0 && (size.0 * size.1) as u64 <= MAX_PIXELS);
    if size.0 * size.1 <= FUZZ_PIXELS
        && let Ok(rgb) = image_file::decode_image(input)
    {
        check_picture(&rgb, size);
    }
}

pub(crate) fn image_seeds() -> Vec<Vec<u8>> {
    fuzzing::files("media", &[".png", ".jpg", ".webp", ".gif"])
}
