//! V-NIAH: does a model find one frame in a long video? (Zhang et al., arXiv 2406.16852, as VideoRoPE and HoPE measure it.)
//!
//! A trial is a text opening, `n` units of haystack with the needle's picture before unit `depth * n`, a question, and the
//! answer, which the model must prefer token by token (teacher forcing). A unit is what one frame pair becomes. No tokens stand around
//! the units, but where a model is told time in words: there each has the stamp of its place, of frames a second apart, as a video
//! that holds the needle would, and the words around the video are the model's own. V-NIAH-D adds a look-alike 200 units from the
//! needle.
//!
//! Trials are ordered so that what comes before the first inserted picture only ever grows: the cache keeps it, and each
//! trial feeds no more than what is behind it.

mod data;

pub use data::{drawn_haystack, drawn_needles, needles_from, video_haystack};

use std::sync::Arc;

use half::bf16;

use crate::cache::CacheType;
use crate::cache::KvCache;
use crate::media::Rgb;
use crate::media::patch::{Grid, pixel_values};
use crate::position::Pace;
use crate::position::Pos;
use crate::random::Rng;
use crate::stream::{Context, Engine, Held, PairText, Probe, SessionOptions, patch_spec, stamp};
use crate::text::template::RenderOptions;
use crate::text::{Content, Message};
use crate::{Error, Result};

/// How far a look-alike stands from the needle, in units: about the period of the temporal pair that M-RoPE turns slowest.
const INTERRUPT_DISTANCE: usize = 200;
/// Before the haystack.
const OPENING: &str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
/// Between question and answer.
const CLOSING: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// What stands before the haystack and behind the question: as published, or, where time is told in words, as the model's template has
/// it, without a thought.
fn around(engine: &Engine, is_stamped: bool) -> Result<(String, String)> {
    if !is_stamped {
        return Ok((OPENING.to_string(), CLOSING.to_string()));
    }
    const MARK: &str = "a needle and a question";
    let user = Message::new("user", Content::Text(MARK.to_string()));
    let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let text = engine.template.render(&[user], render)?;
    let (before, after) =
        text.split_once(MARK).ok_or_else(|| Error::format("the chat template leaves out what the user says"))?;
    let thought = if after.trim_end().ends_with("<think>") { "\n</think>\n\n" } else { "" };
    Ok((before.to_string(), format!("{after}{thought}")))
}

/// Visual tokens of frame pairs, as the vision tower gives them, rounded to bf16 as the published protocol keeps them.
pub struct Units {
    /// Merged rows and columns of a unit.
    grid: (usize, usize),
    /// Values of a token, with what taps add.
    n_values: usize,
    rows: Vec<bf16>,
}

