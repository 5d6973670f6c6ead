//! `longtake watch`: a video is read once and kept.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::budget::{BudgetFlags, measuring, print_plan, print_time};
use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::known_models;
use super::live::{self, LiveFlags};
use super::out::stdout;
use super::progress::{Progress, catch_interrupt, memory};
use crate::api::{Cancel, ChatOptions, Longtake, take_reserve};
use crate::cache::KvCache;
use crate::stream::{
    Around, Budget, Engine, Event, Events, IfExists, LiveOptions, LiveTake, Session, SessionOptions, Tally,
};
use crate::{Error, Result};

/// Watch a video once and keep what was seen in a take file, to ask about it as often as wanted.
///
/// Stopped at any moment, even by a crash, the same command goes on from the last checkpoint; a take of another video, or that
/// was watched in another way, is refused.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Video: mp4, mov, y4m, gif, anything ffmpeg reads, a folder of frames, or `-`: a stream on standard input, Y4M or what
    /// ffmpeg reads, which is kept whole at its end and cannot be gone on with.
    video: PathBuf,
    /// Take file to write or to continue (default: the video's name with `.take`).
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Watch anew and replace the take that is there, whatever it is of.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    model: ModelFlags,
    /// System prompt; questions are asked under the same one [short: -sys]
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Tokens kept free behind the video for questions and answers (default 4096, a quarter of a context below 8192).
    #[arg(long, value_name = "N")]
    reserve: Option<usize>,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    checkpoint: f64,
    /// Most seconds between two saves of a stream's take while the stream goes on, so that it can be asked about: the first comes
    /// after ten, then after twice as many each time (0: only at the end).
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
pub(super) fn run(args: Args) -> Result<()> {
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
    if !output.exists() || args.again {
        args.if_exists().check(&output)?;
    }
    let engine = args.model.load(true)?;
    known_models::remember(&engine.fingerprint(), args.model.path()?);
    let longtake = Longtake::from_engine(Arc::clone(&engine)).with_mmap(!args.model.no_mmap);
    let mut watching = longtake
        .watch(&args.video)
        .options(args.options(&engine)?)
        .checkpoint(Duration::from_secs_f64(args.checkpoint))
        .on_event(args.sink())
        .cancelled_by(Cancel::from_static(catch_interrupt()?));
    if let Some(text) = &args.system_prompt {
        watching = watching.system(text);
    }
    if args.again {
        watching = watching.again();
    }
    let mut take = watching.open(&output)?;
    let n_before = take.n_before();
    match take.n_total() {
        Some(n_total) if n_total == n_before => {
            eprintln!("{}: complete, {n_total} tokens", output.display());
            return Ok(());
        }
        Some(n_total) if !args.quiet => {
            eprintln!("{}: goes on at token {n_before} of {n_total}, as it was planned", output.display());
        }
        _ => {}
    }
    if let Some(plan) = take.plan().filter(|_| !args.quiet) {
        print_plan(&plan.media, &plan.cost);
        measuring(false, || take.time())?;
    }
    if let Some(plan) = take.plan() {
        if !args.quiet {
            print_time(&plan.cost);
        }
        warn_of_length(&engine, plan.cost.n_ctx);
    }
    let started = Instant::now();
    let watched = take.run()?;
    if !args.quiet {
        let (n, seconds) = (watched.n_tokens - n_before, started.elapsed().as_secs_f64());
        eprintln!("watched {n} tokens in {seconds:.1} s ({:.1} t/s)", n as f64 / seconds.max(1e-9));
    }
    args.print_next(&output);
    Ok(())
}

