//! The network against the reference implementation: every checkpoint, case and variant that the goldens hold.

use std::sync::Arc;

use longtake::cache::{CacheShape, CacheType, KvCache, cache_type};
use longtake::convert::{ConvertOptions, FileType, OutputFile, QuantizeOptions, convert, quantize};
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::media::patch::PatchSpec;
use longtake::media::{Rgb, resize};
use longtake::model::{Batch, Scratch, TextModel, Trace, VisionTower, architecture_of};
use longtake::position::{Layout, Placer, Pos};
use serde_json::Value;

use crate::common::{Arrays, golden, golden_json, max_abs_diff};

/// Logits and hidden states, as `golden/README.md` suggests for f32 arithmetic.
const TOLERANCE: f32 = 2e-3;

/// What a file with 16-bit weights may differ by, since products then go through 16-bit integers: the worst of all logits of
/// tiny-c, which are of size 4 and reach 15, is off by 1.3e-2. The mean error is bounded by
/// [`smaller_weights_and_caches_stay_within_their_error`].
const TOLERANCE_16: f32 = 2e-2;

/// A text model and its projector as files in memory.
struct Pair {
    text: Arc<Gguf>,
    mmproj: Arc<Gguf>,
}

fn open_pair(name: &str) -> Pair {
    let dir = golden().join("gguf_models");
    let open = |file: String| Arc::new(Gguf::open(&dir.join(file)).unwrap());
    Pair { text: open(format!("{name}.gguf")), mmproj: open(format!("mmproj-{name}.gguf")) }
}

/// The same weights under another position layout.
fn with_layout(file: &Gguf, layout: Layout) -> Arc<Gguf> {
    let arch = architecture_of(&longtake::model::family::QWEN2_VL, layout).unwrap();
    let mut meta = Metadata::default();
    for (key, value) in file.meta().iter() {
        let key = key.strip_prefix("qwen2vl.").map_or(key.to_string(), |rest| format!("{arch}.{rest}"));
        meta.set(key, value.clone());
    }
    meta.set("general.architecture", arch.as_str());
    let mut writer = GgufWriter::new(meta);
    for t in file.tensors() {
        writer.tensor(t.name.clone(), t.ty, &t.ne).unwrap();
    }
    let bytes = writer.to_bytes(|i, out| {
        out.extend_from_slice(file.data(&file.tensors()[i]));
        Ok(())
    });
    Arc::new(Gguf::from_vec("with_layout", bytes.unwrap()).unwrap())
}

fn grids(v: &Value) -> Vec<[usize; 3]> {
    let side = |x: &Value| x.as_u64().unwrap() as usize;
    v.as_array().unwrap().iter().map(|g| [side(&g[0]), side(&g[1]), side(&g[2])]).collect()
}

/// A golden case: prompt, grids, and the visual tokens computed by our tower.
struct Case {
    name: String,
    ids: Vec<u32>,
    image_grids: Vec<[usize; 3]>,
    video_grids: Vec<[usize; 3]>,
    image: Vec<f32>,
    video: Vec<f32>,
    image_pad: u32,
    video_pad: u32,
}

