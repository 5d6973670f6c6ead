//! Whether reading less of a video costs answers: drawn videos that hurt, read whole, without what has not changed or but for a share
//! of each pair, and in other ways with as few tokens ([`Control`]). All ways answer the same question about the same video, so they are compared
//! by the videos about which one is right and the other is not.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::drawn::{AROUND, Drawn};
use crate::drawn::hard::{Hard, HardVideo};
use crate::stream::{
    Control, Engine, Events, LeaveOut, Less, MediaOptions, Session, SessionOptions, Tally, WholeVideo, divergence,
    log_softmax, top,
};
use crate::{Error, Result};

/// What is drawn, and how it is read.
#[derive(Debug, Clone)]
pub struct LeftOutOptions {
    /// Width and height of frames.
    pub frame: (usize, usize),
    /// Frame pairs of a video.
    pub n_pairs: usize,
    /// How less is read of it.
    pub less: Vec<Less>,
    /// Of the session; its slots are as many as a video needs.
    pub session: SessionOptions,
    /// Of all that is drawn.
    pub seed: u64,
}

/// A way to read a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// All of it.
    Whole,
    /// Less.
    Less(Less),
    /// With as many tokens as that leaves.
    Instead(Less, Control),
}

/// How a video went.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOutOutcome {
    /// What was drawn.
    pub kind: Hard,
    /// Which of them.
    pub trial: u64,
    /// How it was read.
    pub way: Way,
    /// The likeliest word was the right one.
    pub right: bool,
    /// KL divergence from the distribution of the whole video to this one, in nats.
    pub kl: f64,
    /// Visual tokens that were read.
    pub n_tokens: usize,
    /// Pairs that went through the vision tower.
    pub n_encoded: usize,
}

/// Video number `trial` of a kind, asked about in every way.
///
/// # Errors
/// Sizes that cannot be drawn, activations that are not finite, whatever is said through `cancel`.
pub fn trial(
    engine: &Arc<Engine>,
    options: &LeftOutOptions,
    (kind, trial): (Hard, u64),
    cancel: &AtomicBool,
) -> Result<Vec<LeftOutOutcome>> {
    let place = Hard::ALL.iter().position(|known| *known == kind).unwrap_or_default() as u64;
    let seed = options.seed.wrapping_mul(1 << 32).wrapping_add((trial << 8) + place);
    let video = Arc::new(HardVideo::new(seed, kind, options.frame, options.n_pairs, None)?);
    let asked = video.question().ok_or_else(|| Error::internal("a video with a symbol and no question"))?;
    let answer = engine.tokenizer.encode(asked.answer, false)?[0];
    let drawn = || {
        let video = Arc::clone(&video);
        Drawn::new(options.frame, 2 * options.n_pairs, Box::new(move |i| video.frame(i)))
    };
    let media = drawn().whole();
    let hp = engine.need_vision()?.hparams();
    // Sizes and distribution of the video in full, which comes first.
    let full = OnceCell::new();
    let read = |way: Way, media: &MediaOptions, left_out: Option<LeaveOut>| -> Result<LeftOutOutcome> {
        let mut prompt = drawn().prompt(engine, media, &asked.text)?;
        prompt.videos[0].left_out = left_out.or(prompt.videos[0].left_out);
        let n_ctx = prompt.n_tokens()? + AROUND;
        let mut session = Session::new(engine, SessionOptions { n_ctx, ..options.session })?;
        let mut tally = Tally::default();
        let mut sink = |event| tally.see(&event);
        session.feed(&mut prompt, &mut Events::new(&mut sink, cancel))?;
        let (plan, row) = (&prompt.videos[0], log_softmax(session.context().logits()));
        let n_tokens = plan.n_pairs() * plan.per_pair - plan.n_left_out();
        let full = full.get_or_init(|| (WholeVideo::of(plan, hp), row.clone()));
        let (right, kl) = (top(&row) as u32 == answer, divergence(&full.1, &row));
        Ok(LeftOutOutcome { kind, trial, way, right, kl, n_tokens, n_encoded: tally.encoded_pairs })
    };
    let mut outcomes = vec![read(Way::Whole, &media, None)?];
    for &less in &options.less {
        let Less { dedup, keep } = less;
        let reduced = read(Way::Less(less), &MediaOptions { dedup, keep, ..media.clone() }, None)?;
        let n_kept = reduced.n_tokens;
        outcomes.push(reduced);
        for control in Control::ALL {
            let (whole, _): &(WholeVideo, Vec<f64>) = full.get().expect("it was read first");
            let (media, left_out) = whole.as_few(n_kept, control, &media);
            outcomes.push(read(Way::Instead(less, control), &media, left_out)?);
        }
    }
    Ok(outcomes)
}

/// Trials of which only the one, and only the other way's answer is right, and how likely at least such a difference is where both ways are
/// alike (McNemar's test, exact, two-sided). Each trial with whether its answer is right.
pub fn mcnemar<T: PartialEq>(one: &[(T, bool)], other: &[(T, bool)]) -> (usize, usize, f64) {
    let (mut only_one, mut only_other) = (0, 0);
    for (trial, right) in one {
        if let Some((_, other)) = other.iter().find(|(known, _)| known == trial) {
            only_one += usize::from(*right && !other);
            only_other += usize::from(*other && !right);
        }
    }
    let n = only_one + only_other;
    // Sums of binomial coefficients over 2^n, from the smaller side.
    let (mut term, mut sum) = (0.5f64.powi(n as i32), 0.0);
    for k in 0..=only_one.min(only_other) {
        sum += term;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    (only_one, only_other, (2.0 * sum).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_of_both_ways_are_weighed() {
        let of = |right: &[bool]| -> Vec<(usize, bool)> { right.iter().copied().enumerate().collect() };
        let test = |a: &[bool], b: &[bool]| mcnemar(&of(a), &of(b));
        assert_eq!(test(&[true; 5], &[true; 5]), (0, 0, 1.0));
        // Six flips, all to one side: 2 / 2^6.
        assert_eq!(test(&[true; 6], &[false; 6]), (6, 0, 0.03125));
        // Five to one: 2 (1 + 6) / 2^6.
        let (one, other) = ([true, true, true, true, true, false], [false, false, false, false, false, true]);
        assert_eq!(test(&one, &other), (5, 1, 0.21875));
        assert_eq!(test(&one[4..], &other[4..]), (1, 1, 1.0));
    }
}
