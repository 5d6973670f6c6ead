//! What all talks of one model take of memory together, where that has a limit.

use std::sync::{Arc, Mutex, PoisonError};

use crate::stream::Cost;
use crate::{Error, Result};

/// The limit, and what is held of it besides the model's weights, which all talks share.
pub(super) struct Ledger {
    limit: Option<u64>,
    held: Mutex<u64>,
}

/// A share of a [`Ledger`], given back when it is dropped.
pub(super) struct Hold {
    ledger: Arc<Ledger>,
    n_bytes: u64,
}

impl Ledger {
    /// Of so many bytes in all, weights included.
    pub(super) fn new(limit: Option<u64>) -> Arc<Ledger> {
        Arc::new(Ledger { limit, held: Mutex::new(0) })
    }

    /// The whole, whatever is held of it, and at most `wanted`.
    pub(super) fn whole(&self, wanted: Option<u64>) -> Option<u64> {
        self.limit.into_iter().chain(wanted).min()
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// What a plan of somebody who holds `own` already may take, weights included: the limit without what others hold, and at
    /// most `wanted`.
    pub(super) fn limit(&self, own: Option<&Hold>, wanted: Option<u64>) -> Option<u64> {
        let others = self.held().saturating_sub(own.map_or(0, |own| own.n_bytes));
        let left = self.limit.map(|limit| limit.saturating_sub(others));
        left.into_iter().chain(wanted).min()
    }

    /// Holds what `cost` takes besides weights, in `own`; where something is held there already, the larger of both.
    ///
    /// # Errors
    /// `Busy`: others took it since the plan was made; `Limit`: more than all there is. Then `own` is as it was.
    pub(super) fn hold(self: &Arc<Self>, own: &mut Option<Hold>, cost: &Cost) -> Result<()> {
        let before = own.as_ref().map_or(0, |own| own.n_bytes);
        let n_bytes = (cost.cache + cost.working).max(before);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = *held - before + n_bytes;
        if let Some(limit) = self.limit.filter(|limit| *limit < n_bytes.saturating_add(cost.weights)) {
            let needs = n_bytes.saturating_add(cost.weights);
            return Err(Error::limit(format!("this takes `{needs}` bytes, at most {limit} are given to the model")));
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < all.saturating_add(cost.weights)) {
            let message =
                format!("other talks hold what this one needs of {limit} bytes; end one of them and ask again");
            return Err(Error::busy(message));
        }
        *held = all;
        own.get_or_insert_with(|| Hold { ledger: Arc::clone(self), n_bytes }).n_bytes = n_bytes;
        Ok(())
    }

    fn held(&self) -> u64 {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.ledger.held.lock().unwrap_or_else(PoisonError::into_inner) -= self.n_bytes;
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
        assert!(ledger.hold(&mut first, &cost(51)).is_err() && ledger.held() == 100);
        drop(second);
        ledger.hold(&mut first, &cost(90)).unwrap();
        ledger.hold(&mut first, &cost(1)).unwrap();
        assert_eq!(ledger.held(), 100);
        // Nobody has to leave for what never fits.
        assert_eq!(ledger.hold(&mut first, &cost(91)).err().unwrap().kind(), crate::ErrorKind::Limit);
        drop(first);
        assert_eq!((ledger.held(), Ledger::new(None).limit(None, None)), (0, None));
    }
}
