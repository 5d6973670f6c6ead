//! Frame pairs that were there before are not encoded again, and nothing else changes: every family's cache to the last byte.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::Result;
use longtake::media::{FrameSource, Rgb, VideoInfo};
use longtake::position::Layout;
use longtake::stream::{
    Engine, Event, Events, LiveOptions, LivePlan, MediaOptions, MediaPlan, Probe, Session, WhenFull,
};

use crate::common::{engine_of, family_models, golden_families};
use crate::endless::{options, prompt};
use crate::golden_families::{Pair, convert_checkpoint};

/// Frames (160, 128): each number is a slide.
struct Slides {
    info: VideoInfo,
    slides: Vec<usize>,
}

/// What they are in pixels, a multiple of every family's patches.
const SIZE: (usize, usize) = (128, 160);

impl FrameSource for Slides {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        let ((height, width), slide) = (SIZE, self.slides[index]);
        let pixel = |i: usize| ((i / 3 % width * (slide + 3) + i / 3 / width * 7 + i % 3 * 50) % 251) as u8;
        Ok(Rgb { height, width, data: (0..height * width * 3).map(pixel).collect() })
    }
}

/// The slide of each pair, and whether it is found again: near, further back, and not behind more others than are kept.
fn pairs() -> Vec<(usize, bool)> {
    let mut pairs = vec![(0, false), (0, true), (1, false), (1, true), (0, true), (2, false), (2, true), (2, true)];
    pairs.extend((3..=44).map(|slide| (slide, false)));
    pairs.extend([(0, false), (44, true), (44, true)]);
    pairs
}

fn plan(engine: &Engine, slides: Vec<usize>) -> MediaPlan {
    let (n_frames, (height, width)) = (slides.len(), SIZE);
    let info = VideoInfo { n_frames, fps: 2.0, duration: n_frames as f64 / 2.0, height, width, decoder: "test".into() };
    let source = Box::new(Slides { info, slides });
    MediaPlan::frames(source, "slides".into(), &media(), engine.need_vision().unwrap()).unwrap()
}

/// Frames as large as they are, and all of them.
fn media() -> MediaOptions {
    let (mut options, n_pixels) = (MediaOptions::default(), (SIZE.0 * SIZE.1) as u64);
    let sample = &mut options.sample;
    (sample.min_pixels, sample.max_pixels, sample.whole) = (Some(n_pixels / 2), Some(n_pixels), true);
    sample.fps = Some(2.0);
    options
}

/// Who looks on, and therefore gets to see every pair in the tower.
struct Onlooker;

impl Probe for Onlooker {
    fn is_tracing(&self) -> bool {
        true
    }
}

/// What a session holds after a video: rows, states; and which pairs were found again.
fn read(engine: &Arc<Engine>, slides: Vec<usize>, probe: Option<&mut Onlooker>) -> (Vec<u8>, Vec<f32>, Vec<bool>) {
    let mut prompt = prompt(engine, plan(engine, slides));
    let mut session = Session::new(engine, options(2400, 64)).unwrap();
    let (cancel, mut reused) = (AtomicBool::new(false), Vec::new());
    let mut sink = |event| {
        if let Event::Encoded { is_reused, .. } = event {
            reused.push(is_reused);
        }
    };
    let events = Events::new(&mut sink, &cancel);
    let mut events = match probe {
        Some(probe) => events.with_probe(probe),
        None => events,
    };
    session.feed(&mut prompt, &mut events).unwrap();
    // Layers on a GPU keep their rows there.
    session.pull().unwrap();
    let cache = session.cache();
    let rows = cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec()).collect();
    (rows, cache.states().unwrap().to_vec(), reused)
}

