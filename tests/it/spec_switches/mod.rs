//! Every switch of a family's specs, alone and with others, at odd sizes: the network against plain f64 arithmetic that is written
//! down here, on the host and, with the feature `cuda`, on the emulated GPU.

mod text;
mod vit;

use std::collections::HashMap;
use std::sync::Arc;

use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::model::{TextModel, VisionTower};

use longtake::random::Rng;

/// Where networks are put before they are used, and what they may then differ from f64 by, of the largest number.
type Place<'a> = (&'a dyn Fn(Option<&mut TextModel>, Option<&mut VisionTower>), f64);

const HOST: Place<'_> = (&|_, _| (), 1e-5);

/// Tensors of a file by name, with their dimensions.
#[derive(Default)]
struct Weights {
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    rng: Option<Rng>,
}

impl Weights {
    fn new(seed: u64) -> Weights {
        Weights { tensors: Vec::new(), rng: Some(Rng(seed)) }
    }

    /// Random numbers around `middle`, small enough that nothing saturates.
    fn add(&mut self, name: impl Into<String>, ne: &[usize], middle: f32) {
        let n = ne.iter().product();
        let scale = if ne.len() > 1 { 1.5 / (ne[0] as f32).sqrt() } else { 0.3 };
        let values = self.rng.as_mut().unwrap().vec(n).iter().map(|v| middle + scale * v).collect();
        self.tensors.push((name.into(), ne.to_vec(), values));
    }

    /// A matrix and, where there is one, its bias.
    fn linear(&mut self, name: &str, n_cols: usize, n_rows: usize, has_bias: bool) {
        self.add(format!("{name}.weight"), &[n_cols, n_rows], 0.0);
        if has_bias {
            self.add(format!("{name}.bias"), &[n_rows], 0.0);
        }
    }

    fn norm(&mut self, name: &str, n: usize, has_bias: bool) {
        self.add(format!("{name}.weight"), &[n], 1.0);
        if has_bias {
            self.add(format!("{name}.bias"), &[n], 0.0);
        }
    }

    fn file(&self, meta: Metadata) -> Arc<Gguf> {
        let mut writer = GgufWriter::new(meta);
        for (name, ne, _) in &self.tensors {
            writer.tensor(name.clone(), GgmlType::F32, ne).unwrap();
        }
        let bytes = writer.to_bytes(|i, out| {
            self.tensors[i].2.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
            Ok(())
        });
        Arc::new(Gguf::from_vec("switches", bytes.unwrap()).unwrap())
    }

    /// The same in f64, as the definition takes them.
    fn plain(&self) -> Plain {
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect();
        Plain(self.tensors.iter().map(|(name, _, values)| (name.clone(), wide(values))).collect())
    }
}

type Mat = Vec<Vec<f64>>;

struct Plain(HashMap<String, Vec<f64>>);

impl Plain {
    fn vec(&self, name: &str) -> &[f64] {
        self.0.get(name).unwrap_or_else(|| panic!("no `{name}`"))
    }

    fn linear(&self, x: &Mat, name: &str) -> Mat {
        let (w, bias) = (self.vec(&format!("{name}.weight")), self.0.get(&format!("{name}.bias")));
        let n_cols = x[0].len();
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let one = |x: &Vec<f64>| {
            w.chunks_exact(n_cols).enumerate().map(|(i, row)| dot(row, x) + bias.map_or(0.0, |b| b[i])).collect()
        };
        x.iter().map(one).collect()
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, n) = (self.vec(&format!("{name}.weight")), x.len() as f64);
        let Some(bias) = self.0.get(&format!("{name}.bias")) else {
            let scale = (x.iter().map(|v| v * v).sum::<f64>() / n + 1e-6).sqrt();
            return x.iter().zip(w).map(|(v, w)| v / scale * w).collect();
        };
        let mean = x.iter().sum::<f64>() / n;
        let scale = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-6).sqrt();
        x.iter().zip(w).zip(bias).map(|((v, w), b)| (v - mean) / scale * w + b).collect()
    }

    fn norms(&self, x: &Mat, name: &str) -> Mat {
        x.iter().map(|row| self.norm(row, name)).collect()
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn erf_gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
}

fn tanh_gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn add(x: &mut Mat, y: &Mat) {
    x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
}

fn each(x: Mat, f: impl Fn(f64) -> f64) -> Mat {
    x.into_iter().map(|row| row.into_iter().map(&f).collect()).collect()
}

fn gated(gate: Mat, up: Mat) -> Mat {
    gate.into_iter().zip(up).map(|(g, u)| g.iter().zip(u).map(|(g, u)| g * sigmoid(*g) * u).collect()).collect()
}

/// Pairs (i, i + n_rot / 2) of a head turned by `angle(i)`.
fn turn(head: &mut [f64], n_rot: usize, angle: impl Fn(usize) -> f64) {
    let half = n_rot / 2;
    for i in 0..half {
        let (s, c) = angle(i).sin_cos();
        (head[i], head[i + half]) = (head[i] * c - head[i + half] * s, head[i + half] * c + head[i] * s);
    }
}

/// softmax(q·k / sqrt(d)) for one query.
fn weights(q: &[f64], keys: &[&[f64]]) -> Vec<f64> {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = keys.iter().map(|k| q.iter().zip(*k).map(|(a, b)| a * b).sum::<f64>() * scale).collect();
    let top = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// These weights · v.
fn mix(weights: &[f64], values: &[&[f64]]) -> Vec<f64> {
    let n = values.first().map_or(0, |v| v.len());
    (0..n).map(|e| weights.iter().zip(values).map(|(w, v)| w * v[e]).sum()).collect()
}

fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> Vec<f64> {
    mix(&weights(q, keys), values)
}

fn check(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f64, |max, v| max.max(v.abs()));
    let worst = got.iter().zip(want).fold(0f64, |worst, (g, w)| {
        let diff = (f64::from(*g) - w).abs();
        if diff.is_nan() { f64::INFINITY } else { worst.max(diff) }
    });
    assert!(worst <= tolerance * largest, "{what}: off by {worst:.2e} of {largest:.2}");
}

/// All of it on GPUs, where `place` puts models and towers.
#[cfg(feature = "cuda")]
pub fn check_on_gpus(place: &dyn Fn(Option<&mut TextModel>, Option<&mut VisionTower>), tolerance: f64) {
    text::check_all((place, tolerance));
    text::check_experts((place, tolerance));
    vit::check_small((place, tolerance));
}
