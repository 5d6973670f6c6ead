//! The newer families against the reference: every checkpoint, case and variant that the goldens hold, converted by our own
//! converter and computed in F32.

use std::path::Path;
use std::sync::Arc;

use longtake::cache::KvCache;
use longtake::convert::{ConvertOptions, FileType, OutputFile, convert};
use longtake::gguf::{GgmlType, Gguf};
use longtake::media::Rgb;
use longtake::media::patch::{PatchSpec, pixel_values};
use longtake::model::{Batch, Scratch, TextModel, Trace, VisionTower};
use longtake::position::{Layout, Pos};
use serde_json::Value;

use crate::common::{Arrays, golden_experts, golden_families, json_at, max_abs_diff, models_in};

/// Logits and hidden states, as the goldens' description suggests for f32 arithmetic.
const TOLERANCE: f32 = 2e-3;
/// Recurrent states.
const STATE_TOLERANCE: f32 = 1e-4;

/// What is done to a model or a tower before it is used.
pub type Place<'a> = &'a dyn Fn(Option<&mut TextModel>, Option<&mut VisionTower>);

/// Files of a checkpoint for one layout.
pub struct Pair {
    pub text: Arc<Gguf>,
    pub mmproj: Arc<Gguf>,
}

pub fn convert_checkpoint(root: &Path, dir: &Path, name: &str, layout: Layout) -> Pair {
    let input = root.join("checkpoints").join(name);
    let mut options = ConvertOptions::new(input, dir.join(format!("{name}-{layout}.gguf")));
    options.outtype = Some(FileType::from_name("f32").unwrap());
    options.mmproj_outtype = options.outtype;
    options.layout = layout;
    let report = convert(&options, &mut ()).unwrap();
    let open = |file: &OutputFile| Arc::new(Gguf::open(&file.path).unwrap());
    Pair { text: open(&report.text), mmproj: open(&report.mmproj) }
}

fn layout_of(family: &str, variant: &str) -> Layout {
    match (variant, family) {
        ("published", "qwen2_5_vl") => Layout::Mrope,
        ("published", _) => Layout::MropeI,
        ("hope_i", _) => Layout::HopeI,
        (other, _) => Layout::from_name(other).unwrap(),
    }
}

/// A prompt with its media encoded: rows of the tower for pads of images and of videos.
struct Case {
    name: String,
    inputs: Arrays,
    pads: [i64; 2],
    rows: [Vec<f32>; 2],
    n_taps: usize,
}

/// `pixel_values` as stored, or from the stored RGB where the selection leaves them out.
fn pixels(inputs: &Arrays, kind: &str, tower: &VisionTower) -> Vec<f32> {
    let name = format!("{kind}_pixel_values");
    if inputs.has(&name) {
        return inputs.f32(&name);
    }
    let hp = tower.hparams();
    let spec = PatchSpec { patch: hp.patch_size, merge: hp.merge, mean: hp.image_mean, std: hp.image_std };
    let mut rgb: Vec<_> = inputs.names().into_iter().filter(|n| n.starts_with("rgb_") && n.ends_with(kind)).collect();
    rgb.sort_by_key(|n| n.split('_').nth(1).unwrap().parse::<usize>().unwrap());
    let mut out = Vec::new();
    for (name, grid) in rgb.iter().zip(inputs.i64(&format!("{kind}_grid_thw")).chunks_exact(3)) {
        let shape = inputs.shape(name);
        let (height, width) = (shape[shape.len() - 3], shape[shape.len() - 2]);
        let (h, w) = (grid[1] as usize * spec.patch, grid[2] as usize * spec.patch);
        let data = inputs.u8(name);
        let frames = data.chunks_exact(height * width * 3);
        let mut frames: Vec<Rgb> = frames.map(|data| resized(data, (height, width), (h, w))).collect();
        if frames.len() % 2 == 1 {
            frames.push(frames.last().unwrap().clone());
        }
        frames.chunks_exact(2).for_each(|pair| pixel_values([&pair[0], &pair[1]], &spec, &mut out));
    }
    out
}

