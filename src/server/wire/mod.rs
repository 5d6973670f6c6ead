//! What clients send and what they are told, without sockets: bytes become checked requests, or a [`Fault`].
//! Start reading at [`ChatRequest::parse`].
#![forbid(unsafe_code)]

pub mod chat;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod fault;
pub mod fields;
pub mod json;
pub mod media;
pub mod take;

pub use chat::{ChatRequest, Format, Role, Turn, TurnPart};
pub use fault::{Code, Fault};
pub use json::{Json, short};
pub use media::{From, MediaPart};
pub use take::TakeRequest;
