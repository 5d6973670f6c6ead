//! Frequencies changed so that a model sees further than it was trained for: `rope.scaling.*`, linear and YaRN, as ggml
//! computes them (`rope_yarn` in ggml-cpu).

use std::f64::consts::TAU;

/// How the frequency of each pair and the size of what is rotated change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// How many times the trained context is to be covered: positions count 1 / `factor` of what they did.
    pub factor: f64,
    /// Which pairs keep their frequencies; none where this is absent (linear).
    pub yarn: Option<Yarn>,
    /// What cosines and sines are multiplied by, and scores therefore by its square: `rope.scaling.attn_factor`, with what
    /// YaRN adds to it.
    pub magnitude: f64,
}

/// YaRN: pairs that turn often within the trained context keep their frequencies, those that turn less than once are
/// interpolated, and a ramp is between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Tokens of the context that the model was trained for before it was stretched.
    pub n_ctx_orig: f64,
    /// Turns within that context from which on a pair keeps its frequency, 32 by default.
    pub beta_fast: f64,
    /// Turns below which it is interpolated, 1 by default.
    pub beta_slow: f64,
    /// How much of the frequency is kept, 1 by default.
    pub ext_factor: f64,
}

impl Stretch {
    /// Nothing changes.
    pub const NONE: Stretch = Stretch { factor: 1.0, yarn: None, magnitude: 1.0 };

    /// What YaRN multiplies cosines and sines by of itself: 1 + 0.1 ln(`factor`), less where a file says that training did so
    /// already (`yarn_log_multiplier`).
    pub fn yarn_magnitude(factor: f64, log_multiplier: f64) -> f64 {
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        if log_multiplier == 0.0 { scale(1.0) } else { scale(1.0) / scale(log_multiplier) }
    }

    /// What the frequency of pair `i` of heads of `n_rot` dimensions with this base is multiplied by.
    pub fn of_pair(&self, i: usize, n_rot: usize, base: f64) -> f64 {
        let interpolated = 1.0 / self.factor;
        let Some(yarn) = &self.yarn else { return interpolated };
        // The pair, as a real number, that turns `turns` times within the trained context.
        let pair = |turns: f64| n_rot as f64 * (yarn.n_ctx_orig / (turns * TAU)).ln() / (2.0 * base.ln());
        let low = pair(yarn.beta_fast).floor().max(0.0);
        let high = pair(yarn.beta_slow).ceil().min(n_rot as f64 - 1.0);
        let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let kept = ramp * yarn.ext_factor;
        // So that a factor of 1 changes no bit.
        1.0 - (1.0 - interpolated) * (1.0 - kept)
    }
}
