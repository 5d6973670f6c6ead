//! The judge of what is approximate: the next-token distributions of a model that answers in a cheaper way beside those of the same
//! model in full, over the tokens of the answer in full. What is cheaper is up to the caller, who feeds a session for each way. Ways to
//! read less of a video have to beat [`Control`]s, which read as little without looking at it.

use super::{LeaveOut, MediaOptions, MediaPlan, Session};
use crate::media::sample::FRAME_FACTOR;
use crate::model::VisionHParams;
use crate::{Error, Result};

/// A way to read less of a video that looks at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Less {
    /// See [`MediaOptions::dedup`].
    pub dedup: Option<f32>,
    /// See [`MediaOptions::keep`].
    pub keep: Option<f32>,
}

impl std::fmt::Display for Less {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flags = [("--dedup", self.dedup), ("--keep-share", self.keep)];
        let given: Vec<String> =
            flags.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?))).collect();
        f.write_str(&given.join(" "))
    }
}

/// A way to read less of a video that does not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Fewer frames of the same size.
    Fewer,
    /// As many frames, of a smaller size.
    Smaller,
    /// Tokens are left out at random.
    Random,
    /// Every so many tokens are left out.
    Evenly,
}

impl Control {
    /// All of them.
    pub const ALL: [Control; 4] = [Control::Fewer, Control::Smaller, Control::Random, Control::Evenly];

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Control::Fewer => "fewer frames",
            Control::Smaller => "smaller frames",
            Control::Random => "left out at random",
            Control::Evenly => "left out evenly",
        }
    }
}

/// Sizes of a video of which everything is read.
#[derive(Debug, Clone, Copy)]
pub struct WholeVideo {
    /// Frame pairs.
    pub n_pairs: usize,
    /// Tokens of a pair.
    pub per_pair: usize,
    /// Likewise, as rows and columns.
    grid: (usize, usize),
    /// Pixels of a token's side.
    factor: usize,
}

impl WholeVideo {
    /// Those of a planned one.
    pub fn of(plan: &MediaPlan, hp: &VisionHParams) -> WholeVideo {
        let grid = plan.grid.merged(hp.merge);
        let (n_pairs, per_pair) = (plan.n_pairs(), plan.per_pair);
        WholeVideo { n_pairs, per_pair, grid: (grid.h, grid.w), factor: hp.factor() }
    }

    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_pairs * self.per_pair
    }

    /// How it is read with `n` tokens, rounded up, by a control; `media` is how it is read whole.
    pub fn as_few(&self, n: usize, control: Control, media: &MediaOptions) -> (MediaOptions, Option<LeaveOut>) {
        let WholeVideo { n_pairs, per_pair, grid: (h, w), factor } = *self;
        let (mut media, mut left_out) = (media.clone(), None);
        let (mut n_frames, mut size) = (FRAME_FACTOR * n_pairs, (h, w));
        // The first pair is read whole.
        let behind = n_pairs.saturating_sub(1) * per_pair;
        let share = 1.0 - n.saturating_sub(per_pair) as f64 / behind.max(1) as f64;
        match control {
            Control::Fewer => n_frames = FRAME_FACTOR * n.div_ceil(per_pair),
            Control::Smaller => size = smaller(size, n.div_ceil(n_pairs)),
            Control::Random => left_out = Some(LeaveOut::Random(share, 1)),
            Control::Evenly => left_out = Some(LeaveOut::Evenly(share)),
        }
        let sample = &mut media.sample;
        (sample.fps, sample.nframes) = (None, Some(n_frames));
        (sample.resized_height, sample.resized_width) = (Some(size.0 * factor), Some(size.1 * factor));
        (media, left_out)
    }
}

/// The smallest grid of about the same shape with at least `n` tokens.
fn smaller((h, w): (usize, usize), n: usize) -> (usize, usize) {
    let scale = (n as f64 / (h * w) as f64).sqrt();
    let side = |side: usize| ((side as f64 * scale).round() as usize).max(1);
    let (mut height, mut width) = (side(h), side(w));
    while height * width < n {
        if height * w <= width * h {
            height += 1;
        } else {
            width += 1;
        }
    }
    (height, width)
}

