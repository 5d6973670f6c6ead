//! Clients that leave and come back. A prompt that is more than half read is read on for a while without anybody who listens, and
//! the same question waits for that instead of beginning beside it; an answer that was begun stops within a step and is put down
//! beside its conversation ([`Draft`](super::draft::Draft)), so that the same question hears its beginning at once and goes on
//! with the next token. What is the same follows from content: tokens, media, the take, and all that an answer depends on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::desk::Desk;
use super::job::{Progress, Stage};
use super::plan::Planned;
use super::wire::ChatRequest;

/// What a prompt is, and what an answer to it is.
pub(crate) type Wish = [u8; 32];

/// What is asked, by content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// The prompt: all that reading it depends on.
    pub prompt: Wish,
    /// The prompt and all that the answer depends on; none where every answer is a draw of its own.
    pub answer: Option<Wish>,
}

/// All that an answer depends on beside its prompt, in words; none where it depends on chance.
pub(crate) fn manner(desk: &Desk, request: &ChatRequest) -> Option<String> {
    let mut sampling = desk.sampler_options(&request.sampling);
    if sampling.temp <= 0.0 {
        sampling.seed = 0;
    } else if request.sampling.seed.is_none() && desk.setup.sampling.seed == 0 {
        return None;
    }
    let ChatRequest { stop, logprobs, top_logprobs, ignore_eos, form, tools, own, .. } = request;
    // Whoever wants to know where it looked goes on with none of which that was not found out.
    let (logs, looks) = (logprobs.then_some(top_logprobs), own.looks);
    Some(format!("{sampling:?} {stop:?} {logs:?} {ignore_eos} {form:?} {tools:?} {looks}"))
}

impl Asked {
    /// What a request asks that is planned, and answered in this [`manner`].
    pub(crate) fn new(manner: Option<&str>, planned: &Planned) -> Asked {
        let mut hash = Sha256::new();
        hash.update(planned.prompt.digest());
        if let Some(take) = &planned.take {
            hash.update(take.path().as_os_str().as_encoded_bytes());
        }
        let prompt: Wish = hash.finalize().into();
        let answer = manner.map(|manner| {
            let hash = Sha256::new().chain_update(prompt).chain_update((planned.n_predict as u64).to_le_bytes());
            hash.chain_update(manner).finalize().into()
        });
        Asked { prompt, answer }
    }
}

/// Questions that are worked on. Copies are the same list.
#[derive(Clone, Default)]
pub(crate) struct Attempts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<Vec<Arc<Attempt>>>,
    is_closed: AtomicBool,
}

/// One of them.
struct Attempt {
    prompt: Wish,
    cancel: Arc<AtomicBool>,
    progress: watch::Receiver<Progress>,
    listeners: Mutex<Listeners>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Listeners {
    /// Its own client, and those who ask the same again.
    n: usize,
    /// Times that somebody came or left.
    n_changes: u64,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Attempt>>> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question begins, which `cancel` ends, and whose client listens.
    pub(crate) fn begin(
        &self,
        prompt: Wish,
        cancel: Arc<AtomicBool>,
        progress: watch::Receiver<Progress>,
    ) -> (Working, Listening) {
        let listeners = Mutex::new(Listeners { n: 1, n_changes: 0 });
        let attempt = Arc::new(Attempt { prompt, cancel, progress, listeners });
        let listening = Listening { attempts: self.clone(), attempt: attempt.clone(), linger: Duration::ZERO };
        self.lock().push(attempt.clone());
        (Working { attempts: self.clone(), attempt }, listening)
    }

    /// Listens to what is still done for somebody who asked the same and left; for `linger` it is then done for this one, too.
    pub(crate) fn follow(&self, prompt: &Wish, linger: Duration) -> Option<Listening> {
        self.lock().iter().filter(|attempt| attempt.prompt == *prompt).find_map(|attempt| {
            let mut listeners = attempt.lock();
            (listeners.n == 0).then(|| {
                *listeners = Listeners { n: 1, n_changes: listeners.n_changes + 1 };
                Listening { attempts: self.clone(), attempt: attempt.clone(), linger }
            })
        })
    }

    /// How many are worked on without anybody who listens.
    pub(crate) fn n_lingering(&self) -> usize {
        self.lock().iter().filter(|attempt| attempt.lock().n == 0).count()
    }

    /// From now on nothing is done for those who left.
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
        self.lock().iter().filter(|attempt| attempt.lock().n == 0).for_each(|attempt| attempt.stop());
    }
}