/// The reference's resizing of these families: a cubic filter across, then down, rounded to 8 bits in between, with integer
/// weights of which the largest has 15 bits.
fn resized(data: &[u8], (height, width): (usize, usize), (h, w): (usize, usize)) -> Rgb {
    let across = resized_rows(data, width, 3, w);
    // Columns are rows of the transposed picture.
    let turned = |data: &[u8], rows: usize| -> Vec<u8> {
        let cols = data.len() / 3 / rows;
        (0..cols)
            .flat_map(|x| (0..rows).flat_map(move |y| (0..3).map(move |c| (y, x, c))))
            .map(|(y, x, c)| data[(y * cols + x) * 3 + c])
            .collect()
    };
    let down = resized_rows(&turned(&across, height), height, 3, h);
    Rgb { height: h, width: w, data: turned(&down, w) }
}

/// Rows of `n_in` pixels of `n_channels` become rows of `n_out`.
fn resized_rows(data: &[u8], n_in: usize, n_channels: usize, n_out: usize) -> Vec<u8> {
    if n_in == n_out {
        return data.to_vec();
    }
    let scale = n_in as f64 / n_out as f64;
    let wide = scale.max(1.0);
    let cubic = |x: f64| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
        _ => 0.0,
    };
    let taps: Vec<(usize, Vec<f64>)> = (0..n_out)
        .map(|i| {
            let centre = scale * (i as f64 + 0.5);
            let low = ((centre - 2.0 * wide + 0.5) as i64).max(0) as usize;
            let high = ((centre + 2.0 * wide + 0.5) as usize).min(n_in);
            let weights: Vec<f64> = (low..high).map(|j| cubic((j as f64 - centre + 0.5) / wide)).collect();
            let sum: f64 = weights.iter().sum();
            (low, weights.iter().map(|weight| weight / sum).collect())
        })
        .collect();
    let largest = taps.iter().flat_map(|(_, weights)| weights).fold(0f64, |max, weight| max.max(*weight));
    let shift = (0..22).find(|shift| (0.5 + largest * f64::from(1 << (shift + 1))) as i64 >= 1 << 15).unwrap_or(22);
    let whole = |weight: f64| (weight * f64::from(1 << shift) + 0.5f64.copysign(weight)) as i64;
    let row = |row: &[u8]| -> Vec<u8> {
        let one = |(low, weights): &(usize, Vec<f64>), c: usize| {
            let at = |j: usize| i64::from(row[(low + j) * n_channels + c]);
            let sum: i64 = weights.iter().enumerate().map(|(j, weight)| whole(*weight) * at(j)).sum();
            ((sum + (1 << (shift - 1))) >> shift).clamp(0, 255) as u8
        };
        taps.iter().flat_map(|tap| (0..n_channels).map(move |c| one(tap, c))).collect()
    };
    data.chunks_exact(n_in * n_channels).flat_map(row).collect()
}

