//! The front door for C and whatever calls C: `include/longtake.h` is made of this room by cbindgen.
//! In: handles, strings, numbers. Out: a status, and what a call gives through its last pointer.
//! Start reading at [`lt_open`], [`lt_chat_ask`] and [`lt_answer_next`]; everything behind them is [`api`](crate::api).
//! On purpose absent here: every decision. What a number means is said in `options.rs`, all else in `api`.
//!
//! Each call goes through `call`: a panic ends there as `LT_INTERNAL`, an error leaves its words for [`lt_error`]. What can be
//! asked from several threads is behind a lock that is tried, never waited for: who comes second is told `LT_BUSY`.
#![allow(non_camel_case_types, reason = "names are those of C")]

mod answer;
mod call;
mod chat;
mod model;
mod options;
mod progress;

pub use answer::{
    lt_answer, lt_answer_free, lt_answer_looked, lt_answer_next, lt_answer_stop, lt_answer_tokens, lt_answer_usage,
    lt_finish, lt_look, lt_looked, lt_usage,
};
pub use call::{lt_error, lt_status, lt_version};
pub use chat::{
    lt_chat, lt_chat_ask, lt_chat_cancel, lt_chat_frames, lt_chat_free, lt_chat_on_progress, lt_chat_picture,
    lt_chat_plan, lt_chat_resume, lt_chat_system, lt_chat_text, lt_chat_video, lt_cost,
};
pub use model::{
    lt_catch_file_signals, lt_chat_about, lt_chat_new, lt_model, lt_model_free, lt_model_warnings, lt_open,
    lt_open_demo, lt_watch, lt_watched,
};
pub use options::lt_options;
pub use progress::{lt_progress, lt_progress_fn, lt_stage};
