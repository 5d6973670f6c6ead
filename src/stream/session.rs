//! One conversation: what the cache holds, where the next token stands, and how more comes in and answers come out.

mod generate;
mod live;
mod steps;

pub use generate::{Finish, GenerateOptions};
pub use live::{Keep, LiveEnd, LiveOptions, WhenFull, Window};

use self::steps::{Medium, Steps, watch_steps};
use super::decode::Decoded;
use super::{Dump, Engine, Event, Events, MediaKind, MediaPlan, Prompt, Take, TakeHeader, TakeWriter, Unit, decode};
use crate::cache::KvCache;
use crate::gguf::GgmlType;
use crate::model::{Batch, Encoding, Scratch, Trace};
use crate::position::{Placer, Pos};
use crate::{Error, Result, error::Context};

/// Patches that go through the vision tower together: enough to feed the matrix products, little enough to stay small.
const ENCODE_PATCHES: usize = 2048;

/// Sizes of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Slots of the cache.
    pub n_ctx: usize,
    /// Tokens per step of prefill.
    pub n_batch: usize,
    pub type_k: GgmlType,
    pub type_v: GgmlType,
    /// Temporal scale of visual segments that name none; the model's own otherwise.
    pub temporal_scale: Option<f64>,
}

/// What was fed, with its size in the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fed {
    unit: Unit,
    /// Where a medium stands.
    placed: Option<Placed>,
}

/// Merged grid (frame pairs, rows, columns) and temporal scale of a medium, and how many of its first pairs were forgotten.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Placed {
    grid: [usize; 3],
    scale: f64,
    n_forgotten: usize,
    /// See [`MediaPlan::id`].
    id: [u8; 32],
}

impl Fed {
    fn token(id: u32) -> Fed {
        Fed { unit: Unit::Token(id), placed: None }
    }

    fn n_tokens(&self) -> usize {
        self.placed.map_or(1, |Placed { grid: [t, h, w], n_forgotten, .. }| (t - n_forgotten) * h * w)
    }
}

/// A conversation in progress.
pub struct Session<'e> {
    engine: &'e Engine,
    options: SessionOptions,
    cache: KvCache,
    scratch: Scratch,
    placer: Placer,
    log: Vec<Fed>,
    /// Rows waiting for the next batch: embeddings and positions.
    embd: Vec<f32>,
    pos: Vec<Pos>,
    /// Logits after everything fed so far; empty where only the largest came from a card.
    logits: Vec<f32>,
    /// The largest of them.
    top: Vec<(u32, f32)>,
    /// Tokens in the cache that the log does not count yet: of the unit at which a take was left.
    skip: usize,
    /// Where the cache is kept as it fills.
    recorder: Option<TakeWriter>,
}

