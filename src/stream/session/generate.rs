//! Answers: one token after the other.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Session;
use crate::model::Choice;
use crate::stream::Events;
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
        let engine = Arc::clone(self.engine());
        let tokenizer = &engine.tokenizer;
        let context = &mut self.context;
        // Another sampler may need what the one before did not.
        context.complete_logits()?;
        let is_tracing = events.probe().is_some_and(|probe| probe.is_tracing());
        let n_top = if is_tracing { 0 } else { sampler.n_top().unwrap_or(0) };
        let mut decoder = StreamDecoder::new();
        let mut tokens = Vec::new();
        let finish = loop {
            let choice = context.choice();
            let choice = choice.ok_or_else(|| Error::bad_input("there is nothing to answer: the prompt is empty"))?;
            if tokens.len() == options.n_predict {
                break Finish::Length;
            }
            events.check()?;
            let id = match choice {
                Choice::Logits(logits) => sampler.sample(logits)?,
                Choice::Top(top) => sampler.sample_top(top)?,
            };
            if let (Some(probe), Choice::Logits(logits)) = (events.probe(), choice) {
                probe.token(id, logits, context.next_pos());
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
            if context.cache().free() == 0 {
                break Finish::Length;
            }
            // The last token is read only for who wants the logits after it.
            if tokens.len() == options.n_predict && !is_tracing {
                break Finish::Length;
            }
            context.step(id, n_top)?;
        };
        let rest = decoder.finish();
        if !rest.is_empty() {
            let _ = on_text(&rest);
        }
        if let (Some(probe), Some(Choice::Logits(logits))) = (events.probe(), context.choice()) {
            probe.end(logits);
        }
        Ok((tokens, finish))
    }
}
