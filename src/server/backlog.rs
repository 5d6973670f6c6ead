//! Jobs that a thread of the server does one after the other, by their ids, beside those that are done: what takes and batches
//! stand in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Entries by id, and the ids of those that wait for the thread.
pub(crate) struct Backlog<E> {
    state: Mutex<State<E>>,
    /// Told when something waits, and at the end.
    changed: Condvar,
    is_closing: AtomicBool,
}

struct State<E> {
    entries: BTreeMap<String, Arc<E>>,
    queue: VecDeque<String>,
}

impl<E> Backlog<E> {
    pub(crate) fn new() -> Backlog<E> {
        let state = State { entries: BTreeMap::new(), queue: VecDeque::new() };
        Backlog { state: Mutex::new(state), changed: Condvar::new(), is_closing: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an entry, which does not wait.
    pub(crate) fn insert(&self, id: String, entry: Arc<E>) {
        self.lock().entries.insert(id, entry);
    }

    /// Lets one wait, behind all others.
    pub(crate) fn push(&self, id: &str) {
        self.lock().queue.push_back(id.to_string());
        self.changed.notify_all();
    }

    /// Lets one wait no longer. Whether it did.
    pub(crate) fn withdraw(&self, id: &str) -> bool {
        let mut state = self.lock();
        let n = state.queue.len();
        state.queue.retain(|other| other != id);
        state.queue.len() < n
    }

    /// Forgets one.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().entries.remove(id);
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<E>> {
        self.lock().entries.get(id).cloned()
    }

    /// All of them, by their ids.
    pub(crate) fn list(&self) -> Vec<Arc<E>> {
        self.lock().entries.values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// The next that waits, once there is one; nothing when the server ends.
    pub(crate) fn next(&self) -> Option<Arc<E>> {
        let mut state = self.lock();
        loop {
            if self.is_closing() {
                return None;
            }
            match state.queue.pop_front() {
                Some(id) => {
                    if let Some(entry) = state.entries.get(&id) {
                        return Some(entry.clone());
                    }
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Ends the thread after what it does; `stop` asks every entry to stop.
    pub(crate) fn close(&self, stop: impl Fn(&E)) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.lock().entries.values().for_each(|entry| stop(entry));
        self.changed.notify_all();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }
}
