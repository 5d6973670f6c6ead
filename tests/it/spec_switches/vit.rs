//! Switches of vision towers.

use std::collections::HashMap;

use longtake::gguf::Metadata;
use longtake::model::family::{QWEN2_VL, VitMlp, VitNorm, VitSpec};
use longtake::model::{VisionHParams, VisionTower, Windows};

use super::{HOST, Mat, Place, Plain, Weights, add, attend, check, each, erf_gelu, gated, sigmoid, tanh_gelu, turn};
use longtake::random::Rng;

#[derive(Clone)]
struct Vit {
    spec: VitSpec,
    windows: Option<Windows>,
    taps: Vec<usize>,
    n_pos_side: usize,
    merge: usize,
    heads: (usize, usize),
    fused: bool,
    /// Frame pairs, and patches along their sides.
    grid: (usize, usize, usize),
}

const V_LAYER: usize = 3;
const V_FF: usize = 26;
const V_OUT: usize = 10;
const PATCH: usize = 2;

impl Vit {
    fn n_embd(&self) -> usize {
        self.heads.0 * self.heads.1
    }

    fn weights(&self, seed: u64) -> (Weights, Metadata) {
        let (d, merged) = (self.n_embd(), self.n_embd() * self.merge * self.merge);
        let is_layer = self.spec.norm == VitNorm::Layer;
        let mut w = Weights::new(seed);
        w.add("v.patch_embd.weight", &[PATCH, PATCH, 3, d], 0.0);
        w.add("v.patch_embd.weight.1", &[PATCH, PATCH, 3, d], 0.0);
        if self.spec.patch_bias {
            w.add("v.patch_embd.bias", &[d], 0.0);
        }
        if self.n_pos_side > 0 {
            w.add("v.position_embd.weight", &[d, self.n_pos_side * self.n_pos_side], 0.0);
        }
        for il in 0..V_LAYER {
            let name = |part: &str| format!("v.blk.{il}.{part}");
            w.norm(&name("ln1"), d, is_layer);
            w.norm(&name("ln2"), d, is_layer);
            if self.fused {
                w.linear(&name("attn_qkv"), d, 3 * d, true);
            } else {
                ["attn_q", "attn_k", "attn_v"].iter().for_each(|part| w.linear(&name(part), d, d, true));
            }
            w.linear(&name("attn_out"), d, d, true);
            if self.spec.mlp == VitMlp::SwiGlu {
                w.linear(&name("ffn_gate"), d, V_FF, true);
            }
            w.linear(&name("ffn_up"), d, V_FF, true);
            w.linear(&name("ffn_down"), V_FF, d, true);
            if self.taps.contains(&il) {
                w.norm(&format!("v.deepstack.{il}.norm"), merged, is_layer);
                w.linear(&format!("v.deepstack.{il}.fc1"), merged, merged, true);
                w.linear(&format!("v.deepstack.{il}.fc2"), merged, V_OUT, true);
            }
        }
        w.norm("v.post_ln", d, is_layer);
        w.linear("mm.0", merged, merged, true);
        w.linear("mm.2", merged, V_OUT, true);
        let mut meta = Metadata::default();
        meta.set("general.architecture", "clip");
        meta.set("clip.projector_type", "qwen2vl_merger");
        for (key, n) in [
            ("block_count", V_LAYER),
            ("embedding_length", d),
            ("attention.head_count", self.heads.0),
            ("projection_dim", V_OUT),
            ("patch_size", PATCH),
            ("spatial_merge_size", self.merge),
        ] {
            meta.set(format!("clip.vision.{key}"), n as u32);
        }
        meta.set("clip.vision.attention.layer_norm_epsilon", 1e-6f32);
        meta.set("clip.vision.image_mean", vec![0.5f32; 3]);
        meta.set("clip.vision.image_std", vec![0.5f32; 3]);
        (w, meta)
    }

    /// Rows and columns of the patches of a pair, in merge-block order.
    fn places(&self) -> Vec<(usize, usize)> {
        let ((_, h, w), m) = (self.grid, self.merge);
        let cells = (0..h / m).flat_map(|y| (0..w / m).map(move |x| (y, x)));
        cells.flat_map(|(y, x)| (0..m * m).map(move |i| (y * m + i / m, x * m + i % m))).collect()
    }

