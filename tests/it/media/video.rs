//! Video files against what ffmpeg decodes from them (`videos.json`, made by `make/media_files.sh`).

use longtake::media::video::open_video_with;
use longtake::media::{FrameSource, Rgb};
use longtake::{ErrorKind, Result};

use super::image_file::{hex, media_dir, media_json};

/// One row of `videos.json`.
pub struct Expected {
    pub file: String,
    pub built_in: bool,
    pub height: usize,
    pub width: usize,
    pub n_frames: usize,
    /// Seconds, in display order.
    pub times: Vec<f64>,
    /// Per frame: mean RGB of a 4x4 grid.
    pub means: Vec<Vec<f64>>,
    /// Every seventh byte of the first frame, for some files.
    pub samples: Vec<u8>,
}

pub fn expected() -> Vec<Expected> {
    let rows = media_json("videos.json");
    let numbers =
        |v: &serde_json::Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let count = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| Expected {
            file: row["file"].as_str().unwrap().into(),
            built_in: row["built_in"].as_bool().unwrap(),
            height: count(&row["height"]),
            width: count(&row["width"]),
            n_frames: count(&row["frames"]),
            times: numbers(&row["times"]),
            means: row["means"].as_array().unwrap().iter().map(numbers).collect(),
            samples: hex(row["samples"].as_str().unwrap()),
        })
        .collect()
}

pub fn expected_of(name: &str) -> Expected {
    expected().into_iter().find(|row| row.file == name).unwrap_or_else(|| panic!("{name} is not in videos.json"))
}

/// Opens a file of the repository without any external decoder.
pub fn open(name: &str) -> Result<Box<dyn FrameSource>> {
    open_video_with(&media_dir().join(name), None)
}

pub fn grid_means(rgb: &Rgb) -> Vec<f64> {
    let (h, w) = (rgb.height, rgb.width);
    let mut means = Vec::new();
    for gy in 0..4 {
        for gx in 0..4 {
            let (rows, columns) = (gy * h / 4..(gy + 1) * h / 4, gx * w / 4..(gx + 1) * w / 4);
            for c in 0..3 {
                let cell = rows.clone().flat_map(|y| columns.clone().map(move |x| (y * w + x) * 3 + c));
                let sum: f64 = cell.map(|i| f64::from(rgb.data[i])).sum();
                means.push(sum / (rows.len() * columns.len()) as f64);
            }
        }
    }
    means
}

