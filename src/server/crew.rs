//! Answers that are being given: one thread takes all of them a token further, step by step, so that weights are read once
//! for all where the model can do that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

use super::lane::{Class, Lane};
use super::metrics::{Counter, Metrics};
use super::pool::Borrowed;
use crate::kernels::threads;
use crate::model::Choice;
use crate::stream::{Engine, Finish};
use crate::text::{Sampler, StopStrings, StreamDecoder};
use crate::{Error, ErrorKind, Result};

/// Where answers are handed in.
pub(crate) struct Crew {
    join: Sender<Active>,
}

/// How to answer.
pub(crate) struct Manner {
    pub sampler: Sampler,
    pub n_predict: usize,
    pub ignore_eos: bool,
    pub stops: StopStrings,
    /// Alternatives whose log probabilities are told; nothing: none are.
    pub n_logprobs: Option<usize>,
    pub until: Instant,
    pub cancel: Arc<AtomicBool>,
    /// Gets text as it comes; says whether somebody still listens.
    pub say: Box<dyn FnMut(Said) -> bool + Send>,
}

/// What an answer grew by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub text: String,
    /// Tokens so far.
    pub n_tokens: usize,
    pub logprobs: Vec<TokenLog>,
}

/// A token and how likely it was.
#[derive(Debug, Clone)]
pub(crate) struct TokenLog {
    pub id: u32,
    pub logprob: f32,
    /// The likeliest, and how likely they were.
    pub top: Vec<(u32, f32)>,
}

/// An answer that is over.
pub(crate) struct Answered {
    /// The conversation, unless a fault of the program took it.
    pub borrowed: Option<Borrowed>,
    pub n_tokens: usize,
    pub time: Duration,
    pub result: Result<Finish>,
}

struct Active {
    borrowed: Borrowed,
    manner: Manner,
    decoder: StreamDecoder,
    n_tokens: usize,
    began: Instant,
    logprobs: Vec<TokenLog>,
    done: SyncSender<Answered>,
    /// The token that was chosen and is fed next.
    next: Option<u32>,
}

impl Crew {
    /// Starts the thread.
    ///
    /// # Errors
    /// A thread that the system refuses.
    pub(crate) fn start(engine: Arc<Engine>, lane: Lane, metrics: Arc<Metrics>) -> Result<Crew> {
        let (join, joined) = channel();
        threads::builder("answers").spawn(move || run(&engine, &lane, &metrics, &joined))?;
        Ok(Crew { join })
    }

    /// Answers from what `borrowed` has read; waits for the end.
    pub(crate) fn answer(&self, borrowed: Borrowed, manner: Manner) -> Answered {
        let (done, over) = sync_channel(1);
        let active = Active {
            borrowed,
            manner,
            decoder: StreamDecoder::new(),
            n_tokens: 0,
            began: Instant::now(),
            logprobs: Vec::new(),
            done,
            next: None,
        };
        let lost = || Answered {
            borrowed: None,
            n_tokens: 0,
            time: Duration::ZERO,
            result: Err(Error::new(ErrorKind::Io, "the thread that answers is gone")),
        };
        match self.join.send(active) {
            Ok(()) => over.recv().unwrap_or_else(|_| lost()),
            Err(_) => lost(),
        }
    }
}

