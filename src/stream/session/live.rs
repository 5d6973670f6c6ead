//! Watching a stream for as long as it lasts.
//!
//! The cache holds what stands before the stream (the sinks) and a window of its frame pairs. Positions only ever go on, and a
//! score depends on differences of positions alone, so forgetting the oldest pairs leaves every score among the rest as it
//! is. What a remaining token took in from a forgotten one, in the second layer and above, stays in its keys and values. The same
//! holds where single tokens of the past go instead of its oldest pairs ([`held`](crate::stream::Worth)).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Session;
use super::media::Block;
use crate::cache::KvCache;
use crate::error::Context;
use crate::media::Grid;
use crate::model::VisionTower;
use crate::position::Pace;
use crate::stream::context::Held;
use crate::stream::decode;
use crate::stream::held::{HeldPair, Places, SHARE_AT_ONCE, Stand, Worth};
use crate::stream::left_out::{LeaveOut, Sifting};
use crate::stream::reader::{self, Encoded, Medium, ReadEnd};
use crate::stream::{Event, Events, LivePlan, LiveShape, MediaKind, MediaPlan};
use crate::{Error, ErrorKind, Result};

/// Most frame pairs in a window, of which nothing may be left but that they were there: two weeks at a pair a second.
const MOST_PAIRS: usize = 1 << 20;

/// What to do when the context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The stream ends with what fits.
    Stop,
    /// The oldest frame pairs go; what stands before the stream stays.
    Forget,
    /// Visual tokens of the past go, those that are worth least; what stands before the stream stays, and so do the newest pairs.
    Compress(Worth),
}

impl WhenFull {
    /// As flags call it.
    pub fn name(self) -> &'static str {
        match self {
            WhenFull::Stop => "stop",
            WhenFull::Forget => "forget",
            WhenFull::Compress(_) => "compress",
        }
    }

    /// What a token of the past is worth, where that decides.
    pub fn worth(self) -> Option<Worth> {
        if let WhenFull::Compress(worth) = self { Some(worth) } else { None }
    }
}

/// How to watch a stream.
#[derive(Debug, Clone, Copy)]
pub struct LiveOptions {
    /// What becomes of the oldest frames, or of the stream, when the context is full.
    pub when_full: WhenFull,
    /// Slots kept free for what comes after the stream.
    pub reserve: usize,
}

/// The frame pairs of a stream that are in the cache: from the first that was not forgotten to the last that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Frame pairs that were seen.
    pub n_pairs: usize,
    /// Those of them that have left the cache: the first ones, unless the past becomes thinner.
    pub n_forgotten: usize,
    /// Visual tokens that have left it because there was no room.
    pub n_gone: usize,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum LiveEnd {
    /// It was over.
    Over,
    /// The context is full.
    Full,
    /// The caller asked for it.
    Stopped,
    /// It is damaged from here on.
    Failed(Error),
}

/// What stays the same while a stream is watched.
struct Live<'a> {
    tower: &'a VisionTower,
    /// A frame pair in patches, and in tokens: rows, columns.
    grid: Grid,
    merged: Grid,
    per_pair: usize,
    shape: LiveShape,
    scale: f64,
    n_before: usize,
    /// Slots that may be filled.
    limit: usize,
    /// Pairs whose room is made at once, if any is.
    at_once: Option<usize>,
    when_full: WhenFull,
}

impl Live<'_> {
    fn block(&self) -> Block<'static> {
        Block { merged: self.merged, pace: Pace { scale: Some(self.scale), clock: self.shape.clock }, text: None }
    }

    /// Where it stands when the cache has so many tokens.
    fn stand(&self, n_past: usize) -> Stand {
        let n_read = n_past.saturating_sub(self.n_before);
        Stand { n_before: self.n_before, n_read, per_pair: self.per_pair }
    }
}

/// What a caller does with the cache and the window of whole pairs in it after every step.
pub type Keep<'a> = dyn FnMut(&KvCache, Window, &mut Events<'_>) + 'a;

