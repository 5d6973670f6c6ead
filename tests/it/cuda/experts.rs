//! Experts on a GPU: exact arithmetic on the decoded weights, whoever chooses whom, and what is read.

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{DevMat, ExpertsMem, Gpu, PairMem, QuantizedMem, StackMem};

use super::{Rng, WEIGHT_TYPES, down, gpu, nmse, up};
use crate::layer_of_experts::{Layer, N_EMBD, N_FF};

/// What a layer adds to `before`, and with how many launches.
fn run(gpu: &Gpu, layer: &Layer, scores: &[f32], x: &[f32], before: &[f32]) -> (Vec<f32>, u64) {
    let upload = |w: &crate::random::Weights| DevMat::upload(gpu, w.view(), "test").unwrap();
    let (gate, of_down) = (upload(&layer.gate), upload(&layer.down));
    let of_up = layer.up.as_ref().map_or_else(|| gate.clone(), upload);
    let n = x.len() / N_EMBD;
    let stack = |mat, (first, step)| StackMem { mat, first, step, n_rows: N_FF };
    let [places_gate, places_up] = layer.places();
    let experts = ExpertsMem {
        n: layer.n,
        n_used: layer.n_used,
        gate: stack(&gate, places_gate),
        up: stack(&of_up, places_up),
        down: StackMem { mat: &of_down, first: 0, step: N_EMBD, n_rows: N_EMBD },
    };
    let pairs = PairMem::new(gpu, n, (layer.n, layer.n_used), (N_EMBD, N_FF)).unwrap();
    let quantized = QuantizedMem::new(gpu, n * N_EMBD.max(layer.n_used * N_FF)).unwrap();
    let (scores, x, out) = (up(gpu, scores), up(gpu, x), up(gpu, before));
    let launched = gpu.n_launched();
    gpu.experts(&experts, n, (&scores, &x, &out), (&pairs, &quantized)).unwrap();
    let launched = gpu.n_launched() - launched;
    (down(&out), launched)
}

fn check(gpu: &Gpu, layer: &Layer, n_tokens: usize) {
    let (mut rng, ty) = (Rng(n_tokens as u64 + 1000), layer.gate.ty);
    let Layer { n, n_used, .. } = *layer;
    let x = rng.vec(n_tokens * N_EMBD);
    // Some experts are liked by most tokens, some by nobody.
    let like: Vec<f32> = rng.vec(n);
    let scores: Vec<f32> = rng.vec(n_tokens * n).iter().enumerate().map(|(i, s)| s + 2.0 * like[i % n]).collect();
    let before = rng.vec(n_tokens * N_EMBD);
    let want: Vec<f32> = (0..n_tokens)
        .flat_map(|t| layer.exact(&scores[t * n..][..n], &x[t * N_EMBD..][..N_EMBD]))
        .map(|made| made as f32)
        .collect();
    let got: Vec<f32> =
        run(gpu, layer, &scores, &x, &before).0.iter().zip(&before).map(|(out, before)| out - before).collect();
    // What a product may be off by (see products.rs), of which there are three in a row: as on the host, four times that.
    let most = 4.0 * if ty.block_len() == 1 { 1e-10 } else { 1e-4 };
    let error = nmse(&got, &want);
    assert!(error <= most, "{ty} {n_used} of {n}, {n_tokens} tokens: NMSE {error:.1e}, expected {most:.1e}");
}

#[test]
fn experts_of_every_type_stay_close_to_exact_ones() {
    let gpu = gpu();
    for (i, ty) in WEIGHT_TYPES.into_iter().enumerate() {
        let layer = Layer::new(ty, (3, 2), i % 2 == 1, &mut Rng(i as u64 + 900));
        // One token, few, and so many that most experts have more than are multiplied in one go.
        [1, 5, 20].into_iter().for_each(|n_tokens| check(&gpu, &layer, n_tokens));
    }
    for ty in [GgmlType::F16, GgmlType::Q4_K] {
        // Of many experts each has few tokens; all of them; one alone; more pairs than one tile of tensor cores takes.
        for (shape, counts) in [((17, 3), &[9, 50][..]), ((3, 3), &[7]), ((1, 1), &[12]), ((2, 2), &[140])] {
            let layer = Layer::new(ty, shape, shape.0 % 2 == 0, &mut Rng(shape.0 as u64 + 950));
            counts.iter().for_each(|n_tokens| check(&gpu, &layer, *n_tokens));
        }
    }
}

