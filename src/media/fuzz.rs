//! Videos and pictures from bytes, for `crate::fuzzing`. Pictures are decoded; of H.264 only what its headers say is read.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::gif::Outline;
use super::h264::{AvcConfig, Picture, Sps, decode_order_sps, escape, unescape};
use super::limits::{MAX_FPS, MAX_FRAMES, MAX_PIXELS};
use super::mp4::display_order;
use super::mp4_index::read_track;
use super::timeline::Timeline;
use super::y4m::Y4mStream;
use super::{Rgb, image_file};
use crate::fuzzing::{self, Sparse, choice};

/// Pictures above so many pixels are judged by their header alone: decoding them would take the fuzzer's time.
const FUZZ_PIXELS: usize = 1 << 16;

/// The index of a file whose media data may be zeros, and the headers inside its first samples.
pub(crate) fn mp4(input: &[u8]) {
    let Some(mut file) = Sparse::new(input) else { return };
    let n_file = file.len();
    let Ok(track) = read_track(&mut file) else { return };
    let n = track.samples.len();
    assert!(n > 0 && n + track.n_lost <= MAX_FRAMES + u32::MAX as usize);
    let mut bytes = 0u64;
    for sample in &track.samples {
        assert!(sample.size > 0 && sample.offset + u64::from(sample.size) <= n_file, "a sample outside the file");
        assert!(usize::from(sample.config) < track.configs.len());
        bytes += u64::from(sample.size);
    }
    assert!(bytes <= n_file, "samples overlap");
    check_sps(&track.sps);

    let (shown, rank) = display_order(&track);
    assert_eq!(rank.len(), n);
    assert!(!shown.is_empty() && shown.is_sorted_by_key(|&i| track.samples[i as usize].pts));
    let times = shown.iter().map(|&i| track.samples[i as usize].pts).collect();
    let timeline = Timeline::new(times, track.last_duration, f64::from(track.ticks_per_second)).expect("it has frames");
    assert!(timeline.fps() > 0.0 && timeline.fps() <= MAX_FPS && timeline.duration() > 0.0);
    let last = timeline.n_frames() - 1;
    let order = [0, last / 3, last / 2, last].map(|i| timeline.shown_at(i));
    assert!(order.is_sorted() && order[3] <= last);

    let (mut picture, mut sample) = (Picture::default(), Vec::new());
    for s in track.samples.iter().take(4).filter(|s| s.size <= 1 << 16) {
        sample.resize(s.size as usize, 0);
        file.seek(SeekFrom::Start(s.offset)).and_then(|_| file.read_exact(&mut sample)).expect("it lies in the file");
        picture.read(&sample, track.configs[usize::from(s.config)].length_size);
        assert!(picture.annex_b.len() <= 5 * sample.len() + 64);
    }
}

pub(crate) fn mp4_seeds() -> Vec<Vec<u8>> {
    fuzzing::files("media", &[".mp4", ".mov"]).iter().map(|file| Sparse::input(file)).collect()
}

fn check_sps(sps: &Sps) {
    assert!(sps.height > 0 && sps.width > 0 && (sps.height * sps.width) as u64 <= MAX_PIXELS);
}

/// A parameter set, a decoder configuration, or a sample.
pub(crate) fn h264(input: &[u8]) {
    let Some((kind, data)) = choice(input) else { return };
    match kind % 4 {
        0 => {
            let before = Sps::parse(data);
            if let Ok(sps) = &before {
                check_sps(sps);
            }
            // The other profile gives pictures of the same size, unless the set was cut off behind them.
            if let (Ok(before), Some(mut changed)) = (before, decode_order_sps(data)) {
                // High, whose fields it has; as Scalable Baseline only the decoder takes it.
                changed[1] = 100;
                let after = Sps::parse(&changed).unwrap_or(before);
                assert_eq!((after.height, after.width), (before.height, before.width));
            }
        }
        1 => {
            let Ok(config) = AvcConfig::parse(data) else { return };
            assert!((1..=4).contains(&config.length_size));
            if let Some(nal) = &config.sps {
                let _ = Sps::parse(nal);
            }
        }
        2 => {
            let Some((size, data)) = choice(data) else { return };
            let mut picture = Picture::default();
            picture.read(data, usize::from(size % 4) + 1);
            assert!(picture.annex_b.len() <= 5 * data.len() + 64);
            picture.read(&[], 4);
            assert!(picture.annex_b.is_empty() && picture.n_cut == 0 && picture.sps.is_none());
        }
        _ => {
            let mut escaped = Vec::new();
            escape(data, &mut escaped);
            assert!(!escaped.windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3), "a start code inside");
            let end = data.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
            assert!(unescape(&escaped) == data[..end], "escaping does not round-trip");
        }
    }
}

pub(crate) fn h264_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"\x03\0\0\x01\0\0\0\x02\0\0\x03\x07".to_vec()];
    for file in fuzzing::files("media", &[".mp4", ".mov"]) {
        let input = Sparse::input(&file);
        let Some(Ok(track)) = Sparse::new(&input).map(|mut file| read_track(&mut file)) else { continue };
        if let Some(at) = file.windows(4).position(|w| w == b"avcC") {
            let size = file[..at].last_chunk().map_or(0, |b| u32::from_be_bytes(*b) as usize);
            seeds.push([&[1], &file[at + 4..(at - 4 + size).clamp(at + 4, file.len())]].concat());
        }
        seeds.extend(track.configs.iter().filter_map(|config| Some([&[0], &config.sps.as_ref()?[..]].concat())));
        let sample = track.samples[0];
        seeds.push([&[2, 3], &file[sample.offset as usize..][..sample.size as usize]].concat());
    }
    seeds
}

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

/// The blocks of an animation, without its pictures, which are the target `image`'s.
pub(crate) fn gif(input: &[u8]) {
    let Ok(outline) = Outline::read(input) else { return };
    assert!(outline.delays.iter().all(|delay| (1..=i64::from(u16::MAX)).contains(delay)));
    // A frame takes its kind and nine bytes at least, but for one that is cut off.
    assert!(outline.delays.len() <= input.len() / 10 + 1);
}

pub(crate) fn gif_seeds() -> Vec<Vec<u8>> {
    fuzzing::files("media", &[".gif"])
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
