//! What a model has read, and what it reads next: the cache, the rows that wait for the next step, where the next token stands,
//! and a log of it all, to go back along. Sessions, evaluations, benchmarks and calibrations all drive this one.
//!
//! Push tokens and visual rows, [`Context::mark`] what they were, and [`Context::drain`] full steps as they come. What was
//! marked can be gone back to, at no cost ([`Context::truncate`]); where layers are recurrent, only to a few places that were kept
//! ([`Context::keep_place`]).

mod together;

pub use together::Together;

use std::sync::Arc;

use super::{Engine, Probe, SessionOptions};
use crate::cache::{Forgotten, KvCache, Looks, Slots};
use crate::model::{Batch, Choice, Scratch};
use crate::position::{Pace, Placer, Pos};
use crate::{Error, Result};

/// What stands in a context, from one mark to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Held {
    /// This token.
    Token(u32),
    /// A medium that is told from others by `id`, at this temporal scale.
    Medium {
        /// SHA-256 of what identifies the source, of the frames taken, and of their size.
        id: [u8; 32],
        /// Of its time ids.
        scale: f64,
    },
    /// Rows whose origin nobody will ask for.
    Rows,
}

/// A mark in the log.
#[derive(Clone)]
struct Entry {
    held: Held,
    /// Tokens up to here that are in the context.
    end: usize,
    /// Where the next one stands.
    placer: Placer,
}

/// A sequence in the making.
pub struct Context {
    engine: Arc<Engine>,
    cache: KvCache,
    scratch: Scratch,
    placer: Placer,
    log: Vec<Entry>,
    /// Tokens placed so far, without those that were forgotten.
    n_placed: usize,
    /// Tokens in the cache that are still to be placed: what a take holds of the unit at which it was left.
    n_known: usize,
    /// Rows that wait for the next step: embeddings, what DeepStack adds (n, n_taps * n_embd), positions.
    embd: Vec<f32>,
    deep: Vec<f32>,
    pos: Vec<Pos>,
    /// Matrices that the tower's taps gave per visual token so far: none before the first one.
    n_taps: usize,
    /// Rows that wait up to the last visual token among them.
    visual_end: usize,
    /// What the next step takes of `deep`, (n_taps, n, n_embd).
    taps: Vec<f32>,
    /// The first slot whose logits are wanted.
    wanted: usize,
    /// Logits from there on, (n, n_vocab); empty where only the largest came from a device.
    logits: Vec<f32>,
    /// The largest of them.
    top: Vec<(u32, f32)>,
}

impl Context {
    /// Reserves the cache.
    ///
    /// # Errors
    /// Sizes or types that cannot be had.
    pub fn new(engine: &Arc<Engine>, options: &SessionOptions) -> Result<Context> {
        if options.n_ctx == 0 || options.n_batch == 0 {
            return Err(Error::bad_input("context and batch size must be at least 1"));
        }
        let shape = engine.cache_shape(options.n_ctx, (options.type_k, options.type_v));
        Context::over(engine, options, KvCache::new(shape)?)
    }

    /// A context over a cache whose filled slots are to be placed yet (`Context::place`).
    ///
    /// # Errors
    /// Memory that a device does not have.
    pub fn over(engine: &Arc<Engine>, options: &SessionOptions, mut cache: KvCache) -> Result<Context> {
        let hp = engine.text.hparams();
        let mut scratch = Scratch::new(hp, options.n_batch.min(options.n_ctx));
        engine.text.prepare(&mut cache, &mut scratch)?;
        Ok(Context {
            placer: Placer::new(hp.layout),
            engine: Arc::clone(engine),
            n_known: cache.len(),
            cache,
            scratch,
            log: Vec::new(),
            n_placed: 0,
            embd: Vec::new(),
            deep: Vec::new(),
            pos: Vec::new(),
            n_taps: 0,
            visual_end: 0,
            taps: Vec::new(),
            wanted: usize::MAX,
            logits: Vec::new(),
            top: Vec::new(),
        })
    }

    /// The model that reads.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The cache itself, for inspection.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Tokens that were read or wait to be.
    pub fn n_tokens(&self) -> usize {
        self.cache.len() + self.pos.len()
    }

