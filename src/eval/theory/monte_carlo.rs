//! Experiments with random vectors: definition 3.1, lemma 4.1, theorem 4.1.

use super::experiments::{ExperimentRow, yes};
use super::{AxisPart, BASE, Experiment, N_ROT, in_time, preference, rotary};
use crate::Result;
use crate::position::{Driver, Layout, Pos, Rotary};
use crate::random::Rng;

const N_PAIR: usize = N_ROT / 2;

/// cos and sin of every pair at a displacement.
struct Turn {
    cos: [f64; N_PAIR],
    sin: [f64; N_PAIR],
}

impl Turn {
    fn new(rotary: &Rotary, displacement: Pos) -> Turn {
        let angle = |i: usize| rotary.angle(i, displacement);
        Turn { cos: std::array::from_fn(|i| angle(i).cos()), sin: std::array::from_fn(|i| angle(i).sin()) }
    }

    /// The score of rotated vectors, from the pairs' own products.
    fn score(&self, products: &Products) -> f64 {
        (0..N_PAIR).map(|i| products.same[i] * self.cos[i] + products.crossed[i] * self.sin[i]).sum()
    }
}

/// Per pair, what a query and a key contribute to the cosine and to the sine.
struct Products {
    same: [f64; N_PAIR],
    crossed: [f64; N_PAIR],
}

impl Products {
    fn new(q: &[f64], k: &[f64]) -> Products {
        let (q0, q1) = q.split_at(N_PAIR);
        let (k0, k1) = k.split_at(N_PAIR);
        Products {
            same: std::array::from_fn(|i| q0[i] * k0[i] + q1[i] * k1[i]),
            crossed: std::array::from_fn(|i| q0[i] * k1[i] - q1[i] * k0[i]),
        }
    }
}

/// What many draws say about one displacement.
#[derive(Debug, Clone, Copy, Default)]
struct Gap {
    n: f64,
    sum: f64,
    squares: f64,
    /// Draws in which the similar key scores higher.
    beats: f64,
}

impl Gap {
    fn mean(&self) -> f64 {
        self.sum / self.n
    }

    fn error(&self) -> f64 {
        ((self.squares / self.n - self.mean().powi(2)) / self.n).max(0.0).sqrt()
    }
}

/// Draws `n` queries, unrelated keys (both of `mean` and `sigma`) and similar keys (the query plus a little), and measures by
/// how much the similar one scores higher at every displacement.
fn draw(rng: &mut Rng, turns: &[Turn], n: usize, mean: f64, sigma: f64) -> Vec<Gap> {
    let mut gaps = vec![Gap::default(); turns.len()];
    let (mut q, mut k, mut similar) = ([0.0; N_ROT], [0.0; N_ROT], [0.0; N_ROT]);
    for _ in 0..n {
        rng.fill_normal(&mut q, mean, sigma);
        rng.fill_normal(&mut k, mean, sigma);
        rng.fill_normal(&mut similar, 0.0, 0.5);
        similar.iter_mut().zip(&q).for_each(|(s, q)| *s += q);
        // The score is linear in the key.
        let difference: [f64; N_ROT] = std::array::from_fn(|i| similar[i] - k[i]);
        let products = Products::new(&q, &difference);
        for (gap, turn) in gaps.iter_mut().zip(turns) {
            let by = turn.score(&products);
            gap.n += 1.0;
            gap.sum += by;
            gap.squares += by * by;
            gap.beats += f64::from(by > 0.0);
        }
    }
    gaps
}

