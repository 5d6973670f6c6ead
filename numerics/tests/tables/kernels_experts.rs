//! Experts: every table against exact arithmetic on the decoded weights, whoever chooses whom, and what does not depend on company.

use longtake_numerics::GgmlType;
use longtake_numerics::kernels::{Experts, Kernels, Stacked, experts, supported};

use crate::layer_of_experts::{Layer, N_EMBD, N_FF};
use crate::random::Rng;

/// The same as a table of kernels computes it.
fn run(layer: &Layer, k: &Kernels, scores: &[f32], x: &[f32], out: &mut [f32]) {
    let [gate, up] = layer.places();
    let of_up = layer.up.as_ref().unwrap_or(&layer.gate);
    let all = Experts {
        n: layer.n,
        n_used: layer.n_used,
        gate: Stacked { mat: layer.gate.view(), first: gate.0, step: gate.1, n_rows: N_FF },
        up: Stacked { mat: of_up.view(), first: up.0, step: up.1, n_rows: N_FF },
        down: Stacked { mat: layer.down.view(), first: 0, step: N_EMBD, n_rows: N_EMBD },
    };
    experts(k, all, scores, x, out);
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
                    run(&layer, k, &scores, &x, &mut out);
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
        run(&layer, k, &scores, &x, &mut all);
        for t in 0..8 {
            let mut one = vec![0.0; N_EMBD];
            run(&layer, k, &scores[t * 5..][..5], &x[t * N_EMBD..][..N_EMBD], &mut one);
            assert_eq!(one, all[t * N_EMBD..][..N_EMBD], "{} token {t}", k.name);
        }
    }
}
