//! An answer as it comes, and the handle that stops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::chat::Home;
use super::talk::Talk;
use crate::Result;
use crate::stream::{Events, Finish, Generation, Looked, Tally};
use crate::text::Sampler;

/// Stops what a talk does, from anywhere: clones are the same handle.
#[derive(Debug, Clone)]
pub struct Cancel(Flag);

#[derive(Debug, Clone)]
enum Flag {
    Shared(Arc<AtomicBool>),
    Static(&'static AtomicBool),
}

impl Default for Cancel {
    fn default() -> Cancel {
        Cancel(Flag::Shared(Arc::default()))
    }
}

impl Cancel {
    /// A handle that nobody has used yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// The handle that is a flag of the program's, which signals may set.
    pub fn from_static(flag: &'static AtomicBool) -> Cancel {
        Cancel(Flag::Static(flag))
    }

    /// Asks to stop at the next step: what runs, and what is asked later, ends with an error of the kind
    /// [`Cancelled`](crate::ErrorKind::Cancelled).
    pub fn cancel(&self) {
        self.flag().store(true, Ordering::Relaxed);
    }

    /// Lets work begin again.
    pub fn clear(&self) {
        self.flag().store(false, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }

    pub(super) fn flag(&self) -> &AtomicBool {
        match &self.0 {
            Flag::Shared(flag) => flag,
            Flag::Static(flag) => flag,
        }
    }
}

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the conversation with its media.
    pub prompt_tokens: usize,
    /// So many of them were in the cache already.
    pub cached_tokens: usize,
    /// Tokens of the answer so far.
    pub completion_tokens: usize,
    /// What reading took.
    pub prompt_time: Duration,
    /// What generating has taken so far.
    pub answer_time: Duration,
    /// What was read of media for it.
    pub media: Tally,
}

/// An answer: an iterator over pieces of text, each of whole characters. The talk goes on when it is over or dropped; what came
/// until then is what was answered.
pub struct Answer {
    talk: Option<Box<Talk>>,
    home: Arc<Home>,
    generation: Generation,
    sampler: Sampler,
    usage: Usage,
    text: String,
    /// Where it looked, once it is over.
    looked: Option<Looked>,
}

impl Answer {
    pub(super) fn new(
        talk: Box<Talk>,
        home: Arc<Home>,
        (generation, sampler): (Generation, Sampler),
        usage: Usage,
    ) -> Answer {
        Answer { talk: Some(talk), home, generation, sampler, usage, text: String::new(), looked: None }
    }

    /// Ends it after the piece that came last.
    pub fn stop(&mut self) {
        self.generation.stop();
    }

    /// The handle that stops the talk.
    pub fn cancel(&self) -> Cancel {
        self.home.cancel.clone()
    }

    /// What it took until now.
    pub fn usage(&self) -> Usage {
        Usage { completion_tokens: self.generation.tokens().len(), ..self.usage }
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.generation.finish()
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens so far, without the one that ended it.
    pub fn tokens(&self) -> &[u32] {
        self.generation.tokens()
    }

    /// Where it has looked so far, in the mean over its tokens: nothing where [`ChatOptions::look`](super::ChatOptions::look) does
    /// not ask for it, or there is no token yet.
    pub fn looked(&self) -> Option<Looked> {
        self.talk.as_ref().map_or_else(|| self.looked.clone(), |talk| talk.looked())
    }

    /// Waits for all of it.
    ///
    /// # Errors
    /// What ended it before its time.
    pub fn into_text(mut self) -> Result<String> {
        self.by_ref().try_for_each(|piece| piece.map(drop))?;
        Ok(std::mem::take(&mut self.text))
    }

    /// Lets the talk go on.
    fn end(&mut self) {
        if let Some(mut talk) = self.talk.take() {
            self.looked = talk.looked();
            talk.answered(&self.text);
            self.home.put(talk);
        }
    }
}

impl Iterator for Answer {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        let started = Instant::now();
        let talk = self.talk.as_mut()?;
        let (session, sink, dump) = talk.speaking()?;
        let mut events = Events::new(sink, self.home.cancel.flag());
        if let Some(dump) = dump {
            events = events.with_probe(dump);
        }
        let next = self.generation.next(session, &mut self.sampler, &mut events).transpose();
        self.usage.answer_time += started.elapsed();
        match &next {
            Some(Ok(piece)) => self.text.push_str(piece),
            Some(Err(_)) | None => self.end(),
        }
        next
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.end();
    }
}
