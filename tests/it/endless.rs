//! Streams of unknown length: equal to files where they fit, exact where it can be when they forget, and clear when they break.

use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use longtake::cache::{CacheType, KvCache};
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::media::Decoders;
use longtake::media::ffmpeg::Tools;
use longtake::model::{Batch, Scratch};
use longtake::position::{Layout, Placer, Pos};
use longtake::stream::{
    Around, Engine, Event, Events, GenerateOptions, IfExists, LiveEnd, LiveOptions, LivePlan, LiveShape, LiveTake,
    MediaOptions, MediaPlan, Prompt, Session, SessionOptions, Take, WhenFull, Window, question,
};
use longtake::text::template::RenderOptions;
use longtake::text::{Content, MediaSource, Message, Part, Sampler, SamplerOptions};
use longtake::{ErrorKind, Result};

use crate::common::{golden, max_abs_diff};

pub const QUESTION: &str = "What moves?";
const LABEL: &str = "standard input";

/// The tiny checkpoint under another layout, with its first `n_layer` layers only, in F32: the sums of 16-bit weights are
/// rounded differently for different batches.
pub fn engine(layout: Layout, n_layer: usize) -> Arc<Engine> {
    let dir = golden().join("gguf_models");
    let file = Gguf::open(&dir.join("tiny-c.gguf")).unwrap();
    let arch = longtake::model::architecture_of(&longtake::model::family::QWEN2_VL, layout).unwrap();
    let mut meta = Metadata::default();
    for (key, value) in file.meta().iter() {
        let key = key.strip_prefix("qwen2vl.").map_or(key.to_string(), |rest| format!("{arch}.{rest}"));
        meta.set(key, value.clone());
    }
    meta.set("general.architecture", arch.as_str());
    meta.set(format!("{arch}.block_count"), n_layer as u32);
    let kept = |name: &str| {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        layer.is_none_or(|il| il.parse::<usize>().unwrap() < n_layer)
    };
    let mmproj = Gguf::open(&dir.join("mmproj-tiny-c.gguf")).unwrap();
    let tower = in_f32(&mmproj, mmproj.meta().clone(), |_| true);
    Arc::new(crate::common::engine_of(in_f32(&file, meta, kept), Some(tower)).unwrap())
}

/// The tensors of `file` that are `kept`, in F32.
fn in_f32(file: &Gguf, meta: Metadata, kept: impl Fn(&str) -> bool) -> Arc<Gguf> {
    let tensors: Vec<_> = file.tensors().iter().filter(|t| kept(&t.name)).collect();
    let mut writer = GgufWriter::new(meta);
    tensors.iter().for_each(|t| writer.tensor(&t.name, GgmlType::F32, &t.ne).unwrap());
    let bytes = writer.to_bytes(|i, out| {
        let mut row = vec![0.0; tensors[i].ne.iter().product()];
        longtake::tensor::dequantize_row(tensors[i].ty, file.data(tensors[i]), &mut row)?;
        out.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        Ok(())
    });
    Arc::new(Gguf::from_vec("in-f32.gguf", bytes.unwrap()).unwrap())
}

/// Y4M of frames `frames`, (84, 56): a bright bar that moves over a pattern, no two frames alike.
pub fn y4m(fps: usize, frames: impl Iterator<Item = usize>) -> Vec<u8> {
    let (width, height) = (84, 56);
    let mut bytes = format!("YUV4MPEG2 W{width} H{height} F{fps}:1 C444\n").into_bytes();
    for i in frames {
        bytes.extend(b"FRAME\n");
        let luma = |at: usize| if at % width / 7 == i % 12 { 230 } else { 20 + ((at / width + i) * 3 % 160) as u8 };
        bytes.extend((0..width * height).map(luma));
        bytes.extend((0..2 * width * height).map(|at| 90 + ((at / 9 + 5 * i) % 70) as u8));
    }
    bytes
}

fn media(fps: f64) -> MediaOptions {
    let mut options = MediaOptions::default();
    let sample = &mut options.sample;
    (sample.min_pixels, sample.max_pixels, sample.fps) = (Some(3136), Some(4704), Some(fps));
    options
}

fn live(engine: &Arc<Engine>, reader: impl Read + Send + 'static, fps: f64) -> Result<LivePlan> {
    LivePlan::open(reader, LABEL, &media(fps), engine.need_vision().unwrap(), &|| false)
}

