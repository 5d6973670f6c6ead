//! The search behind Q3_K, Q6_K, IQ4_NL and IQ4_XS: sub-blocks whose elements are `scale * value`, where codes stand for
//! fixed values around zero and scales have a sign.
//!
//! The same two steps as in [`affine`](super::affine), with one unknown per sub-block instead of two.
#![forbid(unsafe_code)]

use super::lanes::{dot, dot_here, largest, map, round};
use super::scale::{NOTHING, reciprocal, signed_extreme, super_scale, super_scale_candidates};

/// The values that codes stand for.
pub(super) trait Grid {
    /// The smallest value (negative) and the largest.
    const ENDS: (f32, f32);
    /// By how much the ends are varied in the search, in units of values.
    const STRETCH: f32;
    /// In how many steps, for each end.
    const STEPS: usize;

    /// The value nearest to `y`.
    fn nearest(y: f32) -> f32;
}

/// The integers from `-Q` to `Q - 1`.
pub(super) struct Uniform<const Q: i32>;

impl<const Q: i32> Grid for Uniform<Q> {
    const ENDS: (f32, f32) = (-Q as f32, (Q - 1) as f32);
    const STRETCH: f32 = 1.0;
    const STEPS: usize = 9;

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        round(y.clamp(-Q as f32, (Q - 1) as f32))
    }
}

/// A block in the terms of the format: `d`, and the integer scale of each sub-block.
pub(super) struct SymmetricBlock<const SUBS: usize> {
    pub d: f32,
    pub scales: [i8; SUBS],
}

impl<const SUBS: usize> SymmetricBlock<SUBS> {
    /// The value of grid `G` for an element `x` of sub-block `k`.
    #[inline(always)]
    pub(super) fn value<G: Grid>(&self, k: usize, x: f32) -> f32 {
        G::nearest(x * reciprocal(self.d * self.scales[k] as f32))
    }
}

/// A sub-block in real numbers: its scale, and how fast the squared error grows with the square of a change.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f64,
    weight: f64,
}

/// A sub-block with its integer chosen.
#[derive(Clone, Copy, Default)]
struct Choice {
    scale: f32,
    error: f64,
    /// Weighted sums of value squared, and value times element.
    vv: f64,
    vx: f64,
}

/// Searches `d` and the scales, integers from `-max_scale` to `max_scale - 1`, for SUBS sub-blocks of N elements with `w`
/// being the weights of their squared errors.
pub(super) fn encode<G: Grid, const SUBS: usize, const N: usize>(
    x: &[[f32; N]; SUBS],
    w: &[[f32; N]; SUBS],
    max_scale: f32,
) -> SymmetricBlock<SUBS> {
    let fits: [Fit; SUBS] = std::array::from_fn(|k| fit::<G, N>(&x[k], &w[k], |scale| scale));
    let parts = fits.map(|fit| (fit.scale, fit.weight));
    let choose_all = |d: f32| -> (f64, [Choice; SUBS]) {
        let choices = std::array::from_fn(|k| choose::<G, N>(&x[k], &w[k], fits[k].scale, d, max_scale));
        (choices.iter().map(|c: &Choice| c.error).sum(), choices)
    };
    let mut best = (f64::INFINITY, 0.0, [Choice::default(); SUBS]);
    for d in super_scale_candidates(&parts, -max_scale as f64, max_scale as f64 - 1.0) {
        let (error, choices) = choose_all(d);
        if error < best.0 {
            best = (error, d, choices);
        }
    }
    for _ in 0..3 {
        let vv: f64 = best.2.iter().map(|c| (c.scale as f64).powi(2) * c.vv).sum();
        let vx: f64 = best.2.iter().map(|c| c.scale as f64 * c.vx).sum();
        if vv == 0.0 {
            break;
        }
        let d = super_scale(vx / vv);
        let (error, choices) = choose_all(d);
        if error >= best.0 {
            break;
        }
        best = (error, d, choices);
    }
    SymmetricBlock { d: best.1, scales: best.2.map(|c| c.scale as i8) }
}

/// Searches `d` alone, for a format without integer scales; the one sub-block counts as having scale 1.
pub(super) fn encode_single<G: Grid, const N: usize>(x: &[f32; N], w: &[f32; N]) -> SymmetricBlock<1> {
    let fit = fit::<G, N>(x, w, |scale| super_scale(scale) as f64);
    SymmetricBlock { d: fit.scale as f32, scales: [1] }
}