impl Units {
    /// No units yet, for frames of `width` x `height` pixels.
    ///
    /// # Errors
    /// A model without a projector; sides that are no multiples of what becomes a token.
    pub fn new(engine: &Engine, (width, height): (usize, usize)) -> Result<Units> {
        let hp = engine.need_vision()?.hparams();
        let spec = patch_spec(hp);
        let factor = spec.factor();
        if width == 0 || height == 0 || !width.is_multiple_of(factor) || !height.is_multiple_of(factor) {
            let message = format!("frames of `{width}x{height}`: sides must be multiples of {factor}");
            return Err(Error::bad_input(message));
        }
        let grid = (height / factor, width / factor);
        Ok(Units { grid, n_values: hp.n_out_values(), rows: Vec::new() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len() / self.row_len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of one unit.
    pub fn n_tokens(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    fn row_len(&self) -> usize {
        self.n_tokens() * self.n_values
    }

    /// Adds the units of `pixels`, rows of patches of whole frame pairs.
    ///
    /// # Errors
    /// Activations that are not finite.
    pub fn push(&mut self, engine: &Engine, pixels: &[f32]) -> Result<()> {
        let tower = engine.need_vision()?;
        let merge = tower.hparams().merge;
        let rows = tower.encode(pixels, self.grid.0 * merge, self.grid.1 * merge, None)?;
        self.rows.extend(rows.iter().map(|v| bf16::from_f32(*v)));
        Ok(())
    }

    /// Adds the unit of a frame pair.
    ///
    /// # Errors
    /// Frames of another size.
    pub fn push_pair(&mut self, engine: &Engine, pair: [&Rgb; 2]) -> Result<()> {
        let spec = patch_spec(engine.need_vision()?.hparams());
        for frame in pair {
            let grid = Grid::of(1, frame.height, frame.width, &spec).merged(spec.merge);
            if (grid.h, grid.w) != self.grid || frame.height % spec.factor() != 0 || frame.width % spec.factor() != 0 {
                let message = format!("a frame of `{}x{}` among units of another size", frame.width, frame.height);
                return Err(Error::mismatch(message));
            }
        }
        let mut pixels = Vec::new();
        pixel_values(pair, &spec, &mut pixels);
        self.push(engine, &pixels)
    }

    /// Unit `i`; behind the last one the first comes again.
    fn unit(&self, i: usize) -> &[bf16] {
        let at = i % self.len() * self.row_len();
        &self.rows[at..at + self.row_len()]
    }
}

/// A picture to be found, and what is asked about it.
pub struct Needle {
    /// Says in reports which one it was.
    pub name: String,
    /// One unit: the picture. A second one, where given: its look-alike.
    pub pictures: Units,
    /// What is asked; begins with a newline by convention.
    pub question: String,
    pub answer: String,
}

/// One place in the grid of trials.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Units of haystack.
    pub n: usize,
    /// The needle comes before unit `depth * n`.
    pub depth: f64,
    /// Which needle.
    pub needle: usize,
}

/// How a trial went.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialOutcome {
    /// All tokens of the answer were preferred.
    pub right: bool,
    /// What the model preferred, as text.
    pub predicted: String,
    /// Tokens of the whole sequence.
    pub n_tokens: usize,
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
pub struct NiahOptions {
    /// Tokens per step of prefill.
    pub n_batch: usize,
    pub type_k: CacheType,
    pub type_v: CacheType,
    /// The model's own where none is given.
    pub temporal_scale: Option<f64>,
    /// For the side of a look-alike where both fit.
    pub seed: u64,
}

/// A sequence in pieces: a unit of haystack or a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Hay(usize),
    Needle,
    Interrupt,
}

/// The order of units in a trial of V-NIAH, or of V-NIAH-D when `interrupt`.
fn pieces(trial: Trial, interrupt: bool, seed: u64) -> Vec<Piece> {
    let at = ((trial.depth * trial.n as f64) as usize).min(trial.n);
    let mut out: Vec<Piece> = (0..trial.n).map(Piece::Hay).collect();
    out.insert(at, Piece::Needle);
    if interrupt {
        let before = at.checked_sub(INTERRUPT_DISTANCE);
        let after = Some(at + INTERRUPT_DISTANCE).filter(|after| *after <= trial.n);
        // The side depends on the trial alone, so that a resumed run takes the same.
        let stream = seed ^ ((trial.n as u64) << 20) ^ ((at as u64) << 4) ^ trial.needle as u64;
        let side = match (before, after) {
            (Some(before), Some(after)) if Rng::new(stream).below(2) == 0 => Some(before.min(after)),
            (Some(_), Some(after)) => Some(after),
            (before, after) => before.or(after),
        };
        if let Some(side) = side {
            out.insert(side, Piece::Interrupt);
        }
    }
    out
}

/// Runs trials of one model over one haystack.
pub struct Niah<'a> {
    haystack: &'a Units,
    needles: &'a [Needle],
    options: NiahOptions,
    opening: Vec<u32>,
    /// Question with what follows, and answer, of each needle.
    asked: Vec<(Vec<u32>, Vec<u32>)>,
    /// The words around the unit of each place, where time is told in words.
    stamps: Option<PairText>,
    /// The opening under one mark, then one for each unit of plain haystack.
    context: Context,
}

impl<'a> Niah<'a> {
    /// Reserves memory for sequences of up to `n_max` units of haystack.
    ///
    /// # Errors
    /// An empty haystack, answers without tokens, pictures of another size, memory that cannot be had.
    pub fn new(
        engine: &Arc<Engine>,
        haystack: &'a Units,
        needles: &'a [Needle],
        n_max: usize,
        options: NiahOptions,
    ) -> Result<Niah<'a>> {
        if haystack.is_empty() || needles.is_empty() || options.n_batch == 0 {
            return Err(Error::bad_input("V-NIAH needs a haystack, a needle and a batch of at least 1"));
        }
        let encode = |text: &str| engine.tokenizer.encode(text, true);
        let is_stamped = engine.need_vision()?.hparams().video.is_stamped();
        let (before, closing) = around(engine, is_stamped)?;
        let opening = encode(&before)?;
        let mut asked = Vec::new();
        for needle in needles {
            if needle.pictures.is_empty() || needle.pictures.grid != haystack.grid {
                return Err(Error::mismatch(format!("needle `{}` differs in size from the haystack", needle.name)));
            }
            // The question is text: what looks like a control token in it is none.
            let mut question = engine.tokenizer.encode(&needle.question, false)?;
            question.extend(encode(&closing)?);
            let answer = engine.tokenizer.encode(&needle.answer, false)?;
            if answer.is_empty() {
                return Err(Error::bad_input(format!("needle `{}` has an empty answer", needle.name)));
            }
            asked.push((question, answer));
        }
        let text = opening.len() + asked.iter().map(|(q, a)| q.len() + a.len()).max().unwrap_or(0);
        // Two more than the haystack: the needle, and its look-alike.
        let n_units = n_max.checked_add(2);
        let stamps = match n_units.filter(|_| is_stamped) {
            None => None,
            Some(n) => {
                let stamps: Vec<String> = (0..n).map(|i| stamp((2 * i) as f64, (2 * i + 1) as f64)).collect();
                Some(PairText::of(&engine.tokenizer, &stamps)?)
            }
        };
        let text = text + stamps.as_ref().map_or(0, PairText::n_text);
        let n_ctx = n_units.and_then(|n| n.checked_mul(haystack.n_tokens())?.checked_add(text));
        let n_ctx = n_ctx.ok_or_else(|| Error::limit(format!("sequences of `{n_max}` units are too long")))?;
        let NiahOptions { n_batch, type_k, type_v, temporal_scale, .. } = options;
        let sizes = SessionOptions { n_ctx, n_batch, type_k, type_v, temporal_scale };
        let context = Context::new(engine, &sizes)?;
        Ok(Niah { haystack, needles, options, opening, asked, stamps, context })
    }

