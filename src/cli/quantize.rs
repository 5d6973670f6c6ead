//! `longtake quantize`.

use crate::Result;

/// Requantize a GGUF file.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    todo!()
}
