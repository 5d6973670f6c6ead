//! Every cap of the GGUF reader, in one place. A file beyond a cap is refused before anything is allocated for it.
#![forbid(unsafe_code)]

/// Longest metadata string, in bytes.
pub const MAX_STRING: u64 = 64 << 20;
/// Longest key, in bytes (GGUF specification).
pub const MAX_KEY: u64 = 65_535;
/// Longest tensor name, in bytes (ggml keeps 64 with a terminator).
pub const MAX_NAME: u64 = 63;
/// Most dimensions of a tensor.
pub const MAX_DIMS: u32 = 4;
