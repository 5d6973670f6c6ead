//! Streams: `-` in place of a video's name is standard input.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::HumanDuration;
use serde_json::json;

use super::budget::print_memory;
use super::flags::{MediaFlags, warn_of_length};
use super::out::stdout;
use super::progress::{Progress, catch_interrupt, forget_interrupt};
use super::run::{Request, respond};
use crate::api::{Cancel, Chat};
use crate::stream::{
    Budget, Cost, Engine, Events, LiveEnd, LiveOptions, LivePlan, LiveShape, Prompt, Session, SessionOptions, Unit,
    WhenFull, Window, Worth,
};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part, Source};
use crate::{Error, Result};

/// How a stream is named.
const NAME: &str = "-";

/// What `run` and `watch` do with a stream.
#[derive(clap::Args)]
pub(super) struct LiveFlags {
    /// When a stream (video `-`) fills the context: `stop` reading it, `forget` the oldest frames, or `compress` the past, of which
    /// those parts of frames go that changed least [default: stop]
    #[arg(long, value_name = "POLICY", value_parser = ["stop", "forget", "compress"])]
    when_full: Option<String>,
}

impl LiveFlags {
    /// The policy.
    pub(super) fn when_full(&self) -> WhenFull {
        self.given().unwrap_or(WhenFull::Stop)
    }

    /// The one that was asked for.
    pub(super) fn given(&self) -> Option<WhenFull> {
        self.when_full.as_deref().map(|policy| match policy {
            "forget" => WhenFull::Forget,
            "compress" => WhenFull::Compress(Worth::Change),
            _ => WhenFull::Stop,
        })
    }

    /// # Errors
    /// A policy for a video that is no stream.
    pub(super) fn check_unused(&self) -> Result<()> {
        match &self.when_full {
            Some(_) => Err(Error::bad_input("--when-full is for streams: give `-` as the video")),
            None => Ok(()),
        }
    }
}

/// Whether a video's name stands for a stream.
pub(super) fn is_stream(video: &Path) -> bool {
    video.as_os_str() == NAME
}

/// Whether a stream is part of a conversation.
pub(super) fn has_stream(messages: &[Message]) -> bool {
    messages.iter().any(|message| match &message.content {
        Content::Text(_) => false,
        Content::Parts(parts) => {
            let stream = |source: &Source| source.path().is_some_and(is_stream);
            parts.iter().any(|part| matches!(part, Part::Video { source: MediaSource::Path(path), .. } if stream(path)))
        }
    })
}

/// Opens standard input and waits for its first bytes.
///
/// # Errors
/// A terminal, options that a stream cannot follow, a stream that is none.
pub(super) fn open(engine: &Engine, media: &MediaFlags) -> Result<LivePlan> {
    const LABEL: &str = "standard input";
    if std::io::stdin().is_terminal() {
        return Err(Error::bad_input("is a terminal, expected a video: ffmpeg … -f yuv4mpegpipe - |").at(LABEL));
    }
    let cancel = catch_interrupt()?;
    let stopped = || cancel.load(Ordering::Relaxed);
    let (options, tower) = (media.options()?, engine.need_vision()?);
    let mut plan = LivePlan::open(std::io::stdin(), LABEL, &options, tower, &stopped)?;
    plan.tell_time(&engine.tokenizer)?;
    Ok(plan)
}

/// Watches a stream that is part of `messages`, then answers their last turn, as [`super::run::answer`] does for files.
///
/// # Errors
/// Other media beside the stream. A stream that is damaged in the middle is answered about first.
pub(super) fn answer(
    engine: &Arc<Engine>,
    args: &Request<'_>,
    messages: &[Message],
    when_full: WhenFull,
    load_time: Duration,
) -> Result<()> {
    if args.dump.is_some() {
        return Err(Error::bad_input("--dump needs a video that can be read whole, not a stream"));
    }
    let render = RenderOptions {
        add_generation_prompt: true,
        add_vision_id: args.add_vision_id,
        special: args.special,
        tools: &[],
    };
    let units = Prompt::units(engine, messages, render)?;
    let is_token = |unit: &Unit| matches!(unit, Unit::Token(_));
    let n_before = units.iter().take_while(|unit| is_token(unit)).count();
    if !units.iter().skip(n_before + 1).all(is_token) {
        return Err(Error::bad_input("a stream stands alone: give no picture and no other video beside it"));
    }
    let before: Vec<u32> =
        units.iter().map_while(|unit| if let Unit::Token(id) = unit { Some(*id) } else { None }).collect();
    let options = args.sizes(engine)?;
    let ctx_size = args.compute.ctx_size;
    let limits = args.budget.limits(ctx_size)?;
    let mut plan = open(engine, args.media)?;
    let live = LiveOptions { when_full, reserve: units.len() - n_before + args.sampling.room(ctx_size) };
    let cost = Budget::new(engine, limits, options).fit_live(&plan.shape, n_before + live.reserve)?;
    if !args.quiet {
        print_stream(&plan.shape, &cost, Some(when_full));
    }
    warn_of_length(engine, cost.n_ctx);
    let mut session = Session::new(engine, SessionOptions { n_ctx: cost.n_ctx, ..options })?;
    let mut progress = Progress::new(args.quiet);
    let mut sink = |event| progress.event(event);
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    let started = Instant::now();
    let (window, end) = session.watch(&before, &mut plan, live, &mut events, &mut |_, _, _| {})?;
    // What ended the stream is no wish to go without the answer.
    forget_interrupt();
    let fault = conclude(&plan.shape, (window, when_full), end, started.elapsed(), args.quiet);
    let chat = Chat::over(session, messages.to_vec(), vec![plan.shape.seen(window)]);
    let chat = chat.options(args.options(options)?).cancelled_by(Cancel::from_static(catch_interrupt()?));
    let mut answer = respond(engine, chat, "", args, load_time)?.1;
    if let (Err(fault), Some(warnings)) = (&fault, answer["warnings"].as_array_mut()) {
        warnings.push(fault.to_string().into());
    }
    if args.json {
        writeln!(stdout(), "{answer}")?;
    }
    fault
}