/// E2, definition 3.1: the mean gap is 2S.
pub(super) fn gap(seed: u64) -> Result<Experiment> {
    const N: usize = 20_000;
    const LAYOUTS: [Layout; 4] = [Layout::Rope, Layout::Mrope, Layout::VideoRope, Layout::Hope];
    let expected = [
        (0.0, ["128.00", "128.00", "128.00", "128.00"], "1.000"),
        (1e3, ["62.86", "98.14", "128.00", "128.00"], "1.000"),
        (3e3, ["52.49", "95.93", "127.97", "128.00"], "0.999"),
        (1e5, ["4.62", "89.33", "110.64", "128.00"], "0.60"),
        (1e6, ["2.99", "98.31", "95.43", "128.00"], "0.57"),
    ];
    let rotaries = LAYOUTS.into_iter().map(|layout| rotary(layout, BASE)).collect::<Result<Vec<_>>>()?;
    let cells = expected.iter().flat_map(|(distance, ..)| rotaries.iter().map(move |rotary| (*distance, rotary)));
    let turns: Vec<Turn> = cells.map(|(distance, rotary)| Turn::new(rotary, in_time(distance))).collect();
    let gaps = draw(&mut Rng::new(seed), &turns, N, 0.25, 1.0);

    let mut rows = Vec::new();
    for ((distance, twice, wins), gaps) in expected.iter().zip(gaps.chunks_exact(LAYOUTS.len())) {
        let exact: Vec<f64> =
            rotaries.iter().map(|rotary| 2.0 * preference(rotary, AxisPart::Whole, in_time(*distance))).collect();
        for (i, layout) in LAYOUTS.into_iter().enumerate() {
            rows.push(ExperimentRow::digits(format!("2S of {layout} at {distance}"), twice[i], exact[i]));
            let what = format!("mean gap of {layout} at {distance}, {N} draws, seed {seed}");
            rows.push(ExperimentRow::mean(what, exact[i], gaps[i].mean(), gaps[i].error()));
        }
        for (i, layout) in LAYOUTS.into_iter().enumerate() {
            let expected = if layout == Layout::Rope { wins } else { "1.000" };
            let (share, p) = (gaps[i].beats / N as f64, expected.parse::<f64>().expect("it is a number"));
            // The expectation is rounded.
            let half = 0.5 * 10f64.powi(-(expected.len() as i32 - 2));
            let ok = (share - p).abs() <= half + 5.0 * (p * (1.0 - p) / N as f64).sqrt();
            let what = format!("similar beats unrelated, {layout} at {distance}, seed {seed}");
            rows.push(ExperimentRow::holds(what, expected, format!("{share:.4}"), ok));
        }
        if (1e3..=1e5).contains(distance) {
            let [rope, mrope, videorope, hope] = exact[..] else { unreachable!("four layouts") };
            let ordered = hope >= videorope && videorope > mrope && mrope > rope;
            rows.push(ExperimentRow::holds(
                format!("hope >= videorope > mrope > rope at {distance}"),
                "yes",
                yes(ordered),
                ordered,
            ));
        }
    }
    Ok(Experiment { id: "E2", title: "the preference of a similar key, by drawing (definition 3.1)", rows })
}

/// E4, lemma 4.1: the mean gap is 2 sigma² S, whatever the mean.
pub(super) fn signs(seed: u64) -> Result<Experiment> {
    const N: usize = 2000;
    const DISPLACEMENTS: usize = 12;
    let mut rng = Rng::new(seed ^ 4);
    let mut rows = Vec::new();
    for layout in [Layout::Rope, Layout::Mrope, Layout::VideoRope, Layout::Hope, Layout::HopeX] {
        let rotary = rotary(layout, BASE)?;
        let mut random = || {
            let far = 10f64.powf(7.0 * rng.uniform()).round();
            let [h, w] = [0, 0].map(|_| rng.below(63) as f64 - 31.0);
            Pos { t: far, h, w }
        };
        let displacements: Vec<Pos> = (0..DISPLACEMENTS).map(|_| random()).collect();
        let exact: Vec<f64> = displacements.iter().map(|d| preference(&rotary, AxisPart::Whole, *d)).collect();
        let turns: Vec<Turn> = displacements.iter().map(|d| Turn::new(&rotary, *d)).collect();
        let (mut clear, mut agree, mut worst) = (0, 0, 0f64);
        for mean in [0.0, 0.25, 1.0] {
            for sigma in [0.5, 1.0, 2.0] {
                let gaps = draw(&mut rng, &turns, N, mean, sigma);
                for (gap, s) in gaps.iter().zip(&exact) {
                    let expected = 2.0 * sigma * sigma * s;
                    worst = worst.max((gap.mean() - expected).abs() / gap.error());
                    if expected.abs() > 6.0 * gap.error() {
                        clear += 1;
                        agree += usize::from((gap.mean() > 0.0) == (*s > 0.0));
                    }
                }
            }
        }
        let what = format!("{layout}: signs that agree where 2S is clear, seed {seed}");
        rows.push(ExperimentRow::holds(what, clear.to_string(), agree.to_string(), clear == agree && clear > 0));
        let what = format!("{layout}: worst mean gap beside 2 sigma² S, seed {seed}");
        rows.push(ExperimentRow::holds(what, "within 5 s.e.", format!("{worst:.2} s.e."), worst <= 5.0));
    }
    Ok(Experiment { id: "E4", title: "the gap follows S for every mean and variance (lemma 4.1)", rows })
}

