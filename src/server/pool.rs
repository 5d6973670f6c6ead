//! Conversations that are kept: a question finds the one that shares the longest beginning with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::draft::{Draft, Kept};
use super::linger::Wish;
use super::setup::Setup;
use crate::Result;
use crate::stream::{Engine, Prompt, Session, SessionOptions, Take};

/// Most conversations, whatever memory allows.
const MOST: usize = 64;

/// Conversations that nobody speaks in at the moment.
pub(crate) struct Pool {
    options: SessionOptions,
    /// Conversations in all, those that are spoken in included.
    n_most: usize,
    cache_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    n_busy: usize,
    clock: u64,
}

struct Idle {
    session: Session,
    /// What it began from.
    take: Option<Arc<Take>>,
    /// An answer that was put down: the conversation stands as it was left.
    draft: Option<Kept>,
    used: u64,
}

/// A conversation that somebody speaks in. Dropped, it is gone; [`Pool::give_back`] keeps it.
pub(crate) struct Borrowed {
    pub session: Session,
    take: Option<Arc<Take>>,
    /// The answer that is gone on with.
    pub draft: Option<Draft>,
}

#[cfg(test)]
impl Borrowed {
    /// Of no pool.
    pub(crate) fn of(session: Session) -> Borrowed {
        Borrowed { session, take: None, draft: None }
    }
}

impl Pool {
    /// A pool for conversations of the server's context: as many as may be spoken in at a time, or as many as fit the memory
    /// that was allowed.
    ///
    /// # Errors
    /// A cache larger than can be counted.
    pub(crate) fn new(engine: &Engine, setup: &Setup) -> Result<Pool> {
        let options = setup.session;
        let cache_bytes = engine.cache_shape(options.n_ctx, (options.type_k, options.type_v)).n_bytes()? as u64;
        let room = setup.limits.memory.map(|n| n.saturating_sub(engine.n_bytes) / cache_bytes.max(1));
        let n_most = room.map_or(setup.parallel, |n| (n as usize).max(setup.parallel)).clamp(1, MOST);
        Ok(Pool { options, n_most, cache_bytes, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conversation that shares the longest beginning with `prompt`, or a fresh one; where this very answer was put down, the
    /// one that stands there.
    ///
    /// # Errors
    /// Memory that the system refuses; a take that is of another model.
    pub(crate) fn borrow(
        &self,
        engine: &Arc<Engine>,
        (prompt, wish): (&Prompt, Option<&Wish>),
        take: Option<&Arc<Take>>,
        clean: bool,
    ) -> Result<Borrowed> {
        let mut state = self.lock();
        state.n_busy += 1;
        let left = |idle: &Idle| idle.draft.as_ref().is_some_and(|draft| draft.is_for(wish));
        if let Some(i) = state.idle.iter().position(left) {
            let Idle { session, take, draft, .. } = state.idle.swap_remove(i);
            return Ok(Borrowed { session, take, draft: draft.map(|kept| kept.draft) });
        }
        let of_same = |idle: &Idle| match (&idle.take, take) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let found = (0..state.idle.len())
            .filter(|i| of_same(&state.idle[*i]))
            .map(|i| (state.idle[i].session.n_common(prompt), state.idle[i].session.n_past(), i))
            .max_by_key(|(common, past, i)| (*common, std::cmp::Reverse(*past), state.idle[*i].used));
        let is_full = state.idle.len() + state.n_busy > self.n_most;
        if let Some((n_common, n_past, i)) = found {
            // What another conversation would lose is worth a fresh one, as long as there may be one.
            let is_its_own = 2 * n_common >= n_past;
            let oldest = state.idle.iter().enumerate().min_by_key(|(_, idle)| idle.used).map(|(i, _)| i);
            let i = match (is_its_own, is_full, oldest) {
                (true, ..) => Some(i),
                (false, false, _) => None,
                (false, true, Some(oldest)) if of_same(&state.idle[oldest]) => Some(oldest),
                (false, true, _) => Some(i),
            };
            if let Some(i) = i {
                let Idle { mut session, take, .. } = state.idle.swap_remove(i);
                drop(state);
                if clean && take.is_none() {
                    session.clear();
                }
                return Ok(Borrowed { session, take, draft: None });
            }
        }
        while state.idle.len() + state.n_busy > self.n_most
            && let Some((i, _)) = state.idle.iter().enumerate().min_by_key(|(_, idle)| idle.used)
        {
            state.idle.swap_remove(i);
        }
        drop(state);
        let fresh = match take {
            Some(take) => Session::from_take(engine, take),
            None => Session::new(engine, self.options),
        };
        match fresh {
            Ok(session) => Ok(Borrowed { session, take: take.cloned(), draft: None }),
            Err(err) => {
                self.lost();
                Err(err)
            }
        }
    }

    /// Keeps a conversation for the next question, with the answer that was put down where it stands.
    pub(crate) fn give_back(&self, Borrowed { session, take, .. }: Borrowed, draft: Option<Kept>) {
        let mut state = self.lock();
        state.n_busy = state.n_busy.saturating_sub(1);
        state.clock += 1;
        let used = state.clock;
        state.idle.push(Idle { session, take, draft, used });
    }

    /// Counts a conversation that will not come back.
    pub(crate) fn lost(&self) {
        let mut state = self.lock();
        state.n_busy = state.n_busy.saturating_sub(1);
    }

    /// Lets go of conversations about a take.
    pub(crate) fn forget(&self, take: &Arc<Take>) {
        self.lock().idle.retain(|idle| idle.take.as_ref().is_none_or(|other| !Arc::ptr_eq(other, take)));
    }

    /// How many there are, bytes of their filled slots, and of all slots of as many as may be.
    pub(crate) fn usage(&self) -> (usize, u64, u64) {
        let state = self.lock();
        let per_slot = self.cache_bytes / self.options.n_ctx.max(1) as u64;
        let used = state.idle.iter().map(|idle| idle.session.n_past() as u64 * per_slot).sum();
        (state.idle.len() + state.n_busy, used, self.cache_bytes * self.n_most as u64)
    }

    /// What stands in each conversation that nobody speaks in: tokens, slots.
    pub(crate) fn slots(&self) -> Vec<(usize, usize)> {
        self.lock().idle.iter().map(|idle| (idle.session.n_past(), idle.session.n_ctx())).collect()
    }
}
