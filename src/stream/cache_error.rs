//! What a smaller cache does to the answers of a model: its next-token distributions beside those of a cache in F32.

use std::sync::Arc;

use super::{Engine, Events, Prompt, Session, SessionOptions};
use crate::gguf::GgmlType;
use crate::{Error, Result};

/// One pair of cache types beside F32, over the tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheError {
    /// Type of stored keys.
    pub type_k: GgmlType,
    /// Type of stored values.
    pub type_v: GgmlType,
    /// Bytes of the cache per token.
    pub n_bytes: usize,
    /// Mean KL divergence from the distribution with F32 to the one with these types, in nats.
    pub kl_mean: f64,
    /// The largest one of a token.
    pub kl_max: f64,
    /// Share of the tokens that are the likeliest in both.
    pub same_top: f64,
}

/// Answers a prompt with `n_predict` tokens over an F32 cache, then feeds the same tokens over the caches of `types`. `prompt`
/// is made anew for every one of them, since media are read once.
///
/// # Errors
/// Those of [`Session::new`] and [`Session::feed`].
pub fn cache_errors(
    engine: &Arc<Engine>,
    prompt: &mut dyn FnMut() -> Result<Prompt>,
    options: SessionOptions,
    types: &[(GgmlType, GgmlType)],
    n_predict: usize,
    events: &mut Events<'_>,
) -> Result<Vec<CacheError>> {
    if n_predict == 0 {
        return Err(Error::bad_input("an answer of 0 tokens has no distributions to compare"));
    }
    let mut answer = |types: (GgmlType, GgmlType), known: Option<&[u32]>| -> Result<(Vec<u32>, Vec<Vec<f64>>)> {
        let mut prompt = prompt()?;
        let n_ctx = prompt.n_tokens()?.saturating_add(n_predict);
        let mut session = Session::new(engine, SessionOptions { n_ctx, type_k: types.0, type_v: types.1, ..options })?;
        session.feed(&mut prompt, events)?;
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        for i in 0..n_predict {
            let row = log_softmax(session.context().logits());
            tokens.push(known.map_or_else(|| top(&row) as u32, |known| known[i]));
            rows.push(row);
            if i + 1 < n_predict {
                session.context_mut().step(tokens[i], 0)?;
            }
        }
        Ok((tokens, rows))
    };
    let (tokens, want) = answer((GgmlType::F32, GgmlType::F32), None)?;
    let mut errors = Vec::new();
    for &(type_k, type_v) in types {
        let (_, got) = answer((type_k, type_v), Some(&tokens))?;
        let kl: Vec<f64> = want.iter().zip(&got).map(|(want, got)| divergence(want, got)).collect();
        let same = want.iter().zip(&got).filter(|(want, got)| top(want) == top(got)).count();
        errors.push(CacheError {
            type_k,
            type_v,
            n_bytes: engine.cache_shape(1, (type_k, type_v)).n_bytes()?,
            kl_mean: kl.iter().sum::<f64>() / n_predict as f64,
            kl_max: kl.iter().copied().fold(0.0, f64::max),
            same_top: same as f64 / n_predict as f64,
        });
    }
    Ok(errors)
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
    }
}
