//! An answer in the making, apart from the conversation and from who hears it: it can be put down after any token, and taken up
//! again where the conversation still stands as it was left.

use std::time::{Duration, Instant};

use super::crew::{Said, TokenLog};
use super::linger::Wish;
use crate::stream::Finish;
use crate::text::{Sampler, StopStrings, StreamDecoder};

/// One answer, so far.
pub(crate) struct Draft {
    pub sampler: Sampler,
    pub n_predict: usize,
    pub ignore_eos: bool,
    pub stops: StopStrings,
    /// Alternatives whose log probabilities are told; nothing: none are.
    pub n_logprobs: Option<usize>,
    pub(super) decoder: StreamDecoder,
    pub(super) n_tokens: usize,
    /// What was told already, and likelihoods of tokens whose text is not complete.
    pub(super) said: Said,
    pub(super) logprobs: Vec<TokenLog>,
    /// Time that it took until it was last put down.
    pub(super) time: Duration,
    /// Why it ended, of one that nobody heard to its end.
    pub(super) finish: Option<Finish>,
}

impl Draft {
    /// Nothing yet of at most `n_predict` tokens.
    pub(crate) fn new(sampler: Sampler, n_predict: usize, stops: StopStrings) -> Draft {
        Draft {
            sampler,
            n_predict,
            ignore_eos: false,
            stops,
            n_logprobs: None,
            decoder: StreamDecoder::new(),
            n_tokens: 0,
            said: Said::default(),
            logprobs: Vec::new(),
            time: Duration::ZERO,
            finish: None,
        }
    }

    /// What was told so far, for somebody who comes later.
    pub(crate) fn said(&self) -> &Said {
        &self.said
    }
}

/// A draft that lies beside its conversation until the same is asked again, or for too long.
pub(crate) struct Kept {
    pub draft: Draft,
    pub wish: Wish,
    pub until: Instant,
}

impl Kept {
    /// Whether it is what is asked now.
    pub(crate) fn is_for(&self, wish: Option<&Wish>) -> bool {
        Some(&self.wish) == wish && Instant::now() < self.until
    }
}
