//! The search behind Q2_K, Q4_K and Q5_K: sub-blocks whose elements are `scale * code - min`.
//!
//! Two steps, both judged by the weighted squared error of what a decoder would make of the result.
//! 1. Each sub-block alone, in real numbers: many grids of codes, stretched a little differently over its range, and for
//!    each the scale and minimum of least squares. Codes and fit then take turns until they agree.
//! 2. All sub-blocks together, in the integers of the format: with the two super-scales given, each sub-block picks the
//!    best pair of integers near its own fit; with codes and integers given, least squares yields the super-scales. Again
//!    in turns.
#![forbid(unsafe_code)]

use super::lanes::{dot, map, round, sum};
use super::scale::{NOTHING, min_max, reciprocal, super_scale, super_scale_candidates};

/// What differs between the formats.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    /// The largest code.
    pub max_code: f32,
    /// The largest integer scale and minimum.
    pub max_scale: f32,
    /// How far grids are stretched over the range of a sub-block: from, to, in codes, and in how many steps.
    pub stretch: (f32, f32, usize),
    /// At how many places the grids begin: at the smallest element, or so many half codes above it.
    pub starts: usize,
}

/// A block in the terms of the format, ready to be packed.
pub(super) struct AffineBlock<const SUBS: usize> {
    pub d: f32,
    pub dmin: f32,
    pub scales: [u8; SUBS],
    pub mins: [u8; SUBS],
    pub codes: [u8; 256],
}

/// A sub-block in real numbers: elements are about `scale * code - min`.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f64,
    min: f64,
    /// How fast the squared error grows with the square of a change of the scale (the minimum following suit), and of
    /// the minimum alone.
    scale_weight: f64,
    min_weight: f64,
}

/// A sub-block with integers chosen: the integers, its error, and sums for the fit of the super-scales.
#[derive(Clone, Copy, Default)]
struct Choice {
    scale: f32,
    min: f32,
    sums: Sums,
}

/// Weighted sums over a sub-block: of the squared error, of code, code squared, code times element.
#[derive(Clone, Copy, Default)]
struct Sums {
    error: f64,
    q: f64,
    qq: f64,
    qx: f64,
}

/// Weighted sums that do not depend on codes.
#[derive(Clone, Copy, Default)]
struct Moments {
    w: f64,
    x: f64,
}

impl Affine {
    /// Encodes 256 elements in SUBS sub-blocks of N, `w` being the weights of their squared errors.
    pub(super) fn encode<const SUBS: usize, const N: usize>(
        &self,
        x: &[f32; 256],
        w: &[f32; 256],
    ) -> AffineBlock<SUBS> {
        let (xs, ws) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
        let mut moments = [Moments::default(); SUBS];
        let mut fits = [Fit::default(); SUBS];
        for k in 0..SUBS {
            let (x, w) = (&xs[k], &ws[k]);
            moments[k] = Moments { w: sum(w), x: dot(w, x) };
            fits[k] = self.fit(x, w, moments[k]);
        }
        let best_units = |value: fn(&Fit) -> f64, weight: fn(&Fit) -> f64| {
            let parts: [(f64, f64); SUBS] = std::array::from_fn(|k| (value(&fits[k]), weight(&fits[k])));
            super_scale_candidates(&parts, 0.0, self.max_scale as f64)
        };
        let ds = best_units(|fit| fit.scale, |fit| fit.scale_weight);
        let dmins = best_units(|fit| fit.min, |fit| fit.min_weight);

        let mut best = (f64::INFINITY, 0.0, 0.0, [Choice::default(); SUBS]);
        for (d, dmin) in [(ds[0], dmins[0]), (ds[1], dmins[0]), (ds[0], dmins[1]), (ds[1], dmins[1])] {
            let choices = self.choose_all(xs, ws, &moments, &fits, d, dmin);
            let error = choices.iter().map(|c| c.sums.error).sum::<f64>();
            if error < best.0 {
                best = (error, d, dmin, choices);
            }
        }
        for _ in 0..3 {
            let (d, dmin) = fit_super_scales(&best.3, &moments, best.1, best.2);
            let choices = self.choose_all(xs, ws, &moments, &fits, d, dmin);
            let error = choices.iter().map(|c| c.sums.error).sum::<f64>();
            if error >= best.0 {
                break;
            }
            best = (error, d, dmin, choices);
        }

        let (_, d, dmin, choices) = best;
        let mut block = AffineBlock { d, dmin, scales: [0; SUBS], mins: [0; SUBS], codes: [0; 256] };
        for k in 0..SUBS {
            block.scales[k] = choices[k].scale as u8;
            block.mins[k] = choices[k].min as u8;
            let (scale, min) = (d * choices[k].scale, dmin * choices[k].min);
            let inverse = reciprocal(scale);
            for (x, code) in xs[k].iter().zip(&mut block.codes[k * N..]) {
                *code = self.code(*x, min, inverse) as u8;
            }
        }
        block
    }