/// The same frames as a file.
fn file(engine: &Arc<Engine>, dir: &Path, bytes: &[u8], fps: f64) -> MediaPlan {
    let path = dir.join("frames.y4m");
    std::fs::write(&path, bytes).unwrap();
    MediaPlan::video(&path, &media(fps), engine.need_vision().unwrap()).unwrap()
}

pub fn prompt(engine: &Arc<Engine>, plan: MediaPlan) -> Prompt {
    let video = Part::Video { source: MediaSource::Path("-".into()), options: Default::default() };
    let content = Content::Parts(vec![video, Part::Text(QUESTION.to_string())]);
    let messages = [Message::new("user", content)];
    let render = RenderOptions { add_generation_prompt: true, add_vision_id: false, special: false, tools: &[] };
    let units = Prompt::units(engine, &messages, render).unwrap();
    Prompt { units, images: Vec::new(), videos: vec![plan] }
}

pub fn options(n_ctx: usize, n_batch: usize) -> SessionOptions {
    let ty = GgmlType::F32;
    SessionOptions { n_ctx, n_batch, type_k: ty.into(), type_v: ty.into(), temporal_scale: Some(0.75) }
}

/// Feeds and generates eight greedy tokens.
pub fn answer(session: &mut Session, prompt: &mut Prompt) -> Vec<u32> {
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let mut events = Events::new(&mut sink, &cancel);
    session.feed(prompt, &mut events).unwrap();
    let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() }).unwrap();
    let options = GenerateOptions { n_predict: 8, ignore_eos: true };
    let mut ignore = |_: &str| ControlFlow::Continue(());
    session.generate(&mut sampler, options, &mut events, &mut ignore).unwrap().0
}

/// Watches a stream to its end.
pub fn watch(
    session: &mut Session,
    plan: &mut LivePlan,
    (when_full, reserve): (WhenFull, usize),
    keep: &mut dyn FnMut(&KvCache, Window, &mut Events<'_>),
) -> Result<(Window, LiveEnd)> {
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let before = Around::of(session.engine(), None).unwrap().before;
    let live = LiveOptions { when_full, reserve };
    session.watch(&before, plan, live, &mut Events::new(&mut sink, &cancel), keep)
}

/// Watches, then answers.
fn stream_answer(session: &mut Session, plan: &mut LivePlan, policy: (WhenFull, usize)) -> (Vec<u32>, Window, LiveEnd) {
    let (window, end) = watch(session, plan, policy, &mut |_, _, _| {}).unwrap();
    let mut prompt = prompt(session.engine(), plan.shape.seen(window));
    (answer(session, &mut prompt), window, end)
}

#[test]
fn a_stream_that_fits_gives_the_answer_of_the_same_video_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for layout in Layout::OF_HOPE {
        let engine = engine(layout, 2);
        for (n_frames, step) in [(20, 1), (20, 4), (7, 1)] {
            let taken: Vec<usize> = (0..n_frames).map(|k| k * step).collect();
            // An odd last frame is taken twice, as of a folder of frames; a file would leave it out.
            let pairs = taken.iter().copied().chain((n_frames % 2 == 1).then_some(taken[n_frames - 1]));
            let as_file = y4m(2, pairs);
            let mut fresh = Session::new(&engine, options(400, 16)).unwrap();
            let want = answer(&mut fresh, &mut prompt(&engine, file(&engine, dir.path(), &as_file, 2.0)));
            for when_full in [WhenFull::Stop, WhenFull::Forget] {
                let bytes = y4m(2 * step, 0..(n_frames - 1) * step + 1);
                let mut plan = live(&engine, Cursor::new(bytes), 2.0).unwrap();
                let mut session = Session::new(&engine, options(400, 16)).unwrap();
                let (got, window, end) = stream_answer(&mut session, &mut plan, (when_full, 60));
                assert!(matches!(end, LiveEnd::Over), "{end:?}");
                assert_eq!(window, Window { n_pairs: n_frames.div_ceil(2), n_forgotten: 0, n_gone: 0 });
                assert_eq!(got, want, "{layout}, {n_frames} frames, every {step}");
                assert_eq!(session.n_past(), fresh.n_past());
            }
        }
    }
}

/// Everything that a fresh run over a window needs.
struct Fresh<'e> {
    engine: &'e Arc<Engine>,
    /// (n, n_embd) and positions of what stands before the stream and of the window; then of the question.
    context: (Vec<f32>, Vec<Pos>),
    question: (Vec<f32>, Vec<Pos>),
}

