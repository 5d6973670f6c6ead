//! Where a model looked while it answered: shares of attention as times of videos.
//!
//! A share is what softmax gave to the keys of something, in the mean over heads, over layers with attention, and over the tokens
//! of the answer: of each the row behind whose logits it was chosen. It says what was read from, not what was concluded: text
//! and above all the first token take in attention that has nowhere to go, and values and later layers decide what becomes of
//! what was read.

use std::fmt;

use serde_json::{Value, json};

use super::media_plan::{MediaKind, MediaPlan};
use super::{Prompt, Unit};

/// A run of slots, by what stands there.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Run {
    /// The first token of all.
    First,
    Words,
    /// Of medium `.0` in the order of the conversation.
    Picture(usize),
    /// Words around frame pair `.1` of a video, which tell its time.
    Stamp(usize, usize),
    Pair(usize, usize),
}

/// What stands where in a context, and how many slots that is.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    runs: Vec<(Run, usize)>,
    media: Vec<LookedMedium>,
}

/// Where an answer's tokens looked, as shares of all their attention.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Looked {
    /// Tokens of the answer so far, over which shares are means.
    pub n_tokens: usize,
    /// Layers with attention, likewise. Recurrent ones have none.
    pub n_layers: usize,
    /// At the first token of the conversation, where attention goes that has nowhere else to go.
    pub first: f64,
    /// At all other words of the conversation, those that tell time among them.
    pub words: f64,
    /// At the answer itself.
    pub answer: f64,
    /// At media, in the order of the conversation.
    pub media: Vec<LookedMedium>,
}

/// A picture or video that was looked at.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LookedMedium {
    /// A picture, or a video.
    pub kind: MediaKind,
    /// What it is called.
    pub label: String,
    /// The share of all of it.
    pub share: f64,
    /// The frame pairs of a video.
    pub pairs: Vec<LookedPair>,
}

/// A frame pair that was looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LookedPair {
    /// When its first frame is shown, in seconds, and when the next pair begins.
    pub from: f64,
    /// Likewise.
    pub to: f64,
    /// Its share.
    pub share: f64,
    /// The share of the words that tell its time, where there are any; they are not among the frames' shares.
    pub stamp: f64,
}

/// The times from the first frame of each pair to that of the next one, of pairs with frames at `seconds`.
fn spans(seconds: &[f64]) -> Vec<(f64, f64)> {
    let ends = seconds.iter().skip(2).step_by(2);
    let last = seconds.as_chunks::<2>().0.last().map(|[first, last]| 2.0 * last - first);
    seconds.iter().step_by(2).copied().zip(ends.copied().chain(last)).collect()
}

/// Places that are named in words.
const NAMED: usize = 3;
/// Less of what went to media is not named.
const LEAST: f64 = 0.01;

/// Minutes and seconds, or hours, to a tenth of a second where it is no whole one.
pub(crate) fn clock(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round().max(0.0) as u64;
    let (whole, tenth) = (tenths / 10, tenths % 10);
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let clock =
        if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") };
    if tenth > 0 { format!("{clock}.{tenth}") } else { clock }
}

/// A share in two digits.
pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent >= 9.95 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

impl Looked {
    /// The share of all pictures and frames.
    pub fn of_media(&self) -> f64 {
        // Not `sum`: of nothing that is -0.
        self.media.iter().fold(0.0, |sum, medium| sum + medium.share)
    }

    /// How much of what went to media went to something that has this share of all.
    pub fn among_media(&self, share: f64) -> f64 {
        let all = self.of_media();
        if all > 0.0 { share / all } else { 0.0 }
    }

    /// As an object of numbers: all shares are of the whole, but for `among`, of what went to media.
    pub fn to_json(&self) -> Value {
        let pair = |pair: &LookedPair| {
            let LookedPair { from, to, share, stamp } = *pair;
            json!({ "from": from, "to": to, "share": share, "among": self.among_media(share), "stamp": stamp })
        };
        let medium = |medium: &LookedMedium| {
            json!({
                "type": medium.kind.name(), "source": medium.label, "share": medium.share,
                "among": self.among_media(medium.share), "pairs": medium.pairs.iter().map(pair).collect::<Vec<_>>(),
            })
        };
        json!({
            "text": self.to_string(), "tokens": self.n_tokens, "layers": self.n_layers,
            "shares": {
                "media": self.of_media(), "words": self.words, "first_token": self.first, "answer": self.answer,
            },
            "media": self.media.iter().map(medium).collect::<Vec<_>>(),
        })
    }

