//! The index of MP4 files from bytes, for `crate::fuzzing`.

use std::io::{Read, Seek, SeekFrom};

use super::edits::display_order;
use super::index::read_track;
use crate::fuzzing::{self, Sparse};
use crate::media::h264::{Picture, fuzz::check_sps};
use crate::media::limits::{MAX_FPS, MAX_FRAMES};
use crate::media::timeline::Timeline;

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
        assert!(usize::from(sample.config) < track.head.configs.len());
        bytes += u64::from(sample.size);
    }
    assert!(bytes <= n_file, "samples overlap");
    check_sps(&track.head.sps);

    let (shown, times) = display_order(&track.samples, &track.head.edits);
    assert!(!shown.is_empty() && shown.len() <= n && shown.len() == times.len());
    assert!(shown.is_sorted_by_key(|&i| track.samples[i as usize].pts));
    let ticks = f64::from(track.head.ticks_per_second);
    let timeline = Timeline::new(times, track.last_duration, ticks).expect("it has frames");
    assert!(timeline.fps() > 0.0 && timeline.fps() <= MAX_FPS && timeline.duration() > 0.0);
    let last = timeline.n_frames() - 1;
    let order = [0, last / 3, last / 2, last].map(|i| timeline.shown_at(i));
    assert!(order.is_sorted() && order[3] <= last);

    let (mut picture, mut sample) = (Picture::default(), Vec::new());
    for s in track.samples.iter().take(4).filter(|s| s.size <= 1 << 16) {
        sample.resize(s.size as usize, 0);
        file.seek(SeekFrom::Start(s.offset)).and_then(|_| file.read_exact(&mut sample)).expect("it lies in the file");
        picture.read(&sample, track.head.configs[usize::from(s.config)].length_size);
        assert!(picture.annex_b.len() <= 5 * sample.len() + 64);
    }
}

pub(crate) fn mp4_seeds() -> Vec<Vec<u8>> {
    fuzzing::files("media", &[".mp4", ".mov"]).iter().map(|file| Sparse::input(file)).collect()
}

/// What the decoder is given in each of the golden files: for the target `h264`, its decoder configuration, its parameter sets
/// and its first sample.
pub(crate) fn parts_of_seeds() -> Vec<[Vec<u8>; 3]> {
    let part = |file: &Vec<u8>| {
        let track = read_track(&mut std::io::Cursor::new(file)).ok()?;
        let at = file.windows(4).position(|w| w == b"avcC")?;
        let size = u32::from_be_bytes(*file[..at].last_chunk()?) as usize;
        let config = file.get(at + 4..at - 4 + size)?.to_vec();
        let sample = track.samples[0];
        let sample = file[sample.offset as usize..][..sample.size as usize].to_vec();
        Some([config, track.head.configs.first()?.sps.clone()?, sample])
    };
    fuzzing::files("media", &[".mp4", ".mov"]).iter().filter_map(part).collect()
}