    /// Sorts trials so that each begins with what the one before it began with.
    pub fn sort(&self, trials: &mut [Trial]) {
        trials.sort_by_cached_key(|trial| (self.n_plain(*trial), trial.n, trial.needle));
    }

    /// Units of haystack before the first inserted picture.
    fn n_plain(&self, trial: Trial) -> usize {
        let pieces = pieces(trial, self.needles[trial.needle].pictures.len() > 1, self.options.seed);
        pieces.iter().position(|piece| !matches!(piece, Piece::Hay(_))).unwrap_or(pieces.len())
    }

    /// Runs one trial. `on_step` hears how many tokens were fed and may stop the work.
    ///
    /// # Errors
    /// Activations that are not finite, a sequence longer than was reserved, whatever `on_step` returns.
    pub fn run(&mut self, trial: Trial, on_step: &mut dyn FnMut(usize) -> Result<()>) -> Result<TrialOutcome> {
        let n_plain = self.n_plain(trial);
        self.keep(n_plain, on_step)?;
        let needle = &self.needles[trial.needle];
        let pieces = pieces(trial, needle.pictures.len() > 1, self.options.seed);
        let (question, answer) = &self.asked[trial.needle];
        let mut pushed = Ok(());
        for (place, piece) in pieces.iter().enumerate().skip(n_plain) {
            let unit = match piece {
                Piece::Hay(i) => self.haystack.unit(*i),
                Piece::Needle => needle.pictures.unit(0),
                Piece::Interrupt => needle.pictures.unit(1),
            };
            pushed =
                pushed.and_then(|()| push_unit(&mut self.context, self.haystack.grid, (&self.stamps, place), unit));
        }
        let units: usize = (0..pieces.len()).map(|place| n_unit_tokens(self.haystack, &self.stamps, place)).sum();
        let n_tokens = self.opening.len() + units + question.len() + answer.len();
        // The last token of the answer predicts nothing that counts, and each is predicted by the one before it.
        let asked = [question, &answer[..answer.len() - 1]].concat();
        self.context.want_logits(n_tokens - 1 - answer.len());
        let asked = pushed.and_then(|()| self.context.push_tokens(&asked));
        let read = asked.and_then(|()| self.context.drain(true, &mut Told(on_step)));
        // Whatever happened, what is behind the plain haystack belongs to this trial alone.
        self.context.truncate(self.context.n_whole());
        read?;
        let predicted: Vec<u32> =
            self.context.logits().chunks_exact(self.context.engine().text.hparams().n_vocab).map(likeliest).collect();
        let text = self.context.engine().tokenizer.decode(&predicted, false);
        Ok(TrialOutcome { right: predicted == *answer, predicted: text, n_tokens })
    }

    /// Makes the context hold the opening and exactly `n` units of plain haystack.
    fn keep(&mut self, n: usize, on_step: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let kept = self.read_until(n, on_step);
        if kept.is_err() {
            self.context.truncate(self.context.n_whole());
        }
        kept
    }