    /// Step 2 for every sub-block.
    fn choose_all<const SUBS: usize, const N: usize>(
        &self,
        xs: &[[f32; N]],
        ws: &[[f32; N]],
        moments: &[Moments; SUBS],
        fits: &[Fit; SUBS],
        d: f32,
        dmin: f32,
    ) -> [Choice; SUBS] {
        std::array::from_fn(|k| self.choose(&xs[k], &ws[k], moments[k], fits[k], d, dmin))
    }

    /// The code whose value is nearest to `x`.
    #[inline(always)]
    fn code(&self, x: f32, min: f32, inverse: f32) -> f32 {
        round(((x + min) * inverse).clamp(0.0, self.max_code))
    }

    /// Step 1: scale and minimum for one sub-block.
    fn fit<const N: usize>(&self, x: &[f32; N], w: &[f32; N], moments: Moments) -> Fit {
        let (low, high) = min_max(x);
        if low == high {
            // One value says it all: either a minimum or a scale with the largest code.
            let scale = low.max(0.0) as f64 / self.max_code as f64;
            let scale_weight = moments.w * (self.max_code as f64).powi(2);
            return Fit { scale, min: (-low).max(0.0) as f64, scale_weight, min_weight: moments.w };
        }
        let low = low.min(0.0);
        let range = high - low;
        if range < NOTHING {
            return Fit::default();
        }
        // Elements are taken relative to `low`: less cancels in the error.
        let sx = moments.x - low as f64 * moments.w;
        let t: [f32; N] = map(|i| x[i] - low);
        let wt: [f32; N] = map(|i| w[i] * t[i]);
        let xx = dot(&t, &wt);
        let mut best = (f64::MAX, Fit::default());
        // Fits the codes of one grid, and says whether that is better than anything before.
        let consider = |min: f32, inverse: f32, best: &mut (f64, Fit)| {
            let codes: [f32; N] = map(|i| self.code(x[i], min, inverse));
            let wq: [f32; N] = map(|i| w[i] * codes[i]);
            let (q, qq, qx) = (sum(&wq), dot(&wq, &codes), dot(&wt, &codes));
            let Some(fit) = least_squares(moments.w, sx, q, qq, qx, low as f64) else { return false };
            let (a, c) = (fit.scale, -fit.min - low as f64);
            let error = xx - 2.0 * a * qx - 2.0 * c * sx + a * a * qq + 2.0 * a * c * q + c * c * moments.w;
            let better = error < best.0 * 0.9999 - 1e-6 * xx;
            if better {
                *best = (error, fit);
            }
            better
        };
        consider(-low, self.max_code / range, &mut best);
        let (from, to, steps) = self.stretch;
        for start in 0..self.starts {
            let cut = 0.5 * start as f32;
            for step in 0..steps {
                let stretch = from + (to - from) * step as f32 / (steps - 1) as f32;
                let inverse = (self.max_code + stretch + cut) / range;
                consider(-low - cut / inverse, inverse, &mut best);
            }
        }
        for _ in 0..3 {
            let Fit { scale, min, .. } = best.1;
            if !consider(min as f32, reciprocal(scale as f32), &mut best) {
                break;
            }
        }
        best.1
    }

