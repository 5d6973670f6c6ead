//! Who looks on while a context fills and an answer comes: nobody, unless told.

use super::{MediaKind, Prompt, Session};
use crate::Result;
use crate::cache::KvCache;
use crate::media::Grid;
use crate::model::Trace;
use crate::position::Pos;

/// Looks on. Every method does nothing unless it is written.
pub trait Probe {
    /// Last rows of a prompt whose logits are wanted; generation needs the last one.
    fn n_logits(&self) -> usize {
        1
    }

    /// Whether activations are wanted: then media are encoded one after the other, every logit comes from everywhere, and the
    /// last token of an answer is read, too.
    fn is_tracing(&self) -> bool {
        false
    }

    /// Comes before every step of prefill, which an error stops.
    ///
    /// # Errors
    /// Whatever should end the work.
    fn before_step(&mut self) -> Result<()> {
        Ok(())
    }

    /// Where the activations of the next step go.
    fn trace(&mut self) -> Option<&mut Trace> {
        None
    }

    /// Comes after every step of prefill: the last rows of `cache` are those of the tokens at `pos`.
    ///
    /// # Errors
    /// Whatever should end the work.
    fn after_step(&mut self, pos: &[Pos], cache: &mut KvCache) -> Result<()> {
        let _ = (pos, cache);
        Ok(())
    }

    /// Frame pairs of a medium went through the vision tower: pixels (n_patches, n_patch_values) to `rows` of the language
    /// model, with what `stages` in between were.
    fn media(&mut self, kind: MediaKind, pixels: &[f32], stages: Vec<Vec<f32>>, rows: &[f32]) {
        let _ = (kind, pixels, stages, rows);
    }

    /// A medium of this size, in patches, is over.
    fn grid(&mut self, kind: MediaKind, grid: Grid) {
        let _ = (kind, grid);
    }

    /// The whole prompt was read.
    ///
    /// # Errors
    /// Whatever should end the work.
    fn after_prompt(&mut self, session: &Session, prompt: &Prompt) -> Result<()> {
        let _ = (session, prompt);
        Ok(())
    }

    /// Token `id` was chosen by `logits`; its place will be `position`.
    fn token(&mut self, id: u32, logits: &[f32], position: f64) {
        let _ = (id, logits, position);
    }

    /// The answer is over; these are the logits behind it.
    fn end(&mut self, logits: &[f32]) {
        let _ = logits;
    }
}

/// Nobody.
impl Probe for () {}
