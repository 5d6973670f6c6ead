//! The command line: raw flags, then a checked plan, then work. Answers go to stdout, everything else to stderr.
//! Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{ErrorKind, Result};

mod analyze;
mod convert;
mod inspect;
mod quantize;

/// Answers questions about hours of video on your own machine.
#[derive(Parser)]
#[command(name = "longtake", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Analyze(analyze::Args),
    Convert(convert::Args),
    Inspect(inspect::Args),
    Quantize(quantize::Args),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Analyze(args) => analyze::run(args),
            Command::Convert(args) => convert::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Quantize(args) => quantize::run(args),
        }
    }
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2.
    let cli = Cli::parse();
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::from(match err.kind() {
                ErrorKind::BadInput => 2,
                ErrorKind::Cancelled => 130,
                _ => 1,
            })
        }
    }
}