/// Takes all answers a token further, for as long as there are any.
fn run(engine: &Engine, lane: &Lane, metrics: &Metrics, joined: &Receiver<Active>) {
    let mut answers: Vec<Active> = Vec::new();
    loop {
        let Ok(first) = joined.recv() else { return };
        answers.push(first);
        let mut turn = lane.turn(Class::Decode);
        while !answers.is_empty() {
            loop {
                match joined.try_recv() {
                    Ok(active) => answers.push(active),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            step(engine, metrics, &mut answers);
            if let Some(message) = engine.text.warning() {
                eprintln!("warning: {message}");
            }
            turn.pass();
        }
    }
}

/// One token for each.
fn step(engine: &Engine, metrics: &Metrics, answers: &mut Vec<Active>) {
    let mut over = Vec::new();
    for (i, active) in answers.iter_mut().enumerate() {
        match caught(metrics, || active.choose(engine)) {
            Some(Ok(None)) => {}
            Some(Ok(Some(finish))) => over.push((i, Some(Ok(finish)))),
            Some(Err(err)) => over.push((i, Some(Err(err)))),
            None => over.push((i, None)),
        }
    }
    for (i, result) in over.into_iter().rev() {
        answers.remove(i).end(result);
    }
    let mut over = Vec::new();
    for (i, active) in answers.iter_mut().enumerate() {
        match caught(metrics, || active.feed()) {
            Some(Ok(())) => {}
            Some(Err(err)) => over.push((i, Some(Err(err)))),
            None => over.push((i, None)),
        }
    }
    for (i, result) in over.into_iter().rev() {
        answers.remove(i).end(result);
    }
}

/// A panic, which gives nothing, ends one answer and no other.
fn caught<T>(metrics: &Metrics, work: impl FnOnce() -> T) -> Option<T> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok();
    if done.is_none() {
        metrics.add(Counter::JobPanics, 1);
    }
    done
}

impl Active {
    /// Chooses the next token and says its text. Says why the answer is over, once it is.
    fn choose(&mut self, engine: &Engine) -> Result<Option<Finish>> {
        if self.manner.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        if self.n_tokens == self.manner.n_predict || Instant::now() > self.manner.until {
            return Ok(Some(Finish::Length));
        }
        if self.n_tokens == 0 {
            // Another sampler may need what the one before did not.
            self.borrowed.session.complete_logits()?;
        }
        let choice = self.borrowed.session.context().choice();
        let empty = || Error::bad_input("there is nothing to answer: the prompt is empty");
        let (id, log) = match choice.ok_or_else(empty)? {
            Choice::Logits(logits) => {
                let id = self.manner.sampler.sample(logits)?;
                (id, self.manner.n_logprobs.map(|n| logprobs(logits, id, n)))
            }
            Choice::Top(top) => (self.manner.sampler.sample_top(top)?, None),
        };
        if engine.tokenizer.is_stop(id) && !self.manner.ignore_eos {
            return Ok(Some(Finish::Stop));
        }
        self.manner.sampler.accept(id);
        self.n_tokens += 1;
        self.logprobs.extend(log);
        let text = self.decoder.push(&engine.tokenizer, id);
        let (text, is_stopped) = self.manner.stops.push(&text);
        if !text.is_empty() && !self.say(text) {
            return Err(Error::new(ErrorKind::Cancelled, "nobody listens any more"));
        }
        let is_full = self.borrowed.session.n_past() >= self.borrowed.session.n_ctx();
        self.next = Some(id);
        Ok(match (is_stopped, is_full || self.n_tokens == self.manner.n_predict) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        })
    }

    /// Reads the token that was chosen.
    fn feed(&mut self) -> Result<()> {
        // All logits, where somebody wants to know how likely tokens were.
        let n_top = if self.manner.n_logprobs.is_some() { 0 } else { self.manner.sampler.n_top().unwrap_or(0) };
        self.next.take().map_or(Ok(()), |id| self.borrowed.session.step(id, n_top))
    }

    fn say(&mut self, text: String) -> bool {
        let logprobs = std::mem::take(&mut self.logprobs);
        (self.manner.say)(Said { text, n_tokens: self.n_tokens, logprobs })
    }

    /// Gives the conversation back, unless a fault of the program (no result) left it in a state that nobody knows.
    fn end(mut self, result: Option<Result<Finish>>) {
        if matches!(result, Some(Ok(_))) {
            // A stop string that came was dropped; what is held of one that did not come is text.
            let rest = self.decoder.finish();
            let (mut text, _) = self.manner.stops.push(&rest);
            text.push_str(&self.manner.stops.finish());
            // Tokens without text have likelihoods, too.
            if !text.is_empty() || !self.logprobs.is_empty() {
                self.say(text);
            }
        }
        let Active { borrowed, n_tokens, began, done, .. } = self;
        let borrowed = result.is_some().then_some(borrowed);
        let result = result.unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "a fault of the program")));
        // Whoever waits for it has a thread of its own.
        let _ = done.send(Answered { borrowed, n_tokens, time: began.elapsed(), result });
    }
}

/// How likely token `id` and the `n` likeliest are, by all logits.
fn logprobs(logits: &[f32], id: u32, n: usize) -> TokenLog {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let log = |logit: f32| (f64::from(logit - most) - sum.ln()) as f32;
    let mut top: Vec<(u32, f32)> = Vec::new();
    for (id, logit) in (0u32..).zip(logits) {
        let at = top.partition_point(|(_, other)| other >= logit);
        if at < n {
            top.insert(at, (id, *logit));
            top.truncate(n);
        }
    }
    top.iter_mut().for_each(|(_, logit)| *logit = log(*logit));
    TokenLog { id, logprob: log(logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY)), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let log = logprobs(&[1.0, 3.0, 2.0, 3.0], 2, 3);
        let sum = [1f64, 3.0, 2.0, 3.0].iter().map(|l| l.exp()).sum::<f64>().ln();
        assert!((f64::from(log.logprob) - (2.0 - sum)).abs() < 1e-6);
        assert_eq!(log.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        assert!((f64::from(log.top[0].1) - (3.0 - sum)).abs() < 1e-6);
        assert!(logprobs(&[0.0], 0, 0).top.is_empty());
    }
}
