//! Sizes, resampling, normalisation and sampling against the reference's numbers.

use longtake::ErrorKind;
use longtake::media::patch::{Grid, PatchSpec, image_rows, pixel_values};
use longtake::media::resize::{bicubic, bicubic_film, smart_resize, smart_resize_strict};
use longtake::media::sample::{SampleOptions, check_options, frame_indices, frame_size, pixel_bounds};
use longtake::media::{FrameSource, Rgb, VideoInfo};
use longtake::model::family::{QWEN2_VL, VideoRules};
use serde_json::Value;

use super::image_file::{hex, media_json};
use crate::common::{Arrays, golden_json, max_abs_diff};

pub fn qwen_spec() -> PatchSpec {
    PatchSpec {
        patch: 14,
        merge: 2,
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.26862954, 0.261_302_6, 0.275_777_1],
    }
}

const RULES: VideoRules = VideoRules::of(QWEN2_VL.video);

fn number(row: &Value, key: &str) -> usize {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} of {row}")) as usize
}

fn pair(value: &Value) -> (usize, usize) {
    (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize)
}

/// The reference's answer, and ours for the same row: null and sides of zero are errors here.
fn check_size(row: &Value, want: &Value, got: longtake::Result<(usize, usize)>) {
    match got {
        Ok(got) => assert_eq!(got, pair(want), "{row}"),
        Err(err) => {
            assert!(want.is_null() || want[0] == 0 || want[1] == 0, "{row}: {err}");
            assert!(matches!(err.kind(), ErrorKind::BadInput | ErrorKind::Limit), "{row}: {err:?}");
        }
    }
}

