//! A picture of thousands of patches: cut into parts within the vision tower, which can be watched and stopped.

#[cfg(unix)]
use std::io::{BufRead, BufReader};
#[cfg(unix)]
use std::process::Command;
#[cfg(unix)]
use std::time::{Duration, Instant};

use longtake::gguf::Gguf;
use longtake::model::VisionTower;
use longtake::{Error, ErrorKind};

use crate::common::{golden, max_abs_diff};
#[cfg(unix)]
use crate::plan::command;

/// A tower whose weights have 16 bits: quantized ones round by what else is in a batch.
fn tower() -> VisionTower {
    let path = golden().join("gguf_models/mmproj-tiny-c.gguf");
    crate::common::vision_tower(&std::sync::Arc::new(Gguf::open(&path).unwrap())).unwrap().0
}

/// A pair that is cut into parts comes out as it does beside another one, when it is not cut.
#[test]
fn parts_of_a_pair_are_the_pair() {
    let tower = tower();
    let (h, w) = (48, 46);
    let values = tower.hparams().n_patch_values();
    let pixels: Vec<f32> = (0..h * w * values).map(|i| ((i * 7919) % 509) as f32 / 255.0 - 1.0).collect();
    let mut steps = Vec::new();
    let cut = tower.encode_in_steps(&pixels, h, w, None, &mut |done, all| {
        steps.push((done, all));
        Ok(())
    });
    let cut = cut.unwrap();
    let n_parts = (h * w).div_ceil(2048);
    let all = tower.hparams().n_layer * n_parts;
    assert_eq!(steps, (1..=all).map(|done| (done, all)).collect::<Vec<_>>());
    let whole = tower.encode(&pixels.repeat(2), h, w, None).unwrap();
    assert_eq!(whole.len(), 2 * cut.len());
    let scale = cut.iter().fold(0f32, |top, v| top.max(v.abs()));
    for half in whole.chunks_exact(cut.len()) {
        let diff = max_abs_diff(half, &cut);
        assert!(diff <= 1e-3 * scale, "{diff} of {scale}");
    }
    let stopped = tower.encode_in_steps(&pixels, h, w, None, &mut |done, _| match done {
        2 => Err(Error::new(ErrorKind::Cancelled, "enough")),
        _ => Ok(()),
    });
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// Ctrl-C ends the program within a picture, not behind it.
#[test]
#[cfg(unix)]
fn a_large_picture_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photo.png");
    image::RgbImage::from_pixel(4032, 3024, image::Rgb([90, 20, 200])).save(&path).unwrap();
    let mut run = command(&["run", "-p", "?", "-n", "1", "--max-pixels", "13000000", "--image"]);
    let mut child = run.arg(&path).spawn().unwrap();
    // The plan was said before the work, with its minutes.
    let mut said = Vec::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines.by_ref() {
        said.push(line.unwrap());
        if said.iter().any(|line| line.starts_with("time: ")) {
            break;
        }
    }
    assert!(said.iter().any(|line| line.starts_with("picture: ")), "{said:?}");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "the picture was no work");
    let told = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    // Somebody listens to its last words.
    said.extend(lines.map(|line| line.unwrap()));
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{said:?}");
    assert!(told.elapsed() < Duration::from_secs(15), "it took {:?}", told.elapsed());
}
