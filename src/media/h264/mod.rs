//! H.264: what the headers say, and coded pictures to planes through OpenH264.
//!
//! Display order is the container's business: it knows the time of every picture. OpenH264 would reorder by its own
//! guesses, which go wrong for some encoders, and would lose finished pictures when a damaged one follows. It keeps decode
//! order for the Scalable Baseline profile, whose parameter set has the same syntax as High, so that is what it is told
//! (`annexb::push_nal`); the profile changes nothing else in how it decodes.
//!
//! OpenH264 is C++. It runs in this process, or in a child of its own ([`SafeDecoder`]) with the same pictures.

mod annexb;
mod decode;
mod sps;
mod wire;
mod child;
mod serve;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub(super) use annexb::{AvcConfig, Picture};
pub use child::{DECODE_COMMAND, SafeDecoder};
pub(super) use decode::H264;
pub use serve::serve_h264;
pub(super) use sps::Sps;

/// Types of NAL units (H.264 table 7-1).
const NAL_SLICE: u8 = 1;
const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