#[test]
fn smart_resize_agrees_with_both_references() {
    let rows = golden_json("preprocess/smart_resize.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 60);
    for row in rows {
        let (h, w, factor) = (number(row, "height"), number(row, "width"), number(row, "factor"));
        let (min, max) = (row["min_pixels"].as_f64().unwrap(), row["max_pixels"].as_f64().unwrap());
        check_size(row, &row["utils"], smart_resize(h, w, factor, min, max));
        check_size(row, &row["image_processor"], smart_resize_strict(h, w, factor, min, max));
    }
}

fn rgb(data: &[u8], height: usize, width: usize) -> Rgb {
    Rgb { height, width, data: data.to_vec() }
}

#[test]
fn images_agree_byte_for_byte() {
    let index = golden_json("preprocess/index.json");
    let images = index["images"].as_array().unwrap();
    assert!(!images.is_empty());
    for item in images {
        let arrays = Arrays::open(&format!("preprocess/{}", item["file"].as_str().unwrap()));
        let (min, max) = (item["min_pixels"].as_f64().unwrap(), item["max_pixels"].as_f64().unwrap());
        let image = rgb(&arrays.u8("rgb"), number(item, "height"), number(item, "width"));
        let (h, w) = smart_resize_strict(image.height, image.width, 28, min, max).unwrap();
        assert_eq!((h, w), pair(&item["resized"]), "{item}");
        assert!(bicubic(&image, h, w).data == arrays.u8("resized"), "{item}: resized bytes differ");
        let (rows, grid) = image_rows(&image, &qwen_spec(), min, max).unwrap();
        let thw: Vec<i64> = [grid.t, grid.h, grid.w].map(|n| n as i64).to_vec();
        assert_eq!(thw, arrays.i64("grid_thw"), "{item}");
        assert_eq!(rows.len(), grid.n_patches() * qwen_spec().row_len());
        check_values(&rows, &arrays.f32("pixel_values"), item);
    }
}

/// Shapes for which Pillow 13 resizes columns first, rows first, or where it makes no difference.
#[test]
fn bicubic_agrees_byte_for_byte_in_every_shape() {
    let rows = media_json("resize.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 12);
    for row in rows {
        let ((h, w), (new_h, new_w)) = (pair(&row["from"]), pair(&row["to"]));
        let at = |y, x, c| ((y * 37 + x * 101 + c * 59 + x * y * 7) % 256) as u8;
        let data = (0..h * w * 3).map(|i| at(i / 3 / w, i / 3 % w, i % 3)).collect();
        let got = bicubic(&Rgb { height: h, width: w, data }, new_h, new_w);
        assert!(got.data == hex(row["rgb"].as_str().unwrap()), "{h}x{w} to {new_h}x{new_w}");
    }
}

/// Bit for bit: the table repeats the reference's roundings.
fn check_values(rows: &[f32], want: &[f32], item: &Value) {
    let diff = max_abs_diff(rows, want);
    assert!(diff == 0.0, "{item}: pixel_values differ by {diff}");
}

#[test]
fn videos_agree_byte_for_byte() {
    let index = golden_json("preprocess/index.json");
    let videos = index["videos"].as_array().unwrap();
    assert!(!videos.is_empty());
    for item in videos {
        let arrays = Arrays::open(&format!("preprocess/{}", item["file"].as_str().unwrap()));
        let (n, h, w) = (number(item, "frames"), number(item, "height"), number(item, "width"));
        let options = SampleOptions {
            whole: true,
            min_pixels: item["min_pixels"].as_u64(),
            max_pixels: item["max_pixels"].as_u64(),
            ..Default::default()
        };
        let indices = frame_indices(n, 2.0, &options, &RULES).unwrap();
        let (new_h, new_w) = frame_size(indices.len(), (h, w), 28, &options, &RULES).unwrap();
        assert_eq!((new_h, new_w), pair(&item["resized"]), "{item}");
        let source = arrays.u8("rgb");
        let frames: Vec<Rgb> =
            source.chunks_exact(h * w * 3).map(|frame| bicubic(&rgb(frame, h, w), new_h, new_w)).collect();
        let resized: Vec<u8> = frames.iter().flat_map(|f| f.data.clone()).collect();
        assert!(resized == arrays.u8("resized"), "{item}: resized bytes differ");
        let mut rows = Vec::new();
        for two in indices.chunks_exact(2) {
            pixel_values([&frames[two[0]], &frames[two[1]]], &qwen_spec(), &mut rows);
        }
        let grid = Grid::of(indices.len() / 2, new_h, new_w, &qwen_spec());
        assert_eq!([grid.t, grid.h, grid.w].map(|v| v as i64).to_vec(), arrays.i64("grid_thw"), "{item}");
        check_values(&rows, &arrays.f32("pixel_values"), item);
    }
}

/// Frames of video files go through another resizer than pictures, and the two are not interchangeable.
#[test]
fn frames_of_video_files_are_resized_as_torchvision_does() {
    let index = golden_json("preprocess/index.json");
    let (mut n_resized, mut worst) = (0, 0);
    for item in index["videos"].as_array().unwrap() {
        let arrays = Arrays::open(&format!("preprocess/{}", item["file"].as_str().unwrap()));
        let (h, w) = (number(item, "height"), number(item, "width"));
        let (new_h, new_w) = pair(&item["resized"]);
        let (source, want) = (arrays.u8("rgb"), arrays.u8("resized_torchvision"));
        for (frame, want) in source.chunks_exact(h * w * 3).zip(want.chunks_exact(new_h * new_w * 3)) {
            let got = bicubic_film(&rgb(frame, h, w), new_h, new_w);
            assert!(got.data == want, "{item}: resized bytes differ");
            let pictures = bicubic(&rgb(frame, h, w), new_h, new_w);
            let off = pictures.data.iter().zip(want).map(|(a, b)| a.abs_diff(*b)).max();
            worst = worst.max(off.unwrap());
            n_resized += usize::from((h, w) != (new_h, new_w));
        }
    }
    assert!(n_resized >= 10 && worst >= 8, "{n_resized} frames, {worst} of 255 between the two");
}

fn options_of(row: &Value) -> SampleOptions {
    let options = row["options"].as_object().unwrap();
    let count = |key: &str| options.get(key).map(|v| v.as_u64().unwrap() as usize);
    let pixels = |key: &str| options.get(key).map(|v| v.as_u64().unwrap());
    let known = ["fps", "nframes", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels"];
    assert!(options.keys().all(|k| known.contains(&k.as_str())), "an option this test does not know: {row}");
    SampleOptions {
        fps: options.get("fps").map(|v| v.as_f64().unwrap()),
        nframes: count("nframes"),
        min_frames: count("min_frames"),
        max_frames: count("max_frames"),
        min_pixels: pixels("min_pixels"),
        max_pixels: pixels("max_pixels"),
        total_pixels: pixels("total_pixels"),
        ..Default::default()
    }
}

#[test]
fn frame_sampling_agrees_on_every_index() {
    let rows = golden_json("preprocess/frame_sampling.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 60);
    for row in rows {
        let total = number(row, "total_frames");
        let got = frame_indices(total, row["video_fps"].as_f64().unwrap(), &options_of(row), &RULES);
        let what = format!("{total} frames, {}", row["options"]);
        if row["uniform_rounded"].is_null() {
            assert_eq!(got.expect_err(&what).kind(), ErrorKind::BadInput, "{what}");
            continue;
        }
        let want: Vec<usize> =
            row["uniform_rounded"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
        let got = got.unwrap();
        let differs = (0..got.len().max(want.len())).find(|&i| got.get(i) != want.get(i));
        assert_eq!(differs, None, "{what}: {} indices, expected {}", got.len(), want.len());
    }
}

#[test]
fn frame_budgets_agree() {
    let rows = golden_json("preprocess/video_budget.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 40);
    for row in rows {
        let (n, h, w) = (number(row, "frames"), number(row, "height"), number(row, "width"));
        let options = options_of(row);
        let bounds = pixel_bounds(n, 28, &options, &RULES).unwrap();
        let want = (row["min_pixels"].as_f64().unwrap(), row["max_pixels"].as_f64().unwrap());
        assert_eq!(bounds, want, "{row}");
        check_size(row, &row["resized"], frame_size(n, (h, w), 28, &options, &RULES));
    }
}

/// Fault 29: smallest pictures are enlarged, extreme shapes refused.
#[test]
fn extreme_shapes_are_defined() {
    for (h, w, ok) in [(1, 1, true), (1, 200, true), (1, 201, false), (1, 10_000, false), (10_000, 1, false)] {
        let got = smart_resize(h, w, 28, 3136.0, 12_845_056.0);
        assert_eq!(got.is_ok(), ok, "{h}x{w}: {got:?}");
    }
    for (h, w) in [(0, 0), (0, 5), (5, 0)] {
        assert_eq!(smart_resize(h, w, 28, 3136.0, 12_845_056.0).unwrap_err().kind(), ErrorKind::BadInput);
    }
    let one = Rgb { height: 1, width: 1, data: vec![10, 20, 30] };
    let (rows, grid) = image_rows(&one, &qwen_spec(), 3136.0, 12_845_056.0).unwrap();
    assert_eq!((rows.len(), grid), (16 * 1176, Grid { t: 1, h: 4, w: 4 }));
    for (min, max) in [(f64::NAN, 1.0), (0.0, f64::NAN), (5.0, 4.0), (-1.0, 4.0), (0.0, f64::INFINITY)] {
        let err = smart_resize(50, 50, 28, min, max).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::BadInput, "{min} to {max}");
    }
    assert_eq!(smart_resize(50, 50, 28, 1e12, 1e13).unwrap_err().kind(), ErrorKind::Limit);
    assert!(smart_resize(usize::MAX, usize::MAX, 28, 3136.0, 12_845_056.0).is_err());
}

/// Fault 37: requests that make no sense are refused before the video is touched.
#[test]
fn senseless_sampling_options_are_bad_input() {
    let base = SampleOptions::default;
    let rows = [
        SampleOptions { fps: Some(0.0), ..base() },
        SampleOptions { fps: Some(-1.0), ..base() },
        SampleOptions { fps: Some(f64::NAN), ..base() },
        SampleOptions { fps: Some(f64::INFINITY), ..base() },
        SampleOptions { fps: Some(1e9), ..base() },
        SampleOptions { nframes: Some(0), ..base() },
        SampleOptions { nframes: Some(1), ..base() },
        SampleOptions { fps: Some(1.0), nframes: Some(4), ..base() },
        SampleOptions { video_start: Some(3.0), video_end: Some(3.0), ..base() },
        SampleOptions { video_start: Some(4.0), video_end: Some(3.0), ..base() },
        SampleOptions { video_start: Some(f64::NAN), ..base() },
        SampleOptions { min_frames: Some(9), max_frames: Some(8), ..base() },
        SampleOptions { min_pixels: Some(9), max_pixels: Some(8), ..base() },
        SampleOptions { resized_height: Some(56), ..base() },
        SampleOptions { whole: true, nframes: Some(4), ..base() },
    ];
    for options in rows {
        assert_eq!(check_options(&options).expect_err("refused").kind(), ErrorKind::BadInput, "{options:?}");
        assert_eq!(
            frame_indices(100, 25.0, &options, &RULES).expect_err("refused").kind(),
            ErrorKind::BadInput,
            "{options:?}"
        );
    }
    // These depend on the video.
    let late = [
        SampleOptions { nframes: Some(102), ..base() },
        SampleOptions { nframes: Some(usize::MAX), ..base() },
        SampleOptions { video_start: Some(4.0), ..base() },
        SampleOptions { video_start: Some(1e300), ..base() },
        SampleOptions { video_end: Some(-1.0), ..base() },
        SampleOptions { max_frames: Some(1), ..base() },
        SampleOptions { max_frames: Some(0), ..base() },
    ];
    for options in late {
        let err = frame_indices(100, 25.0, &options, &RULES).expect_err("refused");
        assert_eq!(err.kind(), ErrorKind::BadInput, "{options:?}");
    }
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(frame_indices(100, fps, &base(), &RULES).is_err(), "video at {fps}");
    }
    assert_eq!(frame_indices(0, 25.0, &base(), &RULES).unwrap_err().kind(), ErrorKind::BadInput);
    assert_eq!(frame_indices(usize::MAX, 25.0, &base(), &RULES).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(frame_size(0, (50, 50), 28, &base(), &RULES).unwrap_err().kind(), ErrorKind::BadInput);
}

/// Whatever is asked for, indices are in order, in range, and even in number.
#[test]
fn indices_are_in_order_and_in_range() {
    use proptest::prelude::*;
    let strategy = (1usize..(1 << 23), 0.1f64..500.0, 0.01f64..1000.0, 0usize..5000, any::<bool>(), 0.0f64..1e5);
    proptest!(|((total, video_fps, fps, n, by_count, start) in strategy)| {
        let options = SampleOptions {
            fps: (!by_count).then_some(fps),
            nframes: by_count.then_some(n),
            max_frames: (n % 3 == 0).then_some(n),
            video_start: (n % 5 == 0).then_some(start),
            ..Default::default()
        };
        if let Ok(indices) = frame_indices(total, video_fps, &options, &RULES) {
            prop_assert!(indices.len() % 2 == 0 && !indices.is_empty());
            prop_assert!(indices.is_sorted() && *indices.last().unwrap() < total);
        }
    });
}

/// The trait can be implemented outside the crate, as tests of other rooms do.
struct Blank(VideoInfo);

impl FrameSource for Blank {
    fn info(&self) -> &VideoInfo {
        &self.0
    }

    fn frame(&mut self, _index: usize) -> longtake::Result<Rgb> {
        Ok(Rgb { height: 1, width: 1, data: vec![0; 3] })
    }
}

#[test]
fn a_source_needs_two_functions() {
    let info = VideoInfo { n_frames: 1, fps: 1.0, duration: 1.0, height: 1, width: 1, decoder: "blank".into() };
    let mut source: Box<dyn FrameSource> = Box::new(Blank(info));
    assert_eq!((source.skipped(), source.is_frame_list()), (0, false));
    assert_eq!(source.frame(0).unwrap().data.len(), 3);
}
