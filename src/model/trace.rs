//! What a model author compares with the training code: activations collected on the way.

/// Activations of interest; filled by `forward` and `encode` when given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Last token of the batch: input of layer 0, output of each layer, after the final norm; (n_layer + 2, n_embd).
    pub hidden_last: Vec<f32>,
    /// Rotated queries of the last token in layer 0, (n_head, d).
    pub layer0_q_last: Vec<f32>,
    /// After patch embedding and after each block, one (n_patches, n_embd) matrix each.
    pub vit_stages: Vec<Vec<f32>>,
}
