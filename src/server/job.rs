//! One question on its way: it waits, reads its prompt, is answered. It runs on a thread of its own, and nothing of it depends
//! on how fast its client reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::crew::{Answered, Manner, Said};
use super::desk::Desk;
use super::draft::{Draft, Kept};
use super::keep::Beginning;
use super::lane::Class;
use super::linger::{Asked, Listening};
use super::metrics::Counter;
use super::plan::Planned;
use super::pool::Need;
use super::queue::Place;
use super::wire::{ChatRequest, Code, Fault};
use crate::kernels::threads;
use crate::stream::{Event, Events, Finish, Prompt, Session, Tally};
use crate::text::{Sampler, StopStrings};
use crate::{Error, ErrorKind};

/// What a job says. Text is never dropped; it is bounded by the length of the answer.
#[derive(Debug)]
pub(super) enum Word {
    Said(Said),
    Done(Box<Done>),
    Failed(Fault),
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    pub stage: Stage,
    pub queue_position: Option<usize>,
    /// Tokens of the prompt: all, those that were in the cache, those that are in now.
    pub total: usize,
    pub cache: usize,
    pub processed: usize,
    pub frames_done: usize,
    pub frames_total: usize,
    pub time_ms: u64,
    pub eta_ms: Option<u64>,
}

/// What a job does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Queued,
    Decoding,
    Encoding,
    Prefill,
}

impl Progress {
    /// As clients see it.
    pub(crate) fn to_json(&self) -> Value {
        let stage = match self.stage {
            Stage::Queued => "queued",
            Stage::Decoding => "decoding",
            Stage::Encoding => "encoding",
            Stage::Prefill => "prefill",
        };
        json!({
            "total": self.total, "cache": self.cache, "processed": self.processed, "time_ms": self.time_ms, "stage": stage,
            "queue_position": self.queue_position, "frames_done": self.frames_done, "frames_total": self.frames_total,
            "eta_ms": self.eta_ms,
        })
    }

    /// Takes an event in, `time` after the work began.
    pub(crate) fn update(&mut self, event: &Event, time: Duration) {
        match event {
            Event::PromptStart { n_tokens, cached } => {
                (self.total, self.cache, self.processed) = (*n_tokens, *cached, *cached);
                self.stage =
                    if self.frames_total > 0 && *cached < *n_tokens { Stage::Decoding } else { Stage::Prefill };
            }
            Event::Encoding { n_done, n_total, .. } | Event::Encoded { n_done, n_total, .. } => {
                self.stage = Stage::Encoding;
                (self.frames_done, self.frames_total) = (2 * n_done, 2 * n_total);
            }
            Event::Prefilled { n_done, n_total } => {
                self.stage = Stage::Prefill;
                // A retry begins where the one before ended: never backwards.
                self.processed = self.processed.max(*n_done);
                self.total = *n_total;
            }
            _ => {}
        }
        self.time_ms = time.as_millis() as u64;
        let done = self.processed.saturating_sub(self.cache);
        let left = self.total.saturating_sub(self.processed);
        self.eta_ms = (done > 0).then(|| (time.as_millis() as f64 * left as f64 / done as f64) as u64);
    }
}

/// An answer that is whole.
#[derive(Debug)]
pub(crate) struct Done {
    pub finish: Finish,
    pub n_prompt: usize,
    pub n_cached: usize,
    pub n_tokens: usize,
    pub media: Value,
    /// Where the answer looked, for who asked.
    pub looked: Option<Value>,
    pub warnings: Vec<String>,
    pub is_reordered: bool,
    pub queue_time: Duration,
    pub prompt_time: Duration,
    /// Of the prompt: waiting for frames to be decoded, and in the vision tower.
    pub media_time: (Duration, Duration),
    pub answer_time: Duration,
}

impl Done {
    /// llama.cpp's figures.
    pub(super) fn timings(&self) -> Value {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let rate = |n: usize, time: Duration| (n as f64 / time.as_secs_f64().max(1e-9) * 1e3).round() / 1e3;
        let n_read = self.n_prompt - self.n_cached;
        json!({
            "cache_n": self.n_cached, "prompt_n": n_read, "prompt_ms": ms(self.prompt_time),
            "prompt_per_second": rate(n_read, self.prompt_time), "predicted_n": self.n_tokens,
            "predicted_ms": ms(self.answer_time), "predicted_per_second": rate(self.n_tokens, self.answer_time),
            "queue_ms": ms(self.queue_time), "decode_ms": ms(self.media_time.0), "encode_ms": ms(self.media_time.1),
        })
    }