    /// The places that were looked at most, the first of them first: neighbouring pairs are one. In words, with the share among
    /// media.
    fn most(&self) -> Vec<(String, f64)> {
        let is_one = self.media.len() == 1;
        let mut places: Vec<(usize, usize, f64)> = Vec::new();
        for (medium, seen) in self.media.iter().enumerate() {
            match seen.kind {
                MediaKind::Image => places.push((medium, 0, seen.share)),
                MediaKind::Video => {
                    places.extend(seen.pairs.iter().enumerate().map(|(pair, look)| (medium, pair, look.share)));
                }
            }
        }
        places.sort_by(|a, b| b.2.total_cmp(&a.2));
        places.truncate(NAMED);
        places.retain(|(.., share)| self.among_media(*share) >= LEAST);
        // Neighbours among these are told as one, in the place of the first.
        let mut spans: Vec<(usize, usize, usize, f64)> = Vec::new();
        for (medium, pair, share) in places {
            let near =
                |span: &&mut (usize, usize, usize, f64)| span.0 == medium && pair + 1 >= span.1 && pair <= span.2 + 1;
            match spans.iter_mut().find(near) {
                Some(span) => *span = (medium, span.1.min(pair), span.2.max(pair), span.3 + share),
                None => spans.push((medium, pair, pair, share)),
            }
        }
        let named = |(medium, first, last, share): (usize, usize, usize, f64)| {
            let seen = &self.media[medium];
            let place = match seen.kind {
                MediaKind::Image => seen.label.clone(),
                MediaKind::Video => {
                    let of = if is_one { String::new() } else { format!(" of {}", seen.label) };
                    format!("{} to {}{of}", clock(seen.pairs[first].from), clock(seen.pairs[last].to))
                }
            };
            (place, self.among_media(share))
        };
        spans.into_iter().map(named).collect()
    }
}

/// In words: where most of what went to media went, then what of all went where.
impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.most();
        if !most.is_empty() {
            let places: Vec<String> =
                most.iter().map(|(place, share)| format!("{place} ({})", percent(*share))).collect();
            write!(f, "looked most at {} of what it saw; ", places.join(", "))?;
        }
        let Looked { first, words, answer, .. } = *self;
        let [media, words, first, answer] = [self.of_media(), words, first, answer].map(percent);
        write!(f, "all attention: media {media}, words {words}, first token {first}, the answer itself {answer}")
    }
}

impl LookedMedium {
    fn of(plan: &MediaPlan) -> LookedMedium {
        let pair = |(from, to)| LookedPair { from, to, share: 0.0, stamp: 0.0 };
        let pairs = match plan.kind {
            MediaKind::Image => Vec::new(),
            MediaKind::Video => {
                let seconds = plan.seconds();
                let mut spans = spans(&seconds);
                if plan.is_compressed {
                    // What comes next may be long after.
                    let ends = seconds.as_chunks::<2>().0.iter().map(|[first, last]| 2.0 * last - first);
                    spans.iter_mut().zip(ends).for_each(|((_, to), end)| *to = to.min(end));
                }
                spans.into_iter().map(pair).collect()
            }
        };
        LookedMedium { kind: plan.kind, label: plan.label.clone(), share: 0.0, pairs }
    }
}

impl Sight {
    /// Of a conversation whose media are planned and whose time is told.
    pub(super) fn of(prompt: &Prompt) -> Sight {
        let mut sight = Sight { runs: Vec::new(), media: Vec::new() };
        for (at, unit) in prompt.units.iter().enumerate() {
            match *unit {
                Unit::Token(_) if at == 0 => sight.add(Run::First, 1),
                Unit::Token(_) => sight.add(Run::Words, 1),
                Unit::Media { kind, index } => {
                    if let Some(plan) = prompt.plan(kind, index) {
                        sight.add_medium(plan);
                    }
                }
            }
        }
        sight
    }

