//! One conversation: what the cache holds, where the next token stands, and how more comes in and answers come out.

mod generate;
mod live;
mod media;
mod together;

pub use generate::{Finish, GenerateOptions, Generation};
pub use live::{Keep, LiveEnd, LiveOptions, WhenFull, Window};
pub use together::Next;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, Held};
use super::looked::{Looked, Sight};
use super::{Engine, Event, Events, MediaPlan, Probe, Prompt, Take, TakeHeader, TakeWriter, Unit};
use crate::cache::{CacheType, KvCache, Looks};
use crate::model::Trace;
use crate::position::Pos;
use crate::{Error, Result};

/// Patches that go through the vision tower together: enough to feed the matrix products, little enough to stay small.
const ENCODE_PATCHES: usize = 2048;

/// Sizes of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// Slots of the cache.
    pub n_ctx: usize,
    /// Tokens per step of prefill.
    pub n_batch: usize,
    /// Type of stored keys.
    pub type_k: CacheType,
    /// Type of stored values.
    pub type_v: CacheType,
    /// Temporal scale of visual segments that name none; the model's own otherwise.
    pub temporal_scale: Option<f64>,
}

/// A conversation in progress.
pub struct Session {
    options: SessionOptions,
    context: Context,
    /// The medium that is being read, and the one of which a part is known ([`Context::n_known`]).
    reading: Option<Held>,
    part: Option<Held>,
    /// Of media of which something was left out, by id: the tokens of each pair that were read.
    kept: Vec<([u8; 32], Vec<u32>)>,
    /// Where the cache is kept as it fills.
    recorder: Option<TakeWriter>,
    /// Whether it is found out where answers look, and what there is to be looked at.
    is_looking: bool,
    sight: Option<Sight>,
}

impl Session {
    /// Reserves the cache.
    ///
    /// # Errors
    /// Sizes or types that cannot be had.
    pub fn new(engine: &Arc<Engine>, options: SessionOptions) -> Result<Session> {
        let context = Context::new(engine, &options)?;
        Ok(Session::over(context, options, None))
    }

    fn over(context: Context, options: SessionOptions, part: Option<Held>) -> Session {
        Session {
            options,
            context,
            reading: None,
            part,
            kept: Vec::new(),
            recorder: None,
            is_looking: false,
            sight: None,
        }
    }

    /// A session that holds what a take holds. The take's file is not changed by it.
    ///
    /// # Errors
    /// A take of another model; memory that the system refuses.
    pub fn from_take(engine: &Arc<Engine>, take: &Take) -> Result<Session> {
        Session::from_take_as(engine, take, MediaPlan::watched(&take.header).id())
    }

