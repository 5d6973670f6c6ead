//! Answers that are being given: one thread takes all of them a token further, step by step, so that weights are read once
//! for all where the model can do that ([`Together::tokens`]). Nobody's fault is another's: where a step fails, each takes it
//! alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

use super::draft::Draft;
use super::lane::{Class, Lane};
use super::metrics::{Counter, Metrics};
use super::pool::Borrowed;
use crate::kernels::threads;
use crate::model::Choice;
use crate::stream::{Engine, Finish, Next, Together};
use crate::{Error, ErrorKind, Result};

/// Where answers are handed in. Copies are the same place.
#[derive(Clone)]
pub(crate) struct Crew {
    join: Sender<Active>,
}

/// How to answer.
pub(crate) struct Manner {
    /// The answer so far.
    pub draft: Draft,
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

impl Said {
    /// Adds what was said next.
    fn add(&mut self, next: &Said) {
        self.text.push_str(&next.text);
        self.n_tokens = next.n_tokens;
        self.logprobs.extend_from_slice(&next.logprobs);
    }
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
    /// All of it, as far as it came, which may be gone on with where it was stopped on request.
    pub draft: Option<Draft>,
    /// Tokens and time of all of it, and tokens that were made now.
    pub n_tokens: usize,
    pub time: Duration,
    pub n_made: usize,
    pub result: Result<Finish>,
}

struct Active {
    borrowed: Borrowed,
    manner: Manner,
    began: Instant,
    /// Tokens that there were when it began here, and whether nobody listens any more.
    n_before: usize,
    is_unheard: bool,
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
        let together = Together::new(&engine, Together::MOST_TOKENS)?;
        let mut steps = Steps { engine, metrics, together, answers: Vec::new() };
        threads::builder("answers").spawn(move || steps.run(&lane, &joined))?;
        Ok(Crew { join })
    }

    /// Answers from what `borrowed` has read; waits for the end.
    pub(crate) fn answer(&self, borrowed: Borrowed, manner: Manner) -> Answered {
        let (done, over) = sync_channel(1);
        let active = Active {
            borrowed,
            began: Instant::now(),
            n_before: manner.draft.n_tokens,
            is_unheard: false,
            manner,
            done,
            next: None,
        };
        let lost = || Answered {
            borrowed: None,
            draft: None,
            n_tokens: 0,
            time: Duration::ZERO,
            n_made: 0,
            result: Err(Error::new(ErrorKind::Io, "the thread that answers is gone")),
        };
        match self.join.send(active) {
            Ok(()) => over.recv().unwrap_or_else(|_| lost()),
            Err(_) => lost(),
        }
    }
}

/// What the thread works with.
struct Steps {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    together: Together,
    answers: Vec<Active>,
}

impl Steps {
    /// Takes all answers a token further, for as long as there are any.
    fn run(&mut self, lane: &Lane, joined: &Receiver<Active>) {
        loop {
            let Ok(first) = joined.recv() else { return };
            self.answers.push(first);
            let mut turn = lane.turn(Class::Decode);
            while !self.answers.is_empty() {
                loop {
                    match joined.try_recv() {
                        Ok(active) => self.answers.push(active),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return,
                    }
                }
                self.step();
                if let Some(message) = self.engine.text.warning() {
                    eprintln!("warning: {message}");
                }
                turn.pass();
            }
        }
    }

    /// One token for each.
    fn step(&mut self) {
        let Steps { engine, metrics, together, answers } = self;
        let mut chosen: Vec<(&mut Active, After)> = answers.iter_mut().map(|active| (active, None)).collect();
        threads::for_chunks(&mut chosen, 1, |_, one| {
            one.iter_mut().for_each(|(active, after)| *after = caught(metrics, || active.choose(engine)));
        });
        let chosen = chosen.into_iter().map(|(_, after)| after).collect();
        end(answers, chosen);
        if answers.is_empty() {
            return;
        }
        metrics.add(Counter::AnswerSteps, 1);
        let n_past: Vec<usize> = answers.iter().map(|active| active.borrowed.session.n_past()).collect();
        let mut next: Vec<Next<'_>> = answers.iter_mut().filter_map(Active::next).collect();
        let done = match caught(metrics, || together.tokens(&mut next)) {
            Some(Ok(())) => return,
            done if next.len() == 1 => vec![done.map(|done| done.map(|()| None))],
            // One of them spoiled the step for all: alone, each shows whether it is the one.
            _ => {
                let each = answers.iter_mut().zip(n_past);
                each.map(|(active, n_past)| active.alone(n_past, metrics, together)).collect()
            }
        };
        end(answers, done);
    }
}

/// What an answer has to say after half a step: nothing where it goes on, the end, an error, or that a fault of the program
/// took it.
type After = Option<Result<Option<Finish>>>;