impl Case {
    /// Encodes the media of a case and checks every stage of the tower on the way.
    fn load(root: &Path, model: &str, name: &str, entry: &Value, tower: &VisionTower, pads: [i64; 2]) -> Case {
        let inputs = Arrays::at(&root.join(format!("model/{model}/{name}.inputs.safetensors")));
        let name = format!("{model}/{name}");
        let hp = tower.hparams();
        let rows = ["image", "video"].map(|kind| {
            let list = entry[format!("{kind}_grid_thw")].as_array().unwrap();
            if list.is_empty() {
                return Vec::new();
            }
            let pixels = pixels(&inputs, kind, tower);
            let n_patches = pixels.len() / hp.n_patch_values();
            let (mut rows, mut stages, mut at) = (Vec::new(), Vec::new(), 0);
            for grid in list {
                let [t, h, w] = [0, 1, 2].map(|i| grid[i].as_u64().unwrap() as usize);
                let n = t * h * w * hp.n_patch_values();
                let mut trace = Trace::default();
                rows.extend(tower.encode(&pixels[at..at + n], h, w, Some(&mut trace)).unwrap());
                stages.resize(trace.vit_stages.len(), Vec::new());
                stages.iter_mut().zip(trace.vit_stages).for_each(|(all, one): (&mut Vec<f32>, _)| all.extend(one));
                at += n;
            }
            let want = format!("{kind}_vit_stages");
            if inputs.has(&want) {
                let want = inputs.f32(&want);
                assert_eq!(want.len(), stages.len() * n_patches * hp.n_embd, "{name}: stages of the tower");
                for (i, (stage, want)) in stages.iter().zip(want.chunks_exact(n_patches * hp.n_embd)).enumerate() {
                    let diff = max_abs_diff(stage, want);
                    assert!(diff <= TOLERANCE, "{name}: {kind} tower stage {i} off by {diff}");
                }
            }
            // Of each row: the token, then what each tap adds.
            let n_embd = hp.n_embd_out;
            if inputs.has(&format!("{kind}_window_order")) {
                let (mut order, mut ends) = (Vec::new(), Vec::new());
                for grid in list {
                    let [t, h, w] = [0, 1, 2].map(|i| grid[i].as_u64().unwrap() as usize);
                    let (cells, of_pair) = tower.windows(h, w).unwrap();
                    for _ in 0..t {
                        let first = order.len();
                        order.extend(cells.iter().map(|cell| (first + cell) as i64));
                        ends.extend(of_pair.iter().map(|end| (4 * first + end) as i64));
                    }
                }
                assert_eq!(order, inputs.i64(&format!("{kind}_window_order")), "{name}: {kind} windows");
                assert_eq!(ends, inputs.i64(&format!("{kind}_window_ends")), "{name}: {kind} windows");
            }
            let plane = |i: usize| -> Vec<f32> {
                rows.chunks_exact(hp.n_out_values())
                    .flat_map(|row| &row[i * n_embd..(i + 1) * n_embd])
                    .copied()
                    .collect()
            };
            let diff = max_abs_diff(&plane(0), &inputs.f32(&format!("{kind}_vit_output")));
            assert!(diff <= TOLERANCE, "{name}: {kind} tower output off by {diff}");
            let want = format!("{kind}_deepstack");
            assert_eq!(inputs.has(&want), !hp.taps.is_empty(), "{name}: taps");
            if inputs.has(&want) {
                let got: Vec<f32> = (1..=hp.taps.len()).flat_map(plane).collect();
                let diff = max_abs_diff(&got, &inputs.f32(&want));
                assert!(diff <= TOLERANCE, "{name}: {kind} DeepStack off by {diff}");
            }
            rows
        });
        Case { name, inputs, pads, rows, n_taps: hp.taps.len() }
    }

    /// Embeddings of a prompt, (n, n_embd), and what taps add, (n_taps, n, n_embd).
    fn embeddings(&self, ids: &[i64], model: &TextModel) -> (Vec<f32>, Vec<f32>) {
        let (n, n_embd) = (ids.len(), model.hparams().n_embd);
        let tokens: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        let (mut embd, mut deep) = (vec![0.0; n * n_embd], vec![0.0; self.n_taps * n * n_embd]);
        model.embed(&tokens, &mut embd).unwrap();
        for (pad, rows) in self.pads.iter().zip(&self.rows) {
            let mut rows = rows.chunks_exact((1 + self.n_taps) * n_embd);
            for (it, _) in ids.iter().enumerate().filter(|(_, id)| *id == pad) {
                let row = rows.next().expect("as many pads as visual tokens");
                embd[it * n_embd..][..n_embd].copy_from_slice(&row[..n_embd]);
                for (tap, row) in row[n_embd..].chunks_exact(n_embd).enumerate() {
                    deep[(tap * n + it) * n_embd..][..n_embd].copy_from_slice(row);
                }
            }
            assert!(rows.next().is_none(), "{}: more visual tokens than pads", self.name);
        }
        (embd, deep)
    }

