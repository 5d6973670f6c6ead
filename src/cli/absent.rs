//! Commands that this build is without: they are listed and complete like the others, and say which feature brings them.

use clap::{Arg, ArgAction, ArgMatches};

use crate::{Error, Result};

/// A command that a feature brings.
struct Gated {
    /// Its words after `longtake`.
    words: &'static [&'static str],
    feature: &'static str,
    is_here: bool,
}

const GATED: &[Gated] = &[
    Gated { words: &["demo"], feature: "demo", is_here: cfg!(feature = "demo") },
    Gated { words: &["convert"], feature: "convert", is_here: cfg!(feature = "convert") },
    Gated { words: &["serve"], feature: "server", is_here: cfg!(feature = "server") },
    Gated { words: &["batch"], feature: "server", is_here: cfg!(feature = "server") },
    Gated { words: &["quantize"], feature: "convert", is_here: cfg!(feature = "convert") },
    Gated { words: &["eval"], feature: "eval", is_here: cfg!(feature = "eval") },
    Gated { words: &["analyze", "theory"], feature: "eval", is_here: cfg!(feature = "eval") },
];

/// Adds the absent commands to those of the command line.
pub(super) fn name(command: clap::Command) -> clap::Command {
    GATED.iter().filter(|gated| !gated.is_here).fold(command, |command, gated| add(command, gated.words, gated))
}

fn add(command: clap::Command, words: &'static [&'static str], gated: &Gated) -> clap::Command {
    match words {
        [] => command,
        // Whatever flags it would take are taken, so that the answer is never that a flag is wrong.
        [last] => command.subcommand(
            clap::Command::new(*last)
                .about(format!("Not in this build: needs the feature `{}`", gated.feature))
                .arg(Arg::new("words").action(ArgAction::Append).num_args(0..).allow_hyphen_values(true).hide(true)),
        ),
        [first, rest @ ..] => command.mut_subcommand(*first, |sub| add(sub, rest, gated)),
    }
}

/// # Errors
/// `Unsupported` when the command is an absent one.
pub(super) fn check(matches: &ArgMatches) -> Result<()> {
    for gated in GATED.iter().filter(|gated| !gated.is_here) {
        let found = gated.words.iter().try_fold(matches, |m, word| m.subcommand_matches(word));
        if found.is_some() {
            let (words, feature) = (gated.words.join(" "), gated.feature);
            return Err(Error::unsupported(format!(
                "`longtake {words}` is not in this build: it needs the feature `{feature}` (`cargo install --path . \
                 --features {feature}`)"
            )));
        }
    }
    Ok(())
}
