//! `longtake demo`: a drawn video hides a symbol, and the embedded model finds it, through the code that any model takes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use serde_json::{Map, json};

use super::flags::{ComputeFlags, MediaFlags, SamplingFlags};
use super::looked::WhereFlags;
use super::out::stdout;
use super::progress::{bar, catch_interrupt, check_interrupt, memory};
use super::run::{Request, answer};
use crate::drawn::movie::write_mp4;
use crate::drawn::symbols::{DrawnVideo, FPS};
use crate::files::atomic::check_output;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, Result};

/// Pixels of a frame; 9 x 16 tokens for two of them.
const SIZE: (usize, usize) = (448, 252);
const TOKENS_PER_PAIR: usize = SIZE.0 / 28 * (SIZE.1 / 28);
/// Longest demo: hours of video, and a gigabyte of it on disk.
const MAX_TOKENS: usize = 1 << 21;

/// Hide a symbol in a drawn video and let an embedded tiny model find it: works with nothing else on disk.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    compute: ComputeFlags,
    /// Length of the video in tokens, 144 for each pair of frames.
    #[arg(long, default_value_t = 8192, value_name = "N")]
    tokens: usize,
    /// Symbols in the video; the question is about one of them.
    #[arg(long, default_value_t = 1, value_name = "N")]
    symbols: usize,
    /// Where the symbol asked about is, from 0 (first frame) to 1 (last); anywhere by default.
    #[arg(long, value_name = "0-1", allow_hyphen_values = true)]
    depth: Option<f64>,
    /// Ask something else.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Keep the video.
    #[arg(short, long, value_name = "FILE.mp4")]
    output: Option<PathBuf>,
    #[command(flatten)]
    media: MediaFlags,
    /// `--seed` draws the video as well; 1 unless given.
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    looks: WhereFlags,
    /// Print one JSON object with text, tokens, timings and whether the answer is right instead of the text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(mut args: Args) -> Result<()> {
    if !(TOKENS_PER_PAIR..=MAX_TOKENS).contains(&args.tokens) {
        let message = format!("--tokens `{}` must be between {TOKENS_PER_PAIR} and {MAX_TOKENS}", args.tokens);
        return Err(Error::bad_input(message));
    }
    let seed = u64::try_from(args.sampling.seed).unwrap_or(1);
    args.sampling.seed = seed as i64;
    args.output.as_deref().map_or(Ok(()), check_output)?;
    args.looks.check()?;
    let video = DrawnVideo::new(seed, SIZE, args.tokens / TOKENS_PER_PAIR, args.symbols, args.depth)?;
    let started = Instant::now();
    let engine = args.compute.embedded()?;
    let load_time = started.elapsed();
    let hp = engine.text.hparams();
    eprintln!(
        "model: embedded, {} layers of width {}, position layout {}, {:.1} MB with its vision tower; it knows 8 shapes in 8 colours",
        hp.n_layer,
        hp.n_embd,
        hp.layout,
        engine.n_bytes as f64 / 1e6
    );
    let file = VideoFile::new(args.output.clone())?;
    draw(&video, &file.path)?;
    let asked = video.question();
    let question = match (&args.prompt, &asked) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(question)) => question.text.clone(),
        (None, None) => "What shape is shown?".to_string(),
    };
    eprintln!("question: {question}");
    // Every frame is looked at as it is, however many there are.
    let media = &mut args.media;
    media.max_frames.get_or_insert(video.n_frames());
    media.total_pixels.get_or_insert((video.n_frames() * SIZE.0 * SIZE.1) as u64);
    let parts = vec![
        Part::Video { source: MediaSource::Path(file.path.clone().into()), options: Map::new() },
        Part::Text(question.clone()),
    ];
    let messages = [Message::new("user", Content::Parts(parts))];
    let request = Request {
        compute: &args.compute,
        media: &args.media,
        budget: &super::budget::BudgetFlags::default(),
        sampling: &args.sampling,
        form: None,
        looks: &args.looks,
        add_vision_id: false,
        special: false,
        json: args.json,
        quiet: false,
        dump: None,
    };
    let mut answer = answer(&engine, &request, &messages, load_time)?;
    let expected = asked.filter(|asked| asked.text == question).map(|asked| asked.answer);
    let correct = expected.map(|expected| answer["text"] == expected);
    report(&video, expected, correct);
    if args.json {
        answer["seed"] = json!(seed);
        answer["question"] = json!(question);
        answer["expected"] = json!(expected);
        answer["correct"] = json!(correct);
        let needle = |n: &crate::drawn::symbols::DrawnNeedle| json!({ "symbol": n.symbol.to_string(), "pair": n.pair, "second": video.second(n.pair) });
        answer["symbols"] = video.needles.iter().map(needle).collect();
        writeln!(stdout(), "{answer}")?;
    }
    if args.output.is_none() {
        eprintln!("next: longtake demo --tokens 65536 | longtake demo --symbols 3 --seed 2 -o symbols.mp4");
        eprintln!("      longtake run -m MODEL.gguf --video FILE.mp4 -p \"What happens in this video?\"");
    }
    Ok(())
}

/// Draws and encodes the video, with a bar.
fn draw(video: &DrawnVideo, path: &Path) -> Result<()> {
    let cancel = catch_interrupt()?;
    let bar = bar("drawing", video.n_frames(), "frames");
    let started = Instant::now();
    write_mp4(video, path, &mut |n_done| {
        bar.set_position(n_done as u64);
        check_interrupt(cancel)
    })?;
    bar.finish_and_clear();
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    eprintln!(
        "video: {} frames of {}x{} ({} at {FPS} a second), {} of H.264, drawn in {:.1} s",
        video.n_frames(),
        video.width,
        video.height,
        clock(video.n_frames() as f64 / f64::from(FPS)),
        HumanBytes(size),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Says where the symbols were, and whether the answer is right.
fn report(video: &DrawnVideo, expected: Option<&str>, correct: Option<bool>) {
    match (expected, correct) {
        (Some(_), Some(true)) => eprintln!("right."),
        (Some(expected), _) => eprintln!("wrong: it is `{expected}`."),
        _ => {}
    }
    for needle in &video.needles {
        eprintln!(
            "{} shown at {}, frame pair {} of {}",
            needle.symbol,
            clock(video.second(needle.pair)),
            needle.pair + 1,
            video.n_pairs
        );
    }
    if let Some(bytes) = memory() {
        eprintln!("memory: {}", HumanBytes(bytes));
    }
}

/// Minutes and seconds.
fn clock(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds).as_secs();
    format!("{}:{:02}", whole / 60, whole % 60)
}

/// Where the video is: a file that the user keeps, or one in a folder that goes when the demo ends.
struct VideoFile {
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl VideoFile {
    fn new(keep: Option<PathBuf>) -> Result<VideoFile> {
        match keep {
            Some(path) => Ok(VideoFile { path, temporary: None }),
            None => {
                let folder = private_folder()?;
                Ok(VideoFile { path: folder.join("symbols.mp4"), temporary: Some(folder) })
            }
        }
    }
}

/// A new folder among the system's temporary files, into which nobody else can put anything, a link for instance.
fn private_folder() -> Result<PathBuf> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let temp = std::env::temp_dir();
    for n in 0..1000 {
        let path = temp.join(format!("longtake-demo-{}-{n}", std::process::id()));
        match builder.create(&path) {
            Ok(()) => return Ok(path),
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(Error::from(err).at(path.display().to_string())),
        }
    }
    Err(Error::from(std::io::Error::other("no free temporary name")).at(temp.display().to_string()))
}

impl Drop for VideoFile {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_dir(folder);
        }
    }
}