impl<'e> Fresh<'e> {
    /// The rows of `window`, at the places where they stood in the whole stream.
    fn new(engine: &'e Arc<Engine>, shape: &LiveShape, video: &mut MediaPlan, window: Window) -> Fresh<'e> {
        let (model, tower) = (&engine.text, engine.need_vision().unwrap());
        let (Around { before, .. }, n_embd) = (Around::of(engine, None).unwrap(), model.hparams().n_embd);
        let embed = |ids: &[u32]| {
            let mut rows = vec![0.0; ids.len() * n_embd];
            model.embed(ids, &mut rows).unwrap();
            rows
        };
        let (mut embd, mut placer, mut pos) = (embed(&before), Placer::new(model.hparams().layout), Vec::new());
        placer.text(before.len(), &mut pos);
        let merged = shape.grid.merged(tower.hparams().merge);
        placer.begin_visual(merged.h, merged.w, Some(0.75)).unwrap();
        placer.pass_frames(window.n_forgotten).unwrap();
        for pair in 0..window.n_pairs {
            let mut pixels = Vec::new();
            video.pixels(pair, &mut pixels).unwrap();
            if pair >= window.n_forgotten {
                embd.extend(tower.encode(&pixels, shape.grid.h, shape.grid.w, None).unwrap());
                placer.frames(1, &mut pos);
            }
        }
        placer.end_visual();
        let after: Vec<u32> = prompt(engine, shape.seen(window))
            .units
            .iter()
            .skip(before.len() + 1)
            .map(|unit| match unit {
                longtake::stream::Unit::Token(id) => *id,
                unit => panic!("{unit:?} after the stream"),
            })
            .collect();
        let mut pos_after = Vec::new();
        placer.text(after.len(), &mut pos_after);
        Fresh { engine, context: (embd, pos), question: (embed(&after), pos_after) }
    }

    /// The cache after the window, with all positions moved by `shift`.
    fn cache(&self, shift: f64, ty: CacheType) -> KvCache {
        let hp = self.engine.text.hparams();
        let n_ctx = self.context.1.len() + self.question.1.len();
        let shape = hp.cache_shape(n_ctx, (ty, ty));
        let mut cache = KvCache::new(shape).unwrap();
        self.forward(&self.context, shift, &mut cache, 0);
        cache
    }

    /// The logits of the question's last token behind what `cache` holds.
    fn ask(&self, cache: &KvCache, shift: f64) -> Vec<f32> {
        self.forward(&self.question, shift, &mut cache.to_memory().unwrap(), 1)
    }

    fn forward(
        &self,
        (embd, pos): &(Vec<f32>, Vec<Pos>),
        shift: f64,
        cache: &mut KvCache,
        n_logits: usize,
    ) -> Vec<f32> {
        let pos: Vec<Pos> = pos.iter().map(|p| Pos { t: p.t + shift, h: p.h + shift, w: p.w + shift }).collect();
        let mut scratch = Scratch::new(self.engine.text.hparams(), pos.len());
        let batch = Batch { embd, deep: &[], pos: &pos, n_logits };
        self.engine.text.forward(&batch, cache, &mut scratch, None).unwrap().to_vec()
    }
}

/// Keys and values of layer `il` in use.
fn rows(cache: &KvCache, il: usize) -> Vec<f32> {
    let n = cache.shape().n_head_kv;
    let n_runs = cache.shape().n_layer * n;
    let runs = cache.runs(0..cache.len()).enumerate().filter(|(i, _)| i % n_runs / n == il);
    runs.flat_map(|(_, (_, _, bytes))| {
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
    })
    .collect()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// One layer knows nothing but its own keys and values: forgetting is exact. With more, the first still is, and how far the
/// others are from a run that never saw the forgotten frames is printed.
#[test]
fn a_window_after_forgetting_is_a_fresh_run_over_the_same_window() {
    let dir = tempfile::tempdir().unwrap();
    // With the sections of this file HoPE-X would rotate as HoPE does.
    let layouts = Layout::OF_HOPE.into_iter().filter(|layout| *layout != Layout::HopeX);
    for (layout, n_layer) in layouts.flat_map(|layout| [(layout, 1), (layout, 2)]) {
        let engine = engine(layout, n_layer);
        for (n_frames, n_batch) in [(120, 16), (97, 5), (400, 16)] {
            let case = format!("{layout}, {n_layer} layers, {n_frames} frames, steps of {n_batch}");
            let mut plan = live(&engine, Cursor::new(y4m(2, 0..n_frames)), 2.0).unwrap();
            // A transform knows nothing of positions, so that rows may move under it, too.
            let ty = CacheType { ty: GgmlType::F32, hadamard: n_frames == 97 };
            let mut session =
                Session::new(&engine, SessionOptions { type_k: ty, type_v: ty, ..options(200, n_batch) }).unwrap();
            let (window, end) = watch(&mut session, &mut plan, (WhenFull::Forget, 60), &mut |_, _, _| {}).unwrap();
            assert!(matches!(end, LiveEnd::Over) && window.n_pairs == n_frames.div_ceil(2), "{case}: {end:?}");
            let n_window = (window.n_pairs - window.n_forgotten) * plan.shape.per_pair;
            assert!(window.n_forgotten > 0 && n_window > 70 && session.n_past() <= 140, "{case}: {window:?}");
            let frames = (0..n_frames).chain((n_frames % 2 == 1).then_some(n_frames - 1));
            let mut video = file(&engine, dir.path(), &y4m(2, frames), 2.0);
            let fresh = Fresh::new(&engine, &plan.shape, &mut video, window);
            let want = fresh.cache(0.0, ty);
            assert_eq!(session.cache().len(), want.len(), "{case}");
            let first = max_abs_diff(&rows(session.cache(), 0), &rows(&want, 0));
            assert!(first <= 1e-5 * largest(&rows(&want, 0)), "{case}: layer 0 off by {first}");
            let (got, logits) = (fresh.ask(session.cache(), 0.0), fresh.ask(&want, 0.0));
            // Scores depend on differences of positions: nothing hangs on where the window stands.
            let shift = -fresh.context.1.last().unwrap().t;
            let shifted = max_abs_diff(&fresh.ask(&fresh.cache(shift, ty), shift), &logits);
            assert!(shifted <= 1e-4 * largest(&logits), "{case}: shifted by {shift}, logits are off by {shifted}");
            let off = max_abs_diff(&got, &logits) / largest(&logits);
            if n_layer == 1 {
                assert!(off <= 1e-5, "{case}: logits off by {off}");
            } else {
                let second = max_abs_diff(&rows(session.cache(), 1), &rows(&want, 1)) / largest(&rows(&want, 1));
                let best = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                let same = if best(&got) == best(&logits) { "same" } else { "another" };
                eprintln!(
                    "{case}: keys and values of layer 1 are off by {second:.1e}, logits by {off:.1e}, {same} token"
                );
                assert!(second > first, "{case}: the forgotten frames left no trace");
            }
        }
    }
}

#[test]
fn a_full_context_stops_the_stream_with_what_fits() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine(Layout::Hope, 2));
    let n_before = Around::of(&engine, None).unwrap().before.len();
    for n_batch in [3, 64] {
        let mut plan = live(&engine, Cursor::new(y4m(2, 0..80)), 2.0).unwrap();
        let mut session = Session::new(&engine, options(160, n_batch)).unwrap();
        let (got, window, end) = stream_answer(&mut session, &mut plan, (WhenFull::Stop, 60));
        assert!(matches!(end, LiveEnd::Full), "{end:?}");
        assert_eq!(window, Window { n_pairs: (100 - n_before) / 6, n_forgotten: 0, n_gone: 0 });
        let mut whole = prompt(&engine, file(&engine, dir.path(), &y4m(2, 0..2 * window.n_pairs), 2.0));
        assert_eq!(got, answer(&mut Session::new(&engine, options(160, n_batch)).unwrap(), &mut whole));
    }
    // Too small for a single pair, or for a window that moves.
    for (n_ctx, when_full) in [(60 + n_before + 5, WhenFull::Stop), (60 + n_before + 20, WhenFull::Forget)] {
        let mut plan = live(&engine, Cursor::new(y4m(2, 0..4)), 2.0).unwrap();
        let mut session = Session::new(&engine, options(n_ctx, 16)).unwrap();
        let err = watch(&mut session, &mut plan, (when_full, 60), &mut |_, _, _| {}).unwrap_err();
        assert!(err.kind() == ErrorKind::Limit && err.to_string().contains(&n_ctx.to_string()), "{err}");
    }
}

