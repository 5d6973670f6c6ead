//! Every cap of the GGUF reader, in one place. A file beyond a cap is refused before anything is allocated for it.
//!
//! Caps bound memory on top of the plain fact that nothing can be longer than the file: what the reader allocates for
//! names, keys and tables stays below about four times [`MAX_HEADER`], however large the file claims to be.
#![forbid(unsafe_code)]

/// Most bytes of header, keys and tensor table together. Vocabularies of 150 000 entries need about 10 MiB.
pub const MAX_HEADER: u64 = 256 << 20;
/// Most metadata keys. Real files have fewer than a hundred.
pub const MAX_KEYS: u64 = 1 << 16;
/// Most tensors in one file. The largest published models have a few thousand.
pub const MAX_TENSORS: u64 = 1 << 18;
/// Longest metadata string, in bytes.
pub const MAX_STRING: u64 = 64 << 20;
/// Most elements of a metadata array.
pub const MAX_ARRAY: u64 = 1 << 25;
/// Longest key, in bytes (GGUF specification).
pub const MAX_KEY: u64 = 65_535;
/// Longest tensor name, in bytes (ggml keeps 64 with a terminator).
pub const MAX_NAME: u64 = 63;
/// Most dimensions of a tensor.
pub const MAX_DIMS: u32 = 4;
/// Smallest alignment: the specification wants a multiple of 8, so that every element type can be viewed in place.
pub const MIN_ALIGNMENT: u64 = 8;
/// Largest alignment, beyond the largest memory page in common use.
pub const MAX_ALIGNMENT: u64 = 16 << 20;
/// Most files of a split model.
pub const MAX_SHARDS: u64 = 1024;
