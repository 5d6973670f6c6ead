//! Sizes, frames and pixels of the newer families against the goldens.

use longtake::media::Rgb;
use longtake::media::patch::{PatchSpec, pixel_values};
use longtake::media::resize::{Rounding, bicubic_integer, smart_resize_by, volume_size};
use longtake::media::sample::{SampleOptions, frame_indices, frame_size, frames_taken, seconds_per_pair};
use longtake::model::family::{QWEN2_5_VL, QWEN3_5, QWEN3_VL, VideoRules};
use longtake::stream::stamp;
use serde_json::Value;

use crate::common::{Arrays, families_json, golden_families, max_abs_diff};

const QWEN3: VideoRules = VideoRules::of(QWEN3_VL.video);
const QWEN2_5: VideoRules = VideoRules::of(QWEN2_5_VL.video);

fn size(row: &Value, key: &str) -> usize {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} of {row}")) as usize
}

fn check(row: &Value, column: &str, got: longtake::Result<(usize, usize)>) {
    match (&row[column], got) {
        (Value::Null, Err(_)) => {}
        (Value::Array(want), Ok((h, w))) => {
            assert_eq!([Some(h as u64), Some(w as u64)], [want[0].as_u64(), want[1].as_u64()], "{row}");
        }
        (_, got) => panic!("{column} of {row}: {got:?}"),
    }
}

#[test]
fn qwen3_5_has_the_videos_of_qwen3_vl() {
    assert_eq!(QWEN3_5.video, QWEN3_VL.video);
}

/// Table 3.1, L7: limits in pixels as published, f64, halves to even.
#[test]
fn l7_golden_sizes_of_pictures() {
    let rows = families_json("preprocess/smart_resize.json");
    for row in rows.as_array().unwrap() {
        let (h, w, factor) = (size(row, "height"), size(row, "width"), size(row, "factor"));
        let (min, max) = (size(row, "min_pixels") as f64, size(row, "max_pixels") as f64);
        check(row, "5.24.0", smart_resize_by(h, w, factor, min, max, Rounding::Processor));
    }
}

/// Table 3.1, L6: 640 x 360 is stretched to the grid, not padded.
#[test]
fn l6_pictures_are_stretched() {
    let got = smart_resize_by(360, 640, 28, 3136.0, 12_845_056.0, Rounding::Processor).unwrap();
    assert_eq!(got, (364, 644));
    let src = Rgb { height: 360, width: 640, data: vec![200; 360 * 640 * 3] };
    assert!(bicubic_integer(&src, 364, 644).data.iter().all(|p| *p == 200), "no black row");
}

/// Table 3.1, L8: a video is bounded as a whole, whatever its length.
#[test]
fn l8_golden_sizes_of_videos() {
    let rows = families_json("preprocess/video_size.json");
    for row in rows.as_array().unwrap() {
        let (n, h, w, factor) = (size(row, "frames"), size(row, "height"), size(row, "width"), size(row, "factor"));
        let (shortest, longest) = (size(row, "shortest_edge") as u64, size(row, "longest_edge") as u64);
        if factor == 32 {
            let rules = VideoRules { shortest: Some(shortest), longest: Some(longest), ..QWEN3 };
            let of = |cap_pixels_per_frame| {
                let options = SampleOptions { cap_pixels_per_frame, ..SampleOptions::default() };
                frame_size(n, (h, w), 32, &options, &rules)
            };
            // The reference has no answer for a frame alone, which is a pair with itself here.
            if n > 1 {
                check(row, "5.24.0", volume_size(n, h, w, 32, shortest as f64, longest as f64));
                check(row, "5.24.0", of(false));
                check(row, "5.24.0 capped", of(true));
            }
        } else {
            check(row, "5.24.0", smart_resize_by(h, w, 28, shortest as f64, longest as f64, Rounding::Processor));
            let rules = VideoRules { shortest: Some(shortest), longest: Some(longest), ..QWEN2_5 };
            check(row, "5.24.0 capped", frame_size(n, (h, w), 28, &SampleOptions::default(), &rules));
        }
    }
    // An hour of 640 x 360, as worked out in the description of the family: 28 tokens a pair.
    let options = SampleOptions::default();
    let taken = frames_taken(108_000, 30.0, &options, &QWEN3).unwrap();
    assert_eq!((taken.n, frame_size(taken.n, (360, 640), 32, &options, &QWEN3).unwrap()), (768, (128, 224)));
    for seconds in [1, 60, 3600, 100_000] {
        let taken = frames_taken(seconds * 30, 30.0, &options, &QWEN3).unwrap();
        let (h, w) = frame_size(taken.n, (2160, 3840), 32, &options, &QWEN3).unwrap();
        assert!(taken.n.div_ceil(2) * (h / 32) * (w / 32) <= 12_288, "{seconds} s");
    }
}

