//! `longtake eval niah`: one frame in a long video, found or not, by length and depth.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flags::{ModelFlags, SafeFlags, warn_of_length};
use super::out::stdout;
use super::progress::{bar, catch_interrupt, check_interrupt};
use crate::error::Context;
use crate::eval::journal::Journal;
use crate::eval::niah::{
    Needle, Niah, NiahOptions, Trial, Units, cells, drawn_haystack, drawn_needles, needles_from, video_haystack,
};
use crate::eval::plot::{self, Heatmap};
use crate::files::atomic::{check_outputs_in, write_beside};
use crate::position::{Layout, parse_temporal_scale};
use crate::stream::Engine;
use crate::{Error, Result};

/// Most units, and most cells of the grid.
const MAX_UNITS: usize = 1 << 20;
const MAX_CELLS: usize = 100_000;

/// Needle in a video haystack (V-NIAH, V-NIAH-D): which frames of a long video a model can find.
///
/// Without a model, the embedded one looks for drawn symbols among drawn patterns.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// The haystack: a long video, of which one frame a second is taken; drawn patterns by default.
    #[arg(long, value_name = "VIDEO", requires = "needles")]
    haystack: Option<PathBuf>,
    /// The needles: a JSON list [{"path", "prompt", "answer", "interrupt_path"}] with its pictures beside it; drawn symbols
    /// by default.
    #[arg(long, value_name = "FILE.json", requires = "haystack")]
    needles: Option<PathBuf>,
    /// How many needles are drawn.
    #[arg(long, default_value_t = 5, value_name = "N", conflicts_with = "needles")]
    n_needles: usize,
    /// V-NIAH-D: a look-alike stands 200 units from each needle.
    #[arg(long)]
    distractors: bool,
    /// Size of all frames; 16 x 9 tokens a unit for a video (448x252, from Qwen3-VL on 512x288), 2 x 2 for drawn ones.
    #[arg(long, value_name = "WxH")]
    frame: Option<String>,
    /// Lengths in units (frame pairs): START:END:STEP, or a list.
    #[arg(long, default_value = "100:2900:200", value_name = "LIST")]
    lengths: String,
    /// Depths from 0 (needle first) to 1 (needle last).
    #[arg(long, default_value = "0,0.2,0.4,0.6,0.8,1", value_name = "LIST")]
    depths: String,
    /// Temporal scale of HoPE or VideoRoPE: a number, `understanding` or `retrieval`; HoPE's default is `retrieval`.
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    temporal_scale: Option<String>,
    #[command(flatten)]
    safe: SafeFlags,
    /// Seed of what is drawn.
    #[arg(short, long, default_value_t = 1)]
    seed: u64,
    /// Units that the model was trained with: marked in the heat map.
    #[arg(long, value_name = "N")]
    trained: Option<f64>,
    /// Folder for trials.jsonl, all_accuracies.json, heatmap.svg and (with the feature `plots`) heatmap.png; a run that was stopped goes on there.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let lengths = parse_lengths(&args.lengths)?;
    let depths = parse_depths(&args.depths)?;
    let n_max = lengths.iter().copied().max().unwrap_or(0);
    let size = args.frame.as_deref().map(parse_size).transpose()?;
    let plots = plot::KEPT_AS.iter().map(|extension| format!("heatmap.{extension}"));
    let outputs: Vec<String> =
        ["trials.jsonl", "all_accuracies.json"].map(String::from).into_iter().chain(plots).collect();
    check_outputs_in(&args.out, &outputs.iter().map(String::as_str).collect::<Vec<_>>())?;
    let engine = args.model.load_or_embedded()?;
    let scale = match (&args.temporal_scale, engine.text.hparams().layout) {
        (Some(text), _) => Some(parse_temporal_scale(text)?),
        (None, Layout::Hope | Layout::HopeX) => Some(parse_temporal_scale("retrieval")?),
        (None, _) => None,
    };
    let factor = engine.need_vision()?.hparams().factor();
    let size =
        size.unwrap_or(if args.haystack.is_some() { (16 * factor, 9 * factor) } else { (2 * factor, 2 * factor) });
    let session = args.model.compute.session(&engine, 1, scale)?;
    std::fs::create_dir_all(&args.out).at(|| args.out.display().to_string())?;
    let settings = json!({
        "benchmark": if args.distractors { "V-NIAH-D" } else { "V-NIAH" },
        "model": engine.fingerprint(), "mmproj": engine.mmproj_fingerprint(),
        "layout": engine.text.hparams().layout.name(),
        "temporal_scale": scale.unwrap_or(engine.text.hparams().temporal_scale),
        "cache": [session.type_k.name(), session.type_v.name()],
        "haystack": args.haystack, "needles": args.needles, "n_needles": args.n_needles,
        "frame": [size.0, size.1], "seed": args.seed,
    });
    let (mut journal, rows) =
        Journal::open(&args.out.join("trials.jsonl"), settings.as_object().expect("it is an object"))?;
    let mut results = rows.iter().map(read_row).collect::<Result<Vec<_>>>()?;
    let (haystack, needles) = materials(&args, &engine, size, n_max)?;
    let options = NiahOptions {
        n_batch: session.n_batch,
        type_k: session.type_k,
        type_v: session.type_v,
        temporal_scale: scale,
        seed: args.seed,
    };
    warn_of_length(&engine, (n_max + 1) * haystack.n_tokens());
    let mut niah = Niah::new(&engine, &haystack, &needles, n_max, options)?;
    let mut trials = Vec::new();
    for &n in &lengths {
        for &depth in &depths {
            trials.extend((0..needles.len()).map(|needle| Trial { n, depth, needle }));
        }
    }
    let n_all = trials.len();
    trials.retain(|trial| !results.iter().any(|(done, _)| done == trial));
    niah.sort(&mut trials);
    run_trials(&mut niah, &needles, &trials, n_all, &mut journal, &mut results)?;
    // Of results that other lengths or depths left in the journal, only those of this grid count.
    results.retain(|(t, _)| lengths.contains(&t.n) && depths.contains(&t.depth) && t.needle < needles.len());
    report(&args, &settings, (&lengths, &depths), &results)
}