    /// The same where prompts will know its video as `id`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn from_take_as(engine: &Arc<Engine>, take: &Take, id: [u8; 32]) -> Result<Session> {
        take.check_model(engine)?;
        let TakeHeader { shape, temporal_scale: scale, before, after, .. } = &take.header;
        let options = SessionOptions {
            n_ctx: shape.n_ctx,
            n_batch: take.header.n_batch,
            type_k: shape.type_k,
            type_v: shape.type_v,
            temporal_scale: Some(*scale),
        };
        let mut context = Context::over(engine, &options, take.cache()?)?;
        let video = Held::Medium { id, scale: *scale };
        // What is in the cache whole is marked; of the next unit a part may be there.
        let mut is_whole =
            before.iter().try_fold(true, |whole, id| Ok::<_, Error>(whole && context.place_token(*id)?))?;
        is_whole = is_whole && context.place(take.header.n_media(), video, |placer| take.header.place(placer))?;
        after.iter().try_fold(is_whole, |whole, id| Ok::<_, Error>(whole && context.place_token(*id)?))?;
        let part = (context.n_known() > 0).then_some(video);
        let kept = take.header.kept.iter().map(|kept| (id, kept.clone())).collect();
        Ok(Session { kept, ..Session::over(context, options, part) })
    }

    /// Writes the beginning that `header` tells of as a take that is complete: words, and behind them the video that prompts know as
    /// `id`, for which `spent` was needed. All behind it is forgotten. Says whether the session began so; if not, nothing happens.
    /// What GPUs hold was [pulled](Session::pull) before.
    ///
    /// # Errors
    /// Those of [`TakeWriter::write_whole`].
    pub fn write_take(&mut self, path: &Path, header: &TakeHeader, id: [u8; 32], spent: Duration) -> Result<bool> {
        let video = Held::Medium { id, scale: header.temporal_scale };
        let begins = header.before.iter().map(|id| Held::Token(*id)).chain([video]);
        let n_marks = header.before.len() + 1;
        if self.context.n_whole() < n_marks || !self.context.held().copied().take(n_marks).eq(begins) {
            return Ok(false);
        }
        self.part = None;
        self.context.forget_known();
        self.context.truncate(n_marks);
        if self.context.n_marks() != n_marks || self.n_past() != header.n_tokens() {
            return Ok(false);
        }
        TakeWriter::write_whole(path, header, self.context.cache(), spent)?;
        Ok(true)
    }

    /// Keeps the cache in a take as it fills, from the next [`Session::feed`] on.
    pub fn record(&mut self, writer: TakeWriter) {
        self.recorder = Some(writer);
    }

    /// Ends what [`Session::record`] began with a take of all that `header` says, in the place of the one that was begun.
    ///
    /// # Errors
    /// Those of [`TakeWriter::write_whole`].
    pub(super) fn finish_record(&mut self, header: &TakeHeader) -> Result<()> {
        self.context.pull()?;
        self.recorder.take().map_or(Ok(()), |recorder| recorder.finish_as(header, self.context.cache()))
    }

    pub(super) fn recorder_mut(&mut self) -> Option<&mut TakeWriter> {
        self.recorder.as_mut()
    }

    /// Frame pairs that go through the vision tower together, for frames of `h` x `w` patches.
    pub fn pairs_at_once(h: usize, w: usize) -> usize {
        (ENCODE_PATCHES / (h * w)).max(1)
    }

    /// The model that it talks with.
    pub fn engine(&self) -> &Arc<Engine> {
        self.context.engine()
    }

    /// Tokens in the cache.
    pub fn n_past(&self) -> usize {
        self.cache().len()
    }

    /// Its sizes.
    pub fn options(&self) -> SessionOptions {
        self.options
    }

    /// Slots of the cache.
    pub fn n_ctx(&self) -> usize {
        self.options.n_ctx
    }

    /// Brings what the cache holds on GPUs to the host (see [`KvCache::pull`]).
    ///
    /// # Errors
    /// What a GPU says.
    pub fn pull(&mut self) -> Result<()> {
        self.context.pull()
    }

    /// The cache itself, for inspection.
    pub fn cache(&self) -> &KvCache {
        self.context.cache()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.part = None;
        self.context.forget_known();
        self.context.truncate(0);
    }

    /// What was read, and what it makes of the next token.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Tokens of the longest beginning of `prompt` that it holds, and [`Session::feed`] would not read again.
    pub fn n_common(&self, prompt: &Prompt) -> usize {
        let held = self.context.held().zip(&prompt.units);
        let n_same = held.take_while(|(held, unit)| self.is_unit(held, prompt, **unit)).count();
        let n_tokens = self.context.n_marked(n_same);
        let next = self.part.zip(prompt.units.get(n_same)).filter(|_| n_same == self.context.n_marks());
        match next {
            Some((part, unit)) if self.is_unit(&part, prompt, *unit) => n_tokens + self.context.n_known(),
            _ => n_tokens,
        }
    }

    /// Reads one token, as [`Context::step`].
    ///
    /// # Errors
    /// As there.
    pub fn step(&mut self, id: u32, n_top: usize) -> Result<()> {
        self.context.step(id, n_top)
    }

    /// Finds out, or no longer, where the answers to what is [fed](Session::feed) from now on look: see [`Session::looked`].
    pub fn find_looks(&mut self, is_wanted: bool) {
        self.is_looking = is_wanted;
    }

    /// Counts where the token looked that was chosen last, which belongs to an answer; does nothing where nobody asks.
    ///
    /// # Errors
    /// What a device says.
    pub fn look(&mut self) -> Result<()> {
        self.context.look()
    }

    /// Where the answer has looked so far: nothing where that is not found out, or no token was chosen yet.
    pub fn looked(&self) -> Option<Looked> {
        self.looked_by(&|looks, _| looks.mean())
    }

    /// The same with other numbers than the mean over layers and heads, for who compares such: of the shares of all runs, and of
    /// which runs are frame pairs.
    pub(crate) fn looked_by(&self, shares: &dyn Fn(&Looks, &[bool]) -> Vec<f64>) -> Option<Looked> {
        let (sight, looks) = (self.sight.as_ref()?, self.cache().looks()?);
        let shares = (looks.n_tokens() > 0).then(|| shares(looks, &sight.is_frames()))?;
        Some(sight.looked(&shares, (looks.n_tokens(), self.cache().shape().n_row_layers())))
    }

    /// Brings the whole row of logits where only the largest came from a device, for another sampler.
    ///
    /// # Errors
    /// What the device says.
    pub fn complete_logits(&mut self) -> Result<()> {
        self.context.complete_logits()
    }

    pub(super) fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    /// Makes the cache hold exactly the units of `prompt`: keeps the longest common beginning, forgets the rest, feeds what
    /// is new. Afterwards the session is ready to [`Session::generate`].
    ///
    /// # Errors
    /// A prompt larger than the context (with counts, before anything is encoded), media that fail to decode, cancellation.
    /// The session then holds the units that were complete, and goes on from there.
    pub fn feed(&mut self, prompt: &mut Prompt, events: &mut Events<'_>) -> Result<()> {
        self.feed_units(prompt, events).inspect_err(|_| {
            // What was read is kept, if it was read from the files as they are; the error that counts is the one that
            // stopped it.
            let intact = self.context.check_files().is_ok();
            if let Some(recorder) = self.recorder.as_mut().filter(|_| intact) {
                let _ = self.context.pull().and_then(|()| recorder.checkpoint(self.context.cache()));
            }
            self.keep_part();
        })?;
        events.probe().map_or(Ok(()), |probe| probe.after_prompt(self, prompt))
    }

    /// Forgets what is not in the cache whole, except for a medium of which a part is: the same prompt goes on there.
    fn keep_part(&mut self) {
        let reading = self.reading.take();
        let part = self.context.held().nth(self.context.n_whole()).copied().or(reading);
        self.context.rewind_to_part();
        self.part = part.filter(|part| matches!(part, Held::Medium { .. }) && self.context.n_known() > 0);
        if self.part.is_none() {
            self.context.forget_known();
        }
    }

    /// Forgets units that are not in the cache whole.
    fn rewind_to_whole_units(&mut self) {
        self.context.truncate(self.context.n_whole());
    }

    fn feed_units(&mut self, prompt: &mut Prompt, events: &mut Events<'_>) -> Result<()> {
        prompt.tell_time(&self.engine().tokenizer)?;
        self.recall(prompt);
        let mut total = prompt.n_tokens()?;
        if total > self.options.n_ctx {
            let way =
                if prompt.images.is_empty() && prompt.videos.is_empty() { "say less" } else { "take fewer frames" };
            let message = format!(
                "the prompt has `{total}` tokens, the context holds `{}`; raise -c or {way}",
                self.options.n_ctx
            );
            return Err(Error::limit(message));
        }
        self.prepare_looks(prompt);
        // The last unit is always fed again, so that there are logits to continue from.
        let held = self.context.held().zip(&prompt.units);
        let same = held.take_while(|(held, unit)| self.is_unit(held, prompt, **unit)).count();
        let part = self.part.take().filter(|_| same == self.context.n_marks());
        if !part.is_some_and(|part| prompt.units.get(same).is_some_and(|unit| self.is_unit(&part, prompt, *unit))) {
            self.context.forget_known();
        }
        self.context.truncate(same.min(prompt.units.len().saturating_sub(1)));
        // Another question instead of this one begins here, too.
        self.context.keep_place()?;
        let start = self.context.n_marks();
        events.send(Event::PromptStart { n_tokens: total, cached: self.n_past() });
        let n_logits = events.probe().map_or(1, |probe| probe.n_logits());
        self.context.want_logits(total.saturating_sub(n_logits));
        for at in start..prompt.units.len() {
            match prompt.units[at] {
                Unit::Token(id) => self.feed_token(id, total, events)?,
                Unit::Media { kind, index } => {
                    self.feed_media(prompt, kind, index, total, events)?;
                    if prompt.n_tokens()? != total {
                        // Less was read than was counted. What is wanted stands at the end, and nothing of that was read yet.
                        total = prompt.n_tokens()?;
                        self.context.want_logits(total.saturating_sub(n_logits));
                        self.prepare_looks(prompt);
                    }
                }
            }
        }
        self.drain(total, true, events)
    }

    /// Begins to find out where the answer to `prompt` looks, if that is wanted.
    fn prepare_looks(&mut self, prompt: &Prompt) {
        self.sight = self.is_looking.then(|| Sight::of(prompt));
        let n_head = self.engine().text.hparams().n_head;
        self.context.set_looks(self.sight.as_ref().map(|sight| Looks::new(n_head, sight.ends())));
    }

    /// Tells plans of videos that were read before how many tokens that were.
    fn recall(&self, prompt: &mut Prompt) {
        for plan in prompt.videos.iter_mut().filter(|plan| plan.left_out.is_some() && plan.kept.is_none()) {
            let id = plan.id();
            if let Some((_, kept)) = self.kept.iter().find(|(known, _)| *known == id) {
                plan.set_kept(kept.clone());
            }
        }
    }

    fn feed_token(&mut self, id: u32, total: usize, events: &mut Events<'_>) -> Result<()> {
        self.context.push_tokens(&[id])?;
        self.context.mark(Held::Token(id));
        self.drain(total, false, events)
    }

    /// Whether what was fed is what the prompt says there: for media, the same pixels from the same places.
    fn is_unit(&self, held: &Held, prompt: &Prompt, unit: Unit) -> bool {
        match unit {
            Unit::Token(id) => *held == Held::Token(id),
            Unit::Media { kind, index } => prompt
                .plan(kind, index)
                .is_some_and(|plan| *held == Held::Medium { id: plan.id(), scale: self.scale(plan.temporal_scale) }),
        }
    }

    /// The temporal scale of a medium that wants `own`, or nothing in particular.
    fn scale(&self, own: Option<f64>) -> f64 {
        own.or(self.options.temporal_scale).unwrap_or(self.engine().text.hparams().temporal_scale)
    }

    /// Reads full steps of what waits, of `total` tokens; at the end (`all`) also the rest.
    fn drain(&mut self, total: usize, all: bool, events: &mut Events<'_>) -> Result<()> {
        self.context.drain(all, &mut Feeding { events, recorder: self.recorder.as_mut(), total })
    }
}

