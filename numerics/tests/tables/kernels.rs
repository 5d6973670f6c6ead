//! Every table that this machine can run against plain f64 arithmetic, at odd sizes.

use std::io::Write;

use longtake_numerics::GgmlType;
use longtake_numerics::kernels::{
    AttentionShape, CacheRows, Kernels, KvView, Number, Panel, attention, candidates, cpu_features, kv_write, matmul,
    supported,
};
use longtake_numerics::random::Rng;
use longtake_numerics::tensor::{MatView, can_quantize, dequantize_row, quantize_row};

/// Compares with an f64 result: `scale` is the sum of the absolute terms.
fn close(got: f32, want: f64, scale: f64, case: &str) {
    let diff = (f64::from(got) - want).abs();
    assert!(diff <= 4e-6 * (scale + 1.0), "{case}: {got} instead of {want}");
}

fn each(run: impl Fn(&Kernels)) {
    for kernels in supported() {
        run(kernels);
    }
}

fn dot(x: &[f32], y: &[f32]) -> (f64, f64) {
    x.iter().zip(y).fold((0.0, 0.0), |(sum, abs), (a, b)| {
        let t = f64::from(*a) * f64::from(*b);
        (sum + t, abs + t.abs())
    })
}

/// Tests run the tables that they find: this one says aloud which those are, past the harness, which keeps to itself what
/// passing tests print.
#[test]
fn tables_that_are_tested_here() {
    let mut lines = String::new();
    for table in candidates() {
        let missing = table.missing.join(", ");
        let verdict =
            if missing.is_empty() { "tested".into() } else { format!("not tested, this CPU has no {missing}") };
        lines += &format!("\nkernels {}: {verdict}", table.name);
    }
    writeln!(std::io::stderr(), "{lines}").unwrap();
    assert_eq!(lines.matches(": tested").count(), supported().len());
}

/// A feature that is missing in the list would keep its table from ever being used.
#[test]
fn every_feature_that_a_table_needs_is_asked_for() {
    let known = cpu_features();
    for candidate in candidates() {
        for need in candidate.needs {
            assert!(known.iter().any(|(name, _)| *name == need), "{} needs {need}", candidate.name);
        }
    }
    let unused = |name: &str| candidates().iter().all(|c| !c.needs.contains(&name));
    assert!(known.iter().all(|(name, _)| !unused(name)), "a feature that no table needs");
}

#[test]
fn the_scalar_table_needs_nothing_and_names_differ() {
    let all = candidates();
    assert!(all[0].name == "scalar" && all[0].needs.is_empty());
    for (i, candidate) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|c| c.name != candidate.name), "{} twice", candidate.name);
    }
}

#[test]
fn row_operations_at_odd_sizes() {
    each(|k| {
        for n in [0usize, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 64, 129, 1536] {
            let case = format!("{} n {n}", k.name);
            let mut rng = Rng(n as u64);
            let (x, w, b) = (rng.vec(n), rng.vec(n), rng.vec(n));
            let f = |v: &f32| f64::from(*v);
            let mut out = vec![0.0; n];
            (k.rms_norm)(&x, &w, 1e-6, &mut out);
            let rms = (x.iter().map(|v| f(v) * f(v)).sum::<f64>() / n as f64 + 1e-6).sqrt();
            (0..n).for_each(|i| close(out[i], f(&x[i]) / rms * f(&w[i]), 1.0, &format!("rms_norm {case}")));
            (k.layer_norm)(&x, &w, &b, 1e-6, &mut out);
            let mean = x.iter().map(f).sum::<f64>() / n as f64;
            let std = (x.iter().map(|v| (f(v) - mean).powi(2)).sum::<f64>() / n as f64 + 1e-6).sqrt();
            (0..n).for_each(|i| {
                close(out[i], (f(&x[i]) - mean) / std * f(&w[i]) + f(&b[i]), 4.0, &format!("layer_norm {case}"))
            });
            let mut gate: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
            let wide = gate.clone();
            (k.silu_mul)(&mut gate, &w);
            (0..n).for_each(|i| {
                close(gate[i], f(&wide[i]) / (1.0 + (-f(&wide[i])).exp()) * f(&w[i]), 30.0, &format!("silu {case}"))
            });
            let mut gated = x.clone();
            (k.sigmoid_mul)(&mut gated, &wide);
            (0..n).for_each(|i| {
                close(gated[i], f(&x[i]) / (1.0 + (-f(&wide[i])).exp()), 30.0, &format!("sigmoid_mul {case}"))
            });
            let mut gelu = wide.clone();
            (k.quick_gelu)(&mut gelu);
            (0..n).for_each(|i| {
                close(gelu[i], f(&wide[i]) / (1.0 + (-1.702 * f(&wide[i])).exp()), 30.0, &format!("quick_gelu {case}"))
            });
            let mut gelu = wide.clone();
            (k.gelu_tanh)(&mut gelu);
            (0..n).for_each(|i| {
                let v = f(&wide[i]);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
                close(gelu[i], 0.5 * v * (1.0 + u.tanh()), 30.0, &format!("gelu_tanh {case}"))
            });
        }
    });
}