    fn add(&mut self, run: Run, n: usize) {
        match self.runs.last_mut() {
            Some((last, n_last)) if *last == run => *n_last += n,
            _ => self.runs.push((run, n)),
        }
    }

    fn add_medium(&mut self, plan: &MediaPlan) {
        let (medium, seen) = (self.media.len(), LookedMedium::of(plan));
        match plan.kind {
            MediaKind::Image => self.add(Run::Picture(medium), plan.n_tokens),
            MediaKind::Video => {
                for pair in 0..seen.pairs.len() {
                    let n = plan.n_pair_tokens(pair);
                    let around = plan.text.as_ref().map(|text| (text.lead[pair].len(), text.tail.len()));
                    let (before, behind) = around.unwrap_or_default();
                    for (run, n) in [
                        (Run::Stamp(medium, pair), before),
                        (Run::Pair(medium, pair), n - before - behind),
                        (Run::Stamp(medium, pair), behind),
                    ] {
                        if n > 0 {
                            self.add(run, n);
                        }
                    }
                }
            }
        }
        self.media.push(seen);
    }

    /// The slot behind each run.
    pub(super) fn ends(&self) -> Vec<usize> {
        let mut end = 0;
        let ends = self.runs.iter().map(|(_, n)| {
            end += n;
            end
        });
        ends.collect()
    }

    /// Which runs are frame pairs.
    pub(super) fn is_frames(&self) -> Vec<bool> {
        self.runs.iter().map(|(run, _)| matches!(run, Run::Pair(..))).collect()
    }

    /// What so many tokens looked at in so many layers, by shares of the runs and of what is behind them.
    pub(super) fn looked(&self, shares: &[f64], (n_tokens, n_layers): (usize, usize)) -> Looked {
        let answer = shares.last().copied().unwrap_or_default();
        let media = self.media.clone();
        let mut looked = Looked { n_tokens, n_layers, first: 0.0, words: 0.0, answer, media };
        for ((run, _), share) in self.runs.iter().zip(shares) {
            match *run {
                Run::First => looked.first += share,
                Run::Words => looked.words += share,
                Run::Picture(medium) => looked.media[medium].share += share,
                Run::Stamp(medium, pair) => {
                    looked.words += share;
                    looked.media[medium].pairs[pair].stamp += share;
                }
                Run::Pair(medium, pair) => {
                    looked.media[medium].share += share;
                    looked.media[medium].pairs[pair].share += share;
                }
            }
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(shares: &[f64]) -> LookedMedium {
        let pair =
            |(i, share): (usize, &f64)| LookedPair { from: i as f64, to: i as f64 + 1.0, share: *share, stamp: 0.0 };
        let pairs = shares.iter().enumerate().map(pair).collect();
        LookedMedium { kind: MediaKind::Video, label: "v.mp4".to_string(), share: shares.iter().sum(), pairs }
    }

    #[test]
    fn neighbours_are_told_as_one_place() {
        let media = vec![video(&[0.0, 0.001, 0.02, 0.16, 0.0, 0.02])];
        let looked = Looked { n_tokens: 2, n_layers: 4, first: 0.5, words: 0.25, answer: 0.049, media };
        let want = "looked most at 0:02 to 0:04 (90 %), 0:05 to 0:06 (10 %) of what it saw; all attention: media 20 %, \
                    words 25 %, first token 50 %, the answer itself 4.9 %";
        assert_eq!(looked.to_string(), want);
        let silent = Looked { media: Vec::new(), ..looked };
        assert!(silent.to_string().starts_with("all attention: media 0.0 %"), "{silent}");
    }

    #[test]
    fn a_pair_lasts_until_the_next_one() {
        assert_eq!(spans(&[0.0, 0.5, 1.0, 1.5, 4.0, 4.5]), [(0.0, 1.0), (1.0, 4.0), (4.0, 5.0)]);
        assert_eq!((clock(59.96), clock(3725.5), clock(0.25)), ("1:00".into(), "1:02:05.5".into(), "0:00.3".into()));
    }
}