impl Session {
    /// Forgets everything, reads the tokens `before` and then the stream, until it is over, the context is full under
    /// [`WhenFull::Stop`], or the caller's flag is set: then what was decoded is still read. Afterwards the session holds
    /// `before` and the window that is returned, as the conversation's first video, and questions can be fed.
    ///
    /// # Errors
    /// A context that is too small, a stream without a single frame, a model that fails. A stream that is damaged later on
    /// is no error but [`LiveEnd::Failed`].
    pub fn watch(
        &mut self,
        before: &[u32],
        plan: &mut LivePlan,
        options: LiveOptions,
        events: &mut Events<'_>,
        keep: &mut Keep<'_>,
    ) -> Result<(Window, LiveEnd)> {
        let engine = Arc::clone(self.engine());
        let before = plan.begin(&engine.tokenizer, before, options.when_full.worth().is_some())?;
        let live = self.live(engine.need_vision()?, before.len(), &plan.shape, options)?;
        let (cancel, mut events) = (events.cancel(), events.unstoppable());
        events.send(Event::PromptStart { n_tokens: live.limit, cached: 0 });
        self.clear();
        // It is only read: what comes after it will say which logits it wants.
        self.context.want_logits(usize::MAX);
        let mut window = Window::default();
        let end =
            self.read_stream(before, plan, &live, &mut window, (&mut events, cancel), keep).and_then(|end| match end {
                _ if window.n_pairs > 0 => Ok(end),
                LiveEnd::Failed(error) => Err(error),
                LiveEnd::Stopped => Err(Error::new(ErrorKind::Cancelled, "stopped before the first frame")),
                _ => Err(Error::format("the stream ended before its first frame").at(&*plan.shape.label)),
            });
        let end = end.inspect_err(|_| self.rewind_to_whole_units())?;
        let id = MediaPlan::seen(&plan.shape, window).id();
        self.context.mark(Held::Medium { id, scale: live.scale });
        Ok((window, end))
    }