/// The haystack and what is hidden in it.
fn materials(args: &Args, engine: &Engine, size: (usize, usize), n_max: usize) -> Result<(Units, Vec<Needle>)> {
    let cancel = catch_interrupt()?;
    let bar = bar("haystack", n_max, "units");
    let mut on_unit = |n: usize| {
        bar.set_position(n as u64);
        check_interrupt(cancel)
    };
    let made = match (&args.haystack, &args.needles) {
        (Some(video), Some(list)) => {
            let units = video_haystack(engine, (video, &args.safe.decoders()?), size, n_max, &mut on_unit)?;
            if units.is_empty() {
                return Err(Error::bad_input("has no frame pair").at(video.display().to_string()));
            }
            (units, needles_from(engine, (list, &args.safe.decoders()?), size, args.distractors)?)
        }
        _ => (
            drawn_haystack(engine, args.seed, size, n_max, &mut on_unit)?,
            drawn_needles(engine, args.seed, size, args.n_needles, args.distractors)?,
        ),
    };
    bar.finish_and_clear();
    if made.0.len() < n_max {
        eprintln!("note: the haystack has {} units and is repeated up to {n_max}", made.0.len());
    }
    Ok(made)
}

fn run_trials(
    niah: &mut Niah<'_>,
    needles: &[Needle],
    trials: &[Trial],
    n_all: usize,
    journal: &mut Journal,
    results: &mut Vec<(Trial, bool)>,
) -> Result<()> {
    let cancel = catch_interrupt()?;
    let bar = bar("trials", n_all, "trials");
    bar.set_position((n_all - trials.len()) as u64);
    for trial in trials {
        let outcome = niah.run(*trial, &mut |_| check_interrupt(cancel))?;
        journal.push(&json!({
            "frames": trial.n, "depth": trial.depth, "needle": trial.needle, "name": needles[trial.needle].name,
            "expected": needles[trial.needle].answer, "predicted": outcome.predicted,
            "tokens": outcome.n_tokens, "score": u8::from(outcome.right),
        }))?;
        results.push((*trial, outcome.right));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// One line of the journal.
fn read_row(row: &Value) -> Result<(Trial, bool)> {
    let wrong = || Error::format(format!("`{row}` is no trial"));
    let count = |key: &str| row[key].as_u64().and_then(|v| usize::try_from(v).ok()).ok_or_else(wrong);
    let depth = row["depth"].as_f64().ok_or_else(wrong)?;
    Ok((Trial { n: count("frames")?, depth, needle: count("needle")? }, count("score")? == 1))
}

/// Writes the cells, the heat map and the summary.
fn report(
    args: &Args,
    settings: &Value,
    (lengths, depths): (&[usize], &[f64]),
    results: &[(Trial, bool)],
) -> Result<()> {
    let table = cells(lengths, depths, results);
    let mut rows = Vec::new();
    for (depth, scores) in depths.iter().zip(&table) {
        for (n, score) in lengths.iter().zip(scores) {
            let depth = (depth * 1e4).round() / 1e2;
            rows.push(json!({ "Num. Frame": n, "Frame Depth": depth, "Score": score }));
        }
    }
    write_text(&args.out.join("all_accuracies.json"), &format!("{:#}\n", Value::from(rows)))?;
    // Where the training length lies among the columns.
    let mark = args.trained.map(|trained| {
        let below = lengths.iter().filter(|n| (**n as f64) < trained).count();
        match (below.checked_sub(1).map(|i| lengths[i] as f64), lengths.get(below).map(|n| *n as f64)) {
            (Some(a), Some(b)) => below as f64 - 0.5 + (trained - a) / (b - a),
            (None, _) => 0.0,
            (Some(_), None) => lengths.len() as f64,
        }
    });
    plot::save(&args.out.join("heatmap"), &Heatmap::niah(lengths, depths, table.clone(), mark).to_svg()?)?;
    let known: Vec<f64> = table.iter().flatten().flatten().copied().collect();
    let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
    let by_length: Vec<f64> = (0..lengths.len())
        .map(|j| table.iter().filter_map(|row| row[j]).sum::<f64>() / depths.len().max(1) as f64)
        .collect();
    let mut out = stdout();
    if args.json {
        let summary = json!({
            "settings": settings, "score": mean, "trials": results.len(), "lengths": lengths, "by_length": by_length,
        });
        writeln!(out, "{summary}")?;
    } else {
        writeln!(out, "{:>8} {:>8}", "frames", "score")?;
        for (n, score) in lengths.iter().zip(&by_length) {
            writeln!(out, "{n:>8} {:>8.2}", 100.0 * score)?;
        }
        writeln!(out, "{:>8} {:>8.2}   ({} trials)", "all", 100.0 * mean, results.len())?;
    }
    Ok(())
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_beside(path, |file| Ok(file.write_all(text.as_bytes())?))
}

pub(super) fn parse_size(text: &str) -> Result<(usize, usize)> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|(w, h)| (28..=4096).contains(w) && (28..=4096).contains(h))
        .ok_or_else(|| Error::bad_input(format!("--frame `{text}` must be WIDTHxHEIGHT, sides from 28 to 4096")))
}

