//! Whether attention shares find what an answer was read from: drawn videos with one symbol each, whose frame pair must have the
//! largest share of all pairs where the answer is right. An answer that is wrong says nothing of where it should have looked.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::drawn::{AROUND, Drawn};
use crate::cache::Looks;
use crate::drawn::symbols::DrawnVideo;
use crate::random::Rng;
use crate::stream::{Engine, Events, GenerateOptions, Generation, Looked, Session, SessionOptions};
use crate::text::{Sampler, SamplerOptions};
use crate::{Error, Result};

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub struct LooksOptions {
    /// Width and height of frames.
    pub frame: (usize, usize),
    /// The least and the most frame pairs of a video.
    pub pairs: (usize, usize),
    /// Of the session; its slots are as many as the longest video needs.
    pub session: SessionOptions,
    /// Of all that is drawn.
    pub seed: u64,
}

/// One way to make one number for each frame pair of the shares of all layers and heads.
pub struct Measure {
    /// For reports.
    pub name: &'static str,
    /// Only the first token of the answer counts.
    is_first: bool,
    /// Of shares (layers, heads, runs).
    shares: fn(&Looks, &[bool]) -> Vec<f64>,
}

/// What is compared: the first is what `--where` tells.
pub const MEASURES: [Measure; 6] = [
    Measure { name: "mean of layers, heads, tokens", is_first: false, shares: |looks, _| looks.mean() },
    Measure { name: "same of the first token", is_first: true, shares: |looks, _| looks.mean() },
    Measure {
        name: "mean of shares among frames",
        is_first: false,
        shares: |looks, is_frames| {
            reduced(looks, |sum, row| {
                let among: f64 = row.iter().zip(is_frames).filter(|(_, is)| **is).map(|(share, _)| share).sum();
                sum.iter_mut().zip(row).for_each(|(sum, share)| *sum += share / among.max(f64::MIN_POSITIVE));
            })
        },
    },
    Measure {
        name: "largest of all heads",
        is_first: false,
        shares: |looks, _| reduced(looks, |sum, row| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum = sum.max(*x))),
    },
    Measure { name: "mean of the last layer", is_first: false, shares: |looks, _| last_layer(looks, 1) },
    Measure { name: "mean of the last two layers", is_first: false, shares: |looks, _| last_layer(looks, 2) },
];

/// Rows of shares, one for each layer and head, taken together.
fn reduced(looks: &Looks, mut add: impl FnMut(&mut [f64], &[f64])) -> Vec<f64> {
    let mut sum = vec![0.0; looks.n_runs()];
    looks.shares().chunks_exact(looks.n_runs()).for_each(|row| add(&mut sum, row));
    sum
}

fn last_layer(looks: &Looks, n: usize) -> Vec<f64> {
    let (shares, mut sum) = (looks.shares(), vec![0.0; looks.n_runs()]);
    let rows = shares.len() / looks.n_runs();
    let of_layers = looks.n_head() * n.min(rows / looks.n_head());
    for row in shares.chunks_exact(looks.n_runs()).skip(rows - of_layers) {
        sum.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
    }
    sum
}

/// How a video went.
#[derive(Debug, Clone, PartialEq)]
pub struct LooksOutcome {
    /// Frame pairs.
    pub n_pairs: usize,
    /// The one with the symbol.
    pub needle: usize,
    /// The answer was what was drawn.
    pub right: bool,
    /// What the answer was, and where it looked.
    pub text: String,
    /// Where the answer looked; nothing of an answer without a token, which is wrong.
    pub looked: Option<Looked>,
    /// The place of the needle's pair among all, from 1, by each of [`MEASURES`]; equals come first.
    pub ranks: Vec<usize>,
}

impl LooksOutcome {
    /// The share of the needle's pair among frames.
    pub fn share(&self) -> Option<f64> {
        let video = self.looked.as_ref()?.media.first()?;
        Some(video.pairs.get(self.needle)?.share / video.share)
    }

    /// The share of all frames.
    pub fn of_frames(&self) -> Option<f64> {
        self.looked.as_ref().map(Looked::of_media)
    }
}

/// Video number `i`, asked about.
///
/// # Errors
/// Sizes that cannot be drawn, a context that is too small, activations that are not finite.
pub fn trial(engine: &Arc<Engine>, options: &LooksOptions, i: u64) -> Result<LooksOutcome> {
    let LooksOptions { frame, pairs: (least, most), session, seed } = *options;
    let seed = seed.wrapping_mul(1 << 20).wrapping_add(i);
    let n_pairs = least + Rng::new(seed).below(most - least + 1);
    let video = DrawnVideo::new(seed, frame, n_pairs, 1, None)?;
    let needle = video.needles[0].pair;
    let question = video.question().ok_or_else(|| Error::internal("a video with a symbol and no question"))?;
    let drawn = Drawn::new(frame, video.n_frames(), Box::new(move |i| video.frame(i)));
    let whole = drawn.whole();
    let mut prompt = drawn.prompt(engine, &whole, &question.text)?;
    let n_ctx = prompt.n_tokens()? + AROUND;
    let mut session = Session::new(engine, SessionOptions { n_ctx, ..session })?;
    session.find_looks(true);
    let (mut sink, go_on) = (|_| {}, AtomicBool::new(false));
    let mut events = Events::new(&mut sink, &go_on);
    session.feed(&mut prompt, &mut events)?;
    let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() })?;
    let mut answer = Generation::new(GenerateOptions { n_predict: AROUND / 2, ignore_eos: false });
    let mut ranks = vec![n_pairs; MEASURES.len()];
    let (mut text, mut is_first) = (String::new(), true);
    let mut rank = |session: &Session, is_first: bool| {
        for (rank, measure) in ranks.iter_mut().zip(&MEASURES).filter(|(_, measure)| measure.is_first == is_first) {
            let looked = session.looked_by(&measure.shares);
            let pairs = looked.map_or_else(Vec::new, |mut looked| std::mem::take(&mut looked.media[0].pairs));
            *rank = 1 + pairs.iter().filter(|pair| pair.share > pairs[needle].share).count();
        }
    };
    while let Some(piece) = answer.next(&mut session, &mut sampler, &mut events)? {
        text.push_str(&piece);
        if std::mem::take(&mut is_first) {
            rank(&session, true);
        }
    }
    rank(&session, false);
    let looked = session.looked();
    let right = text == question.answer;
    Ok(LooksOutcome { n_pairs, needle, right, text, looked, ranks })
}
