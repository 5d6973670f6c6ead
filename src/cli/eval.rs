//! `longtake eval`: scores on published collections from local folders, and trials over drawn videos.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::{choice, left_out, looks, niah, streams};
use crate::Result;
use crate::eval::choice::Task;
use crate::files::atomic::{check_output, write_beside};

/// Scores: needles in long videos, and published collections of questions from local folders.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Niah(Box<niah::Args>),
    Where(Box<looks::Args>),
    Prune(Box<left_out::Args>),
    Streams(Box<streams::Args>),
    /// Video-MME: annotations in the folder or videomme/, videos in data/, subtitles in subtitle/.
    Videomme(Box<choice::Args>),
    /// LongVideoBench: lvb_val.json or lvb_test_wo_gt.json (or their tables), videos in videos/.
    Longvideobench(Box<choice::Args>),
    /// MLVU: json/TASK.json with videos in video/TASK/, or one table of questions.
    Mlvu(Box<choice::Args>),
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    match args.what {
        What::Niah(args) => niah::run(*args),
        What::Where(args) => looks::run(*args),
        What::Prune(args) => left_out::run(*args),
        What::Streams(args) => streams::run(*args),
        What::Videomme(args) => choice::run(Task::VideoMme, &args),
        What::Longvideobench(args) => choice::run(Task::LongVideoBench, &args),
        What::Mlvu(args) => choice::run(Task::Mlvu, &args),
    }
}

/// What trials over drawn videos have in common.
#[derive(clap::Args)]
pub(super) struct TrialFlags {
    /// Seed of what is drawn.
    #[arg(short, long, default_value_t = 1)]
    pub seed: u64,
    /// File for a line of JSON for each trial.
    #[arg(short, long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

impl TrialFlags {
    /// Whether its file can be written, before any work begins.
    pub(super) fn check(&self) -> Result<()> {
        self.out.as_deref().map_or(Ok(()), check_output)
    }

    /// Writes the lines, where they are wanted.
    pub(super) fn write(&self, lines: impl Iterator<Item = Value>) -> Result<()> {
        let Some(path) = &self.out else { return Ok(()) };
        let mut lines = lines;
        write_beside(path, |file| lines.try_for_each(|line| Ok(writeln!(file, "{line}")?)))
    }
}
