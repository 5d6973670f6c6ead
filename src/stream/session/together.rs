//! Conversations that are answered at the same time take their tokens together.

use super::Session;
use crate::Result;
use crate::kernels::MAX_DOT_TOKENS;
use crate::stream::context::{Context, Together};

/// The token that a conversation reads next.
pub struct Next<'s> {
    /// The conversation.
    pub session: &'s mut Session,
    /// The token.
    pub id: u32,
    /// As in [`Context::step`].
    pub n_top: usize,
}

impl Together {
    /// Of products with quantized weights so many tokens of a step get what each gets alone, bit for bit; more are multiplied in
    /// another way, and sums over weights that are not quantized (routers, the small tensors of recurrent layers) may be added in
    /// another order.
    pub const MOST_TOKENS: usize = MAX_DOT_TOKENS;

    /// Lets every conversation read its next token, those of as many as a step holds at once.
    ///
    /// # Errors
    /// What [`Together::step`] says, whoever's fault it is. Some may have read their token; the others are as they were once
    /// [`Session::take_back`] was called, and may try again alone.
    pub fn tokens(&mut self, next: &mut [Next<'_>]) -> Result<()> {
        if let [next] = next {
            return next.session.step(next.id, next.n_top);
        }
        next.iter_mut().try_for_each(|next| next.session.context.push_next(next.id))?;
        let mut contexts: Vec<&mut Context> = next.iter_mut().map(|next| &mut next.session.context).collect();
        while self.step(&mut contexts)? > 0 {}
        Ok(())
    }
}

impl Session {
    /// Forgets a token that was handed to [`Together::tokens`] in vain; whether the `n_past` tokens before it are still there,
    /// and nothing else. Recurrent layers lose their states in a step that fails.
    pub fn take_back(&mut self, n_past: usize) -> bool {
        self.rewind_to_whole_units();
        self.n_past() == n_past
    }
}
