//! `longtake convert`.

use crate::Result;

/// Convert a Hugging Face checkpoint folder to GGUF.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    todo!()
}
