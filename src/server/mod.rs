//! The HTTP server: OpenAI's chat completions for videos, files that are uploaded once, takes that are asked often.
//! In: requests. Out: answers as they come, events, and refusals with a reason. It never opens a connection itself.
//! Start reading at [`wire`] for what is understood, at `routes` for what there is, at `job` for a question's way; `lane` says whose
//! turn it is to compute, `crew` gives answers, `takes` reads videos.
//! On purpose absent here: flags, TLS, anything that fetches.
#![forbid(unsafe_code)]

pub(crate) mod batch;
pub(crate) mod limits;
pub(crate) mod wire;

mod accept;
mod answer;
mod app;
mod backlog;
mod batches;
mod body;
mod crew;
mod desk;
mod dialect;
mod draft;
mod guard;
mod job;
mod keep;
mod lane;
mod linger;
mod memory;
mod metrics;
mod openapi;
mod opened;
mod page;
mod plan;
mod pool;
mod queue;
mod random;
mod reply;
mod routes;
mod run;
mod setup;
mod store;
mod takes;

pub(crate) use run::{Bind, serve};
pub(crate) use setup::Setup;
pub(crate) use store::Rules;
