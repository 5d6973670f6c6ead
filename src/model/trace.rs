//! What a model author compares with the training code: activations collected on the way.

use super::device::Device;
use crate::Result;

/// Activations of interest; filled by `forward` and `encode` when given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Last token of the batch: input of each layer, output of the last, after the final norm; (n_layer + 2, n_embd).
    pub hidden_last: Vec<f32>,
    /// Another row of the batch of which the same is wanted: the last visual token.
    pub visual: Option<usize>,
    /// The same of that row.
    pub hidden_visual: Vec<f32>,
    /// Queries of the last token in the first layer with attention, after norm and rotation, (n_head, d).
    pub attn_q_last: Vec<f32>,
    /// Of the tower, one (n_patches, n_embd) matrix each: after the patch embedding; after learned positions, where there are
    /// any; after each block.
    pub vit_stages: Vec<Vec<f32>>,
}

impl Trace {
    /// Takes hidden states of a batch of `n` tokens, (n, n_embd).
    pub(super) fn hidden<D: Device>(&mut self, device: &D, x: &D::Rows, n: usize, n_embd: usize) -> Result<()> {
        self.hidden_last.extend(device.read(x, (n - 1) * n_embd, n_embd)?);
        if let Some(row) = self.visual {
            self.hidden_visual.extend(device.read(x, row * n_embd, n_embd)?);
        }
        Ok(())
    }
}