/// Fault 42 for streams: whatever breaks, there is one clear error, and what was seen before can be asked about.
#[test]
fn a_broken_stream_keeps_what_was_seen() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine(Layout::Mrope, 2));
    let whole = y4m(2, 0..20);
    let frame = y4m(2, 0..2).len() - y4m(2, 0..1).len();
    let cut = whole.len() - 7 * frame - 1000;
    let mut changed = whole[..whole.len() - 8 * frame].to_vec();
    changed.extend(y4m(2, 0..1));
    let mut garbage = whole[..whole.len() - 8 * frame].to_vec();
    garbage.extend((0..5000).map(|i| (i * 31 % 251) as u8));
    let mut want = prompt(&engine, file(&engine, dir.path(), &y4m(2, 0..12), 2.0));
    let want = answer(&mut Session::new(&engine, options(300, 16)).unwrap(), &mut want);
    for (bytes, says) in [(whole[..cut].to_vec(), "is cut off"), (changed, "another Y4M header"), (garbage, "frame 12")]
    {
        let mut plan = live(&engine, Cursor::new(bytes), 2.0).unwrap();
        let mut session = Session::new(&engine, options(300, 16)).unwrap();
        let (got, window, end) = stream_answer(&mut session, &mut plan, (WhenFull::Forget, 60));
        let LiveEnd::Failed(err) = end else { panic!("{end:?}") };
        let message = err.to_string();
        assert!(message.contains(LABEL) && message.contains("frame 12") && message.contains(says), "{message}");
        assert_eq!((window.n_pairs, &got), (6, &want), "{says}");
    }
    for (bytes, says) in
        [(&whole[..whole.len() - 20 * frame], "before its first frame"), (&whole[..4000], "frame 0: is cut")]
    {
        let mut plan = live(&engine, Cursor::new(bytes.to_vec()), 2.0).unwrap();
        let mut session = Session::new(&engine, options(300, 16)).unwrap();
        let err = watch(&mut session, &mut plan, (WhenFull::Stop, 60), &mut |_, _, _| {}).unwrap_err();
        assert!(err.to_string().contains(LABEL) && err.to_string().contains(says), "{err}");
        // The session is as good as new.
        assert_eq!(answer(&mut session, &mut prompt(&engine, file(&engine, dir.path(), &y4m(2, 0..12), 2.0))), want);
    }
    for (bytes, says) in
        [(&whole[..9], "ffmpeg"), (&whole[..20], "header"), (&b""[..], "empty"), (&[0xff; 3000][..], "ffmpeg")]
    {
        let err = live(&engine, Cursor::new(bytes.to_vec()), 2.0).err().unwrap();
        assert!(err.to_string().contains(LABEL) && err.to_string().contains(says), "{err}");
    }
    let mut options = media(2.0);
    options.sample.total_pixels = Some(1 << 20);
    let tower = engine.need_vision().unwrap();
    let err = LivePlan::open(Cursor::new(whole), LABEL, &options, tower, &|| false).err().unwrap();
    assert!(err.kind() == ErrorKind::BadInput && err.to_string().contains("total_pixels"), "{err}");
}