    fn read_until(&mut self, n: usize, on_step: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
        let context = &mut self.context;
        context.want_logits(usize::MAX);
        context.truncate(context.n_marks().min(1 + n));
        if context.n_marks() == 0 {
            let (h, w) = self.haystack.grid;
            context.push_tokens(&self.opening)?;
            context.drain(true, &mut Told(&mut *on_step))?;
            // A stamped video is a block for each unit, all others are one.
            if self.stamps.is_none() {
                let scale = self.options.temporal_scale.unwrap_or(context.engine().text.hparams().temporal_scale);
                context.begin_visual(h, w, Some(scale))?;
            }
            context.mark(Held::Rows);
        }
        // In pieces, so that waiting rows stay few.
        let step = (self.options.n_batch / self.haystack.n_tokens()).max(1);
        while context.n_marks() < 1 + n {
            let first = context.n_marks() - 1;
            for i in first..n.min(first + step) {
                push_unit(context, self.haystack.grid, (&self.stamps, i), self.haystack.unit(i))?;
                context.mark(Held::Rows);
            }
            context.drain(true, &mut Told(&mut *on_step))?;
        }
        context.keep_place()
    }
}

/// Tells how many tokens every step read.
struct Told<'a>(&'a mut dyn FnMut(usize) -> Result<()>);

impl Probe for Told<'_> {
    fn after_step(&mut self, pos: &[Pos], _: &mut KvCache) -> Result<()> {
        (self.0)(pos.len())
    }
}

/// The unit at `place`, of the one video, or in a block of its own behind its stamp.
fn push_unit(
    context: &mut Context,
    (h, w): (usize, usize),
    (stamps, place): (&Option<PairText>, usize),
    rows: &[bf16],
) -> Result<()> {
    let rows: Vec<f32> = rows.iter().map(|v| v.to_f32()).collect();
    let Some(PairText { lead, tail, .. }) = stamps else {
        context.push_pair(&rows);
        return Ok(());
    };
    context.push_tokens(&lead[place])?;
    context.begin_visual(h, w, Pace::default())?;
    context.push_pair(&rows);
    context.end_visual();
    context.push_tokens(tail)
}

/// Tokens of the unit at `place`, with its stamp.
fn n_unit_tokens(units: &Units, stamps: &Option<PairText>, place: usize) -> usize {
    stamps.as_ref().map_or(units.n_tokens(), |text| text.n_tokens(place, units.n_tokens()))
}

/// The index of the largest value; the first of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Mean score of each cell of the grid, `None` where no trial was run: rows are depths, columns are lengths.
pub fn cells(lengths: &[usize], depths: &[f64], results: &[(Trial, bool)]) -> Vec<Vec<Option<f64>>> {
    let cell = |n: usize, depth: f64| {
        let scores: Vec<bool> =
            results.iter().filter(|(t, _)| t.n == n && t.depth == depth).map(|(_, right)| *right).collect();
        let right = scores.iter().filter(|right| **right).count();
        (!scores.is_empty()).then(|| right as f64 / scores.len() as f64)
    };
    depths.iter().map(|depth| lengths.iter().map(|n| cell(*n, *depth)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(n: usize, depth: f64, interrupt: bool) -> (usize, Option<usize>) {
        let pieces = pieces(Trial { n, depth, needle: 0 }, interrupt, 1);
        let hay: Vec<usize> =
            pieces.iter().filter_map(|p| if let Piece::Hay(i) = p { Some(*i) } else { None }).collect();
        assert_eq!(hay, (0..n).collect::<Vec<_>>(), "the haystack stays whole and in order");
        let place = |wanted| pieces.iter().position(|p| *p == wanted);
        (place(Piece::Needle).unwrap(), place(Piece::Interrupt))
    }

    #[test]
    fn the_needle_stands_before_the_unit_at_its_depth() {
        let found: Vec<usize> = [0.0, 0.2, 0.5, 0.99, 1.0].iter().map(|d| places(100, *d, false).0).collect();
        assert_eq!(found, [0, 20, 50, 99, 100]);
    }

    #[test]
    fn a_look_alike_stands_200_units_away_or_nowhere() {
        assert_eq!(places(100, 0.5, true), (50, None));
        assert_eq!(places(300, 0.0, true), (0, Some(200)));
        // At the end only the side before fits; the needle moves one place on.
        assert_eq!(places(300, 1.0, true), (301, Some(100)));
        let (needle, interrupt) = places(1000, 0.5, true);
        assert!([(500, Some(700)), (501, Some(300))].contains(&(needle, interrupt)), "{needle} {interrupt:?}");
    }

    #[test]
    fn cells_are_means_of_their_trials() {
        let trial = |n, depth, needle| Trial { n, depth, needle };
        let results = [(trial(4, 0.0, 0), true), (trial(4, 0.0, 1), false), (trial(8, 1.0, 0), true)];
        let cells = cells(&[4, 8], &[0.0, 1.0], &results);
        assert_eq!(cells, [[Some(0.5), None], [None, Some(1.0)]]);
    }
}