    /// Step 2: the best integers near `fit` for one sub-block, the super-scales being given.
    fn choose<const N: usize>(
        &self,
        x: &[f32; N],
        w: &[f32; N],
        moments: Moments,
        fit: Fit,
        d: f32,
        dmin: f32,
    ) -> Choice {
        let integer = |value: f64, unit: f32| {
            let ratio = if unit > 0.0 { value / unit as f64 } else { 0.0 };
            round(ratio.clamp(0.0, self.max_scale as f64) as f32)
        };
        let evaluate = |scale: f32, min: f32| {
            let (a, b) = (d * scale, dmin * min);
            let inverse = reciprocal(a);
            let codes: [f32; N] = map(|i| self.code(x[i], b, inverse));
            let wq: [f32; N] = map(|i| w[i] * codes[i]);
            let e: [f32; N] = map(|i| (a * codes[i] - b) - x[i]);
            let we: [f32; N] = map(|i| w[i] * e[i]);
            let (error, q, qq, qx) = (dot(&we, &e), sum(&wq), dot(&wq, &codes), dot(&wq, x));
            Choice { scale, min, sums: Sums { error, q, qq, qx } }
        };
        let (scale, min) = (integer(fit.scale, d), integer(fit.min, dmin));
        let mut best = evaluate(scale, min);
        for scale in [scale, scale - 1.0, scale + 1.0] {
            if !(0.0..=self.max_scale).contains(&scale) {
                continue;
            }
            let first = if scale == best.scale { best } else { evaluate(scale, min) };
            // The minimum that suits these codes.
            let wanted = ((d * scale) as f64 * first.sums.q - moments.x) / moments.w;
            let wanted = integer(wanted, dmin);
            let second = if wanted == min { first } else { evaluate(scale, wanted) };
            for choice in [first, second] {
                if choice.sums.error < best.sums.error {
                    best = choice;
                }
            }
        }
        best
    }
}

/// The scale and the minimum of least squares; a positive offset is not possible in the format and becomes 0. The
/// sums of the elements (`sx`, `qx`) are relative to `low`. `None` when the codes do not determine a scale.
fn least_squares(sw: f64, sx: f64, q: f64, qq: f64, qx: f64, low: f64) -> Option<Fit> {
    let det = sw * qq - q * q;
    if det > 1e-9 * sw * qq {
        let scale = (sw * qx - q * sx) / det;
        let offset = (qq * sx - q * qx) / det + low;
        if scale > 0.0 && offset <= 0.0 {
            return Some(Fit { scale, min: -offset, scale_weight: det / sw, min_weight: sw });
        }
    }
    let scale = (qx + low * q) / qq;
    (qq > 0.0 && scale > 0.0).then_some(Fit { scale, min: 0.0, scale_weight: qq, min_weight: sw })
}

/// The super-scales of least squares for chosen codes and integers.
fn fit_super_scales<const SUBS: usize>(
    choices: &[Choice; SUBS],
    moments: &[Moments; SUBS],
    d: f32,
    dmin: f32,
) -> (f32, f32) {
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (c, m) in choices.iter().zip(moments) {
        let (s, b) = (c.scale as f64, -c.min as f64);
        aa += s * s * c.sums.qq;
        ab += s * b * c.sums.q;
        bb += b * b * m.w;
        ax += s * c.sums.qx;
        bx += b * m.x;
    }
    let det = aa * bb - ab * ab;
    if det > 1e-9 * aa * bb {
        let (new_d, new_dmin) = ((ax * bb - bx * ab) / det, (bx * aa - ax * ab) / det);
        if new_d > 0.0 && new_dmin >= 0.0 {
            return (super_scale(new_d), super_scale(new_dmin));
        }
    }
    let new_d = if aa > 0.0 { (ax - ab * dmin as f64) / aa } else { 0.0 };
    (if new_d > 0.0 { super_scale(new_d) } else { d }, dmin)
}
