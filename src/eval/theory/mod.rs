//! The theory of the position layouts in numbers: which displacements a layout still prefers a similar key at.
//!
//! With query and unrelated key drawn independently, a similar key scores higher by 2 sigma² S on average, where S is the sum
//! of the cosines of all pairs at a displacement (HoPE paper, lemma 4.1). Everything here follows from S, and S from the same
//! tables as a run of the model: [`crate::position`].
//! Start reading at [`preference`] and [`scan`]; [`experiments()`] compares them with published and derived numbers.

mod experiments;
mod monte_carlo;
mod needle;
mod plots;

use rayon::prelude::*;

pub use experiments::{Experiment, ExperimentRow, experiments, names};
pub use plots::{Plot, plots};

use crate::Result;
use crate::kernels::threads::in_rayon;
use crate::position::{Driver, Layout, Pos, Rotary, default_sections};

/// The head dimension of all Qwen2-VL models, and their rope base.
pub const N_ROT: usize = 128;
pub const BASE: f64 = 1e6;

/// The angles of `layout` for heads of 128 dimensions with the default sections.
///
/// # Errors
/// A base that is not positive and finite.
pub fn rotary(layout: Layout, base: f64) -> Result<Rotary> {
    Rotary::new(layout, N_ROT, base, default_sections(layout, N_ROT))
}

/// Which pairs are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AxisPart {
    /// All of them.
    Whole,
    /// Those that time drives, and those that stand still in its place (theorem 3.1).
    Temporal,
    /// The one with this number.
    Pair(usize),
}

/// The pairs of a part.
fn pairs(rotary: &Rotary, part: AxisPart) -> Vec<usize> {
    let of = |i: &usize| match part {
        AxisPart::Whole => true,
        AxisPart::Temporal => matches!(rotary.drivers()[*i], Driver::T | Driver::ZERO),
        AxisPart::Pair(only) => *i == only,
    };
    (0..rotary.n_pair()).filter(of).collect()
}

/// S at a displacement: the sum of the cosines of a part's pairs. At 0 it is the number of pairs, its largest value.
pub fn preference(rotary: &Rotary, part: AxisPart, displacement: Pos) -> f64 {
    pairs(rotary, part).into_iter().map(|i| rotary.angle(i, displacement).cos()).sum()
}

/// The same distance on all three axes: how diagonal layouts place two tokens of neighbouring frames.
pub fn diagonal(distance: f64) -> Pos {
    Pos { t: distance, h: distance, w: distance }
}

/// A distance in time alone.
pub fn in_time(distance: f64) -> Pos {
    Pos { t: distance, h: 0.0, w: 0.0 }
}

/// What a scan over displacements found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scan {
    /// Displacements looked at, in steps: 0 to n - 1.
    pub n: u64,
    /// The first with S below 0, and how many there are.
    pub first_negative: Option<u64>,
    pub n_negative: u64,
    /// The least S, and the first step that has it.
    pub min: f64,
    pub at_min: u64,
    pub mean: f64,
}

/// Steps between two exact cosines; between them each phase is turned step by step, which costs 1e-16 a step.
const EXACT_EVERY: u64 = 1024;

/// S at `n` displacements: 0, `step`, 2 `step` and so on. Millions of them take less than a second.
///
/// # Errors
/// An operating system that gives no threads.
///
/// # Panics
/// When `n` is 0.
pub fn scan(rotary: &Rotary, part: AxisPart, step: Pos, n: u64) -> Result<Scan> {
    assert!(n > 0, "a scan needs a displacement");
    // Angle per step of each pair.
    let theta: Vec<f64> = pairs(rotary, part).into_iter().map(|i| rotary.angle(i, step)).collect();
    let chunk = |chunk: u64| {
        let (from, to) = (chunk * EXACT_EVERY, ((chunk + 1) * EXACT_EVERY).min(n));
        let mut sums = vec![0.0; (to - from) as usize];
        for theta in &theta {
            let ((mut sin, mut cos), (step_sin, step_cos)) = ((from as f64 * theta).sin_cos(), theta.sin_cos());
            for sum in &mut sums {
                *sum += cos;
                (cos, sin) = (cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin);
            }
        }
        let mut found = Scan { n: 0, first_negative: None, n_negative: 0, min: f64::INFINITY, at_min: 0, mean: 0.0 };
        for (at, sum) in (from..to).zip(sums) {
            if sum < 0.0 {
                found.first_negative.get_or_insert(at);
                found.n_negative += 1;
            }
            if sum < found.min {
                (found.min, found.at_min) = (sum, at);
            }
            found.mean += sum;
        }
        found
    };
    let found: Vec<Scan> = in_rayon(|| (0..n.div_ceil(EXACT_EVERY)).into_par_iter().map(chunk).collect())?;
    // In order, so that the sum does not depend on the number of threads.
    let mut all = found[0];
    for next in &found[1..] {
        all.first_negative = all.first_negative.or(next.first_negative);
        all.n_negative += next.n_negative;
        if next.min < all.min {
            (all.min, all.at_min) = (next.min, next.at_min);
        }
        all.mean += next.mean;
    }
    Ok(Scan { n, mean: all.mean / n as f64, ..all })
}

/// The share of the displacements 0 to `n` - 1 at which the cosine of a pair of frequency `theta` is negative (lemma A.1).
pub fn share_negative(theta: f64, n: u64) -> f64 {
    (0..n).filter(|delta| (*delta as f64 * theta).cos() < 0.0).count() as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_the_preference_at_every_step() {
        for layout in Layout::ALL {
            let rotary = rotary(layout, BASE).unwrap();
            let step = Pos { t: 1.5, h: 1.5, w: 0.5 };
            let n = 3000;
            let at = |i: u64| Pos { t: step.t * i as f64, h: step.h * i as f64, w: step.w * i as f64 };
            let all: Vec<f64> = (0..n).map(|i| preference(&rotary, AxisPart::Whole, at(i))).collect();
            let got = scan(&rotary, AxisPart::Whole, step, n).unwrap();
            let min = all.iter().copied().fold(f64::INFINITY, f64::min);
            assert!((got.min - min).abs() < 1e-9, "{layout}: {} against {min}", got.min);
            assert!((all[got.at_min as usize] - min).abs() < 1e-9, "{layout}");
            assert!((got.mean - all.iter().sum::<f64>() / n as f64).abs() < 1e-9, "{layout}");
            assert_eq!(got.first_negative, all.iter().position(|s| *s < 0.0).map(|i| i as u64), "{layout}");
            assert_eq!(got.n_negative, all.iter().filter(|s| **s < 0.0).count() as u64, "{layout}");
        }
    }
}
