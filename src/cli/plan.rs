//! `longtake plan`: what a video will cost, before anything is watched.

use std::io::Write;
use std::path::PathBuf;

use super::budget::{BudgetFlags, plan_json, print_plan};
use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::live;
use super::out::stdout;
use crate::Result;
use crate::stream::Budget;

/// Say what watching a video would take: frames, tokens, memory, minutes; of a stream, how soon the context is full.
///
/// The minutes come from a calibration of a few seconds on this machine.
#[derive(clap::Args)]
pub struct Args {
    /// Video: mp4, mov, y4m, gif, anything ffmpeg reads, a folder of frames, or `-` for a stream on standard input.
    video: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// Tokens kept free behind the video for questions and answers.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    reserve: usize,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let engine = args.model.load(true)?;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(&engine, 0, scale)?;
    let limits = args.budget.limits(args.model.compute.ctx_size)?;
    let budget = Budget::new(&engine, limits, options);
    if live::is_stream(&args.video) {
        let plan = live::open(&engine, &args.media)?;
        return live::show_plan(&plan.shape, &budget.fit_live(&plan.shape, args.reserve)?, args.json);
    }
    let (plan, cost) = budget.fit_video(&args.video, &args.media.options(), args.reserve)?;
    warn_of_length(&engine, cost.n_ctx);
    if args.json {
        writeln!(stdout(), "{}", plan_json(&[&plan], &cost))?;
    } else {
        print_plan(&[&plan], &cost);
    }
    Ok(())
}
