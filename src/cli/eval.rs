//! `longtake eval`: scores on published collections, from local folders.

use clap::Subcommand;

use crate::Result;

/// Scores: needles in long videos, published collections of questions.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Niah(Box<super::niah::Args>),
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Niah(args) => super::niah::run(*args),
    }
}
