//! The judge of what is approximate: the next-token distributions of a model that answers in a cheaper way beside those of the same
//! model in full, over the tokens of the answer in full. What is cheaper is up to the caller, who feeds a session for each way.

use super::Session;
use crate::{Error, Result};

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

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, v| most.max(f64::from(*v)));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - most).exp()).sum();
    logits.iter().map(|v| f64::from(*v) - most - sum.ln()).collect()
}

fn top(row: &[f64]) -> usize {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}

/// KL divergence from `want` to `got`, both as logarithms of probabilities.
fn divergence(want: &[f64], got: &[f64]) -> f64 {
    want.iter().zip(got).map(|(w, g)| w.exp() * (w - g)).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
