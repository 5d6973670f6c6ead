//! Experts: every table against exact arithmetic on the decoded weights, whoever chooses whom, and what does not depend on company.

use longtake_numerics::GgmlType;
use longtake_numerics::kernels::{Experts, Kernels, Stacked, experts, supported};

use crate::random::{Rng, Weights};

pub const N_EMBD: usize = 256;
pub const N_FF: usize = 512;

/// The experts of a layer, gates and ups in one tensor or in two.
pub struct Layer {
    pub n: usize,
    pub n_used: usize,
    pub gate: Weights,
    pub up: Option<Weights>,
    pub down: Weights,
}

impl Layer {
    pub fn new(ty: GgmlType, (n, n_used): (usize, usize), is_fused: bool, rng: &mut Rng) -> Layer {
        let mut pack = |n_cols: usize, n_rows: usize| {
            let values: Vec<f32> = rng.vec(n_cols * n_rows).iter().map(|v| v * 0.1).collect();
            Weights::pack(ty, n_cols, n_rows, &values)
        };
        let rows = n * N_FF;
        let (gate, up) =
            if is_fused { (pack(N_EMBD, 2 * rows), None) } else { (pack(N_EMBD, rows), Some(pack(N_EMBD, rows))) };
        Layer { n, n_used, gate, up, down: pack(N_FF, n * N_EMBD) }
    }

    /// First row and rows from one expert to the next, of gates and of ups.
    pub fn places(&self) -> [(usize, usize); 2] {
        if self.up.is_some() { [(0, N_FF); 2] } else { [(0, 2 * N_FF), (N_FF, 2 * N_FF)] }
    }

    fn run(&self, k: &Kernels, scores: &[f32], x: &[f32], out: &mut [f32]) {
        let [gate, up] = self.places();
        let of_up = self.up.as_ref().unwrap_or(&self.gate);
        let all = Experts {
            n: self.n,
            n_used: self.n_used,
            gate: Stacked { mat: self.gate.view(), first: gate.0, step: gate.1, n_rows: N_FF },
            up: Stacked { mat: of_up.view(), first: up.0, step: up.1, n_rows: N_FF },
            down: Stacked { mat: self.down.view(), first: 0, step: N_EMBD, n_rows: N_EMBD },
        };
        experts(k, all, scores, x, out);
    }

    /// What is added to a row, exactly.
    pub fn exact(&self, scores: &[f32], x: &[f32]) -> Vec<f64> {
        let mut order: Vec<usize> = (0..self.n).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let chosen = &order[..self.n_used];
        let sum: f64 = chosen.iter().map(|e| f64::from(scores[*e]).exp()).sum();
        let product = |w: &Weights, first: usize, n_rows: usize, x: &[f64]| -> Vec<f64> {
            let row = |r: usize| &w.decoded[(first + r) * w.n_cols..][..w.n_cols];
            (0..n_rows).map(|r| row(r).iter().zip(x).map(|(a, b)| f64::from(*a) * b).sum()).collect()
        };
        let ([gate, up], of_up) = (self.places(), self.up.as_ref().unwrap_or(&self.gate));
        let (x, mut out) = (x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), vec![0.0; N_EMBD]);
        for e in chosen {
            let share = f64::from(scores[*e]).exp() / sum;
            let g = product(&self.gate, gate.0 + e * gate.1, N_FF, &x);
            let u = product(of_up, up.0 + e * up.1, N_FF, &x);
            let hidden: Vec<f64> = g.iter().zip(u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let made = product(&self.down, e * N_EMBD, N_EMBD, &hidden);
            out.iter_mut().zip(made).for_each(|(out, made)| *out += share * made);
        }
        out
    }
}

#[test]
fn experts_stay_close_to_exact_ones() {
    // What a product alone may be off by (see kernels_matmul.rs). Those of gate, up and down are in a row, and a silu's slope is up to
    // 1.1: four times that.
    let types = [(GgmlType::F32, 1e-12), (GgmlType::BF16, 2e-8), (GgmlType::Q8_0, 5e-5), (GgmlType::Q4_K, 1.2e-4)];
    for (seed, (ty, one)) in types.into_iter().enumerate() {
        let most = 4.0 * one;
        for (n, n_used, is_fused) in [(6, 2, false), (6, 2, true), (2, 2, false), (40, 3, true)] {
            let mut rng = Rng(seed as u64 + 900);
            let layer = Layer::new(ty, (n, n_used), is_fused, &mut rng);
            for n_tokens in [1, 3, 8, 9, 50] {
                let x = rng.vec(n_tokens * N_EMBD);
                // Some experts are liked by most tokens, some by nobody.
                let like: Vec<f32> = rng.vec(n);
                let scores: Vec<f32> =
                    rng.vec(n_tokens * n).iter().enumerate().map(|(i, s)| s + 2.0 * like[i % n]).collect();
                let before = rng.vec(n_tokens * N_EMBD);
                let want: Vec<f64> = (0..n_tokens)
                    .flat_map(|t| layer.exact(&scores[t * n..][..n], &x[t * N_EMBD..][..N_EMBD]))
                    .zip(&before)
                    .map(|(made, before)| made + f64::from(*before))
                    .collect();
                let total: f64 = want.iter().zip(&before).map(|(w, b)| (w - f64::from(*b)).powi(2)).sum();
                for k in supported() {
                    let mut out = before.clone();
                    layer.run(k, &scores, &x, &mut out);
                    let error: f64 = out.iter().zip(&want).map(|(o, w)| (f64::from(*o) - w).powi(2)).sum();
                    let nmse = error / total;
                    let case = format!("{} {ty} {n_used} of {n}, {n_tokens} tokens", k.name);
                    assert!(nmse <= most, "{case}: NMSE {nmse:.2e}, expected {most:.1e}");
                }
            }
        }
    }
}

/// A token of a step with a few others gets the bits that it gets alone.
#[test]
fn tokens_of_a_step_do_not_see_each_other() {
    let mut rng = Rng(77);
    let layer = Layer::new(GgmlType::Q4_K, (5, 2), false, &mut rng);
    let (x, scores) = (rng.vec(8 * N_EMBD), rng.vec(8 * 5));
    for k in supported() {
        let mut all = vec![0.0; 8 * N_EMBD];
        layer.run(k, &scores, &x, &mut all);
        for t in 0..8 {
            let mut one = vec![0.0; N_EMBD];
            layer.run(k, &scores[t * 5..][..5], &x[t * N_EMBD..][..N_EMBD], &mut one);
            assert_eq!(one, all[t * N_EMBD..][..N_EMBD], "{} token {t}", k.name);
        }
    }
}
