//! `longtake completions` and `longtake man`: the command line told to shells and to `man`.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::out::stdout;
use crate::Result;
use crate::error::Context;
use crate::files::atomic::{check_outputs_in, write_beside};

/// The name of the program.
const NAME: &str = "longtake";

/// Print what a shell needs to complete commands and flags.
///
/// bash: longtake completions bash > ~/.local/share/bash-completion/completions/longtake
/// zsh: longtake completions zsh > a folder of $fpath, as _longtake
/// fish: longtake completions fish > ~/.config/fish/completions/longtake.fish
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Runs the command.
pub(super) fn completions(args: &CompletionsArgs, command: &mut clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, NAME, &mut script);
    Ok(stdout().write_all(&script)?)
}

/// Print the manual page, or write one for each command into a folder.
#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// Write longtake.1, longtake-run.1, … into this folder instead.
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn man(args: &ManArgs, mut command: clap::Command) -> Result<()> {
    command.build();
    match &args.output {
        None => Ok(stdout().write_all(&page(command, NAME)?)?),
        Some(folder) => {
            check_outputs_in(folder, &[&format!("{NAME}.1")])?;
            std::fs::create_dir_all(folder).at(|| folder.display().to_string())?;
            write_pages(folder, command, NAME)
        }
    }
}

fn write_pages(folder: &Path, command: clap::Command, name: &str) -> Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write_pages(folder, sub.clone(), &format!("{name}-{}", sub.get_name()))?;
    }
    let page = page(command, name)?;
    write_beside(&folder.join(format!("{name}.1")), |file| Ok(file.write_all(&page)?))
}

fn page(command: clap::Command, name: &str) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.display_name(name.to_string())).render(&mut page)?;
    Ok(page)
}
