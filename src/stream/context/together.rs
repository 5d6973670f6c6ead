//! Several contexts of one model in one step: weights are read once for all of them. Decoding one token for each of four costs
//! little more than for one; rows of a prompt that another context is reading fill the rest of the step.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Context, gather_taps};
use crate::model::{Batch, Scratch, Sequence};
use crate::position::Pos;
use crate::stream::Engine;
use crate::{Error, Result};

/// Working memory of joint steps, reserved once.
pub struct Together {
    engine: Arc<Engine>,
    scratch: Scratch,
    /// Rows of a step: embeddings, what DeepStack adds (n, n_taps, n_embd) and then in the order of taps, positions.
    embd: Vec<f32>,
    deep: Vec<f32>,
    taps: Vec<f32>,
    pos: Vec<Pos>,
}

impl Together {
    /// Memory for steps of up to `n_batch` tokens of all contexts.
    ///
    /// # Errors
    /// A step of no tokens.
    pub fn new(engine: &Arc<Engine>, n_batch: usize) -> Result<Together> {
        if n_batch == 0 {
            return Err(Error::bad_input("a step has at least 1 token"));
        }
        Ok(Together {
            engine: Arc::clone(engine),
            scratch: Scratch::new(engine.text.hparams(), n_batch),
            embd: Vec::new(),
            deep: Vec::new(),
            taps: Vec::new(),
            pos: Vec::new(),
        })
    }

    /// Takes rows that wait in `contexts`, as many as a step holds, and reads them: first of those where few wait, which
    /// generate, then of those that read prompts. Returns how many rows were read, 0 when none wait. Logits are found in each
    /// context, behind those that it had (see [`Context::want_logits`]).
    ///
    /// # Errors
    /// Contexts of another model; what [`Context::drain`] says, and then all rows still wait.
    pub fn step(&mut self, contexts: &mut [&mut Context]) -> Result<usize> {
        if contexts.iter().any(|context| !Arc::ptr_eq(&context.engine, &self.engine)) {
            return Err(Error::bad_input("contexts of several models cannot take a step together"));
        }
        // Who has the least waits for nobody. Its rows stand at the end, where rows that want logits are close together.
        let mut all: Vec<&mut Context> = contexts.iter_mut().map(|context| &mut **context).collect();
        all.sort_by_key(|context| Reverse(context.n_waiting()));
        let mut room = self.scratch.n_batch();
        let share = |context: &&mut Context| {
            let n = context.n_waiting().min(room);
            room -= n;
            n
        };
        let mut shares: Vec<usize> = all.iter().rev().map(share).collect();
        shares.reverse();
        let mut sharing: Vec<(usize, &mut Context)> = shares.into_iter().zip(all).filter(|(n, _)| *n > 0).collect();
        self.read(&mut sharing)?;
        contexts.iter().try_for_each(|context| context.check_files())?;
        Ok(self.scratch.n_batch() - room)
    }

    /// Reads the first rows that wait of each, so many.
    fn read(&mut self, sharing: &mut [(usize, &mut Context)]) -> Result<()> {
        let n_embd = self.engine.text.hparams().n_embd;
        let n_taps = sharing.iter().map(|(_, context)| context.n_taps).max().unwrap_or(0);
        self.embd.clear();
        self.deep.clear();
        self.pos.clear();
        let mut wanted = Vec::with_capacity(sharing.len());
        for (n, context) in sharing.iter() {
            wanted.push((self.pos.len()..self.pos.len() + n, context.n_wanted(*n)));
            self.embd.extend_from_slice(&context.embd[..n * n_embd]);
            self.pos.extend_from_slice(&context.pos[..*n]);
            // A context without visual rows has nothing from taps.
            self.deep.extend_from_slice(context.deep.get(..n * n_taps * n_embd).unwrap_or_default());
            self.deep.resize(self.pos.len() * n_taps * n_embd, 0.0);
        }
        gather_taps(&self.deep, n_embd, n_taps, &mut self.taps);
        let batch = Batch { embd: &self.embd, deep: &self.taps, pos: &self.pos, n_logits: 0 };
        let caches = sharing.iter_mut().map(|(_, context)| &mut context.cache);
        let sequence = |((rows, n_logits), cache)| Sequence { rows, n_logits, cache };
        let mut sequences: Vec<Sequence<'_>> = wanted.iter().cloned().zip(caches).map(sequence).collect();
        let logits = self.engine.text.forward_together(&batch, &mut sequences, &mut self.scratch)?;
        let (mut at, n_vocab) = (0, self.engine.text.hparams().n_vocab);
        for ((n, context), (_, n_logits)) in sharing.iter_mut().zip(wanted) {
            context.logits.extend_from_slice(&logits[at..at + n_logits * n_vocab]);
            context.take_waiting(*n);
            at += n_logits * n_vocab;
        }
        Ok(())
    }
}