    /// A run in chunks of `chunk` tokens and 16 greedy steps, compared with every array of a variant.
    fn check(&self, model: &TextModel, ids: &[i64], want: &Arrays, safe: usize, chunk: usize) {
        let id = format!("{}, chunks of {chunk}", self.name);
        let close = |what: &str, got: &[f32], tolerance: f32| {
            let diff = max_abs_diff(got, &want.f32(what));
            assert!(diff <= tolerance, "{id}: {what} off by {diff}");
        };
        let (hp, n) = (model.hparams(), ids.len());
        let (embd, deep) = self.embeddings(ids, model);
        let position_ids = want.f32("position_ids");
        let pos: Vec<Pos> = (0..n)
            .map(|it| {
                let [t, h, w] = [0, 1, 2].map(|axis| f64::from(position_ids[axis * n + it]));
                Pos { t, h, w }
            })
            .collect();
        let visual = ids.iter().rposition(|id| self.pads.contains(id));
        let steps = want.i64("generated").len();
        let ty = GgmlType::F32.into();
        let shape = hp.cache_shape(n + steps, (ty, ty));
        let mut cache = KvCache::new(shape).unwrap();
        let mut scratch = Scratch::new(hp, chunk.min(n));
        let (mut last, mut of_visual, mut logits_last4) = (Trace::default(), Trace::default(), Vec::new());
        for at in (0..n).step_by(chunk) {
            let rows = at..(at + chunk).min(n);
            // What taps add to these rows.
            let part: Vec<f32> = deep
                .chunks_exact(n * hp.n_embd)
                .flat_map(|tap| &tap[rows.start * hp.n_embd..rows.end * hp.n_embd])
                .copied()
                .collect();
            let batch = Batch {
                embd: &embd[rows.start * hp.n_embd..rows.end * hp.n_embd],
                deep: &part,
                pos: &pos[rows.clone()],
                n_logits: rows.end.saturating_sub(rows.start.max(n.saturating_sub(4))),
            };
            let mut trace =
                Trace { visual: visual.filter(|at| rows.contains(at)).map(|at| at - rows.start), ..Trace::default() };
            let wanted = trace.visual.is_some() || rows.end == n;
            let logits = model.forward(&batch, &mut cache, &mut scratch, wanted.then_some(&mut trace)).unwrap();
            logits_last4.extend_from_slice(logits);
            if trace.visual.is_some() {
                of_visual = trace.clone();
            }
            if rows.end == n {
                last = trace;
            }
        }
        cache.pull().unwrap();
        let il = hp.first_attention().unwrap();
        let keys: Vec<f32> = (0..hp.n_head_kv).flat_map(|ih| cache.keys_f32(il, ih, n).unwrap()).collect();
        if want.has("attn_k") {
            close("attn_k", &keys, TOLERANCE);
        }
        if want.has("gdn_state") {
            let (conv, matrices) = first_state(model, &cache);
            close("gdn_conv_state", &conv, TOLERANCE);
            close("gdn_state", &matrices, STATE_TOLERANCE);
        }
        close("attn_q_last", &last.attn_q_last, TOLERANCE);
        close("hidden_last", &last.hidden_last, TOLERANCE);
        if visual.is_some() {
            close("hidden_visual", &of_visual.hidden_visual, TOLERANCE);
        }
        close("logits_last4", &logits_last4, TOLERANCE);
        let mut logits = logits_last4[logits_last4.len() - hp.n_vocab..].to_vec();
        let (mut generated, mut row) = (Vec::new(), vec![0.0; hp.n_embd]);
        for at in want.f32("generated_positions") {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            generated.push(best as i64);
            model.embed(&[best as u32], &mut row).unwrap();
            let at = f64::from(at);
            let batch = Batch { embd: &row, deep: &[], pos: &[Pos { t: at, h: at, w: at }], n_logits: 1 };
            logits = model.forward(&batch, &mut cache, &mut scratch, None).unwrap().to_vec();
        }
        assert_eq!(generated[..safe], want.i64("generated")[..safe], "{id}: greedy tokens");
        if safe == steps {
            close("logits_after_generated", &logits, TOLERANCE);
        }
    }
}