    /// OpenAI's.
    pub(super) fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.n_prompt, "completion_tokens": self.n_tokens, "total_tokens": self.n_prompt + self.n_tokens,
            "prompt_tokens_details": { "cached_tokens": self.n_cached },
        })
    }
}

/// The near end of a job: what it says. When this is dropped, nobody listens any more.
pub(super) struct Job {
    pub words: mpsc::UnboundedReceiver<Word>,
    pub progress: watch::Receiver<Progress>,
    listening: Listening,
    desk: Arc<Desk>,
    is_over: bool,
}

impl Job {
    /// The next word; nothing after the last.
    pub(super) async fn next(&mut self) -> Option<Word> {
        let word = self.words.recv().await;
        self.is_over |= !matches!(word, Some(Word::Said(_)));
        word
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_over {
            self.desk.metrics.add(Counter::Cancelled, 1);
            self.listening.linger = self.desk.setup.linger;
        }
    }
}

/// Begins a job: it waits for its turn at the door, then works on a thread of its own.
pub(super) fn begin(desk: &Arc<Desk>, request: ChatRequest, (planned, asked): (Planned, Asked), place: Place) -> Job {
    let (say, words) = mpsc::unbounded_channel();
    let (show, progress) = watch::channel(Progress { total: planned.n_prompt, ..Progress::default() });
    let cancel = Arc::new(AtomicBool::new(false));
    // What somebody else asked who left is waited for: it is not begun a second time beside it.
    let (keeps, linger) = (request.cache_prompt, desk.setup.linger);
    let follow = move |desk: &Desk| keeps.then(|| desk.attempts.follow(&asked.prompt, linger)).flatten();
    let mut ahead = follow(desk);
    let (working, listening) = desk.attempts.begin(asked.prompt, cancel.clone(), progress.clone());
    let job = Job { words, progress, listening, desk: desk.clone(), is_over: false };
    let desk = desk.clone();
    tokio::spawn(async move {
        let began = Instant::now();
        let waited = async {
            place.ready(|position| show.send_modify(|progress| progress.queue_position = Some(position + 1))).await;
            show.send_modify(|progress| progress.queue_position = None);
            ahead = ahead.take().or_else(|| follow(&desk));
            let Some(ahead) = ahead.take() else { return };
            desk.metrics.add(Counter::Resumed, 1);
            let mut progress = ahead.progress();
            loop {
                let now = progress.borrow_and_update().clone();
                show.send_replace(now);
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = waited => {}
            // A client that left while it waited leaves the queue, and disturbs nobody.
            () = say.closed() => return,
        }
        let queue_time = began.elapsed();
        let refused = say.clone();
        let work = move || {
            let (_place, _working) = (place, working);
            let work = Work {
                desk: &desk,
                say: &say,
                show: &show,
                cancel: &cancel,
                queue_time,
                is_late: AtomicBool::new(false),
            };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.run(&request, planned, &asked)));
            let word = match done {
                Ok(Ok(done)) => Word::Done(Box::new(done)),
                Ok(Err(err)) => Word::Failed(work.fault(&err)),
                Err(_) => {
                    desk.pool.lost();
                    desk.metrics.add(Counter::JobPanics, 1);
                    Word::Failed(Fault::new(Code::InternalError, "a fault of the program; its log says where"))
                }
            };
            let _ = say.send(word);
        };
        if let Err(err) = threads::builder("question").spawn(work) {
            eprintln!("error: {err}");
            let _ = refused.send(Word::Failed(Fault::new(Code::InternalError, "no thread can be had")));
        }
    });
    job
}

/// What reading a prompt came to.
#[derive(Default)]
struct Reading {
    n_cached: usize,
    tally: Tally,
    warnings: Vec<String>,
}

struct Work<'a> {
    desk: &'a Arc<Desk>,
    say: &'a mpsc::UnboundedSender<Word>,
    show: &'a watch::Sender<Progress>,
    cancel: &'a Arc<AtomicBool>,
    queue_time: Duration,
    /// It was stopped since it took too long.
    is_late: AtomicBool,
}

