//! Every cap on media, in one place. A file that declares more is refused before anything is allocated for it.

/// Most pixels of one still image or video frame, checked from the header before anything is decoded.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Most pixels of a still image that can be shrunk while it is decoded, so that it is never whole in memory: 22 times the
/// photographs of today's largest sensors.
pub const MAX_SHRUNK_PIXELS: u64 = 1 << 30;

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

/// Most frames of an animated picture; players and editors make far fewer.
pub const MAX_ANIMATION_FRAMES: usize = 1 << 16;

/// Most pixels of all frames of an animated picture, each counted as the whole canvas: a thousand frames of 4096x4096, an hour
/// of 640x360 at twenty a second. A few kilobytes can declare any number.
pub const MAX_ANIMATION_PIXELS: u64 = 1 << 34;

/// Most bytes of an animated picture's file.
pub const MAX_ANIMATION_BYTES: u64 = 1 << 30;

/// Most images in a folder that is read as a video.
pub const MAX_FOLDER_FRAMES: usize = 100_000;

/// Highest sampling rate that may be asked for, and highest rate believed of a file, in frames a second.
pub const MAX_FPS: f64 = 1000.0;

/// Most bytes of an MP4 `moov` box, and of all `moof` boxes of one file together.
pub const MAX_MP4_INDEX: u64 = 256 << 20;

/// Most boxes at the top level of an MP4 file: a fragment for each frame of ten hours has no more.
pub const MAX_MP4_BOXES: usize = 1 << 22;

/// Frames that an MP4 index may list whatever the size of the file: what is kept for so many is 40 MiB.
pub const N_FREE_SAMPLES: usize = 1 << 20;

/// Bytes of a file for each further frame that its index may list; the smallest pictures are larger.
pub const MIN_SAMPLE_BYTES: u64 = 12;

/// Most bytes of one compressed video sample (one coded picture).
pub const MAX_SAMPLE_BYTES: u32 = 64 << 20;

/// Most bytes of a coded picture as the decoder takes it: a sample whose lengths have become start codes, with parameter sets.
/// Only samples of very many empty units grow so much.
pub const MAX_PACKET_BYTES: usize = 2 * MAX_SAMPLE_BYTES as usize;

/// Most bytes of the parameter sets of one H.264 description; encoders write some dozens.
pub const MAX_PARAMETER_SETS: usize = 1 << 16;

/// Longest header line of a Y4M file.
pub const MAX_Y4M_LINE: usize = 1024;

/// Seconds that an external decoder may stay silent before it is stopped.
pub const DECODER_TIMEOUT_SECONDS: u64 = 60;
