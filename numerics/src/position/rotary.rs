//! Angles: base frequencies, cos/sin tables for a batch, and the rotation itself as the definition for kernels.

use super::{Driver, Layout, Pos, Stretch, drivers};
use crate::{Error, Result};

/// What turns positions into angles: theta_i and the driver of each pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    drivers: Vec<Driver>,
    /// theta_i = base^(-2i/d), stretched, in f64.
    theta: Vec<f64>,
    base: f64,
    /// What cosines and sines are multiplied by.
    magnitude: f64,
    /// Leading pairs that rotate at all; what follows has zero frequency and is not touched, unless it is scaled.
    n_turning: usize,
}

impl Rotary {
    /// For heads of which the first `n_rot` dimensions rotate, with theta_i = `base`^(-2i/`n_rot`).
    ///
    /// # Errors
    /// Wrong sections (see [`drivers()`]), a base that is not positive and finite.
    pub fn new(layout: Layout, n_rot: usize, base: f64, sections: [usize; 3]) -> Result<Rotary> {
        if !(base > 0.0 && base.is_finite()) {
            return Err(Error::mismatch(format!("rope base `{base}` must be a positive finite number")));
        }
        let drivers = drivers(layout, sections, n_rot)?;
        let n_turning = drivers.iter().rposition(|driver| *driver != Driver::ZERO).map_or(0, |last| last + 1);
        let theta = (0..n_rot / 2).map(|i| base.powf(-2.0 * i as f64 / n_rot as f64)).collect();
        Ok(Rotary { drivers, theta, base, magnitude: 1.0, n_turning })
    }

    /// The same for a longer context than the model was trained for. Pairs of zero frequency keep it; where cosines and sines
    /// are multiplied, these pairs are as well, since scores are to be scaled as a whole.
    ///
    /// # Errors
    /// YaRN with a base of 1 or less, for which no pair turns more often than another.
    pub fn stretched(mut self, stretch: &Stretch) -> Result<Rotary> {
        if stretch.yarn.is_some() && self.base <= 1.0 {
            return Err(Error::mismatch(format!("rope base `{}`, expected one above 1 for YaRN", self.base)));
        }
        let (n_rot, base) = (2 * self.n_pair(), self.base);
        for (i, theta) in self.theta.iter_mut().enumerate() {
            *theta *= stretch.of_pair(i, n_rot, base);
        }
        self.magnitude *= stretch.magnitude;
        if self.magnitude != 1.0 {
            self.n_turning = self.n_pair();
        }
        Ok(self)
    }

    /// What cosines and sines are multiplied by, 1 unless the context is stretched.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
    }

    /// Pairs per head.
    pub fn n_pair(&self) -> usize {
        self.drivers.len()
    }

    /// Leading pairs of which the last rotates, or that are scaled; the rest passes through untouched. Pairs of zero frequency
    /// among them have a cosine of exactly 1 and a sine of exactly 0.
    pub fn n_turning(&self) -> usize {
        self.n_turning
    }

    /// What drives each pair.
    pub fn drivers(&self) -> &[Driver] {
        &self.drivers
    }

    /// The angle of pair `i` at `pos`, in f64 throughout: an f32 angle is off by 4e-3 after 65536 steps, and an f32 position
    /// cannot tell neighbours apart after 2^24.
    pub fn angle(&self, i: usize, pos: Pos) -> f64 {
        let id = match self.drivers[i].weights() {
            Some([1, 0, 0]) => pos.t,
            Some([0, 1, 0]) => pos.h,
            Some([0, 0, 1]) => pos.w,
            Some([t, h, w]) => f64::from(t) * pos.t + f64::from(h) * pos.h + f64::from(w) * pos.w,
            None => 0.0,
        };
        id * self.theta[i]
    }

    /// Fills `table` for a batch of positions, reusing its memory.
    pub fn fill(&self, pos: &[Pos], table: &mut RotaryTable) {
        let n_pairs = (self.n_turning, self.n_pair());
        table.fill(pos.len(), n_pairs, self.magnitude, |it, i| self.angle(i, pos[it]));
    }
}

/// cos and sin of each turning pair of each token of a batch.
#[derive(Debug, Clone, Default)]
pub struct RotaryTable {
    n_turning: usize,
    n_pair: usize,
    /// (n_tokens, 2, n_turning): a row of cosines, then a row of sines.
    cos_sin: Vec<f32>,
}

impl RotaryTable {
    /// Fills the table for `n_tokens` tokens of heads with `n_pair` pairs, of which the first `n_turning` turn, from
    /// `angle(token, pair)`, reusing its memory; cosines and sines are multiplied by `magnitude`.
    pub fn fill(
        &mut self,
        n_tokens: usize,
        (n_turning, n_pair): (usize, usize),
        magnitude: f64,
        angle: impl Fn(usize, usize) -> f64,
    ) {
        (self.n_turning, self.n_pair) = (n_turning, n_pair);
        self.cos_sin.clear();
        self.cos_sin.resize(2 * n_turning * n_tokens, 0.0);
        for it in 0..n_tokens {
            let (cos, sin) = self.cos_sin[2 * n_turning * it..][..2 * n_turning].split_at_mut(n_turning);
            for i in 0..n_turning {
                let (s, c) = angle(it, i).sin_cos();
                (cos[i], sin[i]) = ((c * magnitude) as f32, (s * magnitude) as f32);
            }
        }
    }

    /// The whole table, (n_tokens, 2, n_turning): for each token a row of cosines, then a row of sines.
    pub fn rows(&self) -> &[f32] {
        &self.cos_sin
    }

    /// Pairs that turn.
    pub fn n_turning(&self) -> usize {
        self.n_turning
    }

    /// Pairs (i, i + n_pair) of a head; its elements behind them pass through.
    pub fn n_pair(&self) -> usize {
        self.n_pair
    }

    /// cos and sin of token `it`, each (n_turning).
    pub fn token(&self, it: usize) -> (&[f32], &[f32]) {
        let n = self.n_turning;
        self.cos_sin[2 * n * it..2 * n * (it + 1)].split_at(n)
    }
}

/// Rotates the rotated dimensions of one head in place, pairs (i, i + n/2), in f32 with the given cos and sin of the leading
/// pairs.
#[inline(always)]
pub fn rotate_f32(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = head.len() / 2;
    let (lo, hi) = head.split_at_mut(half);
    for (((a, b), c), s) in lo.iter_mut().zip(hi).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

/// The same of a whole head in f64, straight from the angles: the definition. What is beyond the rotated dimensions is not
/// touched.
pub fn rotate_f64(rotary: &Rotary, head: &mut [f64], pos: Pos) {
    let half = rotary.n_pair();
    for i in 0..rotary.n_turning() {
        let (s, c) = rotary.angle(i, pos).sin_cos();
        let (s, c) = (s * rotary.magnitude, c * rotary.magnitude);
        let (a, b) = (head[i], head[i + half]);
        (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
    }
}
