//! What clients send and what they are told, without sockets: bytes become checked requests, or a [`Fault`].
//! Start reading at [`ChatRequest::parse`].
#![forbid(unsafe_code)]

pub(crate) mod chat;
pub(crate) mod completion;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod fault;
pub(crate) mod fields;
pub(crate) mod form;
pub(crate) mod json;
pub(crate) mod media;
pub(crate) mod response;
pub(crate) mod sampling;
pub(crate) mod take;
pub(crate) mod tools;
pub(crate) mod turn;

pub(crate) use chat::ChatRequest;
pub(crate) use fault::{Code, Fault};
pub(crate) use json::{Json, short};
pub(crate) use media::{From, MediaPart};
pub(crate) use response::ResponseRequest;
pub(crate) use sampling::Sampling;
pub(crate) use take::TakeRequest;
pub(crate) use tools::Tools;
pub(crate) use turn::{Turn, TurnPart};
