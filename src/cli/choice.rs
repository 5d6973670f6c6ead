//! `longtake eval videomme | longvideobench | mlvu`: multiple-choice questions from a local folder.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::out::stdout;
use super::progress::{bar, catch_interrupt};
use crate::eval::choice::{Collection, CollectionOptions, Log, Report, RunOptions, Step, Task, Words, run as ask};
use crate::files::atomic::check_output;
use crate::media::sample::{FPS, HOPE_FRAME_MIN_TOKENS};
use crate::position::{Layout, parse_temporal_scale};
use crate::stream::{Engine, Event, MediaOptions, SessionOptions};
use crate::{Error, Result};

/// Context lengths of the published evaluation: name, tokens of video at most, frames at most.
const CONTEXTS: [(&str, u64, usize); 4] =
    [("8k", 8000, 56), ("16k", 16_000, 112), ("32k", 32_000, 224), ("64k", 64_000, 448)];

/// Flags of all collections.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Folder of the collection, laid out as published.
    dir: PathBuf,
    #[command(flatten)]
    model: ModelFlags,
    /// Video budget of the published evaluation: 8k, 16k, 32k or 64k tokens. Media flags replace its parts.
    #[arg(long, value_name = "SIZE", default_value = "8k")]
    context: String,
    /// Part of the collection (default: test of Video-MME, val of LongVideoBench, dev of MLVU).
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Annotation files, instead of those found in the folder (comma list; repeatable).
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    annotations: Vec<PathBuf>,
    /// Put the subtitles that are on screen at the sampled frames before the question (Video-MME).
    #[arg(long)]
    subtitles: bool,
    /// Ask the first N questions only.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Results: a line of JSON per question, written as it is answered; the same command goes on from there
    /// [default: longtake-COLLECTION.jsonl]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Tokens of an answer at most (default: the collection's own).
    #[arg(short = 'n', long = "predict", value_name = "N")]
    predict: Option<usize>,
    /// Words before the question, instead of the collection's.
    #[arg(long, value_name = "TEXT")]
    pre_prompt: Option<String>,
    /// Words after the question, instead of the collection's.
    #[arg(long, value_name = "TEXT")]
    post_prompt: Option<String>,
    /// Seed of letters that are guessed (LongVideoBench).
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    media: MediaFlags,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(task: Task, args: &Args) -> Result<()> {
    // What is wrong with the folder or the flags is said before the model is loaded.
    args.media_options(1)?;
    if args.subtitles && task != Task::VideoMme {
        return Err(Error::bad_input(format!("--subtitles is for videomme, {} is asked without", task.name())));
    }
    let split = args.split.clone().unwrap_or_else(|| task.default_split().to_string());
    let options = CollectionOptions { split: split.clone(), annotations: args.annotations.clone() };
    let out = args.out.clone().unwrap_or_else(|| format!("longtake-{}.jsonl", task.name()).into());
    check_output(&out)?;
    let mut collection = Collection::open(task, &args.dir, &options)?;
    let engine = args.model.load(true)?;
    let factor = engine.need_vision()?.hparams().factor() as u64;
    let scale = args.scale(&engine)?;
    let run = RunOptions {
        media: args.media_options(factor * factor)?,
        session: args.session(&engine, scale)?,
        n_predict: args.predict.unwrap_or(task.n_predict()),
        words: args.words(task),
        subtitles: args.subtitles,
        limit: args.limit,
        seed: args.seed,
    };
    let mut log = Log::open(&out, &settings(&engine, &collection, &run, &split))?;
    let n_questions = collection.items.len().min(args.limit.unwrap_or(usize::MAX));
    eprintln!("{}: {n_questions} questions from {}, results in {}", task.name(), args.dir.display(), out.display());
    // What a video may take; 0 where only its own flags bound it.
    let n_tokens = run.media.sample.total_pixels.unwrap_or(0) / (factor * factor);
    warn_of_length(&engine, n_tokens as usize);
    let bar = bar("", 0, "questions");
    bar.enable_steady_tick(std::time::Duration::from_millis(500));
    let outcome = ask(&engine, &mut collection, &run, &mut log, catch_interrupt()?, &mut |step| match step {
        Step::Answered { n_done, n_total, id } => {
            bar.set_length(n_total as u64);
            bar.set_position(n_done as u64);
            bar.set_message(format!("answered {id}"));
        }
        Step::Failed { id, error } => bar.suspend(|| eprintln!("warning: question {id} failed: {error}")),
        Step::Session(Event::Encoded { n_done, n_total, .. }) => {
            bar.set_message(format!("frames {}/{}", 2 * n_done, 2 * n_total));
        }
        Step::Session(_) => {}
    })?;
    bar.finish_and_clear();
    collection.items.truncate(n_questions);
    let report = Report::new(task, &collection.items, log.responses(), args.seed);
    let mut summary = report.to_json();
    summary["n_questions"] = json!(n_questions);
    summary["n_answered"] = json!(outcome.n_answered);
    summary["n_before"] = json!(outcome.n_before);
    summary["n_missing"] = json!(outcome.n_missing);
    summary["n_failed"] = json!(outcome.n_failed);
    let mut stdout = stdout();
    if args.json {
        writeln!(stdout, "{summary}")?;
    } else {
        print(&mut stdout, &report)?;
    }
    if outcome.n_missing > 0 {
        eprintln!("warning: {} questions skipped: their videos are not in the folder", outcome.n_missing);
    }
    match outcome.n_failed {
        0 => Ok(()),
        n => Err(Error::format(format!("{n} of {n_questions} questions failed; the same command asks them again"))),
    }
}