    /// (tokens, 1 + n_taps, n_embd_out)
    fn tokens(&self, w: &Plain, pixels: &[f32]) -> Vec<f64> {
        let ((n_pairs, h, wide), (n_head, d)) = (self.grid, self.heads);
        let (n_embd, merged, places) = (self.n_embd(), self.merge * self.merge, self.places());
        let values = PATCH * PATCH * 3 * 2;
        let kernels = ["v.patch_embd.weight", "v.patch_embd.weight.1"].map(|name| w.vec(name));
        let area = PATCH * PATCH;
        // A patch row holds channels, of each both frames, of each the pixels.
        let embd = |row: &[f32]| -> Vec<f64> {
            let of = |o: usize| {
                (0..values).map(move |i| {
                    let (channel, frame, at) = (i / (2 * area), i / area % 2, i % area);
                    f64::from(row[i]) * kernels[frame][(o * 3 + channel) * area + at]
                })
            };
            let bias = w.0.get("v.patch_embd.bias");
            (0..n_embd).map(|o| of(o).sum::<f64>() + bias.map_or(0.0, |bias| bias[o])).collect()
        };
        let mut planes: Vec<Vec<Vec<f64>>> = vec![Vec::new(); 1 + self.taps.len()];
        for pair in pixels.chunks_exact(h * wide * values).take(n_pairs) {
            let mut x: Mat = pair.chunks_exact(values).map(embd).collect();
            if self.n_pos_side > 0 {
                let (table, side) = (w.vec("v.position_embd.weight"), self.n_pos_side);
                let spot = |at: usize, n: usize| {
                    let x = at as f64 * (side - 1) as f64 / (n.max(2) - 1) as f64;
                    (x.floor() as usize, (x.floor() as usize + 1).min(side - 1), x.fract())
                };
                for (row, (y, col)) in x.iter_mut().zip(&places) {
                    let ((y0, y1, fy), (x0, x1, fx)) = (spot(*y, h), spot(*col, wide));
                    for (e, out) in row.iter_mut().enumerate() {
                        for (y, x, share) in [
                            (y0, x0, (1.0 - fy) * (1.0 - fx)),
                            (y0, x1, (1.0 - fy) * fx),
                            (y1, x0, fy * (1.0 - fx)),
                            (y1, x1, fy * fx),
                        ] {
                            *out += share * table[(y * side + x) * n_embd + e];
                        }
                    }
                }
            }
            let window = |il: usize, (y, x): (usize, usize)| {
                let windows = self.windows.as_ref().filter(|windows| !windows.full[il]);
                windows.map(|windows| (y / (windows.side * self.merge), x / (windows.side * self.merge)))
            };
            for il in 0..V_LAYER {
                let name = |part: &str| format!("v.blk.{il}.{part}");
                let normed = w.norms(&x, &name("ln1"));
                let [mut q, mut k, v] = if self.fused {
                    let all = w.linear(&normed, &name("attn_qkv"));
                    [0, 1, 2].map(|i| all.iter().map(|row| row[i * n_embd..][..n_embd].to_vec()).collect::<Mat>())
                } else {
                    ["attn_q", "attn_k", "attn_v"].map(|part| w.linear(&normed, &name(part)))
                };
                let quarter = d / 4;
                for rows in [&mut q, &mut k] {
                    for (row, (y, x)) in rows.iter_mut().zip(&places) {
                        for head in row.chunks_exact_mut(d) {
                            let at = |i: usize| (if i < quarter { *y } else { *x }) as f64;
                            turn(head, d, |i| at(i) * 1e4f64.powf(-((i % quarter) as f64) / quarter as f64));
                        }
                    }
                }
                let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
                for (it, place) in places.iter().enumerate() {
                    groups.entry(window(il, *place)).or_default().push(it);
                }
                let mut mixed = vec![Vec::new(); x.len()];
                for group in groups.values() {
                    for ih in 0..n_head {
                        let head = |rows: &'_ Mat| -> Vec<Vec<f64>> {
                            group.iter().map(|it| rows[*it][ih * d..][..d].to_vec()).collect()
                        };
                        let (keys, values) = (head(&k), head(&v));
                        let keys: Vec<&[f64]> = keys.iter().map(Vec::as_slice).collect();
                        let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
                        for it in group {
                            mixed[*it].extend(attend(&q[*it][ih * d..][..d], &keys, &values));
                        }
                    }
                }
                add(&mut x, &w.linear(&mixed, &name("attn_out")));
                let normed = w.norms(&x, &name("ln2"));
                let up = w.linear(&normed, &name("ffn_up"));
                let hidden = match self.spec.mlp {
                    VitMlp::QuickGelu => each(up, |x| x * sigmoid(1.702 * x)),
                    VitMlp::GeluTanh => each(up, tanh_gelu),
                    VitMlp::SwiGlu => gated(w.linear(&normed, &name("ffn_gate")), up),
                };
                add(&mut x, &w.linear(&hidden, &name("ffn_down")));
                if let Some(tap) = self.taps.iter().position(|at| *at == il) {
                    let rows: Mat = x.chunks_exact(merged).map(<[Vec<f64>]>::concat).collect();
                    let name = |part: &str| format!("v.deepstack.{il}.{part}");
                    let rows = each(w.linear(&w.norms(&rows, &name("norm")), &name("fc1")), erf_gelu);
                    planes[1 + tap].extend(w.linear(&rows, &name("fc2")));
                }
            }
            let rows: Mat = w.norms(&x, "v.post_ln").chunks_exact(merged).map(<[Vec<f64>]>::concat).collect();
            planes[0].extend(w.linear(&each(w.linear(&rows, "mm.0"), erf_gelu), "mm.2"));
        }
        (0..planes[0].len()).flat_map(|it| planes.iter().flat_map(move |plane| plane[it].clone())).collect()
    }

    fn check(&self, what: &str, seed: u64, (place, tolerance): Place<'_>) {
        let (weights, meta) = self.weights(seed);
        let file = weights.file(meta);
        let mut hp = VisionHParams::from_gguf(&file).unwrap();
        hp.spec = self.spec;
        (hp.windows, hp.taps, hp.n_pos_side) = (self.windows.clone(), self.taps.clone(), self.n_pos_side);
        let (mut tower, unused) = VisionTower::with(hp, &file).unwrap();
        assert!(unused.is_empty(), "{what}: {unused:?}");
        place(None, Some(&mut tower));
        let (n_pairs, h, w) = self.grid;
        let pixels = Rng(seed + 1).vec(n_pairs * h * w * tower.hparams().n_patch_values());
        let got = tower.encode(&pixels, h, w, None).unwrap();
        check(what, &got, &self.tokens(&weights.plain(), &pixels), tolerance);
    }
}