/// E5, theorem 4.1: no choice of temporal frequencies beats none.
pub(super) fn strongest(seed: u64) -> Result<Experiment> {
    const N: usize = 20_000;
    let mut rng = Rng::new(seed ^ 5);
    let (hope, videorope, mrope) =
        (rotary(Layout::Hope, BASE)?, rotary(Layout::VideoRope, BASE)?, rotary(Layout::Mrope, BASE)?);
    let n_zero = hope.drivers().iter().filter(|driver| **driver == Driver::ZERO).count();
    let (mut least, mut off, mut below_videorope, mut below_mrope) = (f64::INFINITY, 0f64, 0, 0);
    for _ in 0..N {
        let pos = Pos { t: rng.below(1 << 20) as f64, h: rng.below(63) as f64 - 31.0, w: rng.below(63) as f64 - 31.0 };
        let theta: Vec<f64> = (0..n_zero).map(|_| rng.uniform()).collect();
        let spatial: f64 = (0..hope.n_turning()).map(|i| hope.angle(i, pos).cos()).sum();
        let other = spatial + theta.iter().map(|theta| (pos.t * theta).cos()).sum::<f64>();
        let ahead = preference(&hope, AxisPart::Whole, pos) - other;
        let by_formula: f64 = theta.iter().map(|theta| 1.0 - (pos.t * theta).cos()).sum();
        least = least.min(ahead);
        off = off.max((ahead - by_formula).abs());
        // Sums of the same cosines may differ in the last bit.
        const BIT: f64 = 1e-9;
        below_videorope +=
            usize::from(preference(&hope, AxisPart::Whole, pos) < preference(&videorope, AxisPart::Whole, pos) - BIT);
        let time = in_time(pos.t);
        below_mrope +=
            usize::from(preference(&hope, AxisPart::Whole, time) < preference(&mrope, AxisPart::Whole, time) - BIT);
    }
    let mut rows = vec![
        ExperimentRow::holds(
            format!("least lead over random frequencies, {N} draws, seed {seed}"),
            ">= 0",
            format!("{least:.3}"),
            least >= -1e-9,
        ),
        ExperimentRow::holds("lead beside its formula, largest difference", "0", format!("{off:.1e}"), off < 1e-9),
        ExperimentRow::holds(
            "displacements at which videorope is ahead",
            "0",
            below_videorope.to_string(),
            below_videorope == 0,
        ),
        ExperimentRow::holds(
            "displacements in time at which mrope is ahead",
            "0",
            below_mrope.to_string(),
            below_mrope == 0,
        ),
    ];
    for base in [1e6, 1e4] {
        let hopex = rotary(Layout::HopeX, base)?;
        let mut least = f64::INFINITY;
        for _ in 0..N {
            let [t, h, w] = [0; 3].map(|_| rng.below(10_000_001) as f64);
            least = least.min(preference(&hopex, AxisPart::Whole, Pos { t, h, w }));
        }
        let what = format!("least S of hopex up to 1e7, base {base:e}, seed {seed}");
        rows.push(ExperimentRow::holds(what, ">= 0", format!("{least:.2}"), least >= 0.0));
    }
    Ok(Experiment { id: "E5", title: "zero temporal frequency is the strongest choice (theorem 4.1)", rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::rotate_f64;

    #[test]
    fn the_score_from_products_is_the_score_of_rotated_vectors() {
        let seed = 3;
        let mut rng = Rng::new(seed);
        for layout in Layout::ALL {
            let rotary = rotary(layout, BASE).unwrap();
            let (mut q, mut k) = ([0.0; N_ROT], [0.0; N_ROT]);
            rng.fill_normal(&mut q, 0.25, 1.0);
            rng.fill_normal(&mut k, 0.25, 1.0);
            let (at_q, at_k) = (Pos { t: 100.5, h: -3.0, w: 7.0 }, Pos { t: 12.0, h: 4.0, w: -5.25 });
            let turn = Turn::new(&rotary, Pos { t: 88.5, h: -7.0, w: 12.25 });
            let fast = turn.score(&Products::new(&q, &k));
            rotate_f64(&rotary, &mut q, at_q);
            rotate_f64(&rotary, &mut k, at_k);
            let exact: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
            assert!((fast - exact).abs() < 1e-9, "{layout}, seed {seed}: {fast} against {exact}");
        }
    }
}