impl Case {
    /// Encodes the media of a case and checks every stage of the tower on the way.
    fn load(model: &str, name: &str, entry: &Value, tower: &VisionTower, pads: (u32, u32), tolerance: f32) -> Case {
        let inputs = Arrays::open(&format!("model/{model}/{name}.inputs.safetensors"));
        let mut case = Case {
            name: format!("{model}/{name}"),
            ids: inputs.i64("input_ids").into_iter().map(|id| id as u32).collect(),
            image_grids: grids(&entry["image_grid_thw"]),
            video_grids: grids(&entry["video_grid_thw"]),
            image: Vec::new(),
            video: Vec::new(),
            image_pad: pads.0,
            video_pad: pads.1,
        };
        for kind in ["image", "video"] {
            let grids = if kind == "image" { &case.image_grids } else { &case.video_grids };
            if grids.is_empty() {
                continue;
            }
            let pixels = pixel_values(&inputs, kind, tower);
            let (values, n_embd) = (tower.hparams().n_patch_values(), tower.hparams().n_embd);
            let n_stage = tower.hparams().n_layer + 1;
            let (mut out, mut stages, mut at) = (Vec::new(), vec![Vec::new(); n_stage], 0);
            for [t, h, w] in grids {
                let rows = t * h * w;
                let mut trace = Trace::default();
                out.extend(tower.encode(&pixels[at * values..(at + rows) * values], *h, *w, Some(&mut trace)).unwrap());
                for (all, one) in stages.iter_mut().zip(&trace.vit_stages) {
                    all.extend_from_slice(one);
                }
                at += rows;
            }
            let want = inputs.f32(&format!("{kind}_vit_stages"));
            for (i, stage) in stages.iter().enumerate() {
                let want = &want[i * at * n_embd..(i + 1) * at * n_embd];
                let diff = max_abs_diff(stage, want);
                assert!(diff <= tolerance, "{}: {kind} ViT stage {i} off by {diff}", case.name);
            }
            let diff = max_abs_diff(&out, &inputs.f32(&format!("{kind}_vit_output")));
            assert!(diff <= tolerance, "{}: {kind} ViT output off by {diff}", case.name);
            *(if kind == "image" { &mut case.image } else { &mut case.video }) = out;
        }
        case
    }

    /// Positions of the prompt, and the placer for what follows.
    fn positions(&self, layout: Layout, scale: f64, merge: usize) -> (Vec<Pos>, Placer) {
        let (mut placer, mut pos, mut at) = (Placer::new(layout), Vec::new(), 0);
        let (mut images, mut videos) = (self.image_grids.iter(), self.video_grids.iter());
        while at < self.ids.len() {
            let grid = match self.ids[at] {
                id if id == self.image_pad => images.next().unwrap(),
                id if id == self.video_pad => videos.next().unwrap(),
                _ => {
                    placer.text(1, &mut pos);
                    at += 1;
                    continue;
                }
            };
            placer.begin_visual(grid[1] / merge, grid[2] / merge, Some(scale)).unwrap();
            placer.frames(grid[0], &mut pos);
            placer.end_visual();
            at = pos.len();
        }
        (pos, placer)
    }

    /// The prompt's embeddings, visual tokens in place of the pads.
    fn embeddings(&self, model: &TextModel) -> Vec<f32> {
        let n_embd = model.hparams().n_embd;
        let mut out = vec![0.0; self.ids.len() * n_embd];
        model.embed(&self.ids, &mut out).unwrap();
        for (pad, rows) in [(self.image_pad, &self.image), (self.video_pad, &self.video)] {
            let mut rows = rows.chunks_exact(n_embd);
            for (id, dst) in self.ids.iter().zip(out.chunks_exact_mut(n_embd)) {
                if *id == pad {
                    dst.copy_from_slice(rows.next().expect("as many pads as visual tokens"));
                }
            }
            assert!(rows.next().is_none());
        }
        out
    }
}