/// Largest difference between the grid of a frame and the expected one.
pub fn distance(rgb: &Rgb, want: &[f64]) -> f64 {
    grid_means(rgb).iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The same between two frames.
pub fn distance_of(rgb: &Rgb, want: &Rgb) -> f64 {
    distance(rgb, &grid_means(want))
}

/// Neighbouring frames differ by nine levels in the middle block, so this also says which frame it is.
pub const TOLERANCE: f64 = 2.0;

/// Files whose pictures come at irregular times.
const IRREGULAR: [&str; 2] = ["vfr.mp4", "edited.mp4"];

/// The picture that frame `i` must show: the one on screen at its time, or the next one when that is nearer and at most half
/// a mean interval away.
fn shown(row: &Expected, i: usize) -> usize {
    let (first, last) = (row.times[0], *row.times.last().unwrap());
    let interval = (last - first) / (row.times.len() as f64 - 1.0).max(1.0);
    let time = first + i as f64 * interval;
    let now = row.times.iter().rposition(|&t| t <= time + 1e-6).unwrap();
    let ahead = row.times.get(now + 1).map_or(f64::MAX, |next| next - time);
    now + usize::from(ahead < time - row.times[now] && ahead <= interval / 2.0 + 1e-6)
}

#[test]
fn every_frame_of_every_file_agrees_with_ffmpeg() {
    let mut failures = Vec::new();
    for row in expected().iter().filter(|row| row.built_in) {
        let mut source = match open(&row.file) {
            Ok(source) => source,
            Err(err) => {
                failures.push(err.to_string());
                continue;
            }
        };
        let info = source.info().clone();
        if (info.n_frames, info.height, info.width) != (row.n_frames, row.height, row.width) {
            failures.push(format!("{}: {info:?}", row.file));
            continue;
        }
        for i in 0..row.n_frames {
            let at = shown(row, i);
            assert!(at == i || IRREGULAR.contains(&row.file.as_str()), "{}: frame {i} is picture {at}", row.file);
            let want = &row.means[at];
            let rgb = source.frame(i).unwrap_or_else(|err| panic!("{err}"));
            // The second size is scaled by another resampler than ours.
            let tolerance = if row.file == "two_sizes.mp4" && i >= 6 { 4.0 } else { TOLERANCE };
            let off = distance(&rgb, want);
            if off > tolerance || (rgb.height, rgb.width) != (row.height, row.width) {
                failures.push(format!("{} frame {i}: {rgb:?} is off by {off:.2}", row.file));
            }
            if i == 0 {
                let pairs = row.samples.iter().zip(rgb.data.iter().step_by(7));
                let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
                if worst > 0 {
                    failures.push(format!("{}: single values are off by {worst}", row.file));
                }
            }
        }
        if source.skipped() != 0 {
            failures.push(format!("{}: {} packets skipped", row.file, source.skipped()));
        }
        assert!(source.frame(row.n_frames).is_err_and(|err| err.kind() == ErrorKind::BadInput));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Fault 32: an irregular rate is sampled by the clock, so the busy parts do not crowd out the others.
#[test]
fn irregular_rates_are_sampled_by_time() {
    let row = expected_of("vfr.mp4");
    let mut source = open("vfr.mp4").unwrap();
    let info = source.info().clone();
    assert_eq!(info.n_frames, 12);
    assert!((info.duration - 1.48).abs() < 0.01, "{info:?}");
    let pictures: Vec<usize> = (0..info.n_frames).map(|i| shown(&row, i)).collect();
    let n_paused = pictures.iter().filter(|&&at| at == 5).count();
    assert!(n_paused >= 6, "the long pause shows its picture most of the time: {pictures:?}");
    for (i, &at) in pictures.iter().enumerate() {
        assert!(distance(&source.frame(i).unwrap(), &row.means[at]) < TOLERANCE, "frame {i} should show picture {at}");
    }
}

/// Whatever is skipped on the way, a frame is the same as when all are read.
#[test]
fn any_rising_choice_of_frames_gives_the_same_pictures() {
    for name in
        ["high_b.mp4", "open_gop.mp4", "fragments.mp4", "baseline.mp4", "edited.mp4", "yuv422p.y4m", "moving.gif"]
    {
        let all: Vec<Rgb> = {
            let mut source = open(name).unwrap();
            (0..source.info().n_frames).map(|i| source.frame(i).unwrap()).collect()
        };
        for step in 1..=all.len() {
            for first in 0..step.min(4) {
                let mut source = open(name).unwrap();
                for i in (first..all.len()).step_by(step) {
                    // Twice: asking again is allowed.
                    assert!(source.frame(i).unwrap() == all[i], "{name}: frame {i}, every {step} from {first}");
                    assert!(source.frame(i).unwrap() == all[i], "{name}: frame {i} again");
                }
            }
        }
    }
}

#[test]
fn info_is_known_before_decoding() {
    for row in expected().iter().filter(|row| row.built_in && !IRREGULAR.contains(&row.file.as_str())) {
        let info = open(&row.file).unwrap().info().clone();
        if row.times.len() > 1 {
            let span = row.times.last().unwrap() - row.times[0];
            let fps = (row.times.len() - 1) as f64 / span;
            assert!((info.fps / fps - 1.0).abs() < 0.01, "{}: {} fps, expected {fps}", row.file, info.fps);
            assert!((info.duration - row.n_frames as f64 / fps).abs() < 0.02, "{}: {info:?}", row.file);
        }
        assert!(info.decoder.contains("built-in"), "{info:?}");
    }
}