/// The model of the first family, and one of each of the others.
fn engines(dir: &Path) -> Vec<(String, Arc<Engine>)> {
    let mut engines = vec![("qwen2_vl".to_string(), crate::stream::engine())];
    for (checkpoint, index) in family_models() {
        let family = index["family"].as_str().unwrap();
        let layout = if family == "qwen2_5_vl" { Layout::Mrope } else { Layout::MropeI };
        if engines.iter().all(|(known, _)| known != family) {
            let Pair { text, mmproj } = convert_checkpoint(&golden_families(), dir, &checkpoint, layout);
            engines.push((family.to_string(), Arc::new(engine_of(text, Some(mmproj)).unwrap())));
        }
    }
    assert!(engines.len() >= 4, "{} families", engines.len());
    engines
}

/// Reads `pairs`, each a slide and whether it is found again, with and without finding them.
pub fn check_slides(family: &str, engine: &Arc<Engine>, pairs: &[(usize, bool)]) {
    let slides: Vec<usize> = pairs.iter().flat_map(|(slide, _)| [*slide; 2]).collect();
    let want: Vec<bool> = pairs.iter().map(|(_, is_reused)| *is_reused).collect();
    let (rows, states, reused) = read(engine, slides.clone(), None);
    let all = read(engine, slides, Some(&mut Onlooker));
    assert_eq!(reused, want, "{family}");
    assert!(all.2.iter().all(|is_reused| !is_reused), "{family}");
    assert!(rows == all.0 && states == all.1, "{family}: with and without");
}

/// What makes it exact: a pair's tokens are those that it gets alone, whatever goes through the tower with it.
pub fn check_pairs_are_alone(family: &str, engine: &Engine, n_pairs: usize) {
    let tower = engine.need_vision().unwrap();
    let mut plan = plan(engine, (0..2 * n_pairs).collect());
    let mut pixels = Vec::new();
    (0..n_pairs).for_each(|pair| plan.pixels(pair, &mut pixels).unwrap());
    let (h, w) = (plan.grid.h, plan.grid.w);
    let (all, n) = (tower.encode(&pixels, h, w, None).unwrap(), pixels.len() / n_pairs);
    for n_together in 1..n_pairs {
        let some = tower.encode(&pixels[..n_together * n], h, w, None).unwrap();
        assert!(all[..some.len()] == some, "{family}: {n_together} pairs together");
    }
}

#[test]
fn slides_that_come_again_are_not_encoded_again_and_the_cache_is_the_same_to_the_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    for (family, engine) in engines(dir.path()) {
        check_slides(&family, &engine, &pairs());
        // A single pixel is another pair.
        let (.., reused) = read(&engine, (0..60).collect(), None);
        assert_eq!(reused, [false; 30], "{family}");
    }
}

/// Two views of a camera, which the decoder gives bit for bit.
#[test]
fn a_camera_that_looks_at_the_same_thing_is_encoded_once() {
    let ((height, width), views) = (SIZE, [7, 7, 7, 7, 9, 9, 7, 7]);
    let mut y4m = format!("YUV4MPEG2 W{width} H{height} F2:1 C444\n").into_bytes();
    for view in views.iter().flat_map(|view| [view; 2]) {
        y4m.extend(b"FRAME\n");
        y4m.extend((0..3 * height * width).map(|at| (at * view / 11 % 251) as u8));
    }
    let engine = crate::stream::engine();
    let options_of = media();
    let tower = engine.need_vision().unwrap();
    let mut plan = LivePlan::open(Cursor::new(y4m), "-", &options_of, tower, &|| false).unwrap();
    let mut session = Session::new(&engine, options(views.len() * plan.shape.per_pair + 200, 64)).unwrap();
    let (cancel, mut reused) = (AtomicBool::new(false), Vec::new());
    let mut sink = |event| {
        if let Event::Streamed { is_reused, .. } = event {
            reused.push(is_reused);
        }
    };
    let live = LiveOptions { when_full: WhenFull::Stop, reserve: 60 };
    session.watch(&[1, 2], &mut plan, live, &mut Events::new(&mut sink, &cancel), &mut |_, _, _| {}).unwrap();
    assert_eq!(reused, [false, true, true, true, false, true, true, true]);
}

#[test]
fn tokens_of_a_pair_do_not_depend_on_the_pairs_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    for (family, engine) in engines(dir.path()) {
        check_pairs_are_alone(&family, &engine, 5);
    }
}
