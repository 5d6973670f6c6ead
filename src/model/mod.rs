//! The network: hyper-parameters, weights, the vision tower, the language model.
//! In: `pixel_values` rows, embeddings and positions. Out: merged visual tokens, logits.
//! Start reading at [`TextModel::forward`], which reads like the paper and is written once for every layout.
//! On purpose absent here: tokens as text, files of media, scheduling.
#![forbid(unsafe_code)]

#[cfg(feature = "cuda")]
mod cards;
mod hparams;
mod qwen2vl;
mod trace;
mod vision;
#[cfg(feature = "cuda")]
mod vision_cards;
mod weights;

#[cfg(feature = "cuda")]
pub use cards::CardBytes;
pub use hparams::{HParams, architecture_of, layout_of};
pub use qwen2vl::{Batch, Scratch, TextModel};
pub use trace::Trace;
pub use vision::{VisionHParams, VisionTower};
