//! `longtake demo`: an embedded model answers about an embedded video, through the code that any model takes.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Map;

use super::flags::{ComputeFlags, MediaFlags, SamplingFlags};
use super::run::{Request, answer};
use crate::gguf::Gguf;
use crate::gguf::atomic::write_beside;
use crate::stream::Engine;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Result, error::Context};

/// Made by `assets/demo/make.sh`.
static TEXT: &[u8] = include_bytes!("../../assets/demo/demo.gguf");
static MMPROJ: &[u8] = include_bytes!("../../assets/demo/mmproj-demo.gguf");
static VIDEO: &[u8] = include_bytes!("../../assets/demo/demo.mp4");

/// Answer a question about an embedded video with an embedded tiny model: works with nothing else on disk.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    compute: ComputeFlags,
    /// What to ask about the video.
    #[arg(short, long, default_value = "What is shown in the video?")]
    prompt: String,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Print one JSON object with text, tokens and timings instead of the text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(mut args: Args) -> Result<()> {
    // A model that was never trained never says that it is done.
    const N_PREDICT: i64 = 24;
    if args.sampling.predict < 0 {
        args.sampling.predict = N_PREDICT;
    }
    args.compute.start()?;
    let started = Instant::now();
    let embedded = |name: &str, bytes| Gguf::from_static(name, bytes).map(Arc::new);
    let mut engine = Engine::from_files(embedded("demo.gguf", TEXT)?, Some(embedded("mmproj-demo.gguf", MMPROJ)?))?;
    args.compute.offload(&mut engine)?;
    let load_time = started.elapsed();
    let hp = engine.text.hparams();
    eprintln!(
        "embedded model: {} layers of width {}, position layout {}, {:.1} MB with its vision tower",
        hp.n_layer,
        hp.n_embd,
        hp.layout,
        (TEXT.len() + MMPROJ.len()) as f64 / 1e6
    );
    eprintln!(
        "its weights are random: every step from the video file to the tokens is real, but the answer means nothing"
    );
    let video = TempVideo::write()?;
    let parts = vec![
        Part::Video { source: MediaSource::Path(video.0.display().to_string()), options: Map::new() },
        Part::Text(args.prompt.clone()),
    ];
    eprintln!("question: {}", args.prompt);
    let messages = [Message { role: "user".to_string(), content: Content::Parts(parts) }];
    let request = Request {
        compute: &args.compute,
        media: &args.media,
        budget: &super::budget::BudgetFlags::default(),
        sampling: &args.sampling,
        add_vision_id: false,
        json: args.json,
        quiet: false,
        dump: None,
    };
    let answer = answer(&engine, &request, &messages, load_time)?;
    if args.json {
        writeln!(std::io::stdout(), "{answer}")?;
    }
    eprintln!("next: longtake run -m MODEL.gguf --video FILE.mp4 -p \"What happens in this video?\"");
    Ok(())
}

/// The embedded video as a file, for as long as it is needed: decoders read files.
struct TempVideo(std::path::PathBuf);

impl TempVideo {
    fn write() -> Result<TempVideo> {
        let path = std::env::temp_dir().join(format!("longtake-demo-{}.mp4", std::process::id()));
        write_beside(&path, |file| Ok(file.write_all(VIDEO)?)).at(|| "cannot place the embedded video")?;
        Ok(TempVideo(path))
    }
}

impl Drop for TempVideo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
