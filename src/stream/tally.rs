//! What events tell of media, counted.

use std::time::Duration;

use super::Event;

/// Frame pairs that were read, and what that took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Frame pairs (and pictures) that went through the vision tower.
    pub encoded_pairs: usize,
    /// Frame pairs that equal an earlier one of their video, whose tokens they have.
    pub reused_pairs: usize,
    /// Waiting for frames to be decoded.
    pub decode_time: Duration,
    /// In the vision tower.
    pub encode_time: Duration,
}

impl Tally {
    /// Counts what `event` tells.
    pub fn see(&mut self, event: &Event) {
        match *event {
            Event::Encoded { is_reused: true, .. } | Event::Streamed { is_reused: true, .. } => self.reused_pairs += 1,
            Event::Encoded { .. } | Event::Streamed { .. } => self.encoded_pairs += 1,
            Event::MediumRead { decoding, encoding, .. } => {
                self.decode_time += decoding;
                self.encode_time += encoding;
            }
            _ => {}
        }
    }
}
