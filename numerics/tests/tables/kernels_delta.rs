//! Gated DeltaNet on every table that this machine can run, against the recurrence in plain f64 arithmetic.

use longtake_numerics::kernels::{
    CONV_KERNEL, DeltaRows, DeltaShape, DeltaState, DeltaWeights, Kernels, delta, supported,
};

use crate::random::Rng;

/// What a layer needs beside its state, drawn.
struct Case {
    shape: DeltaShape,
    n: usize,
    conv: Vec<f32>,
    a: Vec<f32>,
    dt_bias: Vec<f32>,
    norm: Vec<f32>,
    qkv: Vec<f32>,
    z: Vec<f32>,
    beta: Vec<f32>,
    alpha: Vec<f32>,
    /// Before the first token.
    state: Vec<f32>,
}

const EPS: f32 = 1e-5;

impl Case {
    fn new((n_head_k, n_head_v, d_k, d_v): (usize, usize, usize, usize), n: usize, seed: u64) -> Case {
        let shape = DeltaShape { n_head_k, n_head_v, d_k, d_v };
        let mut rng = Rng(seed);
        let mut vec = |n: usize, scale: f32| rng.vec(n).into_iter().map(|x| x * scale).collect::<Vec<f32>>();
        let n_channels = shape.conv_dim();
        let mut case = Case {
            shape,
            n,
            conv: vec(CONV_KERNEL * n_channels, 1.0),
            a: vec(n_head_v, 1.0),
            dt_bias: vec(n_head_v, 2.0),
            norm: vec(d_v, 1.0),
            qkv: vec(n * n_channels, 2.0),
            z: vec(n * shape.value_dim(), 4.0),
            beta: vec(n * n_head_v, 5.0),
            alpha: vec(n * n_head_v, 3.0),
            state: vec(shape.n_state(), 1.0),
        };
        // From heads that forget nearly all to such that keep nearly all.
        for (j, a) in case.a.iter_mut().enumerate() {
            *a = -(0.01 + a.abs()) * [0.02, 1.0, 16.0][j % 3];
        }
        case
    }

    /// Runs tokens in batches of these lengths: outputs and the last state.
    fn run(&self, kernels: &Kernels, cuts: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let Case { shape, .. } = self;
        let (mut state, mut qkv) = (self.state.clone(), self.qkv.clone());
        let mut out = vec![f32::NAN; self.n * shape.value_dim()];
        let weights =
            DeltaWeights { conv: &self.conv, a: &self.a, dt_bias: &self.dt_bias, norm: &self.norm, norm_eps: EPS };
        let mut first = 0;
        for len in cuts {
            let rows = first..first + len;
            let part = |width: usize| rows.start * width..rows.end * width;
            let rows = DeltaRows {
                qkv: &mut qkv[part(shape.conv_dim())],
                z: &self.z[part(shape.value_dim())],
                beta: &self.beta[part(shape.n_head_v)],
                alpha: &self.alpha[part(shape.n_head_v)],
            };
            let state = DeltaState::of(shape, &mut state);
            delta(kernels, shape, weights, state, rows, &mut out[part(shape.value_dim())]).unwrap();
            first += len;
        }
        assert_eq!(first, self.n);
        (out, state)
    }

