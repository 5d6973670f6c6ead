//! `longtake watch`: a video is read once and kept.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::budget::{BudgetFlags, print_plan};
use super::flags::{MediaFlags, ModelFlags};
use super::known_models;
use super::progress::{Progress, catch_interrupt};
use crate::stream::{
    Budget, Engine, Event, Events, MediaKind, MediaPlan, Prompt, Session, Take, TakeHeader, TakeWriter, Unit,
    fingerprint,
};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, ErrorKind, Result};

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
    engine.need_vision()?;
    known_models::remember(&engine.fingerprint(), &args.model.model);
    let (mut session, mut prompt, mut writer) = match output.exists() {
        true => match resume(&args, &engine, &output)? {
            Some(work) => work,
            None => return Ok(()),
        },
        false => begin(&args, &engine, &output)?,
    };
    writer.set_interval(Duration::from_secs_f64(args.checkpoint));
    session.record(writer);
    let n_total = prompt.n_tokens()?;
    let mut progress = Progress::new(args.quiet || args.json);
    let mut sink = |event: Event| {
        if args.json {
            // A reader that has gone away is no reason to stop watching.
            let _ = writeln!(std::io::stdout(), "{}", event_json(&event));
        }
        progress.event(event);
    };
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    let (started, from) = (Instant::now(), session.n_past());
    session.feed(&mut prompt, &mut events, None)?;
    let seconds = started.elapsed().as_secs_f64();
    if !args.quiet {
        let rate = (n_total - from) as f64 / seconds;
        eprintln!("watched {} tokens in {seconds:.1} s ({rate:.1} t/s)", n_total - from);
        eprintln!("next: longtake ask {} \"What happens in this video?\"", output.display());
    }
    Ok(())
}

type Work<'e> = (Session<'e>, Prompt, TakeWriter);

/// A new take.
fn begin<'e>(args: &Args, engine: &'e Engine, output: &Path) -> Result<Work<'e>> {
    let tower = engine.need_vision()?;
    let (before, after) = around_the_video(engine, args.system_prompt.as_deref(), &args.video)?;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let around = before.len() + after.len();
    let options = args.model.compute.session(engine, 0, 0, scale)?;
    let limits = args.budget.limits(args.model.compute.ctx_size)?;
    let budget = Budget::new(engine, limits, around + args.reserve, options);
    let (plan, cost) = budget.fit(&args.video, &args.media.options())?;
    if !args.quiet {
        print_plan(&plan, &cost);
    }
    let hp = engine.text.hparams();
    let info = plan.info.as_ref().expect("a video knows itself");
    let (source_fingerprint, source_bytes) = fingerprint::media(&args.video)?;
    let merge = tower.hparams().merge;
    let merged = plan.grid.merged(merge);
    let n_ctx = match args.model.compute.ctx_size {
        0 => around + plan.n_tokens + args.reserve,
        n => n,
    };
    let header = TakeHeader {
        model_name: engine.name.clone(),
        model_fingerprint: engine.fingerprint(),
        mmproj_fingerprint: engine.mmproj_fingerprint().unwrap_or_default(),
        layout: hp.layout.to_string(),
        temporal_scale: scale.unwrap_or(hp.temporal_scale),
        // Whole rows of 32 slots keep every head of the cache aligned in the file.
        shape: engine.cache_shape(n_ctx.next_multiple_of(32), (options.type_k, options.type_v)),
        n_batch: options.n_batch,
        n_encode: Session::pairs_at_once(plan.grid.h, plan.grid.w),
        before,
        after,
        grid: [merged.t, merged.h, merged.w],
        merge,
        height: plan.height,
        width: plan.width,
        frames: plan.frames.iter().map(|i| u32::try_from(*i).unwrap_or(u32::MAX)).collect(),
        fps: info.fps,
        system_prompt: args.system_prompt.clone(),
        source: args.video.display().to_string(),
        source_bytes,
        source_fingerprint,
    };
    let writer = TakeWriter::create(output, &header)?;
    let options = crate::stream::SessionOptions { n_ctx: header.shape.n_ctx, ..options };
    let session = Session::new(engine, options)?;
    Ok((session, prompt_of(&header, plan), writer))
}