    /// Tokens per step of prefill.
    pub fn n_batch(&self) -> usize {
        self.scratch.n_batch()
    }

    /// Where the next text token stands, on all axes.
    pub fn next_pos(&self) -> f64 {
        self.placer.next_pos()
    }

    /// What was marked, in order.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.log.iter().map(|entry| &entry.held)
    }

    /// How many marks there are.
    pub fn n_marks(&self) -> usize {
        self.log.len()
    }

    /// Tokens up to mark `n`, which is there.
    pub(super) fn n_marked(&self, n: usize) -> usize {
        n.checked_sub(1).map_or(0, |last| self.log[last].end)
    }

    /// Marks that are in the cache whole.
    pub fn n_whole(&self) -> usize {
        self.log.partition_point(|entry| entry.end <= self.cache.len())
    }

    /// Marks what was pushed since the last mark.
    pub fn mark(&mut self, held: Held) {
        self.log.push(Entry { held, end: self.n_placed, placer: self.placer.clone() });
    }

    /// Adds text to the rows that wait.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn push_tokens(&mut self, ids: &[u32]) -> Result<()> {
        let (at, n_embd) = (self.embd.len(), self.engine.text.hparams().n_embd);
        self.embd.resize(at + ids.len() * n_embd, 0.0);
        if let Err(error) = self.engine.text.embed(ids, &mut self.embd[at..]) {
            self.embd.truncate(at);
            return Err(error);
        }
        // Words have nothing from taps.
        self.deep.resize(self.deep.len() + ids.len() * self.n_taps * n_embd, 0.0);
        self.placer.text(ids.len(), &mut self.pos);
        self.drop_known(ids.len());
        Ok(())
    }

    /// Begins a picture or video whose frame pairs have `h` x `w` tokens.
    ///
    /// # Errors
    /// Those of [`Placer::begin_visual`].
    pub fn begin_visual(&mut self, h: usize, w: usize, pace: impl Into<Pace>) -> Result<()> {
        self.placer.begin_visual(h, w, pace)
    }

    /// Adds the visual tokens of the next frame pair to the rows that wait, as the tower gives them: (h * w, n_embd), where it
    /// has taps, (h * w, 1 + n_taps, n_embd).
    ///
    /// # Panics
    /// When no visual segment is open, or rows are no such matrix.
    pub fn push_pair(&mut self, rows: &[f32]) {
        self.push_pair_in_part(rows, None);
    }

    /// The same without the tokens that `kept`, where it is given, says no of: those that stay stand where they would stand anyway.
    ///
    /// # Panics
    /// As there; `kept` of another number of tokens.
    pub fn push_pair_in_part(&mut self, rows: &[f32], kept: Option<&[bool]>) {
        let (before, n_embd) = (self.pos.len(), self.engine.text.hparams().n_embd);
        self.placer.frames(1, &mut self.pos);
        let n = self.pos.len() - before;
        let n_taps = (rows.len() / (n * n_embd)).checked_sub(1).expect("every token has a row");
        assert_eq!(rows.len(), n * (1 + n_taps) * n_embd, "rows of {n} tokens");
        if n_taps != self.n_taps {
            self.n_taps = n_taps;
            self.deep = vec![0.0; before * n_taps * n_embd];
        }
        let is_kept = |i: usize| kept.is_none_or(|kept| kept[i]);
        let mut n_kept = 0;
        for (i, row) in rows.chunks_exact((1 + n_taps) * n_embd).enumerate().filter(|(i, _)| is_kept(*i)) {
            let (token, taps) = row.split_at(n_embd);
            self.embd.extend_from_slice(token);
            self.deep.extend_from_slice(taps);
            self.pos[before + n_kept] = self.pos[before + i];
            n_kept += 1;
        }
        self.pos.truncate(before + n_kept);
        self.drop_known(n_kept);
        self.visual_end = self.pos.len();
    }

    /// Goes past `n` frame pairs of `per_pair` tokens without their rows, which the cache holds already.
    ///
    /// # Errors
    /// Those of [`Placer::pass_frames`].
    pub fn pass_pairs(&mut self, n: usize, per_pair: usize) -> Result<()> {
        self.placer.pass_frames(n)?;
        self.n_placed += n * per_pair;
        self.n_known -= n * per_pair;
        Ok(())
    }

    /// Goes past `n` tokens of text, which the cache holds already.
    pub fn pass_tokens(&mut self, n: usize) {
        self.placer.pass_text(n);
        self.n_placed += n;
        self.n_known -= n;
    }

    /// Ends the picture or video.
    pub fn end_visual(&mut self) {
        self.placer.end_visual();
    }

    /// Tokens in the cache that are still to be placed.
    pub fn n_known(&self) -> usize {
        self.n_known
    }

    /// Marks `n` tokens that the cache holds already, placed by `place`; does nothing and says so where it does not hold them
    /// whole.
    ///
    /// # Errors
    /// What `place` says.
    pub(super) fn place(
        &mut self,
        n: usize,
        held: Held,
        place: impl FnOnce(&mut Placer) -> Result<()>,
    ) -> Result<bool> {
        if n > self.n_known {
            return Ok(false);
        }
        place(&mut self.placer)?;
        self.n_placed += n;
        self.n_known -= n;
        self.mark(held);
        Ok(true)
    }

    /// [`Context::place`] for a token.
    ///
    /// # Errors
    /// None.
    pub(super) fn place_token(&mut self, id: u32) -> Result<bool> {
        self.place(1, Held::Token(id), |placer| {
            placer.text(1, &mut Vec::new());
            Ok(())
        })
    }

    /// Of the `n` rows that were just added, forgets those that the cache holds already.
    fn drop_known(&mut self, n: usize) {
        self.n_placed += n;
        let known = n.min(self.n_known);
        if known > 0 {
            let n_embd = self.engine.text.hparams().n_embd;
            let at = self.pos.len() - n;
            self.pos.drain(at..at + known);
            self.embd.drain(at * n_embd..(at + known) * n_embd);
            let width = self.n_taps * n_embd;
            self.deep.drain(at * width..(at + known) * width);
            self.n_known -= known;
        }
    }

    /// From now on, the rows of all slots from `slot` on give logits, and those there were are forgotten.
    pub fn want_logits(&mut self, slot: usize) {
        self.wanted = slot;
        self.logits.clear();
        self.top.clear();
    }

    /// Reads full steps of what waits; at the end (`all`) also the rest.
    ///
    /// # Errors
    /// A full cache, activations that are not finite, files that changed meanwhile; what `probe` says. What was read until then
    /// is in the cache.
    pub fn drain(&mut self, all: bool, probe: &mut dyn Probe) -> Result<()> {
        let (n_embd, n_batch) = (self.engine.text.hparams().n_embd, self.scratch.n_batch());
        while self.pos.len() >= n_batch || (all && !self.pos.is_empty()) {
            probe.before_step()?;
            let n = self.pos.len().min(n_batch);
            let n_logits = self.n_wanted(n);
            let width = self.n_taps * n_embd;
            gather_taps(&self.deep[..n * width], n_embd, self.n_taps, &mut self.taps);
            let batch = Batch { embd: &self.embd[..n * n_embd], deep: &self.taps, pos: &self.pos[..n], n_logits };
            let mut trace = probe.trace();
            if let Some(trace) = trace.as_deref_mut() {
                trace.visual = self.visual_end.checked_sub(1).filter(|row| *row < n);
            }
            let logits = self.engine.text.forward(&batch, &mut self.cache, &mut self.scratch, trace)?;
            self.logits.extend_from_slice(logits);
            self.check_files()?;
            probe.after_step(&self.pos[..n], &mut self.cache)?;
            self.take_waiting(n);
        }
        Ok(())
    }

    /// Rows that wait for the next step.
    pub fn n_waiting(&self) -> usize {
        self.pos.len()
    }

    /// How many of the next `n` rows want logits: they are the last of them.
    fn n_wanted(&self, n: usize) -> usize {
        (self.cache.len() + n).saturating_sub(self.cache.len().max(self.wanted))
    }

    /// The first `n` rows that waited were read.
    fn take_waiting(&mut self, n: usize) {
        let n_embd = self.engine.text.hparams().n_embd;
        self.embd.drain(..n * n_embd);
        self.deep.drain(..n * self.n_taps * n_embd);
        self.pos.drain(..n);
        self.visual_end = self.visual_end.saturating_sub(n);
    }

    /// Reads one token at once; the logits after it take the place of those before. Where the `n_top` largest are enough (0:
    /// they are not), a device brings only these.
    ///
    /// # Errors
    /// As [`Context::drain`]; rows that wait come first.
    pub fn step(&mut self, id: u32, n_top: usize) -> Result<()> {
        if !self.pos.is_empty() {
            return Err(Error::bad_input("rows wait for a step of prefill, they come first"));
        }
        let mut place = self.placer.clone();
        place.text(1, &mut self.pos);
        let pos = self.pos.pop().expect("it was just placed");
        self.logits.clear();
        self.top.clear();
        match self.engine.text.step(id, pos, n_top, &mut self.cache, &mut self.scratch)? {
            Choice::Logits(logits) => self.logits.extend_from_slice(logits),
            Choice::Top(top) => self.top.extend_from_slice(top),
        }
        self.placer = place;
        self.n_placed += 1;
        self.mark(Held::Token(id));
        self.check_files()
    }

    /// Adds a token that was just chosen to the rows that wait: the logits after it will take the place of those there are. As
    /// [`Context::step`], for who lets several contexts take their steps together ([`Together`]).
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn push_next(&mut self, id: u32) -> Result<()> {
        self.want_logits(self.n_tokens());
        self.push_tokens(&[id])?;
        self.mark(Held::Token(id));
        Ok(())
    }

    /// What there is to choose the next token from; nothing where nothing was read.
    pub fn choice(&self) -> Option<Choice<'_>> {
        let n_vocab = self.engine.text.hparams().n_vocab;
        match self.top.as_slice() {
            [] => self.logits.len().checked_sub(n_vocab).map(|at| Choice::Logits(&self.logits[at..])),
            top => Some(Choice::Top(top)),
        }
    }

    /// The logits of the rows that wanted them, (n, n_vocab); see [`Context::want_logits`].
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Brings the whole row of logits where only the largest came from a device.
    ///
    /// # Errors
    /// What the device says.
    pub fn complete_logits(&mut self) -> Result<()> {
        if !self.top.is_empty() {
            self.logits.extend_from_slice(self.engine.text.logits(&mut self.scratch)?);
            self.top.clear();
            self.check_files()?;
        }
        Ok(())
    }

    /// From now on, or with `None` no longer, finds out where tokens look: see [`Context::look`].
    pub fn set_looks(&mut self, looks: Option<Looks>) {
        self.cache.set_looks(looks);
    }

    /// Counts where the row that was read last looked: its logits chose a token of an answer. Does nothing where nobody asks.
    ///
    /// # Errors
    /// What a device says.
    pub fn look(&mut self) -> Result<()> {
        self.engine.text.look(&mut self.cache)
    }

    /// Brings what the cache holds on devices to the host (see [`KvCache::pull`]).
    ///
    /// # Errors
    /// What a device says.
    pub fn pull(&mut self) -> Result<()> {
        self.cache.pull()
    }

    /// Whether layers remember states, which can go back to few places.
    pub fn is_recurrent(&self) -> bool {
        self.cache.shape().recurrent.is_some()
    }

    /// Keeps what recurrent layers need to come back to here, where everything was read: see [`KvCache::keep_states`]. Other
    /// layers need nothing.
    ///
    /// # Errors
    /// What a device says.
    pub fn keep_place(&mut self) -> Result<()> {
        self.cache.keep_states()
    }

    /// Forgets everything after the first `n` marks, and rows that wait. Recurrent layers may have to go back further, to a mark
    /// where the place was kept, or to the beginning: see [`Context::n_marks`] for what is left.
    ///
    /// # Panics
    /// When what is before was not read yet.
    pub fn truncate(&mut self, n: usize) {
        self.embd.clear();
        self.deep.clear();
        self.pos.clear();
        self.visual_end = 0;
        let mut n = n.min(self.log.len());
        if n < self.log.len() {
            self.n_known = 0;
        }
        let end_of = |log: &[Entry], n: usize| n.checked_sub(1).map_or(0, |last| log[last].end);
        let mut end = end_of(&self.log, n) + self.n_known;
        assert!(end <= self.cache.len(), "{end} tokens are kept of {} that were read", self.cache.len());
        while n > 0 && self.cache.place_before(end) < end {
            (n, self.n_known) = (n - 1, 0);
            end = end_of(&self.log, n);
        }
        self.log.truncate(n);
        (self.n_placed, self.placer) = match self.log.last() {
            Some(entry) => (entry.end, entry.placer.clone()),
            None => (0, Placer::new(self.placer.layout())),
        };
        self.cache.truncate(end).expect("the beginning, or a place that was kept");
    }

    /// Forgets marks that are not in the cache whole, and rows that wait, but no slot: those behind the last whole mark are a
    /// part of what stands there, and are known when it is pushed again ([`Context::n_known`]).
    pub(super) fn rewind_to_part(&mut self) {
        if self.cache.check_states().is_err() {
            // A step that failed half way has taken the states of recurrent layers with it.
            return self.truncate(self.n_whole());
        }
        let (n_whole, n_filled) = (self.n_whole(), self.cache.len());
        self.embd.clear();
        self.deep.clear();
        self.pos.clear();
        self.log.truncate(n_whole);
        (self.n_placed, self.placer) = match self.log.last() {
            Some(entry) => (entry.end, entry.placer.clone()),
            None => (0, Placer::new(self.placer.layout())),
        };
        self.n_known = n_filled - self.n_placed;
    }

    /// Forgets the slots that are known and not placed.
    pub(super) fn forget_known(&mut self) {
        self.n_known = 0;
        self.truncate(self.log.len());
    }

    /// Forgets the slots `slots`, which were read: the others move forward, the next token stands where it would have stood.
    /// Recurrent layers forget nothing (see [`KvCache::forget`]).
    ///
    /// # Errors
    /// What a device says.
    pub fn forget(&mut self, slots: impl Into<Slots>) -> Result<Forgotten> {
        let slots = slots.into();
        let forgotten = self.cache.forget(slots.clone())?;
        self.n_placed -= slots.before(self.n_placed);
        self.log.iter_mut().for_each(|entry| entry.end -= slots.before(entry.end));
        Ok(forgotten)
    }

    /// Puts synthetic keys and values into an empty context until it holds `depth` tokens of text, under one mark.
    ///
    /// # Errors
    /// A cache that is smaller.
    pub fn fill(&mut self, depth: usize) -> Result<()> {
        if depth > self.cache.shape().n_ctx {
            return Err(Error::limit(format!("`{depth}` tokens do not fit {} slots", self.cache.shape().n_ctx)));
        }
        self.truncate(0);
        super::speed::fill(&mut self.cache, depth)?;
        self.n_known = depth;
        self.place(depth, Held::Rows, |placer| {
            placer.text(depth, &mut Vec::new());
            Ok(())
        })?;
        self.keep_place()
    }

    /// Checks that what was just computed comes from files that are as they were: see [`Engine::check_unchanged`].
    ///
    /// # Errors
    /// `Io` naming the file and what differs.
    pub fn check_files(&self) -> Result<()> {
        self.engine.check_unchanged()?;
        self.cache.check_unchanged()
    }
}

/// Turns `deep` (n, n_taps, n_embd) into `taps` (n_taps, n, n_embd); into nothing where all of it is zero, as for words.
fn gather_taps(deep: &[f32], n_embd: usize, n_taps: usize, taps: &mut Vec<f32>) {
    taps.clear();
    if deep.iter().any(|v| *v != 0.0) {
        for tap in 0..n_taps {
            let rows = deep.chunks_exact(n_taps * n_embd);
            rows.for_each(|row| taps.extend_from_slice(&row[tap * n_embd..][..n_embd]));
        }
    }
}