/// `pixel_values` as stored, or from the stored RGB where the selection leaves them out.
fn pixel_values(inputs: &Arrays, kind: &str, tower: &VisionTower) -> Vec<f32> {
    let name = format!("{kind}_pixel_values");
    if inputs.has(&name) {
        return inputs.f32(&name);
    }
    let hp = tower.hparams();
    let spec = PatchSpec { patch: hp.patch_size, merge: hp.merge, mean: hp.image_mean, std: hp.image_std };
    let mut rgb: Vec<String> =
        inputs.names().into_iter().filter(|n| n.starts_with("rgb_") && n.ends_with(kind)).collect();
    rgb.sort_by_key(|n| n.split('_').nth(1).unwrap().parse::<usize>().unwrap());
    let grids = inputs.i64(&format!("{kind}_grid_thw"));
    let mut out = Vec::new();
    for (name, grid) in rgb.iter().zip(grids.chunks_exact(3)) {
        let shape = inputs.shape(name);
        let (h, w) = (shape[shape.len() - 3], shape[shape.len() - 2]);
        let data = inputs.u8(name);
        let (height, width) = (grid[1] as usize * spec.patch, grid[2] as usize * spec.patch);
        let mut frames: Vec<Rgb> = data
            .chunks_exact(h * w * 3)
            .map(|data| resize::bicubic(&Rgb { height: h, width: w, data: data.to_vec() }, height, width))
            .collect();
        if frames.len() % 2 == 1 {
            frames.push(frames.last().unwrap().clone());
        }
        frames
            .chunks_exact(2)
            .for_each(|pair| longtake::media::patch::pixel_values([&pair[0], &pair[1]], &spec, &mut out));
    }
    out
}

/// What a run of a prompt and 16 greedy steps gives.
struct Run {
    position_ids: Vec<f32>,
    logits_last4: Vec<f32>,
    trace: Trace,
    layer0_k: Vec<f32>,
    generated: Vec<u32>,
    generated_positions: Vec<f32>,
    logits_after: Vec<f32>,
}

fn cache_shape(model: &TextModel, n_ctx: usize, ty: impl Into<CacheType>) -> CacheShape {
    let (hp, ty) = (model.hparams(), ty.into());
    hp.cache_shape(n_ctx, (ty, ty))
}

/// The last layer computes only the rows that logits are asked for: they are what they would be among all rows, and the
/// cache is the same to the byte, however many are asked for.
#[test]
fn rows_without_logits_change_nothing() {
    let (model, _) = crate::common::text_model(&open_pair("tiny-c").text).unwrap();
    let (hp, n) = (model.hparams(), 23);
    let tokens: Vec<u32> = (0..n as u32).map(|i| 5 + i * 7 % 90).collect();
    let (mut embd, mut pos) = (vec![0.0; n * hp.n_embd], Vec::new());
    model.embed(&tokens, &mut embd).unwrap();
    Placer::new(hp.layout).text(n, &mut pos);
    let mut scratch = Scratch::new(hp, n);
    let mut forward = |n_logits| {
        let mut cache = KvCache::new(cache_shape(&model, n, GgmlType::Q8_0)).unwrap();
        let batch = Batch { embd: &embd, deep: &[], pos: &pos, n_logits };
        let logits = model.forward(&batch, &mut cache, &mut scratch, None).unwrap().to_vec();
        let bytes: Vec<u8> = cache.runs(0..n).flat_map(|(_, _, bytes)| bytes.to_vec()).collect();
        (logits, bytes)
    };
    let (all, cache) = forward(n);
    assert_eq!(all.len(), n * hp.n_vocab);
    for n_logits in [0, 1, 2, 9, 22] {
        let (some, same) = forward(n_logits);
        assert!(same == cache, "the cache differs with {n_logits} rows of logits");
        assert_eq!(some.len(), n_logits * hp.n_vocab);
        if n_logits > 0 {
            // Few rows multiply other roundings of the weights than many.
            let error = nmse(&some, &all[(n - n_logits) * hp.n_vocab..]);
            assert!(error < 1e-5, "{n_logits} rows of logits are off by {error:.2e}");
        }
    }
}

/// Prefill in chunks of `chunk` tokens, then greedy decoding.
fn run(model: &TextModel, case: &Case, scale: f64, merge: usize, chunk: usize, steps: usize) -> Run {
    run_with(model, case, scale, merge, chunk, steps, GgmlType::F32)
}