impl<'e> Session<'e> {
    /// Reserves the cache.
    ///
    /// # Errors
    /// Sizes or types that cannot be had.
    pub fn new(engine: &'e Engine, options: SessionOptions) -> Result<Session<'e>> {
        if options.n_ctx == 0 || options.n_batch == 0 {
            return Err(Error::bad_input("context and batch size must be at least 1"));
        }
        let shape = engine.cache_shape(options.n_ctx, (options.type_k, options.type_v));
        Session::with_cache(engine, options, KvCache::new(shape)?)
    }

    fn with_cache(engine: &'e Engine, options: SessionOptions, mut cache: KvCache) -> Result<Session<'e>> {
        let hp = engine.text.hparams();
        let mut scratch = Scratch::new(hp, options.n_batch.min(options.n_ctx));
        engine.text.prepare(&mut cache, &mut scratch)?;
        Ok(Session {
            engine,
            options,
            cache,
            scratch,
            placer: Placer::new(hp.layout),
            log: Vec::new(),
            embd: Vec::new(),
            pos: Vec::new(),
            logits: Vec::new(),
            top: Vec::new(),
            skip: 0,
            recorder: None,
        })
    }

    /// A session that holds what a take holds. The take's file is not changed by it.
    ///
    /// # Errors
    /// A take of another model; memory that the system refuses.
    pub fn from_take(engine: &'e Engine, take: &Take) -> Result<Session<'e>> {
        take.check_model(engine)?;
        let TakeHeader { shape, temporal_scale, grid, n_forgotten, before, after, .. } = &take.header;
        let options = SessionOptions {
            n_ctx: shape.n_ctx,
            n_batch: take.header.n_batch,
            type_k: shape.type_k,
            type_v: shape.type_v,
            temporal_scale: Some(*temporal_scale),
        };
        let mut session = Session::with_cache(engine, options, take.cache()?)?;
        let unit = Unit::Media { kind: MediaKind::Video, index: 0 };
        let id = MediaPlan::watched(&take.header).id();
        let placed = Placed { grid: *grid, scale: *temporal_scale, n_forgotten: *n_forgotten, id };
        session.log.extend(before.iter().copied().map(Fed::token));
        session.log.push(Fed { unit, placed: Some(placed) });
        session.log.extend(after.iter().copied().map(Fed::token));
        // What is in the cache whole stays in the log; of the next unit a part may be there.
        let (mut units, mut counted) = (0, 0);
        for fed in &session.log {
            if counted + fed.n_tokens() > take.n_done() {
                break;
            }
            counted += fed.n_tokens();
            units += 1;
        }
        session.skip = take.n_done() - counted;
        session.log.truncate(units);
        session.rewind(units);
        Ok(session)
    }

    /// Keeps the cache in a take as it fills, from the next [`Session::feed`] on.
    pub fn record(&mut self, writer: TakeWriter) {
        self.recorder = Some(writer);
    }

    pub(super) fn recorder_mut(&mut self) -> Option<&mut TakeWriter> {
        self.recorder.as_mut()
    }

    /// Frame pairs that go through the vision tower together, for frames of `h` x `w` patches.
    pub fn pairs_at_once(h: usize, w: usize) -> usize {
        (ENCODE_PATCHES / (h * w)).max(1)
    }

    /// The model that it talks with.
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Tokens in the cache.
    pub fn n_past(&self) -> usize {
        self.cache.len()
    }

    /// Its sizes.
    pub fn options(&self) -> SessionOptions {
        self.options
    }

    /// Slots of the cache.
    pub fn n_ctx(&self) -> usize {
        self.options.n_ctx
    }

    /// Brings what the cache holds on cards to the host (see [`KvCache::pull`]).
    ///
    /// # Errors
    /// What a card says.
    pub fn pull(&mut self) -> Result<()> {
        self.cache.pull()
    }

    /// The cache itself, for inspection.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.rewind(0);
    }

    /// Logits of the last rows of the prompt, (n, n_vocab): four of them after a feed with a dump, else one.
    pub(super) fn prompt_logits(&self) -> &[f32] {
        &self.logits
    }

    /// Makes the cache hold exactly the units of `prompt`: keeps the longest common beginning, forgets the rest, feeds what
    /// is new. Afterwards the session is ready to [`Session::generate`].
    ///
    /// # Errors
    /// A prompt larger than the context (with counts, before anything is encoded), media that fail to decode, cancellation.
    /// The session then holds the units that were complete, and goes on from there.
    pub fn feed(&mut self, prompt: &mut Prompt, events: &mut Events<'_>, dump: Option<&mut Dump>) -> Result<()> {
        self.feed_units(prompt, events, dump).inspect_err(|_| {
            // What was read is kept, if it was read from the files as they are; the error that counts is the one that
            // stopped it.
            let intact = self.check_files().is_ok();
            if let Some(recorder) = self.recorder.as_mut().filter(|_| intact) {
                let _ = self.cache.pull().and_then(|()| recorder.checkpoint(&self.cache));
            }
            self.rewind_to_whole_units();
        })
    }

    /// Checks that what was just computed comes from files that are as they were: see [`Engine::check_unchanged`].
    fn check_files(&self) -> Result<()> {
        self.engine.check_unchanged()?;
        self.cache.check_unchanged()
    }

    /// Forgets units that are not in the cache whole.
    fn rewind_to_whole_units(&mut self) {
        let (mut units, mut tokens) = (0, 0);
        for fed in &self.log {
            tokens += fed.n_tokens();
            if tokens > self.cache.len() {
                break;
            }
            units += 1;
        }
        self.rewind(units);
    }

    fn feed_units(&mut self, prompt: &mut Prompt, events: &mut Events<'_>, mut dump: Option<&mut Dump>) -> Result<()> {
        let total = prompt.n_tokens()?;
        if total > self.options.n_ctx {
            let way =
                if prompt.images.is_empty() && prompt.videos.is_empty() { "say less" } else { "take fewer frames" };
            let message = format!(
                "the prompt has `{total}` tokens, the context holds `{}`; raise -c or {way}",
                self.options.n_ctx
            );
            return Err(Error::limit(message));
        }
        // The last unit is always fed again, so that there are logits to continue from.
        let same = self.log.iter().zip(&prompt.units).take_while(|(fed, unit)| self.holds(fed, prompt, **unit)).count();
        self.rewind(same.min(prompt.units.len().saturating_sub(1)));
        let start = self.log.len();
        events.send(Event::PromptStart { n_tokens: total, cached: self.cache.len() });
        // A model author wants the last four rows, generation only the last.
        let n_logits = if dump.is_some() { 4 } else { 1 };
        let steps = Steps { total, n_logits };
        self.logits.clear();
        self.top.clear();
        for at in start..prompt.units.len() {
            match prompt.units[at] {
                Unit::Token(id) => self.feed_token(id, steps, events, dump.as_deref_mut())?,
                Unit::Media { kind, index } => {
                    self.feed_media(prompt, kind, index, steps, events, dump.as_deref_mut())?
                }
            }
        }
        self.drain(steps, true, events, dump)
    }

    fn feed_token(&mut self, id: u32, steps: Steps, events: &mut Events<'_>, dump: Option<&mut Dump>) -> Result<()> {
        let n_embd = self.engine.text.hparams().n_embd;
        let at = self.embd.len();
        self.embd.resize(at + n_embd, 0.0);
        self.engine.text.embed(&[id], &mut self.embd[at..])?;
        self.placer.text(1, &mut self.pos);
        self.drop_known(1);
        self.log.push(Fed::token(id));
        self.drain(steps, false, events, dump)
    }

    fn feed_media(
        &mut self,
        prompt: &mut Prompt,
        kind: MediaKind,
        index: usize,
        steps: Steps,
        events: &mut Events<'_>,
        mut dump: Option<&mut Dump>,
    ) -> Result<()> {
        let item = match kind {
            MediaKind::Image => index,
            MediaKind::Video => prompt.images.len() + index,
        };
        let plan = prompt.media(kind, index)?;
        let tower = self.engine.need_vision()?;
        let (grid, merged) = (plan.grid, plan.grid.merged(tower.hparams().merge));
        let scale = self.scale(plan.temporal_scale);
        self.placer.begin_visual(merged.h, merged.w, Some(scale))?;
        let (per_pair, group) = (merged.h * merged.w, Session::pairs_at_once(grid.h, grid.w));
        decode::probe(tower, group, plan.n_pairs(), grid).at(|| plan.label.clone())?;
        tower.reserve(group.min(plan.n_pairs()) * grid.h * grid.w)?;
        // What a take holds already is placed but not decoded; steps begin where they would have begun anyway, so that the
        // result is the same to the last bit.
        let start = self.skip / per_pair / group * group;
        self.placer.pass_frames(start)?;
        self.skip -= start * per_pair;
        let id = plan.id();
        let medium = Medium { item, kind, grid, per_pair, start, n_pairs: plan.n_pairs() };
        decode::decode(plan, start, group, events.cancel(), |stage| {
            self.take_pairs(stage, medium, steps, events, dump.as_deref_mut())
        })?;
        self.placer.end_visual();
        if let Some(dump) = dump {
            dump.add_grid(kind, grid);
        }
        if plan.skipped() > 0 {
            events.send(Event::Skipped { item, n_packets: plan.skipped() });
        }
        if let Some(message) = plan.take_warning() {
            events.send(Event::Warning { item, message });
        }
        let unit = Unit::Media { kind, index };
        let grid = [merged.t, merged.h, merged.w];
        self.log.push(Fed { unit, placed: Some(Placed { grid, scale, n_forgotten: 0, id }) });
        Ok(())
    }

    /// Whether what was fed is what the prompt says there: for media, the same pixels from the same places.
    fn holds(&self, fed: &Fed, prompt: &Prompt, unit: Unit) -> bool {
        let Unit::Media { kind, index } = unit else { return fed.unit == unit };
        let same = |plan: &MediaPlan, placed: Placed| {
            plan.id() == placed.id && self.scale(plan.temporal_scale) == placed.scale
        };
        fed.unit == unit && prompt.plan(kind, index).zip(fed.placed).is_some_and(|(plan, placed)| same(plan, placed))
    }

    /// The temporal scale of a medium that wants `own`, or nothing in particular.
    fn scale(&self, own: Option<f64>) -> f64 {
        own.or(self.options.temporal_scale).unwrap_or(self.engine.text.hparams().temporal_scale)
    }

    /// Takes decoded pairs as they come: vision tower, positions, prefill. A tower on a card is a group ahead, and encodes it
    /// while the language model reads the one before.
    fn take_pairs(
        &mut self,
        stage: &mut dyn Iterator<Item = Decoded>,
        medium: Medium,
        steps: Steps,
        events: &mut Events<'_>,
        mut dump: Option<&mut Dump>,
    ) -> Result<()> {
        let Medium { kind, grid, n_pairs, .. } = medium;
        let tower = self.engine.need_vision()?;
        let values_per_pair = grid.h * grid.w * tower.hparams().n_patch_values();
        // The first pair that was not taken, and the first that was not decoded.
        let (mut next, mut wanted) = (medium.start, medium.start);
        let (mut ahead, mut failure) = (None::<Encoding<'_>>, None);
        for decoded in stage {
            let pixels = match decoded {
                Decoded::Pixels { first, pixels } if first == wanted => pixels,
                Decoded::Pixels { first, .. } => {
                    return Err(Error::mismatch(format!("frame pair {first} came instead of {wanted}")));
                }
                Decoded::Failed(error) => {
                    failure = Some(error);
                    break;
                }
            };
            wanted += pixels.len() / values_per_pair;
            events.check()?;
            let before = ahead.take().map(Encoding::finish).transpose()?;
            if dump.is_none() {
                ahead = tower.begin(&pixels, grid.h, grid.w)?;
            }
            // Pixels that have left are not kept while the model reads.
            let pixels = ahead.is_none().then_some(pixels);
            if let Some(rows) = before {
                self.take_rows(&rows, &mut next, medium, steps, events, None)?;
            }
            if let Some(pixels) = pixels {
                let mut trace = dump.is_some().then(Trace::default);
                let rows = {
                    let mut step = watch_steps(medium, next, events);
                    tower.encode_in_steps(&pixels, grid.h, grid.w, trace.as_mut(), &mut step)?
                };
                if let (Some(dump), Some(trace)) = (dump.as_deref_mut(), trace) {
                    dump.add_media(kind, &pixels, trace.vit_stages, &rows);
                }
                drop(pixels);
                self.take_rows(&rows, &mut next, medium, steps, events, dump.as_deref_mut())?;
            }
        }
        if let Some(last) = ahead {
            self.take_rows(&last.finish()?, &mut next, medium, steps, events, None)?;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        // The stage ends early only when it is told to.
        if next < n_pairs {
            events.check()?;
            return Err(Error::mismatch(format!("decoding ended after {next} of {n_pairs} frame pairs")));
        }
        Ok(())
    }

    /// Takes the visual tokens of the pairs from `next` on, a slice at a time, so that the waiting rows never outgrow a batch
    /// by much.
    fn take_rows(
        &mut self,
        rows: &[f32],
        next: &mut usize,
        medium: Medium,
        steps: Steps,
        events: &mut Events<'_>,
        mut dump: Option<&mut Dump>,
    ) -> Result<()> {
        let n_embd = self.engine.text.hparams().n_embd;
        for rows in rows.chunks_exact(medium.per_pair * n_embd) {
            self.embd.extend_from_slice(rows);
            self.placer.frames(1, &mut self.pos);
            self.drop_known(medium.per_pair);
            *next += 1;
            events.send(Event::Encoded { item: medium.item, n_done: *next, n_total: medium.n_pairs });
            self.drain(steps, false, events, dump.as_deref_mut())?;
        }
        Ok(())
    }

    /// Of the `n` rows that were just added, forgets those that the cache holds already.
    fn drop_known(&mut self, n: usize) {
        let known = n.min(self.skip);
        if known > 0 {
            let n_embd = self.engine.text.hparams().n_embd;
            let at = self.pos.len() - n;
            self.pos.drain(at..at + known);
            self.embd.drain(at * n_embd..(at + known) * n_embd);
            self.skip -= known;
        }
    }

    /// Runs full batches of waiting rows; at the end (`all`) also the rest. Collects the logits that the prompt's last
    /// `n_logits` rows give.
    fn drain(&mut self, steps: Steps, all: bool, events: &mut Events<'_>, mut dump: Option<&mut Dump>) -> Result<()> {
        let (n_embd, n_batch) = (self.engine.text.hparams().n_embd, self.scratch.n_batch());
        while self.pos.len() >= n_batch || (all && !self.pos.is_empty()) {
            events.check()?;
            let n = self.pos.len().min(n_batch);
            let end = self.cache.len() + n;
            let wanted = end.saturating_sub(self.cache.len().max(steps.total.saturating_sub(steps.n_logits)));
            let batch = Batch { embd: &self.embd[..n * n_embd], deep: &[], pos: &self.pos[..n], n_logits: wanted };
            let trace = dump.as_deref_mut().map(|d| &mut d.trace);
            let logits = self.engine.text.forward(&batch, &mut self.cache, &mut self.scratch, trace)?;
            self.logits.extend_from_slice(logits);
            self.check_files()?;
            if let Some(dump) = dump.as_deref_mut() {
                dump.positions.extend_from_slice(&self.pos[..n]);
                self.cache.pull()?;
            }
            self.embd.drain(..n * n_embd);
            self.pos.drain(..n);
            if let Some(recorder) = &mut self.recorder {
                self.cache.pull()?;
                recorder.after_batch(&self.cache)?;
            }
            events.send(Event::Prefilled { n_done: end, n_total: steps.total });
        }
        Ok(())
    }

    /// Forgets everything after the first `n` units of the log.
    fn rewind(&mut self, n: usize) {
        self.embd.clear();
        self.pos.clear();
        if n < self.log.len() {
            self.skip = 0;
        }
        self.log.truncate(n);
        // Positions follow from the log alone, so the placer is rebuilt by placing it again.
        self.placer = Placer::new(self.placer.layout());
        let mut placed = Vec::new();
        for fed in &self.log {
            match fed.placed {
                None => self.placer.text(1, &mut placed),
                Some(Placed { grid: [t, h, w], scale, .. }) => {
                    self.placer.begin_visual(h, w, Some(scale)).expect("it was placed before");
                    self.placer.pass_frames(t).expect("they were placed before");
                    self.placer.end_visual();
                }
            }
            placed.clear();
        }
        self.cache.truncate(self.log.iter().map(Fed::n_tokens).sum::<usize>() + self.skip);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::gguf::Gguf;
    use crate::media::Grid;

    const GRID: Grid = Grid { t: 3, h: 4, w: 6 };
    const MEDIUM: Medium = Medium { item: 0, kind: MediaKind::Video, grid: GRID, per_pair: 6, start: 0, n_pairs: 3 };

    fn pairs(engine: &Engine, first: usize, n: usize) -> Decoded {
        let n_values = engine.need_vision().unwrap().hparams().n_patch_values();
        let pixels = (0..n * GRID.h * GRID.w * n_values).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
        Decoded::Pixels { first, pixels }
    }

    /// Feeds a list of what the decoding stage may say to the loop, without any thread.
    fn feed(engine: &Engine, said: Vec<Decoded>, cancelled: bool) -> (Result<()>, Vec<Event>, KvCache) {
        let ty = GgmlType::F32;
        let options = SessionOptions { n_ctx: 64, n_batch: 4, type_k: ty, type_v: ty, temporal_scale: None };
        let mut session = Session::new(engine, options).unwrap();
        session.placer.begin_visual(2, 3, None).unwrap();
        let (cancel, mut seen) = (AtomicBool::new(cancelled), Vec::new());
        let mut sink = |event| seen.push(event);
        let steps = Steps { total: 18, n_logits: 1 };
        let mut events = Events::new(&mut sink, &cancel);
        let result = session.take_pairs(&mut said.into_iter(), MEDIUM, steps, &mut events, None);
        session.pull().unwrap();
        (result, seen, session.cache)
    }

    fn open(name: &str) -> Arc<Gguf> {
        Arc::new(Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)).unwrap())
    }

    #[test]
    fn the_loop_takes_what_the_decoder_says_in_order_or_not_at_all() {
        let engine = Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap();

        let (result, seen, cache) = feed(&engine, vec![pairs(&engine, 0, 2), pairs(&engine, 2, 1)], false);
        result.unwrap();
        // 18 tokens in steps of 4: the last two wait for what follows.
        assert_eq!(cache.len(), 16);
        let encoded = |n_done| Event::Encoded { item: 0, n_done, n_total: 3 };
        let read = |n_done| Event::Prefilled { n_done, n_total: 18 };
        assert_eq!(seen, [encoded(1), read(4), encoded(2), read(8), read(12), encoded(3), read(16)]);

        let failed = || Decoded::Failed(Error::format("a torn packet"));
        let error = |said, cancelled| feed(&engine, said, cancelled).0.unwrap_err().to_string();
        assert!(error(vec![pairs(&engine, 0, 2), failed()], false).contains("a torn packet"));
        assert!(error(vec![pairs(&engine, 1, 2)], false).contains("pair 1 came instead of 0"));
        assert!(error(vec![pairs(&engine, 0, 2)], false).contains("after 2 of 3"));
        assert!(error(vec![], false).contains("after 0 of 3"));
        assert!(error(vec![pairs(&engine, 0, 3)], true).contains("stopped"));
    }

    /// A tower on a card encodes a group while the one before is read: the same events, and the same rows.
    #[cfg(feature = "cuda-emulation")]
    #[test]
    fn a_tower_on_a_card_is_a_group_ahead_and_nothing_else_changes() {
        use crate::kernels::cuda::Card;
        let host = Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap();
        // Streams may run in different orders.
        for card in [Card::emulated, Card::emulated_eager] {
            let mut engine = Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap();
            engine.offload(&[card(1 << 28)], usize::MAX).unwrap();
            let said = |engine: &Engine| (0..3).map(|first| pairs(engine, first, 1)).collect::<Vec<_>>();
            let (want, got) = (feed(&host, said(&host), false), feed(&engine, said(&engine), false));
            want.0.unwrap();
            got.0.unwrap();
            assert_eq!(got.1, want.1);
            let float = |b: &[u8; 4]| f32::from_le_bytes(*b);
            let floats = |cache: &KvCache| -> Vec<f32> {
                cache.runs(0..16).flat_map(|(_, _, bytes)| bytes.as_chunks::<4>().0.iter().map(float)).collect()
            };
            let (got, want) = (floats(&got.2), floats(&want.2));
            let size = want.iter().fold(0f32, |size, v| size.max(v.abs()));
            assert!(got.len() == want.len() && got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 0.05 * size));
            // What was encoded when something fails is read first; what came out of turn is not.
            let failed = || Decoded::Failed(Error::format("a torn packet"));
            let (result, seen, cache) = feed(&engine, vec![pairs(&engine, 0, 2), failed()], false);
            assert!(result.unwrap_err().to_string().contains("a torn packet"));
            assert_eq!((seen.len(), cache.len()), (5, 12));
            let (result, _, cache) = feed(&engine, vec![pairs(&engine, 0, 1), pairs(&engine, 2, 1)], false);
            assert!(result.unwrap_err().to_string().contains("pair 2 came instead of 1") && cache.is_empty());
            // An encoding that nobody finished is in nobody's way.
            feed(&engine, vec![pairs(&engine, 0, 3)], false).0.unwrap();
        }
    }
}