/// START:END:STEP (both ends count), or a list.
fn parse_lengths(text: &str) -> Result<Vec<usize>> {
    let wrong = || Error::bad_input(format!("--lengths `{text}` must be START:END:STEP or a list, 1 to {MAX_UNITS}"));
    let numbers = |sep| text.split(sep).map(|n| n.trim().parse().map_err(|_| wrong())).collect::<Result<Vec<usize>>>();
    let mut lengths = if text.contains(':') {
        let [start, end, step] = numbers(':')?.try_into().map_err(|_| wrong())?;
        if step == 0 || end > MAX_UNITS {
            return Err(wrong());
        }
        (start..=end).step_by(step).collect()
    } else {
        numbers(',')?
    };
    lengths.sort_unstable();
    lengths.dedup();
    let fits = !lengths.is_empty() && lengths.len() <= MAX_CELLS && lengths.iter().all(|n| (1..=MAX_UNITS).contains(n));
    if fits { Ok(lengths) } else { Err(wrong()) }
}

fn parse_depths(text: &str) -> Result<Vec<f64>> {
    let wrong = || Error::bad_input(format!("--depths `{text}` must be a list of numbers from 0 to 1"));
    let mut depths = text.split(',').map(|n| n.trim().parse().map_err(|_| wrong())).collect::<Result<Vec<f64>>>()?;
    if depths.is_empty() || depths.len() > MAX_CELLS || !depths.iter().all(|d| (0.0..=1.0).contains(d)) {
        return Err(wrong());
    }
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    Ok(depths)
}