/// The same with a cache of type `ty`.
fn run_with(
    model: &TextModel,
    case: &Case,
    scale: f64,
    merge: usize,
    chunk: usize,
    steps: usize,
    ty: impl Into<CacheType>,
) -> Run {
    let hp = model.hparams();
    let (pos, mut placer) = case.positions(hp.layout, scale, merge);
    let embd = case.embeddings(model);
    let n = pos.len();
    let mut cache = KvCache::new(cache_shape(model, n + steps, ty)).unwrap();
    let mut scratch = Scratch::new(hp, chunk.min(n));
    let mut trace = Trace::default();
    let mut logits_last4 = Vec::new();
    for at in (0..n).step_by(chunk) {
        let end = (at + chunk).min(n);
        let batch = Batch {
            deep: &[],
            embd: &embd[at * hp.n_embd..end * hp.n_embd],
            pos: &pos[at..end],
            n_logits: end.saturating_sub(at.max(n.saturating_sub(4))),
        };
        let trace = (end == n).then_some(&mut trace);
        logits_last4.extend_from_slice(model.forward(&batch, &mut cache, &mut scratch, trace).unwrap());
    }
    cache.pull().unwrap();
    let layer0_k = (0..hp.n_head_kv).flat_map(|ih| cache.keys_f32(0, ih, n).unwrap()).collect();
    let mut logits = logits_last4[logits_last4.len() - hp.n_vocab..].to_vec();
    let (mut generated, mut generated_positions) = (Vec::new(), Vec::new());
    let mut row = vec![0.0; hp.n_embd];
    for _ in 0..steps {
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        let mut pos = Vec::new();
        placer.text(1, &mut pos);
        generated.push(best);
        generated_positions.push(pos[0].t as f32);
        model.embed(&[best], &mut row).unwrap();
        let batch = Batch { embd: &row, deep: &[], pos: &pos, n_logits: 1 };
        logits = model.forward(&batch, &mut cache, &mut scratch, None).unwrap().to_vec();
    }
    let position_ids = [|p: &Pos| p.t as f32, |p: &Pos| p.h as f32, |p: &Pos| p.w as f32]
        .iter()
        .flat_map(|axis| pos.iter().map(axis))
        .collect();
    Run { position_ids, logits_last4, trace, layer0_k, generated, generated_positions, logits_after: logits }
}

fn pads(meta: &Metadata) -> (u32, u32) {
    let tokens = meta.need_strings("tokenizer.ggml.tokens").unwrap();
    let id = |name: &str| tokens.iter().position(|t| t == name).unwrap() as u32;
    (id("<|image_pad|>"), id("<|video_pad|>"))
}

/// Walks every case and variant of `model` through the files that `pair` gives for its layout.
fn check_model<'p>(model: &str, tolerance: f32, pair: impl Fn(Layout) -> &'p Pair) {
    // One chunk, odd chunks, token by token: the same answer.
    check_model_on(model, tolerance, pair, &[4096, 7, 1], (&mut |_| (), &mut |_| ()));
}

/// What is done to a model or a tower before it is used.
type Prepare<'a, T> = &'a mut dyn FnMut(&mut T);

