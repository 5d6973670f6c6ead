//! `longtake ask`: questions about a video that was watched before.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::HumanDuration;

use super::flags::{ComputeFlags, FormFlags, SamplingFlags, TemplateFlags, all_if_negative};
use super::known_models;
use super::looked::WhereFlags;
use super::out::stdout;
use super::progress::catch_interrupt;
use super::run::{Request, respond};
use crate::api::{Cancel, Longtake};
use crate::stream::{Engine, EngineOptions, MmprojChoice, SessionOptions, Take, TakeHeader, clock, percent};
use crate::{Error, Result};

/// Ask about a video that was watched into a take: answers start in seconds, the video itself is not needed.
///
/// Every question stands for itself; use `chat --take` for a dialogue.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Take file, as `watch` wrote it.
    take: PathBuf,
    /// Questions, each answered as if it were the only one.
    #[arg(required = true, value_name = "QUESTION")]
    questions: Vec<String>,
    /// Text model (GGUF); by default where `watch` last saw it.
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Threads (0 or -1: all that this process may use).
    #[arg(short, long, default_value_t = 0, value_name = "N", value_parser = all_if_negative, allow_negative_numbers = true)]
    threads: usize,
    /// Layers on the GPU: the last N, one more for the output matrix, or `all` [short: -ngl]
    #[arg(long, value_name = "N", hide = cfg!(not(feature = "cuda")))]
    n_gpu_layers: Option<String>,
    /// Read files into memory instead of mapping them (network drives).
    #[arg(long)]
    no_mmap: bool,
    /// Let control tokens in a question be tokens (`<|box_start|>`, …) instead of text.
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    template: TemplateFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    form: FormFlags,
    #[command(flatten)]
    looks: WhereFlags,
    /// Print one JSON object per question with text, tokens and timings instead of the text.
    #[arg(long)]
    json: bool,
    /// Print nothing but the answers.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    args.looks.check_answers(args.questions.len())?;
    args.looks.check()?;
    let compute =
        ComputeFlags { threads: args.threads, n_gpu_layers: args.n_gpu_layers.clone(), ..ComputeFlags::default() };
    compute.start()?;
    let started = Instant::now();
    let (take, mut engine) = open(&args.take, args.model.as_deref(), !args.no_mmap)?;
    args.template.apply(&mut engine)?;
    compute.offload(&mut engine)?;
    let engine = Arc::new(engine);
    let form = args.form.read(&engine, args.sampling.ignore_eos)?;
    let media = super::flags::MediaFlags::default();
    let request = Request {
        compute: &compute,
        media: &media,
        budget: &super::budget::BudgetFlags::default(),
        sampling: &args.sampling,
        form: form.as_ref(),
        looks: &args.looks,
        add_vision_id: false,
        special: args.special,
        json: args.json,
        quiet: args.quiet,
        dump: None,
    };
    if !args.quiet {
        introduce(&take);
    }
    let sizes = SessionOptions { n_batch: take.header.n_batch, ..request.sizes(&engine)? };
    let talk = Longtake::from_engine(Arc::clone(&engine)).chat_about_open(take)?;
    let mut chat = talk.options(request.options(sizes)?).cancelled_by(Cancel::from_static(catch_interrupt()?));
    let load_time = started.elapsed();
    for text in &args.questions {
        if args.questions.len() > 1 && !args.json && !args.quiet {
            eprintln!("> {text}");
        }
        let answer;
        (chat, answer) = respond(&engine, chat, text, &request, load_time)?;
        chat.take_back()?;
        if args.json {
            writeln!(stdout(), "{answer}")?;
        }
    }
    Ok(())
}

/// Says on stderr what is answered from, and whether the video beside the take is of another size by now.
pub(super) fn introduce(take: &Take) {
    let when = take.written().map_or(String::new(), |written| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        format!(" {} ago", HumanDuration(Duration::from_secs(now.saturating_sub(written))))
    });
    let header = &take.header;
    eprintln!(
        "{}: {} ({} tokens), watched{when} with {}",
        take.path().display(),
        header.source,
        take.n_done(),
        header.model_name
    );
    if let Some(what) = left_of(header) {
        eprintln!("{what}");
    }
    // Only a name beside the take is looked at: a path that stands in a file is not followed anywhere.
    let beside = Path::new(&header.source).file_name().map(|name| take.path().with_file_name(name));
    let size = beside.and_then(|path| path.metadata().ok()).filter(|meta| meta.is_file()).map(|meta| meta.len());
    if let Some(now) = size.filter(|now| header.source_bytes > 0 && *now != header.source_bytes) {
        let (name, then) = (&header.source, header.source_bytes);
        eprintln!(
            "warning: {name} has {now} bytes now, and had {then} when it was watched: answers are about the one that was watched"
        );
    }
}

/// What is left of a stream whose past became thinner.
pub(super) fn left_of(header: &TakeHeader) -> Option<String> {
    let kept = header.kept.as_ref().filter(|_| header.is_compressed)?;
    let (n_left, [n_pairs, h, w]) = (kept.iter().map(|n| u64::from(*n)).sum::<u64>(), header.grid);
    let n_all = n_pairs as u64 * (h * w) as u64;
    let seconds = |frame: Option<&u32>| clock(frame.map_or(0.0, |frame| f64::from(*frame) / header.fps));
    Some(format!(
        "the past became thinner: {} of {n_pairs} frame pairs are left, with {n_left} of {n_all} visual tokens ({}), {} to {}",
        kept.len(),
        percent(n_left as f64 / n_all as f64),
        seconds(header.frames.first()),
        seconds(header.frames.last())
    ))
}

/// Opens a complete take and the model that it was watched with.
pub(super) fn open(take: &Path, model: Option<&Path>, mmap: bool) -> Result<(Take, Engine)> {
    let take = Take::open(take, mmap)?;
    let place = take.path().display().to_string();
    if !take.is_complete() {
        let message = format!(
            "is not complete: {} of {} tokens are in it; run `longtake watch` again to go on",
            take.n_done(),
            take.header.n_tokens()
        );
        return Err(Error::bad_input(message).at(place));
    }
    let model = match model {
        Some(path) => path.to_path_buf(),
        None => known_models::find(&take.header.model_fingerprint).ok_or_else(|| {
            let message =
                format!("was watched with `{}`, which is not known here; pass --model", take.header.model_name);
            Error::bad_input(message).at(place)
        })?,
    };
    let engine = Engine::load(&EngineOptions { model, mmproj: MmprojChoice::Off, mmap })?;
    take.check_model(&engine)?;
    Ok((take, engine))
}