#[test]
fn a_take_of_a_stream_answers_like_the_session_that_watched_it() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine(Layout::Hope, 2));
    let path = dir.path().join("camera.take");
    for (n_ctx, forgets) in [(500, false), (200, true)] {
        let options = options(n_ctx, 16);
        let mut plan = live(&engine, Cursor::new(y4m(2, 0..90)), 2.0).unwrap();
        let shape = plan.shape.clone();
        let mut session = Session::new(&engine, options).unwrap();
        let around = Around::of(&engine, None).unwrap();
        let every = Some(std::time::Duration::ZERO);
        let mut take = LiveTake::new((&path, IfExists::Refuse), (None, around.before), options, every).unwrap();
        let mut saved = 0;
        let mut keep = |cache: &KvCache, window: Window, events: &mut Events<'_>| {
            take.save(&engine, &shape.seen(window), cache, events).unwrap();
            // Whoever asks meanwhile finds a whole take, of this moment.
            let now = Take::open(&path, true).unwrap();
            assert!(now.is_complete() && now.n_done() <= cache.len() && now.n_done() + shape.per_pair > cache.len());
            assert_eq!((now.header.grid[0], now.header.n_forgotten), (window.n_pairs, window.n_forgotten));
            if saved % 7 == 3 {
                let mut asking = Session::from_take(&engine, &now).unwrap();
                assert_eq!(answer(&mut asking, &mut question(&engine, &now.header, QUESTION, false).unwrap()).len(), 8);
            }
            saved += 1;
        };
        let (window, _) = watch(&mut session, &mut plan, (WhenFull::Forget, 60), &mut keep).unwrap();
        assert!((window.n_forgotten > 0) == forgets && window.n_pairs == 45 && saved > 10, "{window:?}, {saved} saves");
        let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
        let mut events = Events::new(&mut sink, &cancel);
        take.save(&engine, &shape.seen(window), session.cache(), &mut events).unwrap();
        let want = answer(&mut session, &mut prompt(&engine, shape.seen(window)));
        for mmap in [true, false] {
            let take = Take::open(&path, mmap).unwrap();
            assert_eq!(take.header.frames.len(), 2 * (45 - window.n_forgotten));
            let mut session = Session::from_take(&engine, &take).unwrap();
            for _ in 0..2 {
                assert_eq!(answer(&mut session, &mut question(&engine, &take.header, QUESTION, false).unwrap()), want);
            }
        }
        // A stream cannot be gone on with.
        let err = LiveTake::new((&path, IfExists::Refuse), (None, Vec::new()), options, None).err().unwrap();
        assert!(err.to_string().contains("exists already"), "{err}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files are left");
        std::fs::remove_file(&path).unwrap();
    }
}

