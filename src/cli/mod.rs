//! The command line: raw flags, then a checked plan, then work. Answers go to stdout, everything else to stderr.
//! Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::gguf::{catch_file_signals, check_nothing_lost};
use crate::kernels::{share_heaps, threads};
use crate::media::{DECODE_COMMAND, serve_h264};
use crate::text::TEMPLATE_THREAD;
use crate::{ErrorKind, Result};

mod absent;
mod analyze;
mod ask;
#[cfg(feature = "server")]
mod batch;
mod bench;
mod budget;
mod cache_error;
mod gpus;
mod chat;
#[cfg(feature = "eval")]
mod choice;
#[cfg(feature = "convert")]
mod convert;
mod cpu;
#[cfg(feature = "demo")]
mod demo;
pub mod environment;
#[cfg(feature = "eval")]
mod eval;
mod flags;
mod frequencies;
mod inspect;
mod known_models;
#[cfg(feature = "eval")]
mod left_out;
mod live;
mod looked;
#[cfg(feature = "eval")]
mod looks;
#[cfg(feature = "eval")]
mod niah;
mod out;
mod pages;
mod plan;
mod progress;
mod prune;
#[cfg(feature = "convert")]
mod quantize;
mod question;
mod run;
#[cfg(feature = "server")]
mod serve;
mod skip;
#[cfg(feature = "eval")]
mod streams;
#[cfg(feature = "eval")]
mod theory;
#[cfg(feature = "eval")]
mod trials;
mod watch;

/// Answers questions about hours of video on your own machine.
#[derive(Parser)]
#[command(name = "longtake", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[cfg_attr(not(feature = "demo"), allow(clippy::large_enum_variant, reason = "there is one of them, once"))]
enum Command {
    #[cfg(feature = "demo")]
    Demo(Box<demo::Args>),
    Run(Box<run::Args>),
    #[cfg(feature = "server")]
    Serve(Box<serve::Args>),
    #[cfg(feature = "server")]
    Batch(Box<batch::Args>),
    Chat(Box<chat::Args>),
    Watch(Box<watch::Args>),
    Ask(Box<ask::Args>),
    Plan(Box<plan::Args>),
    Analyze(analyze::Args),
    Bench(bench::Args),
    Completions(pages::CompletionsArgs),
    #[cfg(feature = "convert")]
    Convert(convert::Args),
    #[cfg(feature = "eval")]
    Eval(eval::Args),
    Inspect(inspect::Args),
    Man(pages::ManArgs),
    #[cfg(feature = "convert")]
    Quantize(quantize::Args),
}

impl Command {
    fn run(self, matches: &ArgMatches) -> Result<()> {
        match self {
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(*args),
            Command::Run(args) => run::run(*args, matches),
            #[cfg(feature = "server")]
            Command::Serve(args) => serve::run(*args),
            #[cfg(feature = "server")]
            Command::Batch(args) => batch::run(*args),
            Command::Chat(args) => chat::run(*args),
            Command::Watch(args) => watch::run(*args),
            Command::Ask(args) => ask::run(*args),
            Command::Plan(args) => plan::run(*args, matches),
            Command::Analyze(args) => analyze::run(args),
            Command::Bench(args) => bench::run(args),
            // Those without --threads use all.
            #[cfg(feature = "convert")]
            Command::Convert(args) => threads::start(0).and_then(|()| convert::run(args)),
            #[cfg(feature = "eval")]
            Command::Eval(args) => eval::run(args),
            Command::Inspect(args) => threads::start(0).and_then(|()| inspect::run(args)),
            Command::Completions(args) => pages::completions(&args, &mut command()),
            Command::Man(args) => pages::man(&args, command()),
            #[cfg(feature = "convert")]
            Command::Quantize(args) => threads::start(0).and_then(|()| quantize::run(args)),
        }
    }
}

/// The command line as it is understood.
fn command() -> clap::Command {
    // A take knows its model.
    let unless_take = |arg: clap::Arg| arg.required(false).required_unless_present("take");
    // A flag given twice counts as it was given last; lists collect.
    let command = Cli::command().args_override_self(true);
    let command = command.mut_subcommand("chat", |chat| chat.mut_arg("model", unless_take));
    // The embedded model needs no file.
    #[cfg(all(feature = "server", feature = "demo"))]
    let command = ["serve", "batch"].into_iter().fold(command, |command, name| {
        command
            .mut_subcommand(name, |sub| sub.mut_arg("model", |arg| arg.required(false).required_unless_present("demo")))
    });
    // Needles are drawn for the embedded model.
    #[cfg(feature = "eval")]
    let command = command.mut_subcommand("eval", |eval| {
        let free = |sub: clap::Command| sub.mut_arg("model", |arg| arg.required(false));
        ["niah", "where", "prune", "streams"].into_iter().fold(eval, |eval, name| eval.mut_subcommand(name, free))
    });
    absent::name(command)
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    if is_child(std::env::args_os()) {
        return conclude(serve_h264());
    }
    share_heaps();
    silence_templates();
    let words = flags::expand_short_words(std::env::args_os());
    let parsed = command().try_get_matches_from(words).and_then(|matches| match absent::check(&matches) {
        Ok(()) => Ok(Ok((Cli::from_arg_matches(&matches)?, matches))),
        Err(err) => Ok(Err(err)),
    });
    let (cli, matches) = match parsed {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(absent)) => return conclude(Err(absent)),
        // Help and version, which are answers, or a usage error, which clap tells on stderr.
        Err(err) if err.use_stderr() => err.exit(),
        Err(err) => return conclude(print_help(&err)),
    };
    let (_, sub) = matches.subcommand().expect("a subcommand is required");
    let done = progress::end_with_children()
        .and_then(|()| catch_file_signals())
        .and_then(|()| environment::choose_kernels())
        .and_then(|()| cli.command.run(sub));
    // A thread that waits for one of them does not get to end it.
    crate::media::kill_children();
    conclude(done.and_then(|()| check_nothing_lost()))
}

/// Whether another process of this program has started this one to decode for it: no command that people could want.
fn is_child(args: impl Iterator<Item = OsString>) -> bool {
    args.skip(1).eq([DECODE_COMMAND])
}

/// In colours where somebody sees them.
fn print_help(help: &clap::Error) -> Result<()> {
    let text = help.render();
    let mut out = out::stdout();
    Ok(if std::io::stdout().is_terminal() { write!(out, "{}", text.ansi()) } else { write!(out, "{text}") }?)
}

/// The exit code, and the error if there is one; an answer that could not be written is one.
fn conclude(result: Result<()>) -> ExitCode {
    let Err(err) = result.and_then(|()| out::check()) else { return ExitCode::SUCCESS };
    eprintln!("error: {err}");
    ExitCode::from(match err.kind() {
        ErrorKind::BadInput => 2,
        ErrorKind::Cancelled => 130,
        _ => 1,
    })
}

/// A panic of the template engine becomes an error of the template, which is all that people should see of it.
fn silence_templates() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(TEMPLATE_THREAD) {
            loud(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flag of a group may have the name of one that stands beside it in a command, which is told only where that command is used.
    #[test]
    fn the_flags_of_every_command_go_together() {
        command().debug_assert();
    }
}
