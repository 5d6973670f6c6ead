//! A layer of experts, and what it computes exactly.

use longtake_numerics::GgmlType;

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