/// Says how a stream ended.
///
/// # Errors
/// What was wrong with it.
pub(super) fn conclude(
    live: &LiveShape,
    (window, when_full): (Window, WhenFull),
    end: LiveEnd,
    time: Duration,
    quiet: bool,
) -> Result<()> {
    let why = match &end {
        LiveEnd::Over => "the stream is over",
        LiveEnd::Full => "the context is full",
        LiveEnd::Stopped => "stopped on request",
        LiveEnd::Failed(_) => "the stream is damaged",
    };
    if !quiet {
        let shown = Duration::from_secs_f64(live.n_frames(window) as f64 / live.info.taken_fps());
        let forgotten = match (when_full.worth(), window) {
            (_, Window { n_gone: 0, n_forgotten: 0, .. }) => String::new(),
            (None, Window { n_forgotten, .. }) => format!(", the first {} of them forgotten", 2 * n_forgotten),
            (Some(_), Window { n_forgotten, n_gone, .. }) => {
                format!(", {} of them forgotten, {n_gone} visual tokens on the whole", 2 * n_forgotten)
            }
        };
        eprintln!(
            "{why}: {} frames{forgotten}, {} of video in {}",
            live.n_frames(window),
            HumanDuration(shown),
            HumanDuration(time)
        );
    }
    match end {
        LiveEnd::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

/// What a stream costs, in a few lines on stderr, under a policy if that is known.
pub(super) fn print_stream(live: &LiveShape, cost: &Cost, when_full: Option<WhenFull>) {
    let n_tokens = cost.n_tokens;
    let info = &live.info;
    eprintln!("stream:  {}x{} at {:.4} fps ({})", info.width, info.height, info.fps, info.decoder);
    let every = 1.0 / info.taken_fps();
    eprintln!(
        "frames:  of {}x{}, one every {every:.2} s, {} tokens a pair",
        live.width,
        live.height,
        live.n_pair_tokens()
    );
    let then = match when_full {
        None => "",
        Some(WhenFull::Stop) => ", then reading stops",
        Some(WhenFull::Forget) => ", then the oldest are forgotten",
        Some(WhenFull::Compress(_)) => ", then those of the past go that changed least",
    };
    let seconds = Duration::from_secs_f64(seconds_until_full(live, n_tokens));
    eprintln!(
        "tokens:  {:.1} a second; {n_tokens} of them fill the context after {}{then}",
        live.tokens_per_second(),
        HumanDuration(seconds)
    );
    print_memory(cost);
    cost.reduced.iter().for_each(|what| eprintln!("reduced: {what}"));
}

/// Seconds of the stream that fit into `n_tokens`.
fn seconds_until_full(live: &LiveShape, n_tokens: usize) -> f64 {
    2.0 * (n_tokens / live.n_later_tokens()) as f64 / live.info.taken_fps()
}

/// The plan of a stream for people, or as one JSON object on stdout.
pub(super) fn show_plan(live: &LiveShape, cost: &Cost, when_full: Option<WhenFull>, as_json: bool) -> Result<()> {
    if !as_json {
        print_stream(live, cost, when_full);
        return Ok(());
    }
    let mut value = json!({
        "source": live.label, "width": live.width, "height": live.height, "fps": live.info.taken_fps(),
        "tokens_per_pair": live.n_pair_tokens(), "tokens_per_second": live.tokens_per_second(),
        "n_tokens": cost.n_tokens, "n_ctx": cost.n_ctx, "seconds_until_full": seconds_until_full(live, cost.n_tokens),
        "memory": super::budget::memory_json(cost), "reduced": cost.reduced,
    });
    if let Some(when_full) = when_full {
        value["when_full"] = json!(when_full.name());
    }
    Ok(writeln!(stdout(), "{value}")?)
}
