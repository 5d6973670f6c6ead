//! `longtake watch`: a video is read once and kept.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::budget::{BudgetFlags, print_plan};
use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::known_models;
use super::progress::{Progress, catch_interrupt, memory};
use crate::stream::{Around, Budget, Engine, Event, Events, SessionOptions, Take, Watch};
use crate::{Error, Result};

/// Watch a video once and keep what was seen in a take file, to ask about it as often as wanted.
///
/// Stopped at any moment, even by a crash, the same command goes on from the last checkpoint.
#[derive(clap::Args)]
pub struct Args {
    /// Video: mp4, mov, y4m, gif, anything ffmpeg reads, or a folder of frames.
    video: PathBuf,
    /// Take file to write or to continue (default: the video's name with `.take`).
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    /// System prompt; questions are asked under the same one [short: -sys]
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Tokens kept free behind the video for questions and answers.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    reserve: usize,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    checkpoint: f64,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    /// Print events as JSON lines on stdout.
    #[arg(long)]
    json: bool,
    /// Print nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if !(0.0..=86_400.0).contains(&args.checkpoint) {
        let message = format!("`{}` seconds between checkpoints, expected 0 to 86400", args.checkpoint);
        return Err(Error::bad_input(message));
    }
    let output = args.output.clone().unwrap_or_else(|| args.video.with_extension("take"));
    let engine = args.model.load(true)?;
    known_models::remember(&engine.fingerprint(), args.model.path()?);
    let mut watch = if output.exists() {
        let take = Take::open(&output, !args.model.no_mmap)?;
        let (n_done, n_total) = (take.n_done(), take.header.n_tokens());
        if take.is_complete() {
            eprintln!("{}: complete, {n_done} tokens", output.display());
            return Ok(());
        }
        if !args.quiet {
            eprintln!("{}: goes on at token {n_done} of {n_total}, as it was planned", output.display());
        }
        Watch::resume(&engine, &args.video, take)?
    } else {
        begin(&args, &engine, &output)?
    };
    watch.set_interval(Duration::from_secs_f64(args.checkpoint));
    let (started, n_before) = (Instant::now(), watch.n_done());
    let mut progress = Progress::new(args.quiet || args.json);
    let mut sink = |event: Event| {
        if args.json {
            // A reader that has gone away is no reason to stop watching.
            let _ = writeln!(std::io::stdout(), "{}", event_json(&event, started));
        }
        progress.event(event);
    };
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    watch.run(&mut events)?;
    if !args.quiet {
        let (n, seconds) = (watch.n_total() - n_before, started.elapsed().as_secs_f64());
        eprintln!("watched {n} tokens in {seconds:.1} s ({:.1} t/s)", n as f64 / seconds.max(1e-9));
        eprintln!("next: longtake ask {} \"What happens in this video?\"", output.display());
    }
    Ok(())
}

/// Plans the video and makes a new take.
fn begin<'e>(args: &Args, engine: &'e Engine, output: &Path) -> Result<Watch<'e>> {
    let system_prompt = args.system_prompt.as_deref();
    let around = Around::of(engine, system_prompt)?;
    let n_around = around.n_tokens() + args.reserve;
    let ctx_size = args.model.compute.ctx_size;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(engine, 0, scale)?;
    let budget = Budget::new(engine, args.budget.limits(ctx_size)?, options);
    let (plan, cost) = budget.fit_video(&args.video, &args.media.options(), n_around)?;
    if !args.quiet {
        print_plan(&[&plan], &cost);
    }
    warn_of_length(engine, cost.n_ctx);
    let options = SessionOptions { n_ctx: cost.n_ctx, ..options };
    Watch::begin(engine, (&args.video, plan), output, (system_prompt, around), options)
}

/// An event with the time since the start and the memory in use.
fn event_json(event: &Event, started: Instant) -> serde_json::Value {
    let mut line = match event {
        Event::PromptStart { n_tokens, cached } => json!({"event": "start", "n_tokens": n_tokens, "cached": cached}),
        Event::Encoded { n_done, n_total, .. } => json!({"event": "encoded", "pairs": n_done, "of": n_total}),
        Event::Prefilled { n_done, n_total } => json!({"event": "prefilled", "tokens": n_done, "of": n_total}),
        Event::Skipped { n_packets, .. } => json!({"event": "skipped", "packets": n_packets}),
    };
    line["seconds"] = json!(started.elapsed().as_secs_f64());
    line["memory"] = json!(memory());
    line
}
