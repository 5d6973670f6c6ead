//! A real ggml and llama.cpp as judges (cargo feature `ggml`): packed bytes, decoded bits, products, logits.
//! `cargo test --features ggml --test it -- ggml::`

mod bench;
mod families;
mod formats;
mod logits;
mod products;
mod state;

use longtake::gguf::GgmlType::{self, *};

/// Numbers with the tails of a normal distribution, which the quick ones of [`longtake::random::Rng`] cut off early: the bounds of
/// these tests hold for these.
pub struct Rng(pub u64);

impl Rng {
    /// Uniform in [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        let mut rng = longtake::random::Rng(self.0);
        let value = rng.signed();
        self.0 = rng.0;
        value
    }

    /// Variance 1: the sum of twelve numbers of variance 1/3, halved.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() / 2.0
    }

    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() + 1.0) / 2.0 * n as f32) as usize % n
    }
}

/// Packed alike by everyone, byte for byte.
const SIMPLE: [GgmlType; 8] = [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0];
/// Packed by a search: ours is another than ggml's, and may not find less.
const SEARCHED: [GgmlType; 7] = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS];

/// Read, and not made here.
const READ: [GgmlType; 13] =
    [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0, TQ2_0, Q1_0, Q2_0, MXFP4, NVFP4];

/// Rows of `n` numbers of many kinds, each with its name, up to 60000 in magnitude, which every type but F16 can pass.
fn rows(n: usize, rng: &mut Rng) -> Vec<(&'static str, Vec<f32>)> {
    let mut rows: Vec<(&'static str, Vec<f32>)> = Vec::new();
    let mut row = |name, value: &mut dyn FnMut(usize) -> f32| rows.push((name, (0..n).map(value).collect()));
    row("normal", &mut |_| rng.normal());
    row("uniform", &mut |_| rng.uniform());
    row("weights of a model", &mut |_| 0.02 * rng.normal());
    row("positive", &mut |_| rng.uniform().abs());
    row("negative", &mut |_| -1.0 - rng.uniform().abs());
    row("zeros", &mut |_| 0.0);
    row("negative zeros", &mut |_| -0.0);
    row("a constant", &mut |_| 0.7);
    row("steps of a half", &mut |i| (i % 31) as f32 * 0.5 - 7.5);
    row("ties", &mut |i| [127.0, 0.5, 1.5, -2.5, 3.5, -4.5, 126.5][i % 7]);
    row("both extremes", &mut |i| if i % 2 == 0 { 1.0 } else { -1.0 });
    row("one outlier per 100", &mut |i| if i % 100 == 17 { 60.0 } else { rng.normal() });
    row("mostly zeros", &mut |_| if rng.below(20) == 0 { rng.normal() } else { 0.0 });
    row("all magnitudes", &mut |_| rng.normal() * 10f32.powi(rng.below(12) as i32 - 8));
    row("large", &mut |_| 6e4 * rng.uniform());
    row("tiny", &mut |_| 1e-7 * rng.normal());
    row("scales below the normal f16", &mut |_| 3e-6 * rng.normal());
    row("scales below every f16", &mut |_| 1e-12 * rng.normal());
    row("subnormal f32", &mut |_| 1e-39 * rng.normal());
    row("growing", &mut |i| rng.normal() * (1.0 + i as f32 / 16.0));
    rows
}

/// Root of the mean squared error, weighted.
fn rmse(x: &[f32], y: &[f32], w: Option<&[f32]>) -> f64 {
    let weight = |i: usize| w.map_or(1.0, |w| f64::from(w[i]));
    let squares = x.iter().zip(y).enumerate().map(|(i, (x, y))| weight(i) * (f64::from(*x) - f64::from(*y)).powi(2));
    (squares.sum::<f64>() / (0..x.len()).map(weight).sum::<f64>()).sqrt()
}
