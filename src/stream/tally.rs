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
    /// Frame pairs in which nothing has changed, which were not encoded where that was asked for, and tokens that were left out.
    pub left_out_pairs: usize,
    /// Likewise.
    pub left_out_tokens: usize,
    /// Waiting for frames to be decoded.
    pub decode_time: Duration,
    /// In the vision tower.
    pub encode_time: Duration,
}

impl Tally {
    /// Counts what `event` tells.
    pub fn see(&mut self, event: &Event) {
        if let Event::Encoded { n_left_out, .. } | Event::Streamed { n_left_out, .. } = *event {
            self.left_out_tokens += n_left_out;
        }
        match *event {
            Event::Encoded { is_left_out: true, .. } | Event::Streamed { is_left_out: true, .. } => {
                self.left_out_pairs += 1;
            }
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
