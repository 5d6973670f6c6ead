//! The command line: raw flags, then a checked plan, then work. Answers go to stdout, everything else to stderr.
//! Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::gguf::{catch_file_signals, check_nothing_lost};
use crate::kernels::threads;
use crate::{ErrorKind, Result};

mod analyze;
mod ask;
mod bench;
mod budget;
mod cache_error;
mod cards;
mod chat;
mod choice;
mod convert;
mod cpu;
mod demo;
mod embedded;
mod eval;
mod flags;
mod inspect;
mod known_models;
mod live;
mod niah;
mod plan;
mod progress;
mod quantize;
mod run;
mod theory;
mod watch;

/// Answers questions about hours of video on your own machine.
#[derive(Parser)]
#[command(name = "longtake", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(Box<demo::Args>),
    Run(Box<run::Args>),
    Chat(Box<chat::Args>),
    Watch(Box<watch::Args>),
    Ask(Box<ask::Args>),
    Plan(Box<plan::Args>),
    Analyze(analyze::Args),
    Bench(bench::Args),
    Convert(convert::Args),
    Eval(eval::Args),
    Inspect(inspect::Args),
    Quantize(quantize::Args),
}

impl Command {
    fn run(self, matches: &ArgMatches) -> Result<()> {
        match self {
            Command::Demo(args) => demo::run(*args),
            Command::Run(args) => run::run(*args, matches),
            Command::Chat(args) => chat::run(*args),
            Command::Watch(args) => watch::run(*args),
            Command::Ask(args) => ask::run(*args),
            Command::Plan(args) => plan::run(*args, matches),
            Command::Analyze(args) => analyze::run(args),
            Command::Bench(args) => bench::run(args),
            // Those without --threads use all.
            Command::Convert(args) => threads::start(0).and_then(|()| convert::run(args)),
            Command::Eval(args) => eval::run(args),
            Command::Inspect(args) => threads::start(0).and_then(|()| inspect::run(args)),
            Command::Quantize(args) => threads::start(0).and_then(|()| quantize::run(args)),
        }
    }
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    // clap prints usage errors itself and exits with 2.
    // A take knows its model; needles are drawn for the embedded one.
    let unless_take = |arg: clap::Arg| arg.required(false).required_unless_present("take");
    let optional = |arg: clap::Arg| arg.required(false);
    let cli = Cli::command()
        .mut_subcommand("chat", |chat| chat.mut_arg("model", unless_take))
        .mut_subcommand("eval", |eval| eval.mut_subcommand("niah", |niah| niah.mut_arg("model", optional)));
    let matches = cli.get_matches_from(flags::expand_short_words(std::env::args_os()));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
    let (_, sub) = matches.subcommand().expect("a subcommand is required");
    let done = progress::end_with_children()
        .and_then(|()| catch_file_signals())
        .and_then(|()| cli.command.run(sub))
        .and_then(|()| check_nothing_lost());
    // A thread that waits for one of them does not get to end it.
    crate::media::kill_children();
    match done {
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
