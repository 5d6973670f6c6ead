//! MP4 and QuickTime files with H.264: an index becomes a list of coded pictures, and these become frames.
//! In: a regular file. Out: [`Mp4Source`]. Start reading at `read_track` in `index`, then `source`.
//! One file per part of the index; memory and time are linear in the size of the file, however its boxes contradict each
//! other.
//! On purpose absent here: how a picture is decoded (`h264`), sound, subtitles.

mod boxes;
mod display;
mod edits;
mod fragments;
mod index;
mod samples;
mod source;
mod track;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use source::Mp4Source;
