//! Every cap on media, in one place.

/// Most pixels of one still image or video frame, checked from the header before anything is decoded.
pub const MAX_PIXELS: u64 = 1 << 26;
