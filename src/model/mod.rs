//! The network: hyper-parameters, weights, the vision tower, the language model.
//! In: `pixel_values` rows, embeddings and positions. Out: merged visual tokens, logits.
//! Start reading at `decoder.rs` and `vit.rs`, which read like the papers and are written once for every layout and device; the
//! operations that they are made of are one page, `device.rs`. [`TextModel::forward`] and [`VisionTower::encode`] call them.
//! On purpose absent here: tokens as text, files of media, scheduling.
#![forbid(unsafe_code)]

#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod decoder;
mod device;
pub mod family;
mod ffn;
mod hparams;
mod host;
mod mixer;
mod text_model;
mod trace;
mod vision;
mod vision_hparams;
mod vit;
mod weights;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use device::Sequence;
pub use family::{Family, architecture_of, layout_of};
pub use hparams::{ExpertShape, HParams, LayerKind};
pub use text_model::{Batch, Choice, Scratch, TextModel};
pub use trace::Trace;
pub use vision::{Encoding, VisionTower};
pub use vision_hparams::{VisionHParams, Windows};

/// What is taken on GPUs.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceBytes {
    /// Bytes of weights, which are there already.
    pub weights: u64,
    /// Bytes that the cache will take.
    pub cache: u64,
    /// Bytes that working memory will take.
    pub working: u64,
    /// Bytes that stay free on the GPU with the least room to spare; negative where they are missing.
    pub spare: i64,
}

impl DeviceBytes {
    /// All bytes together.
    pub fn memory(&self) -> u64 {
        self.weights + self.cache + self.working
    }
}
