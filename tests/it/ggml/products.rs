//! Products with packed weights against ggml's, and both against exact ones.

use longtake::gguf::GgmlType::{self, *};
use longtake::kernels::{matmul, supported};
use longtake::tensor::MatView;

use super::Rng;
use super::{SEARCHED, SIMPLE};

const N_ROWS: usize = 48;

/// Weights as ggml packs them, what they decode to, and activations.
struct Case {
    ty: GgmlType,
    n_cols: usize,
    packed: Vec<u8>,
    weights: Vec<f32>,
    /// (n_tokens, n_cols)
    x: Vec<f32>,
    name: String,
}

/// How activations are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spread {
    Normal,
    /// One column in 97 is forty times larger: what the residual stream of trained models looks like.
    Outliers,
}

impl Case {
    fn new(ty: GgmlType, spread: Spread, n_tokens: usize, seed: u64) -> Case {
        let mut rng = Rng(seed);
        let n_cols = 256 * (1 + rng.below(8));
        let weights = rng.vec(N_ROWS * n_cols);
        let packed = ggml_sys::quantize(ty.id(), &weights, n_cols, None);
        let weights = ggml_sys::dequantize(ty.id(), &packed, weights.len());
        let mut x = rng.vec(n_tokens * n_cols);
        if spread == Spread::Outliers {
            x.iter_mut().enumerate().filter(|(i, _)| i % n_cols % 97 == 31).for_each(|(_, x)| *x *= 40.0);
        }
        let name = format!("{ty} {spread:?}, {n_tokens} tokens, {n_cols} columns, seed {seed}");
        Case { ty, n_cols, packed, weights, x, name }
    }

    fn view(&self) -> MatView<'_> {
        MatView::new(self.ty, self.n_cols, N_ROWS, &self.packed).unwrap()
    }

    fn row(&self, i: usize) -> (&[f32], &[f32]) {
        (&self.x[i / N_ROWS * self.n_cols..][..self.n_cols], &self.weights[i % N_ROWS * self.n_cols..][..self.n_cols])
    }

    /// ggml's products, row by row.
    fn theirs(&self) -> Vec<f32> {
        let row_bytes = self.packed.len() / N_ROWS;
        let rows = |x| self.packed.chunks_exact(row_bytes).map(move |row| ggml_sys::dot(self.ty.id(), row, x));
        self.x.chunks_exact(self.n_cols).flat_map(rows).collect()
    }

    fn exact(&self) -> Vec<f64> {
        let dot = |(x, w): (&[f32], &[f32])| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        (0..self.x.len() / self.n_cols * N_ROWS).map(|i| dot(self.row(i))).collect()
    }

    /// How far two products of element `i` may lie apart when both round their activations to steps of 1/127 of the largest
    /// of at most 256, and one of them its weights likewise (to 0.76 steps, see `kernels_matmul`), and sums are in f32.
    fn bound(&self, i: usize) -> f64 {
        let (x, w) = self.row(i);
        let largest = |v: &[f32]| f64::from(v.iter().fold(0f32, |max, v| max.max(v.abs())));
        let sum = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        let chunks = x.chunks(256).zip(w.chunks(256));
        let terms = chunks.map(|(x, w)| {
            let (step_x, step_w) = (largest(x) / 127.0, largest(w) / 127.0);
            let rounded = 2.0 * 0.502 * step_x * sum(w) + 0.76 * step_w * sum(x);
            let floats: f64 = x.iter().zip(w).map(|(x, w)| f64::from((x * w).abs())).sum();
            // Both round at most once too often per term; 16-bit activations are the coarsest.
            rounded + 2.0 * f64::from(f32::EPSILON) * floats + floats / 128.0 * f64::from(u8::from(self.ty == BF16))
        });
        terms.sum()
    }
}

/// Normalised mean squared error.
fn nmse(got: &[f32], exact: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    error / exact.iter().map(|b| b * b).sum::<f64>()
}

#[test]
fn products_lie_within_rounding_of_those_of_ggml() {
    for ty in SIMPLE.into_iter().chain(SEARCHED) {
        for seed in 0..6 {
            for (n_tokens, spread) in [(1, Spread::Normal), (3, Spread::Outliers), (17, Spread::Normal)] {
                let case = Case::new(ty, spread, n_tokens, seed);
                let theirs = case.theirs();
                assert!(theirs.iter().any(|v| *v != 0.0), "{}", case.name);
                for k in supported() {
                    let mut ours = vec![f32::NAN; theirs.len()];
                    matmul(k, case.view(), &case.x, &mut ours);
                    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                        let (apart, bound) = (f64::from(a - b).abs(), case.bound(i));
                        assert!(apart <= bound, "{} {} element {i}: {a} and {b}, bound {bound}", k.name, case.name);
                    }
                }
            }
        }
    }
}

/// The error that integers add to exact products of the same packed weights, beside ggml's.
#[test]
fn errors_of_products_beside_those_of_ggml() {
    println!("{:<7}{:<10}{:>10}  ours: error / ggml's, per table: few tokens, many tokens", "type", "input", "ggml");
    let mut failures = Vec::new();
    for ty in SIMPLE.into_iter().chain(SEARCHED).filter(|ty| *ty != F32) {
        for spread in [Spread::Normal, Spread::Outliers] {
            let cases: Vec<[Case; 2]> =
                (0..6).map(|seed| [4, 24].map(|n_tokens| Case::new(ty, spread, n_tokens, 100 + seed))).collect();
            let mean = |products: &dyn Fn(&Case) -> Vec<f32>, which: usize| {
                let errors = cases.iter().map(|pair| nmse(&products(&pair[which]), &pair[which].exact()));
                errors.sum::<f64>() / cases.len() as f64
            };
            let theirs = [0, 1].map(|which| mean(&Case::theirs, which));
            let mut line = format!("{:<7}{:<10}{:>10.2e} ", ty.name(), format!("{spread:?}"), theirs[1]);
            for k in supported() {
                let ours = |case: &Case| {
                    let mut out = vec![f32::NAN; case.x.len() / case.n_cols * N_ROWS];
                    matmul(k, case.view(), &case.x, &mut out);
                    out
                };
                let ratios = [0, 1].map(|which| mean(&ours, which) / theirs[which]);
                line += &format!(" {} {:.2} {:.2}", k.name, ratios[0], ratios[1]);
                let most = most(ty);
                if ratios[0] > most.0 || ratios[1] > most.1 {
                    failures.push(format!("{ty} {spread:?} {}: {ratios:.2?} times ggml's error", k.name));
                }
            }
            println!("{line}");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// How many times ggml's squared error ours may be, for few and for many tokens. Few tokens: never more. Many tokens: panels
/// round weights to one scale per 64 to 256 columns, and activations likewise, which ggml's blocks of 32 do not; the factors
/// are what was measured and a little, so that a coarser panel shows.
fn most(ty: GgmlType) -> (f64, f64) {
    let many = match ty {
        F16 | BF16 | Q8_0 => 1.02,
        Q4_0 | Q4_1 | IQ4_NL => 6.5,
        Q5_0 | Q5_1 => 4.2,
        Q6_K => 1.7,
        Q5_K => 1.9,
        _ => 2.3,
    };
    (1.02, many)
}
