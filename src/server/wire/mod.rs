//! What clients send and what they are told, without sockets: bytes become checked requests, or a [`Fault`].
//! Start reading at [`ChatRequest::parse`].
#![forbid(unsafe_code)]

pub(crate) mod chat;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod fault;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod media;
pub(crate) mod take;

pub(crate) use chat::{ChatRequest, Format, TurnPart};
pub(crate) use fault::{Code, Fault};
pub(crate) use json::{Json, short};
pub(crate) use media::{From, MediaPart};
pub(crate) use take::TakeRequest;
