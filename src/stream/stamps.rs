//! Time in words: what stands before each frame pair of a stamped video.
//!
//! A stamp tells the mean of the seconds of a pair's two frames, to one decimal, ties to even (of the binary value). The first one
//! is tokenized together with the text before the video, whose last token may take in its `<`; behind a marker, a stamp begins
//! anew.

use crate::model::family::VideoRules;
use crate::text::Tokenizer;
use crate::{Error, Result};

const START: &str = "<|vision_start|>";
const END: &str = "<|vision_end|>";

/// What becomes of the vision markers that a template puts around a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Markers {
    /// They stay: the video is not stamped.
    #[default]
    Plain,
    /// Those of the pairs take their place, as when the models were released (transformers 4.57).
    Replaced,
    /// They stay around the pairs, which have their own as well (transformers from 5.12 or so on).
    Kept,
}

impl Markers {
    /// Those of a video under a projector's rules, or as `keep` wants them.
    pub fn of(rules: &VideoRules, keep: bool) -> Markers {
        match (rules.is_stamped(), keep || rules.keep_markers) {
            (false, _) => Markers::Plain,
            (true, false) => Markers::Replaced,
            (true, true) => Markers::Kept,
        }
    }
}

/// The text before a pair whose frames are shown at these seconds.
pub fn stamp(first: f64, last: f64) -> String {
    in_words((first + last) / 2.0)
}

/// The same of the mean.
fn in_words(seconds: f64) -> String {
    format!("<{seconds:.1} seconds>")
}

/// What stands around the pairs of a stamped video in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairText {
    /// Before each pair: its stamp, then the vision start marker.
    pub lead: Vec<Vec<u32>>,
    /// Behind each: the vision end marker.
    pub tail: Vec<u32>,
    /// How many tokens of the words before the video the first stamp takes in: its lead begins with what became of them.
    pub n_taken: usize,
}

impl PairText {
    /// The text of pairs whose frames are shown at `seconds`, two for each pair. The first stamp is tokenized by itself, until
    /// [`PairText::join`].
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub fn new(tokenizer: &Tokenizer, seconds: &[f64]) -> Result<PairText> {
        let stamps: Vec<String> = seconds.chunks(2).map(|pair| stamp(pair[0], pair[pair.len() - 1])).collect();
        PairText::of(tokenizer, &stamps)
    }

    /// The text of pairs with these stamps.
    ///
    /// # Errors
    /// As [`PairText::new`].
    pub fn of(tokenizer: &Tokenizer, stamps: &[impl AsRef<str>]) -> Result<PairText> {
        let marker = |marker: &str| match tokenizer.token_id(marker) {
            Some(id) => Ok(id),
            None => Err(Error::mismatch(format!("the vocabulary has no `{marker}`, which stamped videos need"))),
        };
        let (start, end) = (marker(START)?, marker(END)?);
        let lead = |stamp: &str| -> Result<Vec<u32>> {
            let mut ids = tokenizer.encode(stamp, false)?;
            ids.push(start);
            Ok(ids)
        };
        let lead = stamps.iter().map(|stamp| lead(stamp.as_ref())).collect::<Result<_>>()?;
        Ok(PairText { lead, tail: vec![end], n_taken: 0 })
    }

    /// Tokenizes the first stamp anew together with the words before it, the tokens `before`, which end with the template's own
    /// start marker. Returns how many of `before` stay.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn join(&mut self, tokenizer: &Tokenizer, before: &[u32], first: &str) -> Result<usize> {
        let start = tokenizer.encode(START, true)?;
        let Some(words) = before.strip_suffix(&start[..]) else { return Ok(before.len()) };
        let from = words.iter().rposition(|id| tokenizer.is_control(*id)).map_or(0, |at| at + 1);
        let text = tokenizer.decode(&words[from..], false);
        let mut joint = tokenizer.encode(&format!("{text}{first}"), false)?;
        if tokenizer.encode(&text, false)? != words[from..] {
            // Words that are no text of their own, such as a token that was added to the vocabulary.
            joint = [&words[from..], &tokenizer.encode(first, false)?[..]].concat();
        }
        let same = words[from..].iter().zip(&joint).take_while(|(a, b)| a == b).count();
        self.n_taken = words.len() - from - same;
        self.lead[0] = [&joint[same..], &start[..]].concat();
        Ok(from + same)
    }

    /// How many of the tokens `before` stay when the first stamp was joined before.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn n_stay(&self, tokenizer: &Tokenizer, before: &[u32]) -> Result<usize> {
        let start = tokenizer.encode(START, true)?;
        Ok(before.strip_suffix(&start[..]).map_or(before.len(), |words| words.len().saturating_sub(self.n_taken)))
    }

    /// Tokens before pair `pair`, with `n` visual ones in it, and behind it.
    pub fn n_tokens(&self, pair: usize, n: usize) -> usize {
        self.lead[pair].len() + n + self.tail.len()
    }

    /// Tokens of all of it, without visual ones.
    pub fn n_text(&self) -> usize {
        (0..self.lead.len()).map(|pair| self.n_tokens(pair, 0)).sum()
    }
}

/// What stamps cost, for plans: a number of tokens for each, and one for each digit before the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampCost {
    /// Tokens of a stamp and of the markers around its pair, without the digits before the point.
    pub each: usize,
}

impl StampCost {
    /// The cost under a vocabulary, which is exact where it has one token for each digit, else a little high.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub fn of(tokenizer: &Tokenizer) -> Result<StampCost> {
        let text = PairText::new(tokenizer, &[0.0])?;
        Ok(StampCost { each: text.n_text() - 1 })
    }

    /// Tokens of `n` frames' stamps, spread over `first..=last` at `fps`.
    pub fn n_tokens(self, frames: &[usize], fps: f64) -> usize {
        let digits = |seconds: f64| {
            // What is printed is rounded first.
            let mut whole = (seconds + 0.05) as u64;
            let mut n = 1;
            while whole > 9 {
                (whole, n) = (whole / 10, n + 1);
            }
            n
        };
        frames.chunks(2).map(|pair| self.each + digits((pair[0] + pair[pair.len() - 1]) as f64 / 2.0 / fps)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 2.6: Python's `.1f` of the binary value.
    #[test]
    fn stamps_round_ties_to_even() {
        for (seconds, want) in [
            (0.25, "<0.2 seconds>"),
            (0.75, "<0.8 seconds>"),
            (1.25, "<1.2 seconds>"),
            (2.25, "<2.2 seconds>"),
            (6.25, "<6.2 seconds>"),
            (0.15, "<0.1 seconds>"),
            (0.05, "<0.1 seconds>"),
            (9.95, "<9.9 seconds>"),
            (3600.0, "<3600.0 seconds>"),
        ] {
            assert_eq!(in_words(seconds), want);
        }
        assert_eq!(stamp(0.0, 0.5), "<0.2 seconds>");
    }
}
