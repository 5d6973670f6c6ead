//! Conversations that are kept: a question finds the one that shares the longest beginning with it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::draft::{Draft, Kept};
use super::keep::{Keeper, Seen};
use super::linger::Wish;
use super::memory::{Memory, Patience, never};
use super::setup::Setup;
use crate::stream::{Engine, Hold, Holder, Lack, Prompt, Session, SessionOptions, Take};
use crate::{Error, ErrorKind, Result};

/// Most conversations, whatever memory allows.
const MOST: usize = 64;

/// Conversations that nobody speaks in at the moment.
pub(crate) struct Pool {
    options: SessionOptions,
    /// Conversations in all, those that are spoken in included.
    n_most: usize,
    cache_bytes: u64,
    memory: Memory,
    pub keeper: Keeper,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one that was used least recently first.
    idle: VecDeque<Idle>,
    n_busy: usize,
}

struct Idle {
    talk: Borrowed,
    /// An answer that was put down: the conversation stands as it was left.
    draft: Option<Kept>,
}

/// A conversation that somebody speaks in. Dropped, it is gone; [`Pool::give_back`] keeps it.
pub(crate) struct Borrowed {
    pub session: Session,
    /// What it began from, and is told of by name.
    take: Option<Arc<Take>>,
    /// The video that it has read, which is worth a take; and the one that it reads, with the time that took so far.
    pub seen: Option<Seen>,
    pub reading: Option<(String, Duration)>,
    /// The answer that is gone on with.
    pub draft: Option<Draft>,
    /// What it takes of memory, and what reading media takes besides, until they are read.
    _hold: Option<Hold>,
    pub work: Option<Hold>,
}

#[cfg(test)]
impl Borrowed {
    /// Of no pool.
    pub(crate) fn of(session: Session) -> Borrowed {
        Borrowed { session, take: None, seen: None, reading: None, draft: None, _hold: None, work: None }
    }
}

/// What is looked for.
pub(crate) struct Need<'a> {
    pub prompt: &'a Prompt,
    /// The answer, where one that was put down can be gone on with.
    pub wish: Option<&'a Wish>,
    /// The take that is asked about.
    pub take: Option<&'a Arc<Take>>,
    /// What the video of the prompt became when it was read before.
    pub seen: Option<&'a Seen>,
    /// Nothing of what was read before is to be used.
    pub clean: bool,
    /// Bytes that reading takes besides the conversation.
    pub n_bytes: u64,
    pub cancel: &'a AtomicBool,
}