/// What a session does around the steps of its context.
struct Feeding<'a, 'e> {
    events: &'a mut Events<'e>,
    recorder: Option<&'a mut TakeWriter>,
    total: usize,
}

impl Probe for Feeding<'_, '_> {
    fn before_step(&mut self) -> Result<()> {
        self.events.check()
    }

    fn trace(&mut self) -> Option<&mut Trace> {
        self.events.probe()?.trace()
    }

    fn after_step(&mut self, pos: &[Pos], cache: &mut KvCache) -> Result<()> {
        if let Some(probe) = self.events.probe() {
            probe.after_step(pos, cache)?;
        }
        if let Some(recorder) = &mut self.recorder
            && recorder.is_due(cache.len())
        {
            cache.pull()?;
            recorder.checkpoint(cache)?;
        }
        self.events.send(Event::Prefilled { n_done: cache.len(), n_total: self.total });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::media::Block;
    use super::*;
    use crate::gguf::Gguf;
    use crate::media::Grid;
    use crate::position::Pace;
    use crate::stream::MediaKind;
    use crate::stream::decode::{Decoded, Stage};
    use crate::stream::reader::Medium;

    const GRID: Grid = Grid { t: 3, h: 4, w: 6 };
    const MEDIUM: Medium =
        Medium { item: 0, kind: MediaKind::Video, grid: GRID, per_pair: 6, start: 0, n_pairs: Some(3) };

    fn pairs(engine: &Engine, first: usize, n: usize) -> Decoded {
        let n_values = engine.need_vision().unwrap().hparams().n_patch_values();
        let pixels = (0..n * GRID.h * GRID.w * n_values).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
        Decoded::Pixels { first, pixels }
    }

    /// Feeds a list of what the decoding stage may say to the loop, without any thread.
    fn feed(engine: &Arc<Engine>, said: Vec<Decoded>, cancelled: bool) -> (Result<()>, Vec<Event>, KvCache) {
        let ty = crate::gguf::GgmlType::F32.into();
        let options = SessionOptions { n_ctx: 64, n_batch: 4, type_k: ty, type_v: ty, temporal_scale: None };
        let mut session = Session::new(engine, options).unwrap();
        session.context.begin_visual(2, 3, Some(1.0)).unwrap();
        let (cancel, mut seen) = (AtomicBool::new(cancelled), Vec::new());
        let mut sink = |event| seen.push(event);
        let mut events = Events::new(&mut sink, &cancel);
        let (send, said_so) = crossbeam::channel::unbounded();
        said.into_iter().for_each(|decoded| send.send(decoded).unwrap());
        drop(send);
        let mut stage = Stage::new(said_so, &cancel, Arc::default());
        let tower = engine.need_vision().unwrap();
        let pace = Pace { scale: Some(1.0), clock: None };
        let block = Block { merged: Grid { t: 1, h: 2, w: 3 }, pace, text: None };
        let result = session.read_medium(tower, (MEDIUM, None), block, &mut stage, 18, &mut events);
        // How long it took comes last, however it ends.
        assert!(matches!(seen.pop(), Some(Event::MediumRead { item: 0, .. })));
        session.pull().unwrap();
        let cache = session.cache().to_memory().unwrap();
        (result.map(drop), seen, cache)
    }

    fn open(name: &str) -> Arc<Gguf> {
        Arc::new(Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model").join(name)).unwrap())
    }

    #[test]
    fn the_loop_takes_what_the_decoder_says_in_order_or_not_at_all() {
        let engine = Arc::new(Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap());

        let (result, seen, cache) = feed(&engine, vec![pairs(&engine, 0, 2), pairs(&engine, 2, 1)], false);
        result.unwrap();
        // 18 tokens in steps of 4: the last two wait for what follows.
        assert_eq!(cache.len(), 16);
        let encoded = |n_done| {
            let (n_left_out, is_left_out) = (0, false);
            Event::Encoded { item: 0, n_done, n_total: 3, is_reused: false, n_left_out, is_left_out }
        };
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

    /// A tower on a GPU encodes a group while the one before is read: the same events, and the same rows.
    #[cfg(feature = "cuda-emulation")]
    #[test]
    fn a_tower_on_a_gpu_is_a_group_ahead_and_nothing_else_changes() {
        use crate::kernels::cuda::Gpu;
        let host = Arc::new(Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap());
        // Streams may run in different orders.
        for gpu in [Gpu::emulated, Gpu::emulated_eager] {
            let mut engine = Engine::from_files(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap();
            engine.offload(&[gpu(1 << 28)], usize::MAX).unwrap();
            let engine = Arc::new(engine);
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