fn vit_cases() -> Vec<(&'static str, Vit)> {
    let plain = Vit {
        spec: QWEN2_VL.vit,
        windows: None,
        taps: Vec::new(),
        n_pos_side: 0,
        merge: 2,
        heads: (2, 12),
        fused: false,
        grid: (2, 6, 10),
    };
    let with = |change: &dyn Fn(&mut Vit)| {
        let mut vit = plain.clone();
        change(&mut vit);
        vit
    };
    let windows = |side: usize, full: [bool; V_LAYER]| Some(Windows { side, full: full.to_vec() });
    let positions = |vit: &mut Vit, side: usize| (vit.spec.learned_positions, vit.n_pos_side) = (true, side);
    let taps = |vit: &mut Vit, at: &[usize]| (vit.spec.taps, vit.taps) = (true, at.to_vec());
    let qwen2_5 = |vit: &mut Vit| {
        (vit.spec.norm, vit.spec.mlp, vit.windows) = (VitNorm::Rms, VitMlp::SwiGlu, windows(2, [false, true, false]));
    };
    let qwen3 = |vit: &mut Vit| {
        (vit.spec.mlp, vit.spec.patch_bias, vit.fused) = (VitMlp::GeluTanh, true, true);
        positions(vit, 5);
        taps(vit, &[0, 2]);
    };
    vec![
        ("Qwen2-VL", plain.clone()),
        ("RMSNorm", with(&|v| v.spec.norm = VitNorm::Rms)),
        ("a gated MLP", with(&|v| v.spec.mlp = VitMlp::SwiGlu)),
        ("GELU by tanh", with(&|v| v.spec.mlp = VitMlp::GeluTanh)),
        ("a bias of patches", with(&|v| v.spec.patch_bias = true)),
        ("learned positions, fewer than patches", with(&|v| positions(v, 3))),
        ("learned positions, more than patches", with(&|v| positions(v, 13))),
        ("one learned position", with(&|v| positions(v, 1))),
        ("windows", with(&|v| v.windows = windows(2, [false; 3]))),
        ("windows, one full layer", with(&|v| v.windows = windows(1, [false, true, false]))),
        ("windows as large as the frame", with(&|v| v.windows = windows(5, [false; 3]))),
        ("windows, all layers full", with(&|v| v.windows = windows(2, [true; 3]))),
        ("a tap", with(&|v| taps(v, &[1]))),
        ("taps of every block", with(&|v| taps(v, &[0, 1, 2]))),
        ("one matrix of queries, keys, values", with(&|v| v.fused = true)),
        ("merging nine patches", with(&|v| (v.merge, v.grid) = (3, (1, 6, 9)))),
        ("heads of 72", with(&|v| v.heads = (1, 72))),
        ("heads of 80", with(&|v| v.heads = (1, 80))),
        ("a frame of one token", with(&|v| (v.grid, v.windows) = ((3, 2, 2), windows(2, [false; 3])))),
        ("Qwen2.5-VL", with(&qwen2_5)),
        ("Qwen3-VL", with(&qwen3)),
        ("a grid of one row of tokens", with(&|v| (qwen3(v), v.grid = (1, 2, 14)).0)),
        ("everything at once", with(&|v| (qwen3(v), qwen2_5(v), v.grid = (2, 10, 6)).0)),
        // More patches than go through products at once.
        (
            "a large picture",
            with(&|v| (qwen3(v), v.windows = windows(3, [false, true, false]), v.grid = (1, 46, 46)).0),
        ),
    ]
}