impl Need<'_> {
    fn is_of_same(&self, talk: &Borrowed) -> bool {
        match (&talk.take, self.take) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Pool {
    /// A pool for conversations of the server's context: as many as may be spoken in at a time, or as many as fit the memory
    /// that was allowed.
    ///
    /// # Errors
    /// A cache larger than can be counted.
    pub(crate) fn new(engine: &Engine, setup: &Setup, memory: Memory, keeper: Keeper) -> Result<Pool> {
        let options = setup.session;
        let cache_bytes = engine.cache_shape(options.n_ctx, (options.type_k, options.type_v)).n_bytes()? as u64;
        let room = setup.limits.memory.map(|n| n.saturating_sub(engine.n_bytes) / cache_bytes.max(1));
        // Where memory is limited, the ledger says how many fit.
        let n_most = room.map_or(setup.parallel, |n| (n as usize).max(setup.parallel)).clamp(1, MOST);
        Ok(Pool { options, n_most, cache_bytes, memory, keeper, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conversation that shares the longest beginning with a prompt, or a fresh one; where this very answer was put down, the
    /// one that stands there. Where memory is short, others that nobody speaks in go, and then it waits.
    ///
    /// # Errors
    /// Memory that the system refuses, or that is not free for too long; a take that is of another model; a stop.
    pub(crate) fn borrow(&self, engine: &Arc<Engine>, need: &Need<'_>) -> Result<Borrowed> {
        let take = need.take.or(need.seen.and_then(Seen::take));
        let fresh_bytes = self.memory.conversation_bytes(engine, take)?;
        let patience = Patience::new();
        loop {
            let (found, gone) = {
                let mut state = self.lock();
                let chosen = self.choose(&mut state, need);
                state.n_busy += 1;
                chosen
            };
            gone.into_iter().for_each(|idle| self.let_go(idle.talk));
            let n_fresh = if found.is_none() { fresh_bytes } else { 0 };
            let lack = match self.memory.hold(Holder::Contexts, n_fresh + need.n_bytes) {
                Ok(mut hold) => {
                    let work = Some(hold.split(Holder::Requests, need.n_bytes));
                    if let Some(Idle { talk, draft }) = found {
                        let draft = draft.filter(|kept| kept.is_for(need.wish)).map(|kept| kept.draft);
                        let mut borrowed = Borrowed { draft, work, ..talk };
                        if need.clean && borrowed.take.is_none() {
                            borrowed.session.clear();
                        }
                        return Ok(borrowed);
                    }
                    return self.fresh(engine, need, hold, work).inspect_err(|_| self.lost());
                }
                Err(lack) => lack,
            };
            {
                let mut state = self.lock();
                state.n_busy = state.n_busy.saturating_sub(1);
                state.idle.extend(found);
            }
            match lack {
                Lack::Never(room) => return Err(never(n_fresh + need.n_bytes, room)),
                Lack::Now(_) if need.cancel.load(Ordering::Relaxed) => {
                    return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
                }
                Lack::Now(_) => patience.check()?,
            }
            self.memory.wait();
        }
    }

    /// Takes the conversation out that is gone on with, none where a fresh one is better, and those that are too many then.
    fn choose(&self, state: &mut State, need: &Need<'_>) -> (Option<Idle>, Vec<Idle>) {
        let found = |state: &mut State, i: usize| (state.idle.remove(i), Vec::new());
        let left = |idle: &Idle| idle.draft.as_ref().is_some_and(|draft| draft.is_for(need.wish));
        if let Some(i) = state.idle.iter().position(left) {
            return found(state, i);
        }
        let best = (0..state.idle.len())
            .filter(|i| need.is_of_same(&state.idle[*i].talk))
            .map(|i| (state.idle[i].talk.session.n_common(need.prompt), state.idle[i].talk.session.n_past(), i))
            .max_by_key(|(common, past, i)| (*common, std::cmp::Reverse(*past), *i));
        let is_full = state.idle.len() + state.n_busy >= self.n_most;
        // What was read before and is not in any conversation now is worth a fresh one.
        let is_known = |n_common: usize| need.seen.is_none_or(|seen| n_common >= seen.n_tokens());
        if let Some((n_common, n_past, i)) = best.filter(|(n_common, ..)| is_known(*n_common)) {
            // What another conversation would lose is worth a fresh one, as long as there may be one.
            let is_its_own = 2 * n_common >= n_past;
            let is_oldest_free = state
                .idle
                .front()
                .is_some_and(|oldest| need.is_of_same(&oldest.talk) && !self.is_worth_keeping(&oldest.talk));
            match (is_its_own, is_full) {
                (true, _) => return found(state, i),
                // The oldest goes either way: it is gone on with.
                (false, true) if is_oldest_free => return found(state, 0),
                (false, _) => {}
            }
        }
        let mut gone = Vec::new();
        while state.idle.len() + state.n_busy >= self.n_most
            && let Some(oldest) = state.idle.pop_front()
        {
            gone.push(oldest);
        }
        (None, gone)
    }

    fn is_worth_keeping(&self, talk: &Borrowed) -> bool {
        talk.seen.as_ref().is_some_and(Seen::is_new)
    }

    /// Lets go of a conversation; a video that took long to read becomes a take first.
    fn let_go(&self, talk: Borrowed) {
        if self.is_worth_keeping(&talk) {
            self.keeper.keep(talk);
        }
    }

    fn fresh(&self, engine: &Arc<Engine>, need: &Need<'_>, hold: Hold, work: Option<Hold>) -> Result<Borrowed> {
        let restored = need.seen.and_then(|seen| Some((seen, seen.take()?)));
        let session = match (need.take, restored) {
            (Some(take), _) => Session::from_take(engine, take)?,
            (None, Some((seen, take))) => seen.session(engine, take)?,
            (None, None) => Session::new(engine, self.options)?,
        };
        let (take, seen) = (need.take.cloned(), need.seen.cloned());
        Ok(Borrowed { session, take, seen, reading: None, draft: None, _hold: Some(hold), work })
    }

    /// Lets go of the oldest conversations until `missing` bytes are free, unless that is not enough anyway.
    pub(crate) fn reclaim(&self, missing: u64) {
        let mut gone = Vec::new();
        {
            let mut state = self.lock();
            // What is on its way to disk is free before long.
            let missing = missing.saturating_sub(self.keeper.n_bytes());
            let of = |idle: &Idle| idle.talk.n_bytes();
            if state.idle.iter().map(of).sum::<u64>() < missing {
                return;
            }
            let mut n_free = 0;
            while n_free < missing
                && let Some(oldest) = state.idle.pop_front()
            {
                n_free += of(&oldest);
                gone.push(oldest);
            }
        }
        gone.into_iter().for_each(|idle| self.let_go(idle.talk));
    }

    /// Lets go of all of them, as the server does at its end.
    pub(crate) fn close(&self) {
        let all = std::mem::take(&mut self.lock().idle);
        all.into_iter().for_each(|idle| self.let_go(idle.talk));
    }

    /// Tokens of the longest beginning of `prompt` that a conversation holds that nobody speaks in.
    pub(crate) fn n_common(&self, prompt: &Prompt) -> usize {
        let state = self.lock();
        let of = |idle: &Idle| idle.talk.session.n_common(prompt);
        state.idle.iter().filter(|idle| idle.talk.take.is_none()).map(of).max().unwrap_or(0)
    }

    /// Keeps a conversation for the next question, with the answer that was put down where it stands.
    pub(crate) fn give_back(&self, talk: Borrowed, draft: Option<Kept>) {
        let mut state = self.lock();
        state.n_busy = state.n_busy.saturating_sub(1);
        state.idle.push_back(Idle { talk: Borrowed { work: None, draft: None, ..talk }, draft });
    }

    /// Counts a conversation that will not come back.
    pub(crate) fn lost(&self) {
        let mut state = self.lock();
        state.n_busy = state.n_busy.saturating_sub(1);
    }

    /// Lets go of conversations about a take.
    pub(crate) fn forget(&self, take: &Arc<Take>) {
        self.lock().idle.retain(|idle| {
            let seen = idle.talk.seen.as_ref().and_then(Seen::take);
            idle.talk.take.as_ref().or(seen).is_none_or(|other| !Arc::ptr_eq(other, take))
        });
    }

    /// How many there are, bytes of their filled slots, and of all slots of as many as may be.
    pub(crate) fn usage(&self) -> (usize, u64, u64) {
        let state = self.lock();
        let per_slot = self.cache_bytes / self.options.n_ctx.max(1) as u64;
        let used = state.idle.iter().map(|idle| idle.talk.session.n_past() as u64 * per_slot).sum();
        (state.idle.len() + state.n_busy, used, self.cache_bytes * self.n_most as u64)
    }

    /// What stands in each conversation that nobody speaks in: tokens, slots.
    pub(crate) fn slots(&self) -> Vec<(usize, usize)> {
        self.lock().idle.iter().map(|idle| (idle.talk.session.n_past(), idle.talk.session.n_ctx())).collect()
    }
}

impl Borrowed {
    /// Bytes that it holds.
    pub(crate) fn n_bytes(&self) -> u64 {
        self._hold.as_ref().map_or(0, Hold::n_bytes)
    }
}
