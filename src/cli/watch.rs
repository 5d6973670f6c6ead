//! `longtake watch`: a video is read once and kept.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::budget::{BudgetFlags, print_plan};
use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::known_models;
use super::live::{self, LiveFlags};
use super::out::stdout;
use super::progress::{Progress, catch_interrupt, memory};
use crate::cache::KvCache;
use crate::stream::{
    Around, Budget, Engine, Event, Events, LiveOptions, LiveTake, Session, SessionOptions, Take, Watch,
};
use crate::{Error, Result};

/// Watch a video once and keep what was seen in a take file, to ask about it as often as wanted.
///
/// Stopped at any moment, even by a crash, the same command goes on from the last checkpoint.
#[derive(clap::Args)]
pub struct Args {
    /// Video: mp4, mov, y4m, gif, anything ffmpeg reads, a folder of frames, or `-`: a stream on standard input, Y4M or what
    /// ffmpeg reads, which is kept whole at its end and cannot be gone on with.
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
    /// Seconds after which the take of a stream is written again while the stream goes on, so that it can be asked about (0:
    /// only at the end).
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    save_every: f64,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    live: LiveFlags,
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
    for (seconds, what) in [(args.checkpoint, "checkpoints"), (args.save_every, "saves")] {
        if !(0.0..=86_400.0).contains(&seconds) {
            return Err(Error::bad_input(format!("`{seconds}` seconds between {what}, expected 0 to 86400")));
        }
    }
    if live::is_stream(&args.video) {
        return stream(&args);
    }
    args.live.check_unused()?;
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
    let mut sink = args.sink();
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    watch.run(&mut events)?;
    if !args.quiet {
        let (n, seconds) = (watch.n_total() - n_before, started.elapsed().as_secs_f64());
        eprintln!("watched {n} tokens in {seconds:.1} s ({:.1} t/s)", n as f64 / seconds.max(1e-9));
    }
    args.print_next(&output);
    Ok(())
}

/// Watches a stream into a take.
fn stream(args: &Args) -> Result<()> {
    let output = args.output.as_deref().ok_or_else(|| Error::bad_input("a stream has no name: pass --output FILE"))?;
    let engine = args.model.load(true)?;
    known_models::remember(&engine.fingerprint(), args.model.path()?);
    let (system_prompt, ctx_size) = (args.system_prompt.as_deref(), args.model.compute.ctx_size);
    let Around { before, after } = Around::of(&engine, system_prompt)?;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(&engine, 0, scale)?;
    let live = LiveOptions { when_full: args.live.when_full(), reserve: args.reserve + after.len() };
    let mut plan = live::open(&engine, &args.media)?;
    let shape = plan.shape.clone();
    let limits = args.budget.limits(ctx_size)?;
    let cost = Budget::new(&engine, limits, options).fit_live(&shape, before.len() + live.reserve)?;
    if !args.quiet {
        live::print_stream(&shape, &cost, Some(live.when_full));
    }
    warn_of_length(&engine, cost.n_ctx);
    let options = SessionOptions { n_ctx: cost.n_ctx, ..options };
    let every = (args.save_every > 0.0).then(|| Duration::from_secs_f64(args.save_every));
    let mut take = LiveTake::new(output, (system_prompt, before.clone()), options, every)?;
    let mut session = Session::new(&engine, options)?;
    let mut sink = args.sink();
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    let started = Instant::now();
    let mut keep = |cache: &KvCache, window, events: &mut Events<'_>| {
        if take.is_due() {
            // The event says it when that fails; the next time may go better, and so may the end.
            let _ = take.save(&engine, &shape.seen(window), cache, events);
        }
    };
    let (window, end) = session.watch(&before, &mut plan, live, &mut events, &mut keep)?;
    session.pull()?;
    take.save(&engine, &shape.seen(window), session.cache(), &mut events)?;
    live::conclude(&shape, window, end, started.elapsed(), args.quiet)?;
    args.print_next(output);
    Ok(())
}

impl Args {
    /// Where events go: a bar, or lines of JSON.
    fn sink(&self) -> impl FnMut(Event) {
        let (json, mut progress, started) = (self.json, Progress::new(self.quiet || self.json), Instant::now());
        move |event| {
            if json {
                // Nowhere to write is no reason to stop watching; it is said at the end.
                let _ = writeln!(stdout(), "{}", event_json(&event, started));
            }
            progress.event(event);
        }
    }

    fn print_next(&self, output: &Path) {
        if !self.quiet {
            eprintln!("next: longtake ask {} \"What happens in this video?\"", output.display());
        }
    }
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
        Event::Streamed { seen, forgotten } => json!({"event": "streamed", "pairs": seen, "forgotten": forgotten}),
        Event::Saved(Ok(n_tokens)) => json!({"event": "saved", "tokens": n_tokens}),
        Event::Saved(Err(message)) => json!({"event": "not saved", "error": message}),
        Event::Skipped { n_packets, .. } => json!({"event": "skipped", "packets": n_packets}),
    };
    line["seconds"] = json!(started.elapsed().as_secs_f64());
    line["memory"] = json!(memory());
    line
}
