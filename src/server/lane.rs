//! The one lane of compute: the thread pool is one, so one job computes at a time, and hands over after every step.
//!
//! Jobs run on threads of their own and hold a [`Turn`] while they compute. Answers that run go first, then prompts that
//! somebody waits for, then films that are read into takes. Nobody starves: a class that has waited for a while, measured in
//! its own steps, gets one in between.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a job does, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The next token of answers.
    Decode,
    /// The prompt of a question.
    Prefill,
    /// A video on its way into a take.
    Reading,
}

const CLASSES: usize = 3;
/// A class waits at most so many times as long as its own step took: what it gets of the lane at least is the inverse.
const PATIENCE: [u32; CLASSES] = [0, 4, 8];

/// The lane. Copies are the same one.
#[derive(Clone, Default)]
pub(crate) struct Lane(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whose turn it is.
    holder: Option<u64>,
    next_ticket: u64,
    /// Who waits, and since when.
    waiting: [VecDeque<(u64, Instant)>; CLASSES],
    /// How long a class' last step took.
    step: [Duration; CLASSES],
}

impl State {
    /// Gives a turn that nobody has to the most urgent class, unless another has waited too long. It is decided here, once,
    /// and not by those who wait: the answer depends on the time, and they would not agree.
    fn assign(&mut self) {
        if self.holder.is_some() {
            return;
        }
        let is_overdue = |class: &usize| {
            // A class whose steps are unknown waits like one of a moment.
            let step = self.step[*class].max(Duration::from_millis(20));
            self.waiting[*class].front().is_some_and(|(_, since)| since.elapsed() > step * PATIENCE[*class])
        };
        let overdue = (1..CLASSES).rev().find(is_overdue);
        let class = overdue.or_else(|| (0..CLASSES).find(|class| !self.waiting[*class].is_empty()));
        self.holder = class.and_then(|class| self.waiting[class].pop_front()).map(|(ticket, _)| ticket);
    }
}

impl Lane {
    /// Waits for a turn.
    pub(crate) fn turn(&self, class: Class) -> Turn {
        let began = self.wait(class);
        Turn { lane: self.clone(), class, began }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is half done in it: every change is one statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, class: Class) -> Instant {
        self.wait_from(self.lock(), class)
    }

    /// Gives the turn back and waits for the next one: at once, so that nobody less urgent slips in between.
    fn pass(&self, class: Class, began: Instant) -> Instant {
        let mut state = self.lock();
        state.holder = None;
        state.step[class as usize] = began.elapsed();
        self.wait_from(state, class)
    }

    fn wait_from(&self, mut state: MutexGuard<'_, State>, class: Class) -> Instant {
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting[class as usize].push_back((ticket, Instant::now()));
        state.assign();
        self.0.changed.notify_all();
        while state.holder != Some(ticket) {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Instant::now()
    }

    fn release(&self, class: Class, began: Instant) {
        let mut state = self.lock();
        state.holder = None;
        state.step[class as usize] = began.elapsed();
        state.assign();
        self.0.changed.notify_all();
    }

    /// Jobs that wait for a turn.
    #[cfg(test)]
    pub(crate) fn n_waiting(&self) -> usize {
        self.lock().waiting.iter().map(VecDeque::len).sum()
    }
}

/// The right to compute, until it is dropped.
pub(crate) struct Turn {
    lane: Lane,
    class: Class,
    began: Instant,
}

impl Turn {
    /// A step is over: whoever is more urgent goes first, and then this job goes on.
    pub(crate) fn pass(&mut self) {
        self.began = self.lane.pass(self.class, self.began);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.lane.release(self.class, self.began);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    /// Waits until so many wait.
    fn until(lane: &Lane, n: usize) {
        while lane.n_waiting() < n {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_urgent_go_first_and_one_at_a_time() {
        let lane = Lane::default();
        let (order, inside) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let first = lane.turn(Class::Decode);
        let threads: Vec<_> = [Class::Reading, Class::Prefill, Class::Decode, Class::Decode]
            .into_iter()
            .enumerate()
            .map(|(i, class)| {
                let (lane, order, inside) = (lane.clone(), order.clone(), inside.clone());
                let thread = thread::spawn({
                    let lane = lane.clone();
                    move || {
                        let _turn = lane.turn(class);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        order.lock().unwrap().push(class);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
                until(&lane, i + 1);
                thread
            })
            .collect();
        drop(first);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*order.lock().unwrap(), [Class::Decode, Class::Decode, Class::Prefill, Class::Reading]);
    }

    #[test]
    fn a_film_goes_on_beside_answers_and_an_answer_waits_for_a_step() {
        let lane = Lane::default();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let steps = Arc::new(AtomicUsize::new(0));
        let film = thread::spawn({
            let (lane, stop, steps) = (lane.clone(), stop.clone(), steps.clone());
            move || {
                let mut turn = lane.turn(Class::Reading);
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                    steps.fetch_add(1, Ordering::Relaxed);
                    turn.pass();
                }
            }
        });
        thread::sleep(Duration::from_millis(30));
        let (mut worst, before) = (Duration::ZERO, steps.load(Ordering::Relaxed));
        let mut turn = lane.turn(Class::Decode);
        let n_tokens = 400;
        for _ in 0..n_tokens {
            thread::sleep(Duration::from_millis(1));
            let asked = Instant::now();
            turn.pass();
            worst = worst.max(asked.elapsed());
        }
        drop(turn);
        let n_steps = steps.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        film.join().unwrap();
        assert!(n_steps >= 1, "the film starved");
        assert!(n_steps < n_tokens / 4, "the film took {n_steps} steps beside {n_tokens} tokens");
        assert!(worst < Duration::from_millis(500), "{worst:?}");
    }

    /// Choices depend on the time: whoever waits must never be left waiting by two answers to one question.
    #[test]
    fn nobody_is_left_waiting() {
        let lane = Lane::default();
        let n_steps = Arc::new(AtomicUsize::new(0));
        let classes = [Class::Decode, Class::Prefill, Class::Prefill, Class::Prefill, Class::Reading];
        let threads: Vec<_> = classes
            .into_iter()
            .map(|class| {
                let (lane, n_steps) = (lane.clone(), n_steps.clone());
                thread::spawn(move || {
                    for i in 0..300u64 {
                        let mut turn = lane.turn(class);
                        thread::sleep(Duration::from_micros(i * 7 % 900));
                        turn.pass();
                        n_steps.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(60);
        while n_steps.load(Ordering::Relaxed) < 1500 {
            assert!(Instant::now() < until, "all wait for each other after {n_steps:?} steps");
            thread::sleep(Duration::from_millis(10));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_panic_gives_the_turn_back() {
        let lane = Lane::default();
        let other = lane.clone();
        assert!(
            thread::spawn(move || {
                let _turn = other.turn(Class::Prefill);
                panic!("on purpose")
            })
            .join()
            .is_err()
        );
        drop(lane.turn(Class::Decode));
    }
}