/// Up to eight tokens get the bits that each gets alone, with as many launches as one.
#[test]
fn tokens_of_a_step_do_not_see_each_other() {
    let gpu = gpu();
    for ty in [GgmlType::Q4_K, GgmlType::BF16] {
        let mut rng = Rng(78);
        let layer = Layer::new(ty, (5, 2), false, &mut rng);
        let (x, scores, before) = (rng.vec(8 * N_EMBD), rng.vec(8 * 5), vec![0.0; 8 * N_EMBD]);
        let (all, launched) = run(&gpu, &layer, &scores, &x, &before);
        for t in 0..8 {
            let (one, of_one) = run(&gpu, &layer, &scores[t * 5..][..5], &x[t * N_EMBD..][..N_EMBD], &before[..N_EMBD]);
            assert!(one == all[t * N_EMBD..][..N_EMBD] && launched == of_one, "{ty} token {t}");
        }
    }
}

/// Weights that are no numbers do not show where nobody chose their expert: they are not read.
#[test]
fn experts_that_nobody_chose_are_not_read() {
    let gpu = gpu();
    let (n, n_used) = (6, 2);
    for (ty, n_tokens) in [(GgmlType::F16, 1), (GgmlType::Q8_0, 3), (GgmlType::F16, 60), (GgmlType::Q8_0, 60)] {
        let mut rng = Rng(79);
        let mut layer = Layer::new(ty, (n, n_used), false, &mut rng);
        // Experts 1 and 4 alone.
        let scores: Vec<f32> =
            (0..n_tokens * n).map(|i| if [1, 4].contains(&(i % n)) { 5.0 } else { 0.0 } + 0.1 * rng.normal()).collect();
        let (x, before) = (rng.vec(n_tokens * N_EMBD), vec![0.0; n_tokens * N_EMBD]);
        let (want, _) = run(&gpu, &layer, &scores, &x, &before);
        let spoil = |w: &mut crate::random::Weights| {
            let one = w.packed.len() / n;
            [0, 2, 3, 5].into_iter().for_each(|e| w.packed[e * one..(e + 1) * one].fill(0xff));
        };
        [&mut layer.gate, layer.up.as_mut().unwrap(), &mut layer.down].into_iter().for_each(spoil);
        let (got, _) = run(&gpu, &layer, &scores, &x, &before);
        assert!(got.iter().all(|x| x.is_finite()) && got == want, "{ty}, {n_tokens} tokens");
        // Read, they would.
        let liked: Vec<f32> = scores.iter().enumerate().map(|(i, s)| if i % n == 2 { s + 9.0 } else { *s }).collect();
        assert!(run(&gpu, &layer, &liked, &x, &before).0.iter().any(|x| !x.is_finite()), "{ty}");
    }
}

/// Broken scores show in the result, and nothing else comes of them.
#[test]
fn scores_that_are_no_numbers_choose_experts_that_there_are() {
    let gpu = gpu();
    let layer = Layer::new(GgmlType::Q8_0, (4, 3), false, &mut Rng(80));
    let x = Rng(81).vec(2 * N_EMBD);
    let scores = [f32::NAN, f32::NAN, f32::NAN, f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.5];
    let (out, _) = run(&gpu, &layer, &scores, &x, &vec![0.0; x.len()]);
    assert!(out[..N_EMBD].iter().all(|x| x.is_nan()) && out[N_EMBD..].iter().all(|x| x.is_finite()));
}
