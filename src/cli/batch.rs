//! `longtake batch`: the requests of a file.

use std::path::PathBuf;

use super::budget::BudgetFlags;
use super::flags::{MediaFlags, ModelFlags, SamplingFlags};
use super::progress::catch_interrupt;
use super::serve;
use crate::files::atomic::is_same_file;
use crate::server::batch::{Batch, Counts, Shard, run_alone};
use crate::server::{Setup, limits};
use crate::{Error, Result};

/// Answer the requests of a file, in the form of OpenAI's batches, as `serve` would; stopped at any moment, the same command goes on.
///
/// A line of IN is {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"}, a line of OUT {"id", "custom_id",
/// "response": {"status_code", "request_id", "body"}, "error"}. Lines of OUT stand in any order; each is on disk before the next.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Requests, one a line (JSONL).
    input: PathBuf,
    /// File for the answers; what is there already is kept, and not asked again.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// Ask the embedded tiny model, which knows 8 shapes in 8 colours.
    #[cfg(feature = "demo")]
    #[arg(long, conflicts_with = "model")]
    demo: bool,
    /// Answer one of N parts, counted from 0: each machine of several takes one, with an output of its own.
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Requests that are worked on at a time.
    #[arg(long, value_name = "N", default_value_t = limits::PARALLEL)]
    parallel: usize,
    /// Folder of which requests may name files (file:///…).
    #[arg(long, value_name = "DIR")]
    media_path: Option<PathBuf>,
    /// Folder with the uploads and takes of a server, which requests may name by their ids; the server must not run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    if is_same_file(&args.input, &args.output) {
        return Err(Error::bad_input("the answers would be written over the requests: pass another --output"));
    }
    let shard = args.shard.as_deref().map_or(Ok(Shard::WHOLE), Shard::parse)?;
    let seed = u64::try_from(args.sampling.seed).unwrap_or(0);
    #[cfg(feature = "demo")]
    let is_demo = args.demo;
    #[cfg(not(feature = "demo"))]
    let is_demo = false;
    let (engine, session) = serve::load(&args.model, is_demo, &args.media)?;
    let parallel = args.parallel.clamp(1, 64);
    let setup = Setup {
        data: args.data.clone(),
        media_path: args.media_path.as_deref().map(std::fs::canonicalize).transpose()?,
        parallel,
        session,
        sampling: crate::text::SamplerOptions { seed, ..args.sampling.options() },
        media: args.media.options()?,
        limits: args.budget.limits(0)?,
        ..Setup::default()
    };
    let batch = Batch { input: &args.input, output: &args.output, shard, endpoint: None, parallel };
    let told = |counts: Counts| {
        if !args.quiet {
            eprint!("\r{} of {}", counts.done(), counts.total);
        }
    };
    let done = run_alone(engine, setup, &batch, catch_interrupt()?, told);
    if !args.quiet {
        eprintln!();
    }
    let counts = done?;
    if !args.quiet {
        let Counts { kept, completed, failed, .. } = counts;
        eprintln!("{completed} answered, {failed} refused or failed, {kept} of them before: {}", args.output.display());
    }
    Ok(())
}