/// Ends the answers that are over.
fn end(answers: &mut Vec<Active>, after: Vec<After>) {
    for (i, after) in after.into_iter().enumerate().rev() {
        match after.map(Result::transpose) {
            Some(None) => {}
            over => answers.remove(i).end(over.flatten()),
        }
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
        if let Some(finish) = self.manner.draft.finish {
            return Ok(Some(finish));
        }
        // Between steps: what is there now can be gone on with.
        if self.is_unheard || self.manner.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
        }
        let draft = &mut self.manner.draft;
        if draft.n_tokens == draft.n_predict || Instant::now() > self.manner.until {
            return Ok(Some(Finish::Length));
        }
        if draft.n_tokens == 0 {
            // Another sampler may need what the one before did not.
            self.borrowed.session.complete_logits()?;
        }
        let choice = self.borrowed.session.context().choice();
        let empty = || Error::bad_input("there is nothing to answer: the prompt is empty");
        let (id, log) = match choice.ok_or_else(empty)? {
            Choice::Logits(logits) => {
                let id = draft.sampler.sample(logits)?;
                (id, draft.n_logprobs.map(|n| logprobs(logits, id, n)))
            }
            Choice::Top(top) => (draft.sampler.sample_top(top)?, None),
        };
        if engine.tokenizer.is_stop(id) && !draft.ignore_eos {
            return Ok(Some(Finish::Stop));
        }
        self.borrowed.session.look()?;
        draft.sampler.accept(id);
        draft.n_tokens += 1;
        draft.logprobs.extend(log);
        let text = draft.decoder.push(&engine.tokenizer, id);
        let (text, is_stopped) = draft.stops.push(&text);
        let is_last = draft.n_tokens == draft.n_predict;
        self.is_unheard |= !text.is_empty() && !self.say(text);
        let is_full = self.borrowed.session.n_past() >= self.borrowed.session.n_ctx();
        self.next = Some(id);
        Ok(match (is_stopped, is_full || is_last) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        })
    }

    /// The token that was chosen, to be read.
    fn next(&mut self) -> Option<Next<'_>> {
        // All logits, where somebody wants to know how likely tokens were.
        let draft = &self.manner.draft;
        let n_top = if draft.n_logprobs.is_some() { 0 } else { draft.sampler.n_top().unwrap_or(0) };
        self.next.map(|id| Next { session: &mut self.borrowed.session, id, n_top })
    }

    /// Reads the token after a step that failed, unless it was read: `n_past` tokens were there before.
    fn alone(&mut self, n_past: usize, metrics: &Metrics, together: &mut Together) -> After {
        let session = &mut self.borrowed.session;
        if session.n_past() > n_past {
            return Some(Ok(None));
        }
        if !session.take_back(n_past) {
            return Some(Err(Error::new(ErrorKind::Io, "a step failed, and what was read went with it")));
        }
        let mut next = self.next()?;
        caught(metrics, || together.tokens(std::slice::from_mut(&mut next))).map(|done| done.map(|()| None))
    }

    fn say(&mut self, text: String) -> bool {
        let draft = &mut self.manner.draft;
        let logprobs = std::mem::take(&mut draft.logprobs);
        let said = Said { text, n_tokens: draft.n_tokens, logprobs };
        draft.said.add(&said);
        (self.manner.say)(said)
    }

    /// Gives the conversation back, unless a fault of the program (no result) left it in a state that nobody knows.
    fn end(mut self, result: Option<Result<Finish>>) {
        let draft = &mut self.manner.draft;
        if let Some(Ok(finish)) = &result {
            draft.finish = Some(*finish);
            // A stop string that came was dropped; what is held of one that did not come is text.
            let rest = draft.decoder.finish();
            let (mut text, _) = draft.stops.push(&rest);
            text.push_str(&draft.stops.finish());
            // Tokens without text have likelihoods, too.
            if !text.is_empty() || !draft.logprobs.is_empty() {
                self.say(text);
            }
        }
        let Active { borrowed, manner: Manner { mut draft, .. }, began, n_before, done, .. } = self;
        draft.time += began.elapsed();
        let (n_tokens, time) = (draft.n_tokens, draft.time);
        let borrowed = result.is_some().then_some(borrowed);
        // Of a step that failed nobody knows how far it came.
        let stands =
            matches!(&result, Some(Ok(_))) || matches!(&result, Some(Err(err)) if err.kind() == ErrorKind::Cancelled);
        let draft = stands.then_some(draft);
        let result = result.unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "a fault of the program")));
        // Whoever waits for it has a thread of its own.
        let _ = done.send(Answered { borrowed, draft, n_tokens, time, n_made: n_tokens - n_before, result });
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
    use crate::gguf::{GgmlType, Gguf};
    use crate::stream::{Events, Prompt, Session, SessionOptions, Unit};
    use crate::text::{Sampler, SamplerOptions, StopStrings};

    const N: usize = 60;

    /// Answers of the embedded model to words of their own.
    struct Answers {
        engine: Arc<Engine>,
        crew: Crew,
        metrics: Arc<Metrics>,
    }

    impl Answers {
        fn new() -> Answers {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/symbols/symbols.gguf");
            let engine = Arc::new(Engine::from_files(Arc::new(Gguf::open(&path).unwrap()), None).unwrap());
            let metrics = Arc::new(Metrics::default());
            let crew = Crew::start(engine.clone(), Lane::default(), metrics.clone()).unwrap();
            Answers { engine, crew, metrics }
        }

        /// The answer to question `i`; `say` gets what [`Manner::say`] gets, and the flag that ends it.
        fn to(&self, i: u32, say: impl Fn(&Said, &AtomicBool) -> bool + Send + 'static) -> (String, Answered) {
            let ty = GgmlType::Q8_0.into();
            let options = SessionOptions { n_ctx: 128, n_batch: 64, type_k: ty, type_v: ty, temporal_scale: None };
            let mut session = Session::new(&self.engine, options).unwrap();
            let units = (0..5 + i).map(|k| Unit::Token(7 * i + k)).collect();
            let mut prompt = Prompt { units, images: Vec::new(), videos: Vec::new() };
            session.feed(&mut prompt, &mut Events::new(&mut |_| {}, &AtomicBool::new(false))).unwrap();
            let (cancel, (heard, hear)) = (Arc::new(AtomicBool::new(false)), channel());
            let flag = cancel.clone();
            // Answers are text to the last token: of a token without text nothing would be said.
            let tokenizer = &self.engine.tokenizer;
            let is_silent = |id: &u32| !tokenizer.is_ordinary(*id) || !tokenizer.token_bytes(*id).is_ascii();
            let logit_bias = (0..tokenizer.n_vocab() as u32).filter(is_silent).map(|id| (id, -1e3)).collect();
            let sampler = Sampler::new(SamplerOptions { logit_bias, ..SamplerOptions::default() }).unwrap();
            let manner = Manner {
                draft: Draft { ignore_eos: true, ..Draft::new(sampler, N, StopStrings::new(Vec::new())) },
                until: Instant::now() + Duration::from_secs(600),
                cancel,
                say: Box::new(move |said| {
                    let goes_on = say(&said, &flag);
                    heard.send(said.text).is_ok() && goes_on
                }),
            };
            let answered = self.crew.answer(Borrowed::of(session), manner);
            (hear.try_iter().collect(), answered)
        }
    }

    #[test]
    fn answers_take_their_steps_together_and_who_leaves_or_fails_is_alone() {
        let answers = &Answers::new();
        let calm = |i: u32| answers.to(i, |_, _| true);
        let alone: Vec<String> = (0..5).map(|i| calm(i).0).collect();
        let [to_stop, to_leave, to_break] = [5, 6, 7];
        let before = answers.metrics.count(Counter::AnswerSteps);
        std::thread::scope(|scope| {
            let steady: Vec<_> = (0..5).map(|i| scope.spawn(move || calm(i))).collect();
            // One is told to stop at a token and says no other.
            let stopped = scope.spawn(|| {
                answers.to(to_stop, |said, cancel| {
                    cancel.store(said.n_tokens >= 20, Ordering::Relaxed);
                    true
                })
            });
            // Of one nobody listens any more, and one meets a fault of the program.
            let left = scope.spawn(|| answers.to(to_leave, |said, _| said.n_tokens < 30));
            let broken = scope.spawn(|| {
                answers.to(to_break, |said, _| {
                    assert!(said.n_tokens < 10, "on purpose");
                    true
                })
            });
            let (_, stopped) = stopped.join().unwrap();
            assert!((20..=22).contains(&stopped.n_tokens), "{} tokens", stopped.n_tokens);
            assert_eq!(stopped.result.unwrap_err().kind(), ErrorKind::Cancelled);
            let (_, left) = left.join().unwrap();
            assert!((30..=32).contains(&left.n_tokens) && left.borrowed.is_some(), "{} tokens", left.n_tokens);
            let (_, broken) = broken.join().unwrap();
            assert!(broken.result.is_err() && broken.borrowed.is_none());
            for (i, steady) in steady.into_iter().enumerate() {
                let (text, answered) = steady.join().unwrap();
                assert_eq!((text, answered.n_tokens), (alone[i].clone(), N));
                assert_eq!(answered.result.unwrap(), Finish::Length);
            }
        });
        assert_eq!(answers.metrics.count(Counter::JobPanics), 1);
        let n_steps = answers.metrics.count(Counter::AnswerSteps) - before;
        assert!(n_steps < 3 * N as u64, "{n_steps} steps for some {} tokens", 6 * N);
    }

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