/// The same in chunks of these sizes, with models and towers that were moved somewhere else first.
fn check_model_on<'p>(
    model: &str,
    tolerance: f32,
    pair: impl Fn(Layout) -> &'p Pair,
    chunks: &[usize],
    (move_text, move_tower): (Prepare<'_, TextModel>, Prepare<'_, VisionTower>),
) {
    let index = golden_json(&format!("model/{model}/index.json"));
    let (mut tower, unused) = crate::common::vision_tower(&pair(Layout::Mrope).mmproj).unwrap();
    move_tower(&mut tower);
    assert!(unused.is_empty(), "{unused:?}");
    let merge = tower.hparams().merge;
    let mut models = std::collections::HashMap::new();
    for (name, entry) in index["cases"].as_object().unwrap() {
        let case = Case::load(model, name, entry, &tower, pads(pair(Layout::Mrope).text.meta()), tolerance);
        for (label, info) in entry["variants"].as_object().unwrap() {
            let layout = Layout::from_name(info["variant"].as_str().unwrap()).unwrap();
            let text = models.entry(layout).or_insert_with(|| {
                let mut text = crate::common::text_model(&pair(layout).text).unwrap().0;
                move_text(&mut text);
                text
            });
            let want = Arrays::open(&format!("model/{model}/{name}.{label}.safetensors"));
            let scale = info["scale"].as_f64().unwrap();
            let safe = info["safe_steps"].as_u64().unwrap() as usize;
            let wanted_tokens: Vec<u32> = want.i64("generated").into_iter().map(|t| t as u32).collect();
            for &chunk in chunks {
                let id = format!("{model}/{name}.{label}, chunks of {chunk}");
                let got = run(text, &case, scale, merge, chunk, 16);
                let close = |what: &str, got: &[f32], tolerance: f32| {
                    let diff = max_abs_diff(got, &want.f32(what));
                    assert!(diff <= tolerance, "{id}: {what} off by {diff}");
                };
                close("position_ids", &got.position_ids, 1e-4);
                close("layer0_q_last", &got.trace.attn_q_last, tolerance);
                close("layer0_k", &got.layer0_k, tolerance);
                close("hidden_last", &got.trace.hidden_last, tolerance);
                close("logits_last4", &got.logits_last4, tolerance);
                assert_eq!(got.generated[..safe], wanted_tokens[..safe], "{id}: greedy tokens");
                close("generated_positions", &got.generated_positions, 1e-4);
                if safe == 16 {
                    close("logits_after_generated", &got.logits_after, tolerance);
                }
            }
        }
    }
}

/// A checkpoint converted by our own converter, as files in a folder that lives as long as the models.
fn convert_checkpoint(dir: &std::path::Path, name: &str, layout: Layout, outtype: &str) -> Pair {
    let input = golden().join("checkpoints").join(name);
    let mut options = ConvertOptions::new(input, dir.join(format!("{name}-{layout}-{outtype}.gguf")));
    options.outtype = Some(FileType::from_name(outtype).unwrap());
    options.layout = layout;
    let report = convert(&options, &mut ()).unwrap();
    let open = |file: &OutputFile| Arc::new(Gguf::open(&file.path).unwrap());
    Pair { text: open(&report.text), mmproj: open(&report.mmproj) }
}

/// Whether the golden folder holds a checkpoint; says so when not.
fn has_checkpoint(name: &str) -> bool {
    let found = golden().join("checkpoints").join(name).is_dir();
    if !found {
        eprintln!("skipped: checkpoints/{name} is not in the committed selection, set LONGTAKE_GOLDEN to a whole set");
    }
    found
}

/// Converts `name` to F32 under every layout that its goldens name and walks all of them.
fn check_converted(name: &str) {
    if !has_checkpoint(name) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pairs = Layout::OF_HOPE.map(|layout| (layout, convert_checkpoint(dir.path(), name, layout, "f32")));
    check_model(name, TOLERANCE, |layout| &pairs.iter().find(|(l, _)| *l == layout).unwrap().1);
}

/// The reference numbers from layers, output matrix and tower on GPUs; `place` puts them there.
#[cfg(feature = "cuda")]
pub fn check_on_gpus(chunks: &[usize], place: &dyn Fn(Option<&mut TextModel>, Option<&mut VisionTower>)) {
    let pair = open_pair("tiny-c");
    let pairs = Layout::OF_HOPE.map(|layout| {
        let text = if layout == Layout::Mrope { Arc::clone(&pair.text) } else { with_layout(&pair.text, layout) };
        (layout, Pair { text, mmproj: Arc::clone(&pair.mmproj) })
    });
    let find = |layout| &pairs.iter().find(|(l, _)| *l == layout).unwrap().1;
    check_model_on("tiny-c", TOLERANCE, find, chunks, (&mut |t| place(Some(t), None), &mut |v| place(None, Some(v))));
}

