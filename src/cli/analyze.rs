//! `longtake analyze`.

use crate::Result;

/// The theory in numbers: positions, rotations.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    todo!()
}
