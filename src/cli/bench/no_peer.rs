//! What stands for the peer in a build without llama.cpp: a line that says how to build it in.

use std::path::Path;

use super::Work;
use crate::{Error, Result};

/// There is none.
pub(super) enum Peer {}

/// There is none.
pub(super) enum PeerTest {}

impl Peer {
    /// # Errors
    /// Always.
    pub(super) fn load(_: &Path, _: &str) -> Result<Peer> {
        let how = "RUSTFLAGS=-Ctarget-cpu=native cargo build --release --features ggml";
        Err(Error::unsupported(format!("this build has no peer for `--peer`, expected one made with `{how}`")))
    }

    pub(super) fn test(&mut self, _: Work) -> Result<PeerTest> {
        match *self {}
    }

    /// What ggml was compiled for.
    pub(super) fn system_info() -> String {
        String::new()
    }
}

impl PeerTest {
    pub(super) fn how(&self) -> String {
        match *self {}
    }

    pub(super) fn run(&mut self, _: usize) -> Result<f64> {
        match *self {}
    }
}
