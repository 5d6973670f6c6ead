//! Answers: one token after the other.

use std::ops::ControlFlow;

use super::{Fed, Session};
use crate::model::Choice;
use crate::stream::{Dump, Events};
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

impl Session<'_> {
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
        mut dump: Option<&mut Dump>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(Vec<u32>, Finish)> {
        let (tokenizer, n_vocab) = (&self.engine.tokenizer, self.engine.text.hparams().n_vocab);
        if !self.top.is_empty() {
            // Another sampler may need what the one before did not.
            self.logits.extend_from_slice(self.engine.text.logits(&mut self.scratch)?);
            self.top.clear();
            self.check_files()?;
        }
        if self.logits.len() < n_vocab {
            return Err(Error::bad_input("there is nothing to answer: the prompt is empty"));
        }
        self.logits.drain(..self.logits.len() - n_vocab);
        // A dump has every logit.
        let n_top = if dump.is_some() { 0 } else { sampler.n_top().unwrap_or(0) };
        let mut decoder = StreamDecoder::new();
        let mut tokens = Vec::new();
        let finish = loop {
            if tokens.len() == options.n_predict {
                break Finish::Length;
            }
            events.check()?;
            let id = if self.top.is_empty() { sampler.sample(&self.logits)? } else { sampler.sample_top(&self.top)? };
            if let Some(dump) = dump.as_deref_mut() {
                dump.add_generated(id, &self.logits, self.placer.next_pos());
            }
            if tokenizer.is_stop(id) && !options.ignore_eos {
                break Finish::Stop;
            }
            sampler.accept(id);
            tokens.push(id);
            let text = decoder.push(tokenizer, id);
            if !text.is_empty() && on_text(&text).is_break() {
                break Finish::Caller;
            }
            if self.cache.free() == 0 {
                break Finish::Length;
            }
            // The last token is fed only for who wants the logits after it.
            if tokens.len() == options.n_predict && dump.is_none() {
                break Finish::Length;
            }
            self.push(id, n_top)?;
        };
        let rest = decoder.finish();
        if !rest.is_empty() {
            let _ = on_text(&rest);
        }
        if let Some(dump) = dump {
            dump.logits_after_generated = self.logits.clone();
        }
        Ok((tokens, finish))
    }

    /// Feeds one token; the logits after it take the place of those before. Where the `n_top` largest are enough (0: they are
    /// not), a card brings only these.
    pub(in crate::stream) fn push(&mut self, id: u32, n_top: usize) -> Result<()> {
        self.placer.text(1, &mut self.pos);
        let pos = self.pos.pop().expect("it was just placed");
        self.logits.clear();
        self.top.clear();
        match self.engine.text.step(id, pos, n_top, &mut self.cache, &mut self.scratch)? {
            Choice::Logits(logits) => self.logits.extend_from_slice(logits),
            Choice::Top(top) => self.top.extend_from_slice(top),
        }
        self.log.push(Fed::token(id));
        self.check_files()
    }
}