/// An answer, with the distribution of every one of its tokens.
pub struct FullAnswer {
    tokens: Vec<u32>,
    /// Logarithms of probabilities, a row for each token.
    rows: Vec<Vec<f64>>,
}

/// How far distributions are from those of an answer in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Mean KL divergence from the distribution in full to the other, in nats.
    pub kl_mean: f64,
    /// That of 99 in 100 tokens is at most this.
    pub kl_p99: f64,
    /// The largest one of a token.
    pub kl_max: f64,
    /// Tokens whose likeliest is another one.
    pub n_changed: usize,
    /// The first of them: up to it, greedy answers are the same.
    pub first_changed: Option<usize>,
    /// Tokens in all.
    pub n: usize,
}

impl FullAnswer {
    /// Answers with `n` tokens, each the likeliest, what `session` was fed.
    ///
    /// # Errors
    /// No tokens; those of [`Context::step`](super::Context::step).
    pub fn of(session: &mut Session, n: usize) -> Result<FullAnswer> {
        if n == 0 {
            return Err(Error::bad_input("an answer of 0 tokens has no distributions to compare"));
        }
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        walk(session, n, |_, row| {
            tokens.push(top(&row) as u32);
            rows.push(row);
            tokens[tokens.len() - 1]
        })?;
        Ok(FullAnswer { tokens, rows })
    }

    /// Tokens of the answer.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The distributions of `session`, which was fed the same, over the tokens of this answer.
    ///
    /// # Errors
    /// Those of [`Context::step`](super::Context::step).
    pub fn beside(&self, session: &mut Session) -> Result<Divergence> {
        let (mut kl, mut changed) = (Vec::new(), Vec::new());
        walk(session, self.tokens.len(), |i, row| {
            kl.push(divergence(&self.rows[i], &row));
            if top(&row) != top(&self.rows[i]) {
                changed.push(i);
            }
            self.tokens[i]
        })?;
        kl.sort_by(f64::total_cmp);
        let n = kl.len();
        Ok(Divergence {
            kl_mean: kl.iter().sum::<f64>() / n as f64,
            kl_p99: kl[(99 * n).div_ceil(100) - 1],
            kl_max: kl[n - 1],
            n_changed: changed.len(),
            first_changed: changed.first().copied(),
            n,
        })
    }
}

/// Shows `token` the distributions of `n` tokens; it says how each goes on.
fn walk(session: &mut Session, n: usize, mut token: impl FnMut(usize, Vec<f64>) -> u32) -> Result<()> {
    for i in 0..n {
        let next = token(i, log_softmax(session.context().logits()));
        if i + 1 < n {
            session.context_mut().step(next, 0)?;
        }
    }
    Ok(())
}

/// Logarithms of the probabilities of a row of logits.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, v| most.max(f64::from(*v)));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - most).exp()).sum();
    logits.iter().map(|v| f64::from(*v) - most - sum.ln()).collect()
}

/// The likeliest; the first of equals.
pub(crate) fn top(row: &[f64]) -> usize {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}

/// KL divergence from `want` to `got`, both as logarithms of probabilities.
pub(crate) fn divergence(want: &[f64], got: &[f64]) -> f64 {
    want.iter().zip(got).map(|(w, g)| w.exp() * (w - g)).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_grids_keep_their_shape_and_have_enough() {
        assert_eq!((smaller((6, 9), 54), smaller((6, 9), 14), smaller((6, 9), 6)), ((6, 9), (3, 5), (2, 3)));
        for n in 1..=144 {
            let (h, w) = smaller((9, 16), n);
            assert!(h * w >= n && h * w <= n + 16 && h <= 9 && w <= 16, "{n}: {h}x{w}");
        }
    }

    #[test]
    fn divergence_of_known_distributions() {
        let (fair, loaded) = (log_softmax(&[0.0, 0.0]), log_softmax(&[3f32.ln(), 0.0]));
        assert!((divergence(&fair, &loaded) - (0.5 * (2f64 / 3.0).ln() + 0.5 * 2f64.ln())).abs() < 1e-7);
        assert_eq!(divergence(&fair, &fair), 0.0);
        assert_eq!((top(&fair), top(&loaded)), (0, 0), "the first of equals, as greedy sampling takes it");
        let three = log_softmax(&[0.0, 1.0, 2.0]);
        assert!((three.iter().map(|p| p.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