#[test]
fn switches_of_towers_are_plain_arithmetic() {
    check_all(HOST);
}

/// GPUs take a picture whole, so the large one says nothing new there and takes long in emulation.
#[cfg(feature = "cuda")]
pub fn check_small(place: Place<'_>) {
    for (seed, (what, vit)) in
        vit_cases().into_iter().enumerate().filter(|(_, (_, vit))| vit.grid.1 * vit.grid.2 < 1000)
    {
        vit.check(what, 70 + seed as u64, place);
    }
}

fn check_all(place: Place<'_>) {
    for (seed, (what, vit)) in vit_cases().into_iter().enumerate() {
        vit.check(what, 70 + seed as u64, place);
    }
}

/// The mergers of all families use GELU by erf; llama.cpp computes them by tanh. The two differ by far more than rounding.
#[test]
fn l5_the_gelu_of_mergers_is_erf() {
    let x = (0..600).map(|i| f64::from(i) / 100.0 - 3.0);
    let largest = x.map(|x| (erf_gelu(x) - tanh_gelu(x)).abs()).fold(0.0, f64::max);
    assert!(largest > 4e-4, "{largest}");
    let vit = Vit { taps: vec![1], ..vit_cases()[0].1.clone() };
    // Computed by erf to 1e-5 (see `HOST`), with biases as large as where the two differ most.
    vit.check("mergers", 400, HOST);
}

/// Attention within windows takes memory by patches; llama.cpp's mask of every patch with every other would be 1 GiB here.
#[test]
fn l9_windows_need_no_mask() {
    let (_, vit) = vit_cases().into_iter().find(|(what, _)| *what == "Qwen2.5-VL").unwrap();
    let (weights, meta) = vit.weights(401);
    let file = weights.file(meta);
    let mut hp = VisionHParams::from_gguf(&file).unwrap();
    (hp.spec, hp.windows) = (vit.spec, vit.windows.clone());
    let (tower, _) = VisionTower::with(hp, &file).unwrap();
    let [half, whole] = [64, 128].map(|h| tower.n_bytes(1, h, 128) as f64);
    assert!(
        whole < 1.9 * half.max(1.0) * 1.1 && whole < 0.05 * (128.0 * 128.0f64).powi(2) * 4.0,
        "{half} and {whole} bytes"
    );
    let (order, ends) = tower.windows(128, 128).unwrap();
    assert_eq!((order.len(), ends.len(), *ends.last().unwrap()), (64 * 64, 32 * 32, 128 * 128));
    assert_eq!(order[..5], [0, 1, 64, 65, 2]);
}