/// A scale and codes for a block that is compared with what is like it, as keys are with queries that look for them: the codes are
/// those that make the smallest angle with the block, of those that a few scales give, and the scale makes the product of the
/// decoded block with the block what it is of the block with itself. An error is then at right angles to what was meant, and
/// neighbours that differ little keep their order; the squared error is the smallest for such codes but for a factor of
/// 1 / cos² (1.007 for random blocks in four bits). Scales are said in codes of the element of the largest magnitude.
///
/// Sums are in the order of [`dot`], so that the bytes are the same on every machine. Inlines into its caller, to be compiled
/// there with the caller's instruction set.
#[inline(always)]
pub(super) fn aligned<const Q: i32>(x: &[f32; 32], ends: [f32; 6]) -> (f32, [f32; 32]) {
    let top = largest(x);
    if top < NOTHING {
        return (0.0, [0.0; 32]);
    }
    let extreme = x.iter().copied().find(|x| x.abs() == top).unwrap_or(top);
    let codes = |inverse: f32| -> [f32; 32] { map(|i| Uniform::<Q>::nearest(x[i] * inverse)) };
    let (mut best, mut of_best) = (0.0, 0.0);
    for end in ends {
        let inverse = end / extreme;
        let values = codes(inverse);
        let (vv, vx) = (dot_here(&values, &values), dot_here(&values, x));
        // The squared cosine, times what is the same for all.
        let gain = vx * vx / vv;
        (best, of_best) = if gain > best { (gain, inverse) } else { (best, of_best) };
    }
    let values = codes(of_best);
    let scale = dot_here(x, x) / dot_here(&values, x);
    (if scale.is_finite() { scale as f32 } else { 0.0 }, values)
}

/// Step 1: the scale for one sub-block, among those that `round_scale` returns.
fn fit<G: Grid, const N: usize>(x: &[f32; N], w: &[f32; N], round_scale: impl Fn(f64) -> f64) -> Fit {
    let extreme = signed_extreme(x);
    if extreme.abs() < NOTHING {
        return Fit::default();
    }
    let constant = x.iter().all(|value| *value == x[0]);
    // Differences that rounding could have made are none.
    let threshold = if constant { 1e-13 } else { 1e-6 };
    // The error less the sum of squared elements, which is the same for all.
    let mut best = (0.0, Fit::default());
    let consider = |inverse: f32, best: &mut (f64, Fit)| {
        let (vv, vx) = if constant {
            // Without rounding in the sums, which would hide the rounding of scales.
            let value = G::nearest(x[0] * inverse) as f64;
            (value * value, value * x[0] as f64)
        } else {
            let values: [f32; N] = map(|i| G::nearest(x[i] * inverse));
            let wv: [f32; N] = map(|i| w[i] * values[i]);
            (dot(&wv, &values), dot(&wv, x))
        };
        if vv == 0.0 {
            return false;
        }
        let scale = round_scale(vx / vv);
        let error = scale * scale * vv - 2.0 * scale * vx;
        let better = error < best.0 * (1.0 + threshold);
        if better {
            *best = (error, Fit { scale, weight: vv });
        }
        better
    };
    for end in [G::ENDS.0, G::ENDS.1] {
        for step in 0..G::STEPS {
            let stretch = G::STRETCH * (2.0 * step as f32 / (G::STEPS - 1) as f32 - 1.0);
            consider((end + stretch) / extreme, &mut best);
        }
    }
    for _ in 0..3 {
        if !consider(reciprocal(best.1.scale as f32), &mut best) {
            break;
        }
    }
    best.1
}

/// Step 2: the best integer near `fit` for one sub-block, `d` being given.
fn choose<G: Grid, const N: usize>(x: &[f32; N], w: &[f32; N], fit: f64, d: f32, max_scale: f32) -> Choice {
    let evaluate = |scale: f32| {
        let a = d * scale;
        let inverse = reciprocal(a);
        let values: [f32; N] = map(|i| G::nearest(x[i] * inverse));
        let e: [f32; N] = map(|i| a * values[i] - x[i]);
        let we: [f32; N] = map(|i| w[i] * e[i]);
        let wv: [f32; N] = map(|i| w[i] * values[i]);
        let (error, vv, vx) = (dot(&we, &e), dot(&wv, &values), dot(&wv, x));
        Choice { scale, error, vv, vx }
    };
    let ratio = if d != 0.0 { fit / d as f64 } else { 0.0 };
    let scale = round((ratio as f32).clamp(-max_scale, max_scale - 1.0));
    let mut best = evaluate(scale);
    for scale in [scale - 1.0, scale + 1.0] {
        if (-max_scale..=max_scale - 1.0).contains(&scale) {
            let choice = evaluate(scale);
            if choice.error < best.error {
                best = choice;
            }
        }
    }
    best
}
