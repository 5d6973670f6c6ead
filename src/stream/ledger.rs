//! What all that computes with one model takes of memory together, where that has a limit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cost;
use crate::{Error, Result};

/// The limit, and what is held of it besides what all share: the model's weights, and the program.
pub struct Ledger {
    limit: Option<u64>,
    state: Mutex<State>,
    /// Told when something is given back.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shared: u64,
    held: [u64; Holder::ALL.len()],
}

impl State {
    fn all(&self) -> u64 {
        self.held.iter().sum()
    }
}

/// What holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Conversations: caches, and what a step works in.
    Contexts,
    /// Requests whose media are decoded and encoded.
    Requests,
    /// Videos that are read into takes.
    Takes,
    /// Bytes that came with requests.
    Bodies,
}

impl Holder {
    /// All of them, by name.
    pub const ALL: [(Holder, &'static str); 4] = [
        (Holder::Contexts, "contexts"),
        (Holder::Requests, "requests"),
        (Holder::Takes, "takes"),
        (Holder::Bodies, "bodies"),
    ];
}

/// A share of a [`Ledger`], given back when it is dropped.
pub struct Hold {
    ledger: Arc<Ledger>,
    holder: Holder,
    n_bytes: u64,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It is more than all there is besides what is shared.
    Never(u64),
    /// Others hold so many bytes too many.
    Now(u64),
}

impl Ledger {
    /// Of so many bytes in all, what is shared included.
    pub fn new(limit: Option<u64>) -> Arc<Ledger> {
        Arc::new(Ledger { limit, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Counts what all share.
    pub fn share(&self, n_bytes: u64) {
        self.lock().shared = n_bytes;
    }

    /// The whole, whatever is held of it, and at most `wanted`.
    pub fn whole(&self, wanted: Option<u64>) -> Option<u64> {
        self.limit.into_iter().chain(wanted).min()
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// What a plan of somebody who holds `own` already may take, weights included: the limit without what others hold, and at
    /// most `wanted`.
    pub fn limit(&self, own: Option<&Hold>, wanted: Option<u64>) -> Option<u64> {
        let others = self.lock().all().saturating_sub(own.map_or(0, |own| own.n_bytes));
        let left = self.limit.map(|limit| limit.saturating_sub(others));
        left.into_iter().chain(wanted).min()
    }

    /// Holds what `cost` takes besides weights, in `own`; where something is held there already, the larger of both.
    ///
    /// # Errors
    /// `Busy`: others took it since the plan was made; `Limit`: more than all there is. Then `own` is as it was.
    pub fn hold(self: &Arc<Self>, own: &mut Option<Hold>, cost: &Cost) -> Result<()> {
        let before = own.as_ref().map_or(0, |own| own.n_bytes);
        let n_bytes = (cost.cache + cost.working).max(before);
        let mut state = self.lock();
        match self.lack((n_bytes, before), cost.weights, state.all()) {
            None => {}
            Some(Lack::Never(_)) => {
                let (needs, limit) = (n_bytes.saturating_add(cost.weights), self.limit.unwrap_or_default());
                return Err(Error::limit(format!(
                    "this takes `{needs}` bytes, at most {limit} are given to the model"
                )));
            }
            Some(Lack::Now(_)) => {
                let limit = self.limit.unwrap_or_default();
                let message =
                    format!("other talks hold what this one needs of {limit} bytes; end one of them and ask again");
                return Err(Error::busy(message));
            }
        }
        state.held[Holder::Contexts as usize] += n_bytes - before;
        let fresh = || Hold { ledger: Arc::clone(self), holder: Holder::Contexts, n_bytes };
        own.get_or_insert_with(fresh).n_bytes = n_bytes;
        Ok(())
    }

    /// Holds so many bytes more, if they are there.
    ///
    /// # Errors
    /// Whether they may ever be, and how many are missing.
    pub fn try_hold(self: &Arc<Self>, holder: Holder, n_bytes: u64) -> std::result::Result<Hold, Lack> {
        let mut state = self.lock();
        if let Some(lack) = self.lack((n_bytes, 0), state.shared, state.all()) {
            return Err(lack);
        }
        state.held[holder as usize] += n_bytes;
        Ok(Hold { ledger: Arc::clone(self), holder, n_bytes })
    }

    /// What is missing for somebody who wants to hold `n_bytes` instead of `before`, where all hold `all` besides what is shared.
    fn lack(&self, (n_bytes, before): (u64, u64), shared: u64, all: u64) -> Option<Lack> {
        let room = self.limit?.saturating_sub(shared);
        if n_bytes > room {
            return Some(Lack::Never(room));
        }
        let wanted = (all - before).saturating_add(n_bytes);
        (wanted > room).then(|| Lack::Now(wanted - room))
    }

    /// Waits until something is given back, at most so long.
    pub fn wait(&self, most: Duration) {
        let state = self.lock();
        drop(self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner));
    }

    /// What all share, and what each kind of holder holds.
    pub fn told(&self) -> (u64, [u64; Holder::ALL.len()]) {
        let state = self.lock();
        (state.shared, state.held)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Bytes.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Takes so many of its bytes out of it, for another kind of holder.
    pub fn split(&mut self, holder: Holder, n_bytes: u64) -> Hold {
        let n_bytes = n_bytes.min(self.n_bytes);
        let mut state = self.ledger.lock();
        state.held[self.holder as usize] -= n_bytes;
        state.held[holder as usize] += n_bytes;
        self.n_bytes -= n_bytes;
        drop(state);
        Hold { ledger: Arc::clone(&self.ledger), holder, n_bytes }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ledger.lock().held[self.holder as usize] -= self.n_bytes;
        self.ledger.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(cache: u64) -> Cost {
        let mut cost = Cost::default();
        (cost.weights, cost.cache, cost.working) = (100, cache, 10);
        cost
    }

    fn held(ledger: &Ledger) -> u64 {
        ledger.lock().all()
    }

    #[test]
    fn what_is_held_is_given_back() {
        let ledger = Ledger::new(Some(200));
        let (mut first, mut second) = (None, None);
        ledger.hold(&mut first, &cost(50)).unwrap();
        assert_eq!((ledger.limit(None, None), ledger.limit(first.as_ref(), None)), (Some(140), Some(200)));
        assert_eq!(
            (ledger.limit(None, Some(70)), ledger.whole(Some(70)), ledger.whole(None)),
            (Some(70), Some(70), Some(200))
        );
        assert_eq!(ledger.hold(&mut second, &cost(31)).err().unwrap().kind(), crate::ErrorKind::Busy);
        ledger.hold(&mut second, &cost(30)).unwrap();
        // What does not fit changes nothing; there is room when others leave; less is no less.
        assert!(ledger.hold(&mut first, &cost(51)).is_err() && held(&ledger) == 100);
        drop(second);
        ledger.hold(&mut first, &cost(90)).unwrap();
        ledger.hold(&mut first, &cost(1)).unwrap();
        assert_eq!(held(&ledger), 100);
        // Nobody has to leave for what never fits.
        assert_eq!(ledger.hold(&mut first, &cost(91)).err().unwrap().kind(), crate::ErrorKind::Limit);
        drop(first);
        assert_eq!((held(&ledger), Ledger::new(None).limit(None, None)), (0, None));
    }

    #[test]
    fn holders_share_one_limit_and_say_what_is_missing() {
        let ledger = Ledger::new(Some(200));
        ledger.share(100);
        let mut hold = ledger.try_hold(Holder::Contexts, 70).unwrap();
        let work = hold.split(Holder::Requests, 20);
        assert_eq!((hold.n_bytes(), work.n_bytes(), ledger.told()), (50, 20, (100, [50, 20, 0, 0])));
        assert_eq!(ledger.try_hold(Holder::Bodies, 31).err(), Some(Lack::Now(1)));
        assert_eq!(ledger.try_hold(Holder::Takes, 101).err(), Some(Lack::Never(100)));
        let body = ledger.try_hold(Holder::Bodies, 30).unwrap();
        drop(work);
        assert_eq!(ledger.told().1, [50, 0, 0, 30]);
        drop((hold, body));
        assert_eq!(ledger.told(), (100, [0; 4]));
        // Without a limit all is counted, and nothing refused.
        let open = Ledger::new(None);
        let all = open.try_hold(Holder::Takes, u64::MAX / 2).unwrap();
        assert_eq!(open.told().1, [0, 0, all.n_bytes(), 0]);
    }
}