    /// Checks that the context is large enough.
    fn live<'t>(
        &self,
        tower: &'t VisionTower,
        n_before: usize,
        shape: &LiveShape,
        options: LiveOptions,
    ) -> Result<Live<'t>> {
        let LiveShape { grid, per_pair: n_visual, n_stamp, temporal_scale, .. } = *shape;
        let per_pair = n_visual + n_stamp;
        let limit = self.options.n_ctx.saturating_sub(options.reserve);
        let at_once = match options.when_full {
            WhenFull::Stop => None,
            WhenFull::Forget | WhenFull::Compress(_) => Some((limit / SHARE_AT_ONCE / per_pair).max(1)),
        };
        if options.when_full.worth().is_some() && self.cache().shape().n_row_layers() == 0 {
            return Err(Error::unsupported(
                "a model without attention keeps no tokens of a stream, of which some could go",
            ));
        }
        // While it forgets, a step's rows wait, and a pair may be in the cache in part. Where the newest stay, others have to be there.
        let n_newest = options.when_full.worth().and(at_once).map_or(0, |n| n + 1);
        let least = n_before + per_pair + at_once.map_or(0, |n| (n + n_newest) * per_pair + self.context.n_batch());
        if limit < least {
            let message = format!(
                "a context of `{}` slots, {} of them kept free, is too small for a window over frames of {per_pair} \
                 tokens, expected {least} slots more than those kept free; raise -c or lower -b or the pixels",
                self.options.n_ctx, options.reserve
            );
            return Err(Error::limit(message));
        }
        let (merged, scale) = (grid.merged(tower.hparams().merge), self.scale(temporal_scale));
        let shape = shape.clone();
        let when_full = options.when_full;
        Ok(Live { tower, grid, merged, per_pair: n_visual, shape, scale, n_before, limit, at_once, when_full })
    }

    /// Reads everything; the rows of the last step, too.
    fn read_stream(
        &mut self,
        before: &[u32],
        plan: &mut LivePlan,
        live: &Live<'_>,
        window: &mut Window,
        (events, cancel): (&mut Events<'_>, &AtomicBool),
        keep: &mut Keep<'_>,
    ) -> Result<LiveEnd> {
        for id in before {
            self.feed_token(*id, live.limit, events)?;
        }
        if !live.shape.is_stamped() {
            self.context.begin_visual(live.merged.h, live.merged.w, live.block().pace)?;
        }
        let group = Session::pairs_at_once(live.grid.h, live.grid.w);
        decode::probe(live.tower, group, usize::MAX, live.grid).at(|| plan.shape.label.clone())?;
        live.tower.reserve(group * live.grid.h * live.grid.w)?;
        let &Live { tower, grid, per_pair, .. } = live;
        let medium = Medium { item: 0, kind: MediaKind::Video, grid, per_pair, start: 0, n_pairs: None };
        let sifting = live.shape.leaves_out().then(|| Sifting {
            what: live.shape.dedup.map(LeaveOut::Unchanged),
            keep: live.shape.keep,
            n_known: 0,
            text: None,
            n_forgotten: Arc::clone(&live.shape.n_forgotten),
        });
        let end = decode::decode(plan, 0, group, cancel, |stage| {
            reader::read(tower, medium, sifting, stage, events, &mut |encoded, events| {
                self.take_pair(encoded, live, window, events, keep)
            })
        })?;
        self.drain(live.limit, true, events)?;
        self.context.end_visual();
        Ok(match end {
            ReadEnd::Over if cancel.load(Ordering::Relaxed) => LiveEnd::Stopped,
            ReadEnd::Over => LiveEnd::Over,
            ReadEnd::Enough => LiveEnd::Full,
            ReadEnd::Failed(error) => LiveEnd::Failed(error),
        })
    }

    /// Takes a pair, and makes room for it first.
    fn take_pair(
        &mut self,
        encoded: Encoded<'_>,
        live: &Live<'_>,
        window: &mut Window,
        events: &mut Events<'_>,
        keep: &mut Keep<'_>,
    ) -> Result<ControlFlow<()>> {
        let words = live.shape.words_around(&self.engine().tokenizer, window.n_pairs)?;
        let n_kept = encoded.kept.n_of(live.per_pair);
        let n = n_kept + words.as_ref().map_or(0, |(lead, tail)| lead.len() + tail.len());
        if self.context.n_tokens() + n > live.limit || live.shape.held().pairs.len() == MOST_PAIRS {
            let Some(at_once) = live.at_once else { return Ok(ControlFlow::Break(())) };
            self.make_room(at_once, live, window, events)?;
        }
        self.push_pair(&encoded, live.block(), words.as_ref().map(|(lead, tail)| (&lead[..], &tail[..])))?;
        let pair = u32::try_from(window.n_pairs).map_err(|_| Error::limit("a stream of more than 2^32 frame pairs"))?;
        let lead = words.map_or_else(Box::default, |(lead, _)| lead.into_boxed_slice());
        live.shape.held().pairs.push_back(HeldPair { pair, lead, places: Places::of(encoded.kept) });
        window.n_pairs += 1;
        let Window { n_pairs: seen, n_forgotten: forgotten, n_gone } = *window;
        let (is_reused, n_left_out, is_left_out) = (encoded.is_reused, live.per_pair - n_kept, n_kept == 0);
        events.send(Event::Streamed { seen, forgotten, n_gone, is_reused, n_left_out, is_left_out });
        // States are kept with whole pairs or not at all, so a step ends with every group of them.
        let is_recurrent = self.context.is_recurrent();
        let all = is_recurrent && window.n_pairs.is_multiple_of(Session::pairs_at_once(live.grid.h, live.grid.w));
        let before = self.n_past();
        self.drain(live.limit, all, events)?;
        let (n_whole, n_more) = live.shape.held().n_whole(live.stand(self.n_past()));
        if self.n_past() > before && n_whole > 0 && (n_more == 0 || !is_recurrent) {
            self.context.pull()?;
            keep(self.cache(), Window { n_pairs: window.n_forgotten + n_whole, ..*window }, events);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Makes room for `at_once` pairs, or as many tokens.
    fn make_room(
        &mut self,
        at_once: usize,
        live: &Live<'_>,
        window: &mut Window,
        events: &mut Events<'_>,
    ) -> Result<()> {
        let stand = live.stand(self.n_past());
        let gone = match live.when_full.worth() {
            None => live.shape.held().forget(at_once, stand),
            Some(worth) => {
                self.context.pull()?;
                let n = at_once * live.shape.n_pair_tokens();
                live.shape.held().thin(worth, (n, n), self.cache(), stand)?
            }
        };
        let forgotten = self.context.forget(gone.slots)?;
        if window.n_gone == 0 && forgotten.n_recurrent > 0 {
            let message = format!(
                "{} of the model's layers are recurrent: what they took in from frames that are forgotten stays in \
                 their states",
                forgotten.n_recurrent
            );
            events.send(Event::Warning { item: 0, message });
        }
        window.n_forgotten += gone.n_pairs;
        window.n_gone += gone.n_visual;
        if gone.has_first {
            // The oldest that is still there, or nothing of what was.
            let oldest = if live.when_full == WhenFull::Forget { window.n_forgotten } else { window.n_pairs };
            live.shape.n_forgotten.store(oldest, Ordering::Relaxed);
        }
        Ok(())
    }
}