#[test]
fn matmul_agrees_with_decoded_weights_for_every_type() {
    let types: Vec<GgmlType> =
        (0..64).filter_map(|id| GgmlType::from_id(id).ok()).filter(|ty| can_quantize(*ty)).collect();
    assert!(types.len() >= 15);
    for ty in types {
        for (seed, (n_tokens, n_rows, blocks)) in
            [(1, 1, 1), (2, 17, 2), (5, 33, 1), (9, 40, 3), (0, 3, 1)].into_iter().enumerate()
        {
            let n_cols = blocks * ty.block_len().max(32);
            let mut rng = Rng(seed as u64);
            let row_bytes = ty.row_bytes(n_cols).unwrap();
            let (mut packed, mut weights) = (vec![0u8; n_rows * row_bytes], vec![0f32; n_rows * n_cols]);
            for row in packed.chunks_exact_mut(row_bytes) {
                quantize_row(ty, &rng.vec(n_cols), row, None).unwrap();
            }
            dequantize_row(ty, &packed, &mut weights).unwrap();
            let x = rng.vec(n_tokens * n_cols);
            each(|k| {
                let mut out = vec![f32::NAN; n_tokens * n_rows];
                matmul(k, MatView::new(ty, n_cols, n_rows, &packed).unwrap(), &x, &mut out);
                let case = format!("{} {ty} seed {seed} ({n_tokens}, {n_cols}) x {n_rows}", k.name);
                // Many tokens meet weights of 16 bits in 16-bit fixed point.
                let number = Panel::of(ty).unwrap().number;
                let exact = number == Number::F32 || number == Number::Int16 && n_tokens <= 8;
                let bound = if number == Number::Int16 { 1e-7 } else { 5e-4 };
                let (mut error, mut total) = (0.0, 0.0);
                for it in 0..n_tokens {
                    for r in 0..n_rows {
                        let (want, scale) = dot(&x[it * n_cols..][..n_cols], &weights[r * n_cols..][..n_cols]);
                        let got = out[it * n_rows + r];
                        if exact {
                            close(got, want, scale, &case);
                        }
                        error += (f64::from(got) - want).powi(2);
                        // A single product may cancel: the yardstick is what it would be for independent terms.
                        total += scale * scale / n_cols as f64;
                    }
                }
                assert!(error <= bound * total, "{case}: NMSE {}", error / total);
            });
        }
    }
}

#[test]
fn attention_agrees_with_the_textbook_for_every_cache_type() {
    let types = longtake_numerics::tensor::CACHE_TYPES;
    for (seed, (n_head, n_head_kv, d, n_past, n)) in
        [(1, 1, 32, 0, 1), (6, 2, 64, 70, 3), (3, 1, 32, 5, 130), (4, 4, 96, 0, 65), (12, 2, 128, 200, 1)]
            .into_iter()
            .enumerate()
    {
        for ty in types {
            let mut rng = Rng(seed as u64 + 100);
            let (n_kv, row) = (n_past + n, ty.row_bytes(d).unwrap());
            let n_ctx = n_kv + 9;
            let mut store = || {
                let (rows, mut bytes) = (rng.vec(n_kv * n_head_kv * d), vec![0u8; n_head_kv * n_ctx * row]);
                kv_write(
                    supported()[0],
                    &rows,
                    None,
                    None,
                    (n_head_kv, d),
                    CacheRows { ty: ty.into(), data: &mut bytes, stride: n_ctx * row, slot: 0 },
                )
                .unwrap();
                let mut decoded = vec![0f32; n_head_kv * n_ctx * d];
                dequantize_row(ty, &bytes, &mut decoded).unwrap();
                (bytes, decoded)
            };
            let ((k_bytes, keys), (v_bytes, values)) = (store(), store());
            let q = rng.vec(n * n_head * d);
            let kv = KvView {
                type_k: ty.into(),
                type_v: ty.into(),
                k: &k_bytes,
                v: &v_bytes,
                stride_k: n_ctx * row,
                stride_v: n_ctx * row,
            };
            for causal in [true, false] {
                each(|kernels| {
                    let case = format!("{} {ty} seed {seed} causal {causal}", kernels.name);
                    let mut out = vec![f32::NAN; q.len()];
                    attention(
                        kernels,
                        AttentionShape { n_head, n_head_kv, d, n_past, causal, exact: true },
                        kv,
                        &q,
                        &mut out,
                    );
                    for it in 0..n {
                        for ih in 0..n_head {
                            let head = ih / (n_head / n_head_kv);
                            let query = &q[(it * n_head + ih) * d..][..d];
                            let seen = if causal { n_past + it + 1 } else { n_kv };
                            let at = |m: &[f32], j: usize| m[(head * n_ctx + j) * d..][..d].to_vec();
                            let scores: Vec<f64> =
                                (0..seen).map(|j| dot(query, &at(&keys, j)).0 / (d as f64).sqrt()).collect();
                            let top = scores.iter().cloned().fold(f64::MIN, f64::max);
                            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                            let mut want = vec![0f64; d];
                            for (j, s) in scores.iter().enumerate() {
                                for (w, v) in want.iter_mut().zip(at(&values, j)) {
                                    *w += (s - top).exp() / total * f64::from(v);
                                }
                            }
                            let got = &out[(it * n_head + ih) * d..][..d];
                            if ty == GgmlType::F32 || kernels.name == "scalar" {
                                got.iter().zip(&want).for_each(|(got, want)| close(*got, *want, 1.0, &case));
                            } else {
                                // Fixed point: an error relative to the row.
                                let error: f64 = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
                                let power: f64 = want.iter().map(|w| w * w).sum();
                                assert!(error <= 5e-4 * power, "{case}: NMSE {}", error / power);
                            }
                        }
                    }
                });
            }
        }
    }
}

#[test]
fn a_cache_refuses_what_is_not_finite() {
    let mut bytes = vec![0u8; 64 * 4];
    let rows = [1.0, f32::NAN].repeat(16);
    let to = CacheRows { ty: GgmlType::F32.into(), data: &mut bytes, stride: 256, slot: 0 };
    let err = kv_write(supported()[0], &rows, None, None, (1, 32), to).unwrap_err();
    assert!(err.to_string().contains("token 0"), "{err}");
}