/// A take written before streams were known has no key that counts forgotten pairs, and opens.
#[test]
fn header_keys_of_forgotten_pairs_are_optional_and_checked() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine(Layout::Hope, 1));
    let options = options(200, 16);
    let mut plan = live(&engine, Cursor::new(y4m(2, 0..90)), 2.0).unwrap();
    let mut session = Session::new(&engine, options).unwrap();
    let (window, _) = watch(&mut session, &mut plan, (WhenFull::Forget, 60), &mut |_, _, _| {}).unwrap();
    let path = dir.path().join("a.take");
    let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
    let before = Around::of(&engine, None).unwrap().before;
    let mut take = LiveTake::new((&path, IfExists::Refuse), (None, before), options, None).unwrap();
    let mut events = Events::new(&mut sink, &cancel);
    take.save(&engine, &plan.shape.seen(window), session.cache(), &mut events).unwrap();
    let header = Take::open(&path, true).unwrap().header;
    assert_eq!(longtake::stream::TakeHeader::read(&header.to_metadata()).unwrap(), header);
    let mut meta = header.to_metadata();
    meta.remove("take.n_forgotten").unwrap();
    assert_eq!(longtake::stream::TakeHeader::read(&meta).unwrap().n_forgotten, 0);
    for (grid, n_forgotten) in [([45, 2, 3], 45), ([45, 2, 3], 46), ([usize::MAX, 2, 3], 1), ([45, 1 << 40, 3], 44)] {
        let bad = longtake::stream::TakeHeader { grid, n_forgotten, ..header.clone() };
        assert!(bad.check().is_err(), "{grid:?} less {n_forgotten}");
    }
}