#[test]
fn tiny_c_bf16_file_from_another_writer_gives_the_reference_numbers() {
    let pair = open_pair("tiny-c");
    let pairs = Layout::OF_HOPE.map(|layout| {
        let pair = Pair { text: with_layout(&pair.text, layout), mmproj: Arc::clone(&pair.mmproj) };
        (layout, pair)
    });
    check_model("tiny-c", TOLERANCE_16, |layout| &pairs.iter().find(|(l, _)| *l == layout).unwrap().1);
}

#[test]
fn tiny_a_converted_to_f32_gives_the_reference_numbers() {
    check_converted("tiny-a");
}

#[test]
fn tiny_b_converted_to_f32_gives_the_reference_numbers() {
    check_converted("tiny-b");
}

#[test]
fn tiny_c_converted_to_f32_gives_the_reference_numbers() {
    check_converted("tiny-c");
}

/// Normalised mean squared error.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>();
    let error = sum(&mut got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)));
    error / sum(&mut want.iter().map(|b| f64::from(*b).powi(2)))
}

/// Smaller weights: how far the logits of every golden prompt move. The bounds are about three times what was measured, so
/// that a broken format shows and rounding does not.
#[test]
fn smaller_weights_and_caches_stay_within_their_error() {
    let dir = tempfile::tempdir().unwrap();
    let whole = open_pair("tiny-c");
    let index = golden_json("model/tiny-c/index.json");
    let (tower, _) = crate::common::vision_tower(&whole.mmproj).unwrap();
    for (outtype, cache, bound) in [
        ("BF16", "f16", 3e-6),
        ("F16", "f16", 3e-6),
        ("BF16", "bf16", 1e-3),
        ("BF16", "q8_0", 1e-3),
        ("BF16", "q4_0", 2e-1),
        ("BF16", "q4_1", 2e-1),
        ("BF16", "q5_0", 5e-2),
        ("BF16", "q5_1", 5e-2),
        ("BF16", "iq4_nl", 2e-1),
        ("BF16", "f32h", 3e-6),
        ("BF16", "q8_0h", 1e-3),
        ("BF16", "q5_0h", 5e-2),
        ("BF16", "q4_0h", 2e-1),
        ("Q8_0", "f32", 5e-3),
        ("Q6_K", "f32", 4e-2),
        ("Q4_K_M", "f32", 4e-1),
    ] {
        let path = dir.path().join(format!("{outtype}.gguf"));
        let options = QuantizeOptions::new(whole.text.path(), &path, FileType::from_name(outtype).unwrap());
        quantize(&options, &mut ()).unwrap();
        let (model, _) = crate::common::text_model(&Arc::new(Gguf::open(&path).unwrap())).unwrap();
        let mut worst = 0f64;
        for (name, entry) in index["cases"].as_object().unwrap() {
            let case = Case::load("tiny-c", name, entry, &tower, pads(whole.text.meta()), TOLERANCE_16);
            let want = Arrays::open(&format!("model/tiny-c/{name}.m_rope.safetensors"));
            let got = run_with(&model, &case, 1.0, 2, 4096, 0, cache_type(cache).unwrap());
            worst = worst.max(nmse(&got.logits_last4, &want.f32("logits_last4")));
        }
        println!("{outtype} weights, {cache} cache: worst logit NMSE {worst:.2e}");
        assert!(worst <= bound, "{outtype} weights, {cache} cache: logit NMSE {worst:.2e} above {bound:.0e}");
    }
}