impl Args {
    /// The published sampling at `--context`, for tokens of `area` pixels; explicit flags win.
    fn media_options(&self, area: u64) -> Result<MediaOptions> {
        let found = CONTEXTS.iter().find(|(name, ..)| self.context.eq_ignore_ascii_case(name));
        let Some((_, n_tokens, n_frames)) = found else {
            let known = CONTEXTS.map(|(name, ..)| name).join(", ");
            return Err(Error::bad_input(format!("context `{}` is not one of {known}", self.context)));
        };
        let mut options = self.media.options()?;
        let sample = &mut options.sample;
        if sample.nframes.is_none() {
            sample.fps.get_or_insert(FPS);
        }
        sample.max_frames.get_or_insert(*n_frames);
        sample.total_pixels.get_or_insert(n_tokens * area);
        if sample.max_pixels.is_none() {
            sample.min_pixels.get_or_insert(HOPE_FRAME_MIN_TOKENS * area);
        }
        Ok(options)
    }

    /// The temporal scale: what was asked for, or the published one for understanding where the layout is HoPE.
    fn scale(&self, engine: &Engine) -> Result<Option<f64>> {
        let layout = engine.text.hparams().layout;
        match self.media.scale(layout)? {
            None if matches!(layout, Layout::Hope | Layout::HopeX) => parse_temporal_scale("understanding").map(Some),
            scale => Ok(scale),
        }
    }

    fn session(&self, engine: &Engine, scale: Option<f64>) -> Result<SessionOptions> {
        let options = self.model.compute.session(engine, 0, scale)?;
        // A context of 0 is as large as a video and its questions need.
        Ok(SessionOptions { n_ctx: self.model.compute.ctx_size, ..options })
    }

    fn words(&self, task: Task) -> Words {
        let own = task.words();
        Words {
            before: self.pre_prompt.clone().unwrap_or(own.before),
            after: self.post_prompt.clone().unwrap_or(own.after),
        }
    }
}

/// What must be the same for a run to go on.
fn settings(engine: &Engine, collection: &Collection, run: &RunOptions, split: &str) -> Map<String, Value> {
    let (sample, hparams) = (&run.media.sample, engine.text.hparams());
    let value = json!({
        "task": collection.task.name(), "split": split, "questions": collection.fingerprint(),
        "model": engine.fingerprint(), "mmproj": engine.mmproj_fingerprint(), "name": engine.name,
        "layout": hparams.layout.name(),
        "temporal_scale": run.session.temporal_scale.unwrap_or(hparams.temporal_scale),
        "cache_k": run.session.type_k.name(), "cache_v": run.session.type_v.name(), "n_batch": run.session.n_batch,
        "n_ctx": run.session.n_ctx,
        "fps": sample.fps, "nframes": sample.nframes, "min_frames": sample.min_frames, "max_frames": sample.max_frames,
        "start": sample.video_start, "end": sample.video_end, "min_pixels": sample.min_pixels,
        "max_pixels": sample.max_pixels, "total_pixels": sample.total_pixels,
        "n_predict": run.n_predict, "pre_prompt": run.words.before, "post_prompt": run.words.after,
        "subtitles": run.subtitles, "seed": run.seed,
    });
    match value {
        Value::Object(settings) => settings,
        _ => unreachable!("it was written as a map"),
    }
}

/// The scores as a table.
fn print(out: &mut dyn Write, report: &Report) -> Result<()> {
    writeln!(out, "{}: {:.2}", report.task.name(), 100.0 * report.score)?;
    if report.harness_score != report.score {
        writeln!(out, "as the published harness reads letters: {:.2}", 100.0 * report.harness_score)?;
    }
    if report.n_without_key > 0 {
        writeln!(out, "{} responses without a published key", report.n_without_key)?;
    }
    writeln!(out, "\n| group | questions | right | accuracy |\n|---|---|---|---|")?;
    let all = report.all;
    writeln!(out, "| all | {} | {} | {:.2} |", all.n, all.right, 100.0 * all.accuracy())?;
    for (kind, names) in &report.groups {
        for (name, tally) in names {
            // Names come from the annotation file.
            let name: String = name.chars().filter(|c| !c.is_control() && *c != '|').collect();
            writeln!(out, "| {kind}: {name} | {} | {} | {:.2} |", tally.n, tally.right, 100.0 * tally.accuracy())?;
        }
    }
    Ok(())
}