    /// The same, token by token in f64.
    fn reference(&self) -> (Vec<f64>, Vec<f64>) {
        let DeltaShape { n_head_k, n_head_v, d_k, d_v } = self.shape;
        let (n_channels, n_value, n_past) = (self.shape.conv_dim(), self.shape.value_dim(), CONV_KERNEL - 1);
        let f = |x: &f32| f64::from(*x);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let inputs: Vec<f64> = self.state[..n_past * n_channels].iter().chain(&self.qkv).map(f).collect();
        let mut matrix: Vec<f64> = self.state[n_past * n_channels..].iter().map(f).collect();
        let mut out = Vec::new();
        for it in 0..self.n {
            let mixed: Vec<f64> = (0..n_channels)
                .map(|c| {
                    let at = |t: usize| f(&self.conv[t * n_channels + c]) * inputs[(it + t) * n_channels + c];
                    silu((0..CONV_KERNEL).map(at).sum())
                })
                .collect();
            for j in 0..n_head_v {
                let unit = |first: usize, length: f64| -> Vec<f64> {
                    let head = &mixed[first + j % n_head_k * d_k..][..d_k];
                    let norm = (head.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    head.iter().map(|x| x / norm * length).collect()
                };
                let (q, k) = (unit(0, (d_k as f64).powf(-0.5)), unit(n_head_k * d_k, 1.0));
                let v = &mixed[2 * n_head_k * d_k + j * d_v..][..d_v];
                let beta = 1.0 / (1.0 + (-f(&self.beta[it * n_head_v + j])).exp());
                let step = f(&self.alpha[it * n_head_v + j]) + f(&self.dt_bias[j]);
                let decay = (f(&self.a[j]) * step.exp().ln_1p()).exp();
                let s = &mut matrix[j * d_k * d_v..][..d_k * d_v];
                s.iter_mut().for_each(|x| *x *= decay);
                let mut o = vec![0.0; d_v];
                for c in 0..d_v {
                    let said: f64 = (0..d_k).map(|i| s[i * d_v + c] * k[i]).sum();
                    (0..d_k).for_each(|i| s[i * d_v + c] += k[i] * beta * (v[c] - said));
                    o[c] = (0..d_k).map(|i| s[i * d_v + c] * q[i]).sum();
                }
                let rms = (o.iter().map(|x| x * x).sum::<f64>() / d_v as f64 + f64::from(EPS)).sqrt();
                for (c, o) in o.iter().enumerate() {
                    out.push(o / rms * f(&self.norm[c]) * silu(f(&self.z[it * n_value + j * d_v + c])));
                }
            }
        }
        let conv = inputs[self.n * n_channels..].to_vec();
        (out, [conv, matrix].concat())
    }
}

/// The largest difference, relative to the largest value.
fn apart(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let top = want.iter().fold(0f64, |top, x| top.max(x.abs()));
    got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / top
}

/// Heads of queries and keys, heads of values, elements of either.
const SHAPES: [(usize, usize, usize, usize); 5] =
    [(1, 1, 128, 128), (1, 3, 16, 48), (2, 2, 32, 32), (3, 6, 80, 16), (2, 4, 48, 112)];

#[test]
fn as_the_recurrence_says_at_odd_lengths() {
    for (s, shape) in SHAPES.into_iter().enumerate() {
        for n in [1, 2, 5, 15, 16, 17, 33, 63, 64, 65, 127, 130, 200] {
            let case = Case::new(shape, n, (s * 1000 + n) as u64);
            let (want, want_state) = case.reference();
            for kernels in supported() {
                let (out, state) = case.run(kernels, &[n]);
                let (out, state) = (apart(&out, &want), apart(&state, &want_state));
                assert!(out < 1e-5 && state < 1e-5, "{} {shape:?} n {n}: {out:.2e}, {state:.2e}", kernels.name);
            }
        }
    }
}

#[test]
fn any_cut_gives_the_same_state() {
    for (s, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 150, s as u64);
        let (want, want_state) = case.reference();
        let cuts: [&[usize]; 5] = [&[1; 150], &[64, 64, 22], &[1, 63, 65, 21], &[3, 5, 7, 2, 130, 1, 2], &[149, 1]];
        for kernels in supported() {
            for cut in cuts {
                let (out, state) = case.run(kernels, cut);
                let (out, state) = (apart(&out, &want), apart(&state, &want_state));
                assert!(out < 1e-5 && state < 1e-5, "{} {shape:?} {cut:?}: {out:.2e}, {state:.2e}", kernels.name);
            }
        }
    }
}

/// Decays whose powers are far below the smallest float, and keys that are zero.
#[test]
fn extremes_stay_finite() {
    let mut case = Case::new((1, 2, 32, 32), 130, 7);
    case.a = vec![-300.0, -1e-7];
    case.alpha.fill(25.0);
    case.qkv[40 * 128..90 * 128].fill(0.0);
    let (want, want_state) = case.reference();
    for kernels in supported() {
        let (out, state) = case.run(kernels, &[130]);
        assert!(apart(&out, &want) < 1e-5 && apart(&state, &want_state) < 1e-5, "{}", kernels.name);
    }
}

#[test]
fn values_that_are_not_finite_are_an_error() {
    for n in [1, 70] {
        let mut case = Case::new((1, 2, 32, 32), n, 8);
        case.qkv[(n - 1) * 128 + 70] = f32::NAN;
        let shape = case.shape;
        for kernels in supported() {
            let (mut state, mut qkv) = (case.state.clone(), case.qkv.clone());
            let rows = DeltaRows { qkv: &mut qkv, z: &case.z, beta: &case.beta, alpha: &case.alpha };
            let weights =
                DeltaWeights { conv: &case.conv, a: &case.a, dt_bias: &case.dt_bias, norm: &case.norm, norm_eps: EPS };
            let mut out = vec![0.0; n * shape.value_dim()];
            let result = delta(kernels, &shape, weights, DeltaState::of(&shape, &mut state), rows, &mut out);
            let error = result.expect_err("a NaN").to_string();
            assert!(error.contains("value head 0 remembers is not finite"), "{error}");
        }
    }
}
