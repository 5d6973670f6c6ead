//! `longtake eval`: scores on published collections from local folders, and trials over drawn videos.

use clap::Subcommand;

use super::{choice, left_out, looks, niah, streams};
use crate::Result;
use crate::eval::choice::Task;

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