impl Work<'_> {
    fn fault(&self, err: &Error) -> Fault {
        if self.is_late.load(Ordering::Relaxed) {
            let message = "to read this takes longer than a request may take (--max-request); what was read stays, and the same request goes on there: for long videos make a take (POST /v1/takes)";
            return Fault::new(Code::VideoDoesNotFit, message).of("messages");
        }
        if !matches!(err.kind(), ErrorKind::Cancelled | ErrorKind::BadInput) {
            eprintln!("error: {err}");
        }
        match err.kind() {
            ErrorKind::Busy => Fault { code: Code::TooManyBytes, ..Fault::from_error(err) }.after(30),
            ErrorKind::Limit => Fault { code: Code::ContextLengthExceeded, ..Fault::from_error(err) },
            _ => Fault::from_error(err),
        }
    }

    /// Reads a prompt, as far as `until`; says meanwhile how it goes, by what was done since `began`.
    fn read(
        &self,
        session: &mut Session,
        prompt: &mut Prompt,
        read: &mut Reading,
        (began, until): (Instant, Instant),
    ) -> crate::Result<()> {
        let mut turn = self.desk.lane.turn(Class::Prefill);
        let n_frames: usize = prompt.media_in_order().iter().map(|plan| plan.frames.len()).sum();
        self.show.send_modify(|progress| progress.frames_total = n_frames);
        let mut sink = |event: Event| {
            self.show.send_modify(|progress| progress.update(&event, began.elapsed()));
            read.tally.see(&event);
            match event {
                Event::PromptStart { cached, .. } => read.n_cached = cached,
                Event::Warning { message, .. } => {
                    read.warnings.push(Fault::from_error(&Error::format(message)).message);
                }
                Event::Notice(message) => read.warnings.push(message),
                Event::Skipped { n_packets, .. } => read.warnings.push(format!("{n_packets} damaged packets skipped")),
                _ => {}
            }
        };
        // Before each step others go first, if they are more urgent.
        let mut pass = || {
            turn.pass();
            if Instant::now() > until {
                self.is_late.store(true, Ordering::Relaxed);
                self.cancel.store(true, Ordering::Relaxed);
            }
        };
        session.feed(prompt, &mut Events::new(&mut sink, self.cancel).with_turns(&mut pass))
    }

    fn run(&self, request: &ChatRequest, mut planned: Planned, asked: &Asked) -> crate::Result<Done> {
        let desk = self.desk;
        let began = Instant::now();
        let sampler = Sampler::new(desk.sampler_options(&request.sampling))?.guided(planned.guide.take());
        planned.prompt.tell_time(&desk.engine.tokenizer)?;
        {
            let _turn = desk.lane.turn(Class::Prefill);
            planned.prompt.load_pictures(self.cancel)?;
        }
        let wish = asked.answer.as_ref().filter(|_| request.cache_prompt);
        let (take, clean) = (planned.take.as_ref(), !request.cache_prompt);
        // A video at the beginning may have been read for somebody before.
        let beginning = match (take, desk.takes()) {
            (None, Ok(_)) if !clean => Beginning::of(desk, &planned),
            _ => None,
        };
        let seen = beginning.as_ref().and_then(|beginning| beginning.find(desk, &planned));
        // Nobody who waits for memory holds the lane.
        let need = Need {
            prompt: &planned.prompt,
            wish,
            take,
            seen: seen.as_ref(),
            clean,
            n_bytes: desk.memory.request_bytes(&planned.cost),
            cancel: self.cancel,
        };
        let mut borrowed = desk.pool.borrow(&desk.engine, &need)?;
        let draft = borrowed.draft.take();
        let until = began + desk.setup.max_request;
        borrowed.session.find_looks(request.own.looks);
        let mut read = Reading { n_cached: planned.n_prompt, ..Reading::default() };
        let fed = match &draft {
            None => self.read(&mut borrowed.session, &mut planned.prompt, &mut read, (began, until)),
            // It stands behind the whole prompt already.
            Some(_) => Ok(()),
        };
        borrowed.work = None;
        let prompt_time = began.elapsed();
        let Reading { n_cached, tally, warnings } = read;
        let is_watched = tally.encoded_pairs + tally.reused_pairs + tally.left_out_pairs > 0;
        borrowed.note_reading(beginning.as_ref(), if is_watched { prompt_time } else { Duration::ZERO });
        desk.metrics.frames(&tally);
        // What nobody heard waits for whoever asks the same.
        let keep = |draft| {
            let (linger, wish) = (desk.setup.linger, *wish?);
            (!linger.is_zero()).then(|| Kept { draft, wish, until: Instant::now() + linger })
        };
        // What was read stays: the same question goes on there. Nobody is answered who is not there any more.
        let heard = || match self.say.is_closed() {
            true => Err(Error::new(ErrorKind::Cancelled, "nobody listens any more")),
            false => Ok(()),
        };
        let is_read = fed.is_ok();
        if is_read {
            // Where something is left out it may be less than was counted.
            planned.n_prompt = planned.prompt.n_tokens().unwrap_or(planned.n_prompt);
        }
        if let Err(err) = fed.and_then(|()| heard()) {
            if let Some(beginning) = beginning.as_ref().filter(|_| is_read) {
                borrowed.note_seen(desk, &planned, beginning);
            }
            desk.pool.give_back(borrowed, draft.and_then(keep));
            return Err(err);
        }
        desk.metrics.add(Counter::PromptTokens, planned.n_prompt as u64);
        desk.metrics.add(Counter::CachedTokens, n_cached as u64);
        let say = self.say.clone();
        let metrics = desk.metrics.clone();
        let (came, mut is_first) = (began - self.queue_time.min(began.elapsed()), true);
        let draft = match draft {
            Some(draft) => {
                desk.metrics.add(Counter::Resumed, 1);
                let _ = self.say.send(Word::Said(draft.said().clone()));
                draft
            }
            None => Draft {
                ignore_eos: request.ignore_eos,
                n_logprobs: request.logprobs.then_some(request.top_logprobs),
                ..Draft::new(sampler, planned.n_predict, StopStrings::new(request.stop.clone()))
            },
        };
        let manner = Manner {
            draft,
            until,
            cancel: self.cancel.clone(),
            say: Box::new(move |said| {
                if std::mem::take(&mut is_first) {
                    lock(&metrics.first_token).add(came.elapsed());
                }
                say.send(Word::Said(said)).is_ok()
            }),
        };
        let Answered { borrowed, draft, n_tokens, time, n_made, result } = desk.crew.answer(borrowed, manner);
        let is_heard = result.is_ok() && !self.say.is_closed();
        let kept = draft.filter(|_| !is_heard).and_then(keep);
        let looked = borrowed.as_ref().filter(|_| request.own.looks).and_then(|borrowed| borrowed.session.looked());
        match borrowed {
            Some(mut borrowed) => {
                if let Some(beginning) = &beginning {
                    borrowed.note_seen(desk, &planned, beginning);
                }
                desk.pool.give_back(borrowed, kept);
            }
            None => desk.pool.lost(),
        }
        desk.metrics.add(Counter::GeneratedTokens, n_made as u64);
        if n_tokens > 0 {
            lock(&desk.metrics.token).add(time / n_tokens as u32);
        }
        desk.metrics.rates((planned.n_prompt - n_cached, prompt_time), (n_tokens, time));
        let finish = result?;
        let mut before = 0;
        let was_cached: Vec<bool> = (planned.prompt.media_in_order().iter())
            .map(|plan| {
                before += plan.n_tokens;
                before <= n_cached
            })
            .collect();
        let mut media = planned.media_json(&was_cached);
        if seen.is_some() {
            // A conversation had read it that is gone, and left it in a take.
            media[0]["source"] = json!("take");
        }
        Ok(Done {
            finish,
            n_prompt: planned.n_prompt,
            n_cached,
            n_tokens,
            media,
            looked: looked.map(|looked| planned.looked_json(looked)),
            warnings,
            is_reordered: planned.is_reordered,
            queue_time: self.queue_time,
            prompt_time,
            media_time: (tally.decode_time, tally.encode_time),
            answer_time: time,
        })
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_goes_back() {
        let mut progress = Progress { frames_total: 8, ..Progress::default() };
        let mut seen = Vec::new();
        for (event, ms) in [
            (Event::PromptStart { n_tokens: 100, cached: 20 }, 1),
            (Event::Encoded { item: 0, n_done: 1, n_total: 4, is_reused: false, n_left_out: 0, is_left_out: false }, 5),
            (Event::Prefilled { n_done: 60, n_total: 100 }, 10),
            (Event::Prefilled { n_done: 40, n_total: 100 }, 20),
            (Event::Prefilled { n_done: 100, n_total: 100 }, 30),
        ] {
            progress.update(&event, Duration::from_millis(ms));
            seen.push((progress.stage, progress.processed, progress.eta_ms));
        }
        let want = [
            (Stage::Decoding, 20, None),
            (Stage::Encoding, 20, None),
            (Stage::Prefill, 60, Some(10)),
            (Stage::Prefill, 60, Some(20)),
            (Stage::Prefill, 100, Some(0)),
        ];
        assert_eq!(seen, want);
    }
}