/// The same of twins with outliers in keys and values: the model is the same over an F32 cache, with a transform and without one;
/// few bits lose more, and less of it with a transform.
#[test]
fn a_transform_saves_few_bits_from_outliers() {
    let whole = open_pair("tiny-c");
    let index = golden_json("model/tiny-c/index.json");
    let (tower, _) = crate::common::vision_tower(&whole.mmproj).unwrap();
    let logits = |file: &Arc<Gguf>, cache: &str| -> Vec<f32> {
        let (model, _) = crate::common::text_model(file).unwrap();
        let of = |(name, entry): (&String, &Value)| {
            let case = Case::load("tiny-c", name, entry, &tower, pads(file.meta()), TOLERANCE_16);
            run_with(&model, &case, 1.0, 2, 4096, 0, cache_type(cache).unwrap()).logits_last4
        };
        index["cases"].as_object().unwrap().iter().flat_map(of).collect()
    };
    let want = logits(&whole.text, "f32");
    for by in [1.0, 16.0, 32.0] {
        let twin = crate::outliers::twin(&whole.text, by);
        let error = |cache: &str| {
            let error = nmse(&logits(&twin, cache), &want);
            println!("outliers {by}, {cache} cache: logit NMSE {error:.2e}");
            error
        };
        for cache in ["f32", "f32h"] {
            assert!(error(cache) < 3e-6, "{by} {cache}");
        }
        for ty in ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] {
            let (plain, transformed) = (error(ty), error(&format!("{ty}h")));
            assert!(by == 1.0 || transformed < plain, "outliers {by}, {ty}: {transformed:.2e} after {plain:.2e}");
        }
    }
}

/// D9 of the specification: layouts interleaved in one process do not influence each other.
#[test]
fn interleaved_layouts_do_not_touch_each_other() {
    let pair = open_pair("tiny-c");
    let (tower, _) = crate::common::vision_tower(&pair.mmproj).unwrap();
    let index = golden_json("model/tiny-c/index.json");
    let (name, entry) = index["cases"].as_object().unwrap().iter().find(|(name, _)| *name == "video").unwrap();
    let case = Case::load("tiny-c", name, entry, &tower, pads(pair.text.meta()), TOLERANCE_16);
    let models = [Layout::Hope, Layout::Mrope]
        .map(|layout| crate::common::text_model(&with_layout(&pair.text, layout)).unwrap().0);
    let alone = models.each_ref().map(|m| run(m, &case, 0.75, 2, 64, 2).logits_after);
    std::thread::scope(|scope| {
        let together = models.each_ref().map(|m| scope.spawn(|| run(m, &case, 0.75, 2, 64, 2).logits_after));
        for (handle, alone) in together.into_iter().zip(&alone) {
            assert_eq!(&handle.join().unwrap(), alone);
        }
    });
}

