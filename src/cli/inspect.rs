//! `longtake inspect`.

use crate::Result;

/// Show what a GGUF file holds.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    todo!()
}
