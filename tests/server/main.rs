//! `longtake serve` over real sockets: loopback, a free port, the embedded model.

mod client;

mod answers;
mod batch;
mod cancel;
mod dialects;
mod forms;
#[cfg(feature = "cuda-emulation")]
mod gpu;
mod life;
mod linger;
mod memory;
mod openapi;
mod security;
mod takes;
mod tools;
