//! Answers: one token after the other.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Session;
use crate::model::Choice;
use crate::stream::{Event, Events};
use crate::text::{Sampler, StreamDecoder};
use crate::{Error, Result};

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    Stop,
    /// The token limit, or the context is full.
    Length,
    /// The caller's callback said so.
    Caller,
}

/// How to generate.
#[derive(Debug, Clone, Copy)]
pub struct GenerateOptions {
    /// At most so many tokens.
    pub n_predict: usize,
    /// Go on after a stop token.
    pub ignore_eos: bool,
}

/// An answer in the making: it can be left after any piece and gone on with.
pub struct Generation {
    options: GenerateOptions,
    decoder: StreamDecoder,
    tokens: Vec<u32>,
    /// The last token, while the session has not read it.
    unread: Option<u32>,
    finish: Option<Finish>,
}

impl Generation {
    /// Nothing yet.
    pub fn new(options: GenerateOptions) -> Generation {
        Generation { options, decoder: StreamDecoder::new(), tokens: Vec::new(), unread: None, finish: None }
    }

    /// The tokens so far, without the stop token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Ends it; what is left of a character comes with the next call of [`Generation::next`], the last.
    pub fn stop(&mut self) {
        self.finish.get_or_insert(Finish::Caller);
    }

    /// Generates until there are whole characters to print; `None` at the end: a stop token, the limit, or a full context.
    /// `session` must be the one that was fed, and read nothing else meanwhile.
    ///
    /// # Errors
    /// Nothing fed yet; logits that are not finite; cancellation.
    pub fn next(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        events: &mut Events<'_>,
    ) -> Result<Option<String>> {
        while self.finish.is_none() {
            let text = self.token(session, sampler, events)?;
            if self.finish.is_some()
                && let (Some(probe), Some(Choice::Logits(logits))) = (events.probe(), session.context.choice())
            {
                probe.end(logits);
            }
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
        Ok(Some(self.decoder.finish()).filter(|rest| !rest.is_empty()))
    }

    /// Reads the token before, where there is room for it, and chooses one more: what becomes printable with it.
    fn token(&mut self, session: &mut Session, sampler: &mut Sampler, events: &mut Events<'_>) -> Result<String> {
        let is_tracing = events.probe().is_some_and(|probe| probe.is_tracing());
        let engine = Arc::clone(session.engine());
        let (tokenizer, context) = (&engine.tokenizer, &mut session.context);
        let is_enough = self.tokens.len() == self.options.n_predict;
        match self.unread.take() {
            // Another sampler may need what the one before did not.
            None => context.complete_logits()?,
            // The last token is read only for who wants the logits after it.
            Some(_) if context.cache().free() == 0 || (is_enough && !is_tracing) => {
                self.finish = Some(Finish::Length);
                return Ok(String::new());
            }
            Some(id) => context.step(id, if is_tracing { 0 } else { sampler.n_top().unwrap_or(0) })?,
        }
        if let Some(message) = engine.text.warning() {
            events.send(Event::Notice(message));
        }
        let choice =
            context.choice().ok_or_else(|| Error::bad_input("there is nothing to answer: the prompt is empty"))?;
        if is_enough {
            self.finish = Some(Finish::Length);
            return Ok(String::new());
        }
        events.check()?;
        let id = match choice {
            Choice::Logits(logits) => sampler.sample(logits)?,
            Choice::Top(top) => sampler.sample_top(top)?,
        };
        if let (Some(probe), Choice::Logits(logits)) = (events.probe(), choice) {
            probe.token(id, logits, context.next_pos());
        }
        if tokenizer.is_stop(id) && !self.options.ignore_eos {
            self.finish = Some(Finish::Stop);
            return Ok(String::new());
        }
        context.look()?;
        sampler.accept(id);
        self.tokens.push(id);
        self.unread = Some(id);
        Ok(self.decoder.push(tokenizer, id))
    }
}

impl Session {
    /// Generates until a stop token, the limit, a full context or the caller's word. `on_text` gets whole characters as they
    /// become printable. Returns the tokens (without the stop token) and why it ended.
    ///
    /// # Errors
    /// Nothing fed yet; logits that are not finite; cancellation.
    pub fn generate(
        &mut self,
        sampler: &mut Sampler,
        options: GenerateOptions,
        events: &mut Events<'_>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(Vec<u32>, Finish)> {
        let mut answer = Generation::new(options);
        while let Some(text) = answer.next(self, sampler, events)? {
            if on_text(&text).is_break() {
                answer.stop();
            }
        }
        Ok((answer.tokens, answer.finish.unwrap_or(Finish::Stop)))
    }
}
