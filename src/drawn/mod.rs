//! Videos that are drawn: what the demo shows, and what needles are looked for in.
//! In: a seed and a size. Out: frames, a question with its answer, and an ordinary .mp4 file.
//! Start reading at [`symbols`]; [`movie`] encodes what it draws.
//! On purpose absent here: models, printing.
#![forbid(unsafe_code)]

pub mod embedded;
pub mod hard;
pub mod movie;
pub mod symbols;
