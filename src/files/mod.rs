//! Files as such, whatever is in them: opened without waiting, read under a cap, written whole or not at all.
//! In: paths. Out: open files and bytes; complete files under their names.
//! Start reading at [`write_beside`](atomic::write_beside); [`input`] is the way in.
//! On purpose absent here: every format.
#![forbid(unsafe_code)]

pub mod atomic;
pub mod input;
mod lock;
mod scratch;

pub use lock::lock;
pub use scratch::ScratchFile;
