//! Admission: so many requests are worked on, so many wait in the order in which they came, all others are told when to
//! come again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::limits::MAX_RETRY_AFTER;
use super::wire::{Code, Fault};

/// The door. Copies are the same one.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    n_running: usize,
    n_waiting: usize,
    state: Mutex<State>,
    /// Told of every change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Who runs and who waits, with the seconds that each is expected to take.
    running: Vec<(u64, f64)>,
    waiting: VecDeque<(u64, f64)>,
}

impl Queue {
    /// A door for `n_running` requests, and a bench for `n_waiting`.
    pub(crate) fn new(n_running: usize, n_waiting: usize) -> Queue {
        let (changed, _) = watch::channel(());
        Queue(Arc::new(Shared { n_running: n_running.max(1), n_waiting, state: Mutex::default(), changed }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place, for about so many seconds. It is given up when the place is dropped, wherever it was.
    ///
    /// # Errors
    /// `queue_full`, with the seconds after which somebody may be done.
    pub(crate) fn enter(&self, seconds: f64) -> Result<Place, Fault> {
        let mut state = self.lock();
        if state.running.len() >= self.0.n_running && state.waiting.len() >= self.0.n_waiting {
            let wait = self.expected(&state, state.waiting.len());
            let message = format!("`{}` requests wait already, which is the most", state.waiting.len());
            return Err(Fault::new(Code::QueueFull, message).after(wait));
        }
        let id = state.next;
        state.next += 1;
        if state.running.len() < self.0.n_running && state.waiting.is_empty() {
            state.running.push((id, seconds));
        } else {
            state.waiting.push_back((id, seconds));
        }
        drop(state);
        Ok(Place { queue: self.clone(), id })
    }

    /// Whole seconds until whoever has so many before it in the queue may run: their plans, shared by those that run.
    fn expected(&self, state: &State, n_before: usize) -> u64 {
        let before = state.running.iter().chain(state.waiting.iter().take(n_before));
        let seconds: f64 = before.map(|(_, seconds)| seconds).sum::<f64>() / self.0.n_running as f64;
        (seconds.ceil().max(1.0) as u64).min(MAX_RETRY_AFTER.as_secs())
    }

    /// How many run, and how many wait.
    pub(crate) fn len(&self) -> (usize, usize) {
        let state = self.lock();
        (state.running.len(), state.waiting.len())
    }

    /// Whether nobody is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn leave(&self, id: u64) {
        let mut state = self.lock();
        state.running.retain(|(other, _)| *other != id);
        state.waiting.retain(|(other, _)| *other != id);
        while state.running.len() < self.0.n_running
            && let Some(next) = state.waiting.pop_front()
        {
            state.running.push(next);
        }
        drop(state);
        self.0.changed.send_replace(());
    }
}

/// A place at the door.
pub(crate) struct Place {
    queue: Queue,
    id: u64,
}

impl Place {
    /// How many go first; nothing once it is this one's time.
    pub(crate) fn position(&self) -> Option<usize> {
        self.queue.lock().waiting.iter().position(|(id, _)| *id == self.id)
    }

    /// Waits until it is time; `moved` hears of every new position.
    pub(crate) async fn ready(&self, mut moved: impl FnMut(usize)) {
        let mut changed = self.queue.0.changed.subscribe();
        while let Some(position) = self.position() {
            moved(position);
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_and_the_rest_is_told_when() {
        let queue = Queue::new(2, 2);
        let mut places: Vec<_> = (0..4).map(|i| queue.enter(10.0 * f64::from(i)).unwrap()).collect();
        assert_eq!(queue.len(), (2, 2));
        let positions: Vec<_> = places.iter().map(Place::position).collect();
        assert_eq!(positions, [None, None, Some(0), Some(1)]);
        let Err(fault) = queue.enter(1.0) else { panic!("it was full") };
        assert_eq!((fault.code, fault.retry_after), (Code::QueueFull, Some(30)));
        // One that waits leaves at once, one that runs makes room.
        drop(places.remove(2));
        assert_eq!(places[2].position(), Some(0));
        drop(places.remove(0));
        assert_eq!((places[1].position(), queue.len()), (None, (2, 0)));
        places.clear();
        assert!(queue.is_empty());
    }

    #[test]
    fn whoever_waits_hears_of_it() {
        let queue = Queue::new(1, 8);
        let first = queue.enter(1.0).unwrap();
        let place = queue.enter(1.0).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut seen = Vec::new();
            let leaver = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(30));
                drop(first);
            });
            place.ready(|position| seen.push(position)).await;
            assert_eq!(seen, [0]);
            leaver.join().unwrap();
        });
    }
}
