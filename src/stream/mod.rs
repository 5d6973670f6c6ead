//! The stream: a conversation with media becomes model input in bounded steps, and answers come out token by token.
//! In: message parts, media files, an [`Engine`]. Out: tokens, [`Event`]s, and for model authors a [`Dump`].
//! Start reading at [`Session::feed`]; [`Engine`] is what stays the same between conversations, [`MediaPlan`] what a file
//! will cost before any frame is decoded; [`LivePlan`] is its like for a stream of unknown length.
//! On purpose absent here: flags, printing, sockets.
#![forbid(unsafe_code)]

mod budget;
mod context;
mod decode;
mod dump;
mod engine;
mod event;
mod held;
mod judge;
mod ledger;
mod left_out;
mod live;
mod looked;
pub mod fingerprint;
mod media_plan;
mod medium;
mod probe;
mod prompt;
mod reader;
mod repeats;
mod session;
pub mod shape;
mod skips;
mod speed;
mod stamps;
pub mod take;
mod tally;
mod watch;

pub use budget::program_bytes;
pub use budget::{Budget, Cost, Limits, Seconds};
pub use context::{Context, Held, Together};
pub use dump::Dump;
pub use engine::{Engine, EngineOptions, MmprojChoice, find_mmproj};
pub use event::{Event, Events};
pub use held::Worth;
pub use judge::{Control, Divergence, FullAnswer, Less, WholeVideo};
#[cfg(feature = "eval")]
pub(crate) use judge::{divergence, log_softmax, top};
pub use ledger::{Hold, Holder, Lack, Ledger};
pub use left_out::LeaveOut;
pub use live::{LivePlan, LiveShape, LiveTake};
pub use looked::{Looked, LookedMedium, LookedPair};
pub(crate) use looked::{clock, percent};
pub use media_plan::{MediaKind, MediaOptions, MediaPlan, patch_spec};
pub use medium::Medium;
pub use probe::Probe;
pub use prompt::{Conversation, Prompt, Unit, kept_share, part_options, steps};
pub use session::{
    Finish, GenerateOptions, Generation, Keep, LiveEnd, LiveOptions, Next, Session, SessionOptions, WhenFull, Window,
};
pub use shape::{Known, Shape};
pub use skips::{SkipOptions, SkipRow, Skips, skips};
pub use stamps::{PairText, StampCost, stamp};
pub use take::{IfExists, Take, TakeHeader, TakeWriter, WatchRequest};
pub use tally::Tally;
pub use watch::{Around, Watch, conversation, question};