/// A slow model holds the stream back: however long it lasts, only a few frames are ever in memory.
#[test]
fn a_stream_is_never_read_far_ahead() {
    struct Counted(Cursor<Vec<u8>>, Arc<AtomicUsize>);
    impl Read for Counted {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(to)?;
            self.1.fetch_add(n, Ordering::SeqCst);
            Ok(n)
        }
    }
    let engine = engine(Layout::Hope, 1);
    // Frames of 42 x 56 patches are too large for two pairs to be encoded together.
    let (width, height, n_frames) = (56 * 14, 42 * 14, 28);
    let mut bytes = format!("YUV4MPEG2 W{width} H{height} F2:1 Cmono\n").into_bytes();
    for i in 0..n_frames {
        bytes.extend(b"FRAME\n");
        bytes.resize(bytes.len() + width * height, 9 * i);
    }
    let n_read = Arc::new(AtomicUsize::new(0));
    let mut options_live = media(2.0);
    options_live.sample.max_pixels = Some(1 << 20);
    let reader = Counted(Cursor::new(bytes), n_read.clone());
    let tower = engine.need_vision().unwrap();
    let mut plan = LivePlan::open(reader, LABEL, &options_live, tower, &|| false).unwrap();
    assert_eq!(Session::pairs_at_once(plan.shape.grid.h, plan.shape.grid.w), 1);
    let mut session = Session::new(&engine, options(4 * plan.shape.per_pair + 600, 256)).unwrap();
    let (cancel, mut furthest) = (AtomicBool::new(false), 0);
    let mut sink = |event| {
        if let Event::Streamed { seen, .. } = event {
            std::thread::sleep(std::time::Duration::from_millis(40));
            furthest = furthest.max(n_read.load(Ordering::SeqCst) / (width * height) - 2 * (seen - 1));
        }
    };
    let live = LiveOptions { when_full: WhenFull::Forget, reserve: 60 };
    let mut events = Events::new(&mut sink, &cancel);
    let (window, _) = session.watch(&[1, 2, 3], &mut plan, live, &mut events, &mut |_, _, _| {}).unwrap();
    assert!(window.n_pairs == 14 && window.n_forgotten > 0, "{window:?}");
    // Pairs: being encoded, waiting, being decoded. Frames: waiting, being read. A buffer holds the beginning of the next.
    assert!(furthest <= 3 * 2 + 2, "{furthest} frames in memory");
}

/// Asked to stop, a session that waits for a silent camera keeps what it has seen.
#[test]
fn a_stop_ends_a_silent_stream_with_what_was_seen() {
    /// Frames, then silence.
    struct Camera(Cursor<Vec<u8>>);
    impl Read for Camera {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(to)? {
                0 => loop {
                    std::thread::park();
                },
                n => Ok(n),
            }
        }
    }
    let engine = engine(Layout::Hope, 2);
    let mut plan = live(&engine, Camera(Cursor::new(y4m(2, 0..30))), 2.0).unwrap();
    let mut session = Session::new(&engine, options(400, 16)).unwrap();
    let cancel = AtomicBool::new(false);
    let before = Around::of(&engine, None).unwrap().before;
    let live = LiveOptions { when_full: WhenFull::Stop, reserve: 60 };
    let (window, end) = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Long after the last frame was read, or at any moment before: each ends well.
            std::thread::sleep(std::time::Duration::from_millis(700));
            cancel.store(true, Ordering::Relaxed);
        });
        let mut sink = |_| {};
        session.watch(&before, &mut plan, live, &mut Events::new(&mut sink, &cancel), &mut |_, _, _| {}).unwrap()
    });
    assert!(matches!(end, LiveEnd::Stopped) && window.n_pairs > 0, "{end:?} after {window:?}");
    assert_eq!(session.n_past(), before.len() + window.n_pairs * plan.shape.per_pair);
    assert_eq!(answer(&mut session, &mut prompt(&engine, plan.shape.seen(window))).len(), 8);
}

#[test]
fn anything_else_goes_through_ffmpeg() {
    if Tools::on_path().is_none() {
        eprintln!("skipped: ffmpeg is not installed");
        return;
    }
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine(Layout::Hope, 1));
    let frames = dir.path().join("frames.y4m");
    std::fs::write(&frames, y4m(8, 0..80)).unwrap();
    let matroska = Command::new("ffmpeg")
        .args(["-v", "error", "-i", frames.to_str().unwrap(), "-c:v", "ffv1", "-f", "matroska", "-"])
        .output()
        .unwrap()
        .stdout;
    let tower = engine.need_vision().unwrap();
    let installed = MediaOptions { decoders: Decoders::installed(), ..media(2.0) };
    let open = |bytes: Vec<u8>| LivePlan::open(Cursor::new(bytes), LABEL, &installed, tower, &|| false);
    let mut plan = open(matroska.clone()).unwrap();
    assert_eq!((plan.shape.info.width, plan.shape.info.height, plan.shape.info.taken_fps()), (84, 56, 2.0));
    let mut session = Session::new(&engine, options(400, 16)).unwrap();
    let (window, end) = watch(&mut session, &mut plan, (WhenFull::Stop, 60), &mut |_, _, _| {}).unwrap();
    assert!(matches!(end, LiveEnd::Over) && window.n_pairs == 10, "{end:?} after {window:?}");
    let err = open(b"no video at all, whoever looks at it".to_vec()).err().unwrap().to_string();
    assert!(err.contains(LABEL) && err.contains("no video in it"), "{err}");
}