/// What the first recurrent layer remembers, as the reference has it: inputs of the convolution (channels, 3), matrices (heads, d_k,
/// d_v), value heads of a key head side by side, while ours take turns.
fn first_state(model: &TextModel, cache: &KvCache) -> (Vec<f32>, Vec<f32>) {
    let shape = model.hparams().recurrent.unwrap();
    let (inputs, matrices) = cache.states().unwrap()[..shape.n_state()].split_at(shape.n_inputs());
    let (n_v, per_key, n_matrix) = (shape.n_head_v, shape.n_head_v / shape.n_head_k, shape.d_k * shape.d_v);
    let ours = |head: usize| head % per_key * shape.n_head_k + head / per_key;
    let values = |head: usize| (0..shape.d_v).map(move |c| 2 * shape.key_dim() + ours(head) * shape.d_v + c);
    let channels = (0..2 * shape.key_dim()).chain((0..n_v).flat_map(values));
    let conv = channels.flat_map(|c| (0..3).map(move |t| inputs[t * shape.conv_dim() + c])).collect();
    (conv, (0..n_v).flat_map(|head| matrices[ours(head) * n_matrix..][..n_matrix].to_vec()).collect())
}

/// Walks every model of a family, in chunks of these sizes, with models and towers that `place` puts somewhere first.
pub fn check_family(family: &str, chunks: &[usize], place: Place<'_>) {
    let n_runs = check_models(&golden_families(), family, chunks, place);
    assert!(n_runs >= 2 * chunks.len(), "{family}: {n_runs} runs");
}

/// The same for the golden data in a folder; how many runs there were.
pub fn check_models(root: &Path, family: &str, chunks: &[usize], place: Place<'_>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let mut n_runs = 0;
    for (model, index) in models_in(root).into_iter().filter(|(_, index)| index["family"] == family) {
        let config = json_at(&root.join(format!("checkpoints/{model}/config.json")));
        let pads = ["image_token_id", "video_token_id"].map(|key| config[key].as_i64().unwrap());
        let mut texts = std::collections::HashMap::new();
        let published = convert_checkpoint(root, dir.path(), &model, layout_of(family, "published"));
        let (mut tower, unused) = crate::common::vision_tower(&published.mmproj).unwrap();
        assert!(unused.is_empty(), "{unused:?}");
        place(None, Some(&mut tower));
        for (name, entry) in index["cases"].as_object().unwrap() {
            let case = Case::load(root, &model, name, entry, &tower, pads);
            for (label, run) in entry["variants"].as_object().unwrap() {
                let layout = layout_of(family, run["variant"].as_str().unwrap());
                let text = texts.entry(layout).or_insert_with(|| {
                    let pair = convert_checkpoint(root, dir.path(), &model, layout);
                    let (mut text, _) = crate::common::text_model(&pair.text).unwrap();
                    place(Some(&mut text), None);
                    text
                });
                assert_eq!(text.hparams().first_attention(), index["attn_layer"].as_u64().map(|il| il as usize));
                let ids = case.inputs.i64(if run["form"] == "b" { "input_ids_b" } else { "input_ids" });
                let want = Arrays::at(&root.join(format!("model/{model}/{name}.{label}.safetensors")));
                let safe = run["safe_steps"].as_u64().unwrap() as usize;
                for &chunk in chunks {
                    case.check(text, &ids, &want, safe, chunk);
                    n_runs += 1;
                }
            }
        }
    }
    n_runs
}

/// One chunk, odd chunks, token by token.
const CHUNKS: [usize; 3] = [4096, 7, 1];

#[test]
fn qwen2_5_vl_gives_the_reference_numbers() {
    check_family("qwen2_5_vl", &CHUNKS, &|_, _| ());
}

#[test]
fn qwen3_vl_gives_the_reference_numbers() {
    check_family("qwen3_vl", &CHUNKS, &|_, _| ());
}

#[test]
fn qwen3_5_gives_the_reference_numbers() {
    check_family("qwen3_5", &[4096, 64, 7, 1], &|_, _| ());
}

/// Tiny models of our own with experts, through the same versions of the reference (tests/golden_experts/make.py).
#[test]
fn models_with_experts_give_the_reference_numbers() {
    for family in ["qwen3_vl_moe", "qwen3_5_moe"] {
        assert_eq!(check_models(&golden_experts(), family, &[4096, 9, 7, 1], &|_, _| ()), 4, "{family}");
    }
}
