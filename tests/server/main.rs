//! `longtake serve` over real sockets: loopback, a free port, the embedded model.

mod client;

mod answers;
mod cancel;
mod life;
mod security;
mod takes;
