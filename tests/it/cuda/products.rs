//! Products of every weight type, few tokens and many, against the scalar table.

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{DevMat, EpilogueMem, Gpu, Input, QuantizedMem};
use longtake::kernels::{gelu_erf, matmul};

use crate::random::Weights;

use super::{Rng, WEIGHT_TYPES, down, gpu, nmse, scalar, up};

/// Exact products of `w` with `x`, (n_tokens, n_rows).
fn exact(w: &Weights, x: &[f32]) -> Vec<f32> {
    let rows = |x: &[f32]| -> Vec<f32> {
        let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32;
        w.decoded.chunks(w.n_cols).map(dot).collect()
    };
    x.chunks(w.n_cols).flat_map(rows).collect()
}

fn product(gpu: &Gpu, w: &Weights, x: &[f32], epilogue: EpilogueMem<'_>, out: &[f32]) -> Vec<f32> {
    let n_tokens = x.len() / w.n_cols;
    let (dev_w, dev_x, out) = (DevMat::upload(gpu, w.view(), "test").unwrap(), up(gpu, x), up(gpu, out));
    let quantized = QuantizedMem::new(gpu, x.len()).unwrap();
    Input::new(gpu, &dev_x, &quantized, (n_tokens, w.n_cols)).product(&dev_w, epilogue, &out).unwrap();
    down(&out)
}

#[test]
fn products_of_every_type_agree_with_scalar() {
    let gpu = gpu();
    for ty in WEIGHT_TYPES {
        for seed in 0..6 {
            let mut rng = Rng(seed + 100);
            let blocks = match ty.block_len() {
                256 => 1 + rng.below(3),
                32 => 1 + rng.below(12),
                _ => 1 + rng.below(350),
            };
            // One token, few, many; many in more than one tile of each kind.
            let n_tokens = [1, 2 + rng.below(7), 9 + rng.below(20), 40 + rng.below(100), 1, 8][seed as usize];
            let (n_cols, n_rows) = (blocks * ty.block_len(), 1 + rng.below(150));
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let x = rng.vec(n_tokens * n_cols);
            let got = product(&gpu, &w, &x, EpilogueMem::default(), &vec![f32::NAN; n_tokens * n_rows]);
            let case = format!("{ty} seed {seed} ({n_tokens}, {n_cols}) x {n_rows}");
            let exact = exact(&w, &x);
            // Activations of 8 bits with a scale per 32 cost some 3e-5; parts of 8 bits are nearly exact.
            let bound = if ty.block_len() == 1 { 1e-10 } else { 1e-4 };
            let error = nmse(&got, &exact);
            assert!(error <= bound, "{case}: NMSE {error:.1e} against exact products");
            // The scalar table rounds activations of its own accord, so the two differ by both errors.
            let mut host = vec![0f32; n_tokens * n_rows];
            matmul(scalar(), w.view(), &x, &mut host);
            let error = nmse(&got, &host);
            assert!(error <= bound.max(5e-8) * 4.0, "{case}: NMSE {error:.1e} against scalar");
        }
    }
}

/// With integer activations that need no rounding, products of quantized weights are exact but for the order of sums.
#[test]
fn integers_are_multiplied_exactly() {
    let gpu = gpu();
    for ty in WEIGHT_TYPES {
        for (seed, n_tokens) in [1, 5, 33].into_iter().enumerate() {
            let mut rng = Rng(seed as u64 + 200);
            let (n_cols, n_rows) = (256, 67);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            // 127 in every group makes its scale 1.
            let x: Vec<f32> = (0..n_tokens * n_cols)
                .map(|i| if i % 32 == 5 { 127.0 } else { rng.below(255) as f32 - 127.0 })
                .collect();
            let got = product(&gpu, &w, &x, EpilogueMem::default(), &vec![0.0; n_tokens * n_rows]);
            let error = nmse(&got, &exact(&w, &x));
            assert!(error <= 1e-11, "{ty} seed {seed}, {n_tokens} tokens: NMSE {error:.1e}");
        }
    }
}

#[test]
fn epilogues_do_what_they_say() {
    let (gpu, k) = (gpu(), scalar());
    for ty in [GgmlType::F16, GgmlType::Q4_K] {
        for (seed, n_tokens) in [1, 6, 30].into_iter().enumerate() {
            let mut rng = Rng(seed as u64 + 300);
            let (n_cols, n_rows) = (256, 37);
            let w = Weights::pack(ty, n_cols, n_rows, &rng.vec(n_cols * n_rows));
            let (x, before, bias) = (rng.vec(n_tokens * n_cols), rng.vec(n_tokens * n_rows), rng.vec(n_rows));
            let dev_bias = up(&gpu, &bias);
            let plain = product(&gpu, &w, &x, EpilogueMem::default(), &before);
            let with_bias: Vec<f32> = plain.iter().enumerate().map(|(i, v)| v + bias[i % n_rows]).collect();
            let applied = |f: &dyn Fn(&mut [f32])| {
                let mut out = with_bias.clone();
                f(&mut out);
                out
            };
            let bias = Some(&dev_bias);
            for (epilogue, want) in [
                (EpilogueMem { bias, ..Default::default() }, with_bias.clone()),
                (EpilogueMem { bias, quick_gelu: true, ..Default::default() }, applied(&|x| (k.quick_gelu)(x))),
                (EpilogueMem { bias, gelu_erf: true, ..Default::default() }, applied(&gelu_erf)),
                (EpilogueMem { bias, gelu_tanh: true, ..Default::default() }, applied(&|x| (k.gelu_tanh)(x))),
                (
                    EpilogueMem { bias, add: true, ..Default::default() },
                    applied(&|x| x.iter_mut().zip(&before).for_each(|(x, b)| *x += b)),
                ),
            ] {
                let error = nmse(&product(&gpu, &w, &x, epilogue, &before), &want);
                assert!(error <= 1e-12, "{ty} seed {seed}, {n_tokens} tokens: NMSE {error:.1e}");
            }
        }
    }
}