/// Faults 15 to 17: every mismatch is named, nothing is computed.
#[test]
fn files_that_do_not_fit_are_refused_with_reasons() {
    let pair = open_pair("tiny-c");
    let edit = |change: &dyn Fn(&mut Metadata), skip: &[&str]| {
        let mut meta = pair.text.meta().clone();
        change(&mut meta);
        let mut writer = GgufWriter::new(meta);
        let kept: Vec<_> = pair.text.tensors().iter().filter(|t| !skip.contains(&t.name.as_str())).collect();
        for t in &kept {
            writer.tensor(t.name.clone(), t.ty, &t.ne).unwrap();
        }
        let bytes = writer.to_bytes(|i, out| {
            out.extend_from_slice(pair.text.data(kept[i]));
            Ok(())
        });
        let file = Arc::new(Gguf::from_vec("edited", bytes.unwrap()).unwrap());
        crate::common::text_model(&file).err().map(|err| err.to_string())
    };
    assert_eq!(edit(&|_| {}, &[]), None);
    let missing = edit(&|_| {}, &["blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output_norm.weight"]).unwrap();
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output_norm.weight"] {
        assert!(missing.contains(name), "{missing}");
    }
    type Change<'a> = &'a dyn Fn(&mut Metadata);
    let rows: [(Change<'_>, &str); 20] = [
        (&|m| m.set("qwen2vl.attention.head_count", 0u32), "head_count"),
        (&|m| m.set("qwen2vl.attention.head_count", 3u32), "heads"),
        (&|m| m.set("qwen2vl.attention.head_count_kv", 3u32), "KV heads"),
        (&|m| m.set("qwen2vl.block_count", 1_000_000_000u32), "block_count"),
        (&|m| m.set("qwen2vl.block_count", 3u32), "blk.2."),
        (&|m| m.set("qwen2vl.attention.layer_norm_rms_epsilon", 0f32), "epsilon"),
        (&|m| m.set("qwen2vl.attention.layer_norm_rms_epsilon", f32::NAN), "epsilon"),
        (&|m| m.set("qwen2vl.rope.freq_base", 0f32), "freq_base"),
        (&|m| m.set("qwen2vl.rope.freq_base", f32::NAN), "freq_base"),
        (&|m| m.set("qwen2vl.rope.dimension_sections", vec![16i32, 24, 23, 0]), "sections"),
        (&|m| m.set("qwen2vl.rope.dimension_sections", vec![-16i32, 56, 24, 0]), "sections"),
        (&|m| m.set("qwen2vl.embedding_length", u64::MAX), "embedding_length"),
        (&|m| m.set("qwen2vl.rope.scaling.type", "longrope"), "longrope"),
        (&|m| m.set("qwen2vl.rope.scaling.factor", f32::NAN), "rope.scaling.factor"),
        (&|m| m.set("qwen2vl.rope.scaling.factor", -2f32), "rope.scaling.factor"),
        (&|m| m.set("qwen2vl.rope.scaling.attn_factor", 0f32), "attn_factor"),
        (&|m| m.set("general.type", "adapter"), "an adapter (LoRA)"),
        (&|m| m.set("general.type", "imatrix"), "an importance matrix"),
        (&|m| m.set("general.architecture", "longtake-take"), "a take"),
        (&|m| m.set("general.architecture", "llama"), "llama"),
    ];
    for (change, word) in rows {
        let err = edit(change, &[]).unwrap_or_else(|| panic!("{word}: accepted"));
        assert!(err.contains(word), "expected `{word}` in: {err}");
    }
    let err = crate::common::text_model(&pair.mmproj).err().unwrap().to_string();
    assert!(err.contains("projector"), "{err}");
    let err = crate::common::vision_tower(&pair.text).err().unwrap().to_string();
    assert!(err.contains("expected a projector"), "{err}");
}

/// Fault 19: weights that are not numbers end the request, not the process.
#[test]
fn broken_weights_end_in_an_error() {
    let pair = open_pair("tiny-c");
    let mut writer = GgufWriter::new(pair.text.meta().clone());
    for t in pair.text.tensors() {
        writer.tensor(t.name.clone(), t.ty, &t.ne).unwrap();
    }
    let bytes = writer.to_bytes(|i, out| {
        let t = &pair.text.tensors()[i];
        out.extend_from_slice(pair.text.data(t));
        if t.name == "blk.0.attn_k.weight" {
            out[..2].copy_from_slice(&0x7FC0u16.to_le_bytes()); // a NaN in BF16
        }
        Ok(())
    });
    let (model, _) = crate::common::text_model(&Arc::new(Gguf::from_vec("nan", bytes.unwrap()).unwrap())).unwrap();
    let hp = model.hparams();
    let mut cache = KvCache::new(cache_shape(&model, 8, GgmlType::F16)).unwrap();
    let mut scratch = Scratch::new(hp, 4);
    let (mut embd, mut pos) = (vec![0.0; hp.n_embd], Vec::new());
    model.embed(&[5], &mut embd).unwrap();
    Placer::new(hp.layout).text(1, &mut pos);
    let err = model
        .forward(&Batch { embd: &embd, deep: &[], pos: &pos, n_logits: 1 }, &mut cache, &mut scratch, None)
        .unwrap_err();
    assert!(err.to_string().contains("layer 0") && err.to_string().contains("not finite"), "{err}");
    assert_eq!(cache.len(), 0);
}
