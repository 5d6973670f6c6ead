//! Every cap on media, in one place. A file that declares more is refused before anything is allocated for it.

/// Most pixels of one still image or video frame, checked from the header before anything is decoded.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Longest side of a still image or video frame.
pub const MAX_SIDE: usize = 1 << 16;

/// Most bytes of one still image file; image decoders hold the whole file.
pub const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// Most bytes that an image decoder may ask for while it works: 16-bit RGBA of [`MAX_PIXELS`] and as much again.
pub const MAX_IMAGE_ALLOC: u64 = 1 << 30;

/// Largest ratio of the longer to the shorter side of anything that is resized for the model.
pub const MAX_ASPECT: f64 = 200.0;

/// Most frames of a video, in any container: 77 hours at 30 frames a second.
pub const MAX_FRAMES: usize = 1 << 23;

/// Most frames of an animated GIF; players and editors make far fewer.
pub const MAX_GIF_FRAMES: usize = 1 << 16;

/// Most bytes of an animated GIF file.
pub const MAX_GIF_BYTES: u64 = 1 << 30;

/// Most images in a folder that is read as a video.
pub const MAX_FOLDER_FRAMES: usize = 100_000;

/// Highest sampling rate that may be asked for, and highest rate believed of a file, in frames a second.
pub const MAX_FPS: f64 = 1000.0;

/// Most bytes of an MP4 `moov` box, and of all `moof` boxes of one file together.
pub const MAX_MP4_INDEX: u64 = 256 << 20;

/// Coded pictures of an MP4 file beyond which they must have [`MIN_SAMPLE_BYTES`] in the mean: nine hours at 30 a second. A table
/// of a few bytes can list millions of one byte each, which take many times the file in memory.
pub const MANY_SAMPLES: u64 = 1 << 20;

/// Fewest bytes of a coded picture, in the mean over more than [`MANY_SAMPLES`].
pub const MIN_SAMPLE_BYTES: u64 = 8;

/// Most bytes of one compressed video sample (one coded picture).
pub const MAX_SAMPLE_BYTES: u32 = 64 << 20;

/// Longest header line of a Y4M file.
pub const MAX_Y4M_LINE: usize = 1024;

/// Seconds that an external decoder may stay silent before it is stopped.
pub const DECODER_TIMEOUT_SECONDS: u64 = 60;