impl Attempt {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// Whether it reads, and more than half is read.
    fn is_worth_it(&self) -> bool {
        let progress = self.progress.borrow();
        let Progress { processed, total, .. } = *progress;
        progress.stage != Stage::Queued && processed < total && processed > total / 2
    }
}

/// A question that is worked on, until this is dropped.
pub(crate) struct Working {
    attempts: Attempts,
    attempt: Arc<Attempt>,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.attempts.lock().retain(|other| !Arc::ptr_eq(other, &self.attempt));
    }
}

/// Somebody who waits for what is worked on. When the last one leaves, it stops, at once or a little later.
pub(crate) struct Listening {
    attempts: Attempts,
    attempt: Arc<Attempt>,
    pub linger: Duration,
}

impl Listening {
    /// How it goes; closed once it is over.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.attempt.progress.clone()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let left = {
            let mut listeners = self.attempt.lock();
            *listeners = Listeners { n: listeners.n.saturating_sub(1), n_changes: listeners.n_changes + 1 };
            *listeners
        };
        if left.n > 0 {
            return;
        }
        let stays = !self.linger.is_zero() && !self.attempts.0.is_closed.load(Ordering::Relaxed);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if stays && self.attempt.is_worth_it() => {
                let (attempt, linger) = (Arc::downgrade(&self.attempt), self.linger);
                runtime.spawn(async move {
                    tokio::time::sleep(linger).await;
                    // Nobody came meanwhile, even if to leave again.
                    if let Some(attempt) = attempt.upgrade().filter(|attempt| *attempt.lock() == left) {
                        attempt.stop();
                    }
                });
            }
            _ => self.attempt.stop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(processed: usize) -> Progress {
        Progress { stage: Stage::Prefill, total: 100, processed, ..Progress::default() }
    }

    #[tokio::test]
    async fn more_than_half_is_read_on_for_a_while_and_for_whoever_comes_back() {
        let (linger, attempts) = (Duration::from_millis(400), Attempts::default());
        let begin = |processed: usize| {
            let (show, shown) = watch::channel(progress(processed));
            let cancel = Arc::new(AtomicBool::new(false));
            let (working, mut listening) = attempts.begin([7; 32], cancel.clone(), shown);
            listening.linger = linger;
            (show, cancel, working, listening)
        };
        let stopped = |cancel: &AtomicBool| cancel.load(Ordering::Relaxed);
        // Half, all, nothing: it stops at once.
        for processed in [0, 50, 100] {
            let (_show, cancel, _working, listening) = begin(processed);
            assert!(attempts.follow(&[7; 32], linger).is_none(), "its client is there");
            drop(listening);
            assert!(stopped(&cancel), "{processed}");
        }
        // More than half: a while later, unless somebody asks the same.
        let (_show, cancel, working, listening) = begin(51);
        drop(listening);
        assert!(!stopped(&cancel) && attempts.n_lingering() == 1);
        assert!(attempts.follow(&[8; 32], linger).is_none());
        tokio::time::sleep(linger / 2).await;
        let again = attempts.follow(&[7; 32], linger).unwrap();
        tokio::time::sleep(linger * 3).await;
        assert!(!stopped(&cancel) && attempts.n_lingering() == 0);
        drop(again);
        tokio::time::sleep(linger / 2).await;
        assert!(!stopped(&cancel));
        tokio::time::sleep(linger).await;
        assert!(stopped(&cancel));
        drop(working);
        assert!(attempts.follow(&[7; 32], linger).is_none());
        // Nothing of it when the server ends.
        let (_show, cancel, _working, listening) = begin(90);
        drop(listening);
        attempts.close();
        assert!(stopped(&cancel));
    }
}
