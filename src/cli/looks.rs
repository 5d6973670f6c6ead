//! `longtake eval where`: whether shares of attention find the frame pair that an answer was read from.

use std::io::Write;

use serde_json::{Value, json};

use super::flags::ModelFlags;
use super::niah::parse_size;
use super::out::stdout;
use super::progress::{bar, catch_interrupt, check_interrupt};
use super::trials::TrialFlags;
use crate::eval::looks::{LooksOptions, LooksOutcome, MEASURES, trial};
use crate::{Error, Result};

/// Most videos, and most frame pairs of each.
const MAX_VIDEOS: u64 = 100_000;
const MAX_PAIRS: usize = 1 << 16;

/// Whether attention shares (`--where`) find what an answer was read from: drawn videos with one symbol, whose frame pair must have
/// the largest share where the answer is right.
///
/// Without a model, the embedded one is asked.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Videos are drawn until so many answers are right, at most four times as many.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_VIDEOS))]
    right: u64,
    /// Frame pairs of a video, from the least to the most.
    #[arg(long, default_value = "32:256", value_name = "A:B", value_parser = parse_pairs)]
    pairs: (usize, usize),
    /// Size of all frames; 2 x 2 tokens a pair by default.
    #[arg(long, value_name = "WxH")]
    frame: Option<String>,
    #[command(flatten)]
    trial: TrialFlags,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    args.trial.check()?;
    let engine = args.model.load_or_embedded()?;
    let side = 2 * engine.need_vision()?.hparams().factor();
    let frame = args.frame.as_deref().map_or(Ok((side, side)), parse_size)?;
    let session = args.model.compute.session(&engine, 1, None)?;
    let options = LooksOptions { frame, pairs: args.pairs, session, seed: args.trial.seed };
    let cancel = catch_interrupt()?;
    let progress = bar("right answers", args.right as usize, "answers");
    let (mut outcomes, mut n_right) = (Vec::new(), 0);
    while n_right < args.right && (outcomes.len() as u64) < 4 * args.right {
        check_interrupt(cancel)?;
        let outcome = trial(&engine, &options, outcomes.len() as u64)?;
        n_right += u64::from(outcome.right);
        progress.set_position(n_right);
        outcomes.push(outcome);
    }
    progress.finish_and_clear();
    args.trial.write(outcomes.iter().map(line))?;
    if n_right < args.right {
        let message = format!("`{n_right}` of {} answers are right, {} are needed", outcomes.len(), args.right);
        return Err(Error::mismatch(message));
    }
    print(&outcomes, n_right as usize, args.trial.json)
}

fn line(outcome: &LooksOutcome) -> Value {
    json!({
        "pairs": outcome.n_pairs, "needle": outcome.needle, "right": outcome.right, "text": outcome.text,
        "share": outcome.share(), "frames": outcome.of_frames(), "ranks": outcome.ranks,
    })
}

fn print(outcomes: &[LooksOutcome], n_right: usize, is_json: bool) -> Result<()> {
    let right = || outcomes.iter().filter(|outcome| outcome.right);
    let first = |i: usize| right().filter(|outcome| outcome.ranks[i] == 1).count();
    let worst = |i: usize| right().map(|outcome| outcome.ranks[i]).max().unwrap_or(0);
    let mean = |of: fn(&LooksOutcome) -> Option<f64>| right().filter_map(of).sum::<f64>() / n_right as f64;
    let (share, frames) = (mean(LooksOutcome::share), mean(LooksOutcome::of_frames));
    let mut out = stdout();
    if is_json {
        let measures = MEASURES.iter().enumerate();
        let measures: Vec<Value> = measures
            .map(|(i, measure)| json!({ "name": measure.name, "first": first(i), "worst_rank": worst(i) }))
            .collect();
        let summary = json!({
            "videos": outcomes.len(), "right": n_right, "measures": measures,
            "mean_share_among_frames": share, "mean_share_of_frames": frames,
        });
        writeln!(out, "{summary}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{n_right} right answers about {} videos; their frame pair has the largest share in",
        outcomes.len()
    )?;
    for (i, measure) in MEASURES.iter().enumerate() {
        writeln!(out, "{:>5} by the {} (at worst it is number {})", first(i), measure.name, worst(i))?;
    }
    let [share, frames] = [share, frames].map(|share| 100.0 * share);
    writeln!(out, "its share of what went to frames: {share:.1} %; frames have {frames:.1} % of all")?;
    Ok(())
}

/// `A:B`, in frame pairs.
fn parse_pairs(text: &str) -> std::result::Result<(usize, usize), String> {
    let bounds = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    bounds
        .filter(|(a, b)| 1 <= *a && a <= b && *b <= MAX_PAIRS)
        .ok_or_else(|| format!("expected frame pairs A:B from 1 to {MAX_PAIRS}, such as 32:256"))
}