/// Watches a stream into a take.
fn stream(args: &Args) -> Result<()> {
    let output = args.output.as_deref().ok_or_else(|| Error::bad_input("a stream has no name: pass --output FILE"))?;
    args.if_exists().check(output)?;
    let engine = args.model.load(true)?;
    known_models::remember(&engine.fingerprint(), args.model.path()?);
    let (system_prompt, ctx_size) = (args.system_prompt.as_deref(), args.model.compute.ctx_size);
    let Around { before, after } = Around::of(&engine, system_prompt)?;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(&engine, 0, scale)?;
    let limits = args.budget.limits(ctx_size)?;
    let reserve = args.reserve.unwrap_or_else(|| take_reserve(limits.n_ctx));
    let live = LiveOptions { when_full: args.live.when_full(), reserve: reserve + after.len() };
    let mut plan = live::open(&engine, &args.media)?;
    let shape = plan.shape.clone();
    let budget = Budget::new(&engine, limits, options).with_reserve(reserve);
    let cost = budget.fit_live(&shape, before.len() + live.reserve)?;
    if !args.quiet {
        live::print_stream(&shape, &cost, Some(live.when_full));
    }
    warn_of_length(&engine, cost.n_ctx);
    let options = SessionOptions { n_ctx: cost.n_ctx, ..options };
    let every = (args.save_every > 0.0).then(|| Duration::from_secs_f64(args.save_every));
    let mut take = LiveTake::new((output, args.if_exists()), (system_prompt, before.clone()), options, every)?;
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
    live::conclude(&shape, (window, live.when_full), end, started.elapsed(), args.quiet)?;
    args.print_next(output);
    Ok(())
}

impl Args {
    fn if_exists(&self) -> IfExists {
        if self.again { IfExists::Replace } else { IfExists::Refuse }
    }

    /// How it is watched.
    fn options(&self, engine: &Engine) -> Result<ChatOptions> {
        let scale = self.media.scale(engine.text.hparams().layout)?;
        let sizes = self.model.compute.session(engine, 0, scale)?;
        let limits = self.budget.limits(self.model.compute.ctx_size)?;
        let reserve = self.reserve.unwrap_or_else(|| take_reserve(limits.n_ctx));
        Ok(ChatOptions::of(sizes, limits).reserve(reserve).media(self.media.options()?))
    }

    /// Where events go: a bar, or lines of JSON.
    fn sink(&self) -> impl FnMut(Event) + Send + use<> {
        let (json, mut progress, started) = (self.json, Progress::new(self.quiet || self.json), Instant::now());
        move |event| {
            let said = json.then(|| event.clone());
            progress.event(event);
            if let Some(event) = said {
                // Nowhere to write is no reason to stop watching; it is said at the end.
                let _ = writeln!(stdout(), "{}", event_json(&event, progress.tally(), started));
            }
        }
    }

    fn print_next(&self, output: &Path) {
        if !self.quiet {
            eprintln!("next: longtake ask {} \"What happens in this video?\"", output.display());
        }
    }
}

/// What was left out is told where anything was.
fn with_left_out(mut line: serde_json::Value, tally: &Tally) -> serde_json::Value {
    if tally.left_out_tokens > 0 {
        line["pairs_left_out"] = json!(tally.left_out_pairs);
        line["tokens_left_out"] = json!(tally.left_out_tokens);
    }
    line
}

/// An event with the time since the start and the memory in use, and what was read so far.
fn event_json(event: &Event, tally: &Tally, started: Instant) -> serde_json::Value {
    let mut line = match event {
        Event::PromptStart { n_tokens, cached } => json!({"event": "start", "n_tokens": n_tokens, "cached": cached}),
        Event::Encoding { n_done, n_total, share, .. } => {
            json!({"event": "encoding", "pairs": n_done, "of": n_total, "share": share})
        }
        Event::Encoded { n_done, n_total, .. } => with_left_out(
            json!({"event": "encoded", "pairs": n_done, "of": n_total, "reused": tally.reused_pairs}),
            tally,
        ),
        Event::MediumRead { decoding, encoding, .. } => {
            json!({"event": "read", "decode_ms": 1e3 * decoding.as_secs_f64(), "encode_ms": 1e3 * encoding.as_secs_f64()})
        }
        Event::Prefilled { n_done, n_total } => json!({"event": "prefilled", "tokens": n_done, "of": n_total}),
        Event::Streamed { seen, forgotten, n_gone, .. } => {
            let line = json!({
                "event": "streamed", "pairs": seen, "forgotten": forgotten, "tokens_forgotten": n_gone,
                "reused": tally.reused_pairs,
            });
            with_left_out(line, tally)
        }
        Event::Saved(Ok(n_tokens)) => json!({"event": "saved", "tokens": n_tokens}),
        Event::Saved(Err(message)) => json!({"event": "not saved", "error": message}),
        Event::Skipped { n_packets, .. } => json!({"event": "skipped", "packets": n_packets}),
        Event::Warning { message, .. } | Event::Notice(message) => json!({"event": "warning", "message": message}),
    };
    line["seconds"] = json!(started.elapsed().as_secs_f64());
    line["memory"] = json!(memory());
    line
}