/// The rest of a take, or `None` when there is nothing left to watch.
fn resume<'e>(args: &Args, engine: &'e Engine, output: &Path) -> Result<Option<Work<'e>>> {
    let take = Take::open(output, !args.model.no_mmap)?;
    let place = || output.display().to_string();
    let header = take.header.clone();
    let (fingerprint, _) = fingerprint::media(&args.video)?;
    if fingerprint != header.source_fingerprint {
        let message = format!("is a take of another video, `{}`; choose another --output", header.source);
        return Err(Error::new(ErrorKind::Mismatch, message).at(place()));
    }
    take.check_model(engine)?;
    if engine.mmproj_fingerprint().unwrap_or_default() != header.mmproj_fingerprint {
        return Err(Error::new(ErrorKind::Mismatch, "was begun with another projector").at(place()));
    }
    if take.is_complete() {
        eprintln!("{}: complete, {} tokens", output.display(), take.n_done());
        return Ok(None);
    }
    if !args.quiet {
        let (n_done, n_total) = (take.n_done(), header.n_tokens());
        eprintln!("{}: goes on at token {n_done} of {n_total}, as it was planned", output.display());
    }
    let plan = MediaPlan::again(&args.video, &header, engine.need_vision()?)?;
    let session = Session::from_take(engine, &take)?;
    let writer = TakeWriter::resume(take)?;
    Ok(Some((session, prompt_of(&header, plan), writer)))
}

fn prompt_of(header: &TakeHeader, plan: MediaPlan) -> Prompt {
    let tokens = |ids: &[u32]| ids.iter().map(|id| Unit::Token(*id)).collect::<Vec<_>>();
    let video = Unit::Media { kind: MediaKind::Video, index: 0 };
    let units = [tokens(&header.before), vec![video], tokens(&header.after)].concat();
    Prompt { units, images: Vec::new(), videos: vec![plan] }
}

/// The conversation in which a question about a watched video is asked.
pub fn conversation(system_prompt: Option<&str>, video: &Path, question: &str) -> Vec<Message> {
    let source = MediaSource::Path(video.display().to_string());
    let parts = vec![Part::Video { source, options: serde_json::Map::new() }, Part::Text(question.to_string())];
    let system = system_prompt.map(|text| Message { role: "system".into(), content: Content::Text(text.into()) });
    system.into_iter().chain([Message { role: "user".into(), content: Content::Parts(parts) }]).collect()
}

/// The tokens before and after the video that are the same whatever the question.
fn around_the_video(engine: &Engine, system_prompt: Option<&str>, video: &Path) -> Result<(Vec<u32>, Vec<u32>)> {
    let render = RenderOptions { add_generation_prompt: true, add_vision_id: false };
    let units = |question: &str| Prompt::units(engine, &conversation(system_prompt, video, question), render);
    let (one, other) = (units("Who?")?, units("1 + 1 =")?);
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).map(|(unit, _)| *unit);
    let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
    for unit in same {
        match unit {
            Unit::Token(id) if seen => after.push(id),
            Unit::Token(id) => before.push(id),
            Unit::Media { .. } => seen = true,
        }
    }
    if !seen {
        return Err(Error::unsupported("the chat template puts the question before the video").at(engine.name.clone()));
    }
    Ok((before, after))
}

fn event_json(event: &Event) -> serde_json::Value {
    match event {
        Event::PromptStart { n_tokens, cached } => json!({"event": "start", "n_tokens": n_tokens, "cached": cached}),
        Event::Encoded { n_done, n_total, .. } => json!({"event": "encoded", "pairs": n_done, "of": n_total}),
        Event::Prefilled { n_done, n_total } => json!({"event": "prefilled", "tokens": n_done, "of": n_total}),
        Event::Skipped { n_packets, .. } => json!({"event": "skipped", "packets": n_packets}),
    }
}