/// Table 3.2, T7: Qwen2-VL's own processor takes frames at a constant step, Qwen3-VL's spreads them, each in its own arithmetic;
/// stamps are the mean of a pair's seconds, an odd last frame is paired with itself.
#[test]
fn t7_golden_frames_and_stamps() {
    let rows = families_json("preprocess/frame_sampling.json");
    for row in rows.as_array().unwrap() {
        let (total, fps) = (size(row, "total_frames"), row["video_fps"].as_f64().unwrap());
        let options = SampleOptions { fps: row["fps"].as_f64(), ..SampleOptions::default() };
        let list = |value: &Value| -> Vec<usize> {
            value.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect()
        };
        let got = frame_indices(total, fps, &options, &QWEN3).unwrap();
        assert_eq!(got, list(&row["qwen3_vl"]["indices"]), "{total} frames at {fps}");
        let stamps: Vec<String> =
            got.chunks(2).map(|pair| stamp(pair[0] as f64 / fps, pair[pair.len() - 1] as f64 / fps)).collect();
        let want: Vec<&str> =
            row["qwen3_vl"]["stamps"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        assert_eq!(stamps, want, "{total} frames at {fps}");
        if !row["qwen2_5_vl"].is_null() {
            let row = &row["qwen2_5_vl"];
            let got = frame_indices(total, fps, &options, &QWEN2_5).unwrap();
            assert_eq!(got, list(&row["indices"]), "{total} frames at {fps}");
            let taken = frames_taken(total, fps, &options, &QWEN2_5).unwrap();
            let (got, want) = (seconds_per_pair(&taken, fps), row["second_per_grid"].as_f64().unwrap());
            assert!((got - want).abs() <= 1e-15 * want, "{total} frames at {fps}: {got} instead of {want}");
            assert_eq!(got as f32, want as f32);
        }
    }
}

#[test]
fn golden_pixels_of_pictures_and_videos() {
    let index = families_json("preprocess/index.json");
    let mut n = 0;
    for kind in ["images", "videos"] {
        for row in index[kind].as_array().unwrap() {
            let file = row["file"].as_str().unwrap();
            let arrays = Arrays::at(&golden_families().join("preprocess").join(file));
            let (h, w, patch) = (size(row, "height"), size(row, "width"), size(row, "patch"));
            n += 1;
            let (new_h, new_w) =
                (row["resized"][0].as_u64().unwrap() as usize, row["resized"][1].as_u64().unwrap() as usize);
            let rgb = arrays.u8("rgb");
            let frames: Vec<Rgb> = rgb
                .chunks_exact(h * w * 3)
                .map(|data| bicubic_integer(&Rgb { height: h, width: w, data: data.to_vec() }, new_h, new_w))
                .collect();
            let got: Vec<u8> = frames.iter().flat_map(|frame| frame.data.clone()).collect();
            assert!(got == arrays.u8("resized"), "{file}: resized bytes differ");
            if arrays.has("pixel_values") {
                let spec = spec(patch);
                let mut rows = Vec::new();
                for pair in frames.chunks(2) {
                    pixel_values([&pair[0], &pair[pair.len() - 1]], &spec, &mut rows);
                }
                assert!(max_abs_diff(&rows, &arrays.f32("pixel_values")) < 1e-5, "{file}");
            }
        }
    }
    assert!(n >= 2, "{n} items");
}

fn spec(patch: usize) -> PatchSpec {
    let (mean, std) = match patch {
        16 => ([0.5; 3], [0.5; 3]),
        _ => ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
    };
    PatchSpec { patch, merge: 2, mean, std }
}

/// A folder or list of frames is used whole, with as many frames as there are.
#[test]
fn lists_of_frames_are_used_whole() {
    let options = SampleOptions { whole: true, fps: Some(3.3), ..SampleOptions::default() };
    assert_eq!(frame_indices(5, 3.3, &options, &QWEN3).unwrap(), [0, 1, 2, 3, 4]);
    assert_eq!(frame_indices(5, 3.3, &options, &QWEN2_5).unwrap(), [0, 1, 2, 3, 4, 4]);
    let taken = frames_taken(14, 2.4, &SampleOptions { fps: Some(2.4), ..options.clone() }, &QWEN2_5).unwrap();
    assert!((seconds_per_pair(&taken, 2.4) - 2.0 / 2.4).abs() < 1e-15);
    let taken = frames_taken(5, 2.5, &options, &QWEN2_5).unwrap();
    assert!((seconds_per_pair(&taken, 2.5) - 0.8).abs() < 1e-15, "an odd last frame does not slow time down");
}
