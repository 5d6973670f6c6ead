//! `longtake analyze`: positions and rotations, printed for people and for other programs.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::out::stdout;
use crate::error::Context;
use crate::files::input::read_text;
use crate::position::{
    Layout, Pos, Rotary, Segment, default_sections, parse_temporal_scale, place_all, rotate_f32, rotate_f64,
};
use crate::{Error, Result};

/// The theory in numbers: positions, rotations, what a layout prefers.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Positions of every token of a sequence under a layout.
    Positions(PositionsArgs),
    /// A head vector rotated at a position, in f64 and in f32.
    Rotate(RotateArgs),
    /// How far answers move with smaller cache types.
    Cache(Box<super::cache_error::Args>),
    Skip(Box<super::skip::Args>),
    Prune(Box<super::prune::Args>),
    #[cfg(feature = "eval")]
    Theory(super::theory::TheoryArgs),
    Frequencies(super::frequencies::Args),
}

#[derive(clap::Args)]
struct PositionsArgs {
    /// rope, tad, mrope, videorope, hope, hopex, mrope-i, hope-i, or one of their relatives (mrope-i-reset, vrope, v2pe, circle, mm-rope, hope-m, videorope-m).
    #[arg(long)]
    layout: String,
    /// Temporal scale (a number, `understanding` or `retrieval`); several apply to the visual segments in order.
    #[arg(long = "temporal-scale", value_name = "G", allow_hyphen_values = true)]
    scales: Vec<String>,
    /// text:N, image:HxW or video:TxHxW, with grids counted after merging; repeatable, in order.
    #[arg(long = "segment", required = true)]
    segments: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct RotateArgs {
    /// rope, tad, mrope, videorope, hope, hopex, mrope-i, hope-i, or one of their relatives (mrope-i-reset, vrope, v2pe, circle, mm-rope, hope-m, videorope-m).
    #[arg(long)]
    layout: String,
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    #[arg(long, default_value_t = 1e6)]
    rope_base: f64,
    /// Section split in pairs, as T,H,W; the default follows the head dimension.
    #[arg(long, value_name = "T,H,W")]
    sections: Option<String>,
    /// Position, as T,H,W.
    #[arg(long, value_name = "T,H,W", allow_hyphen_values = true)]
    pos: String,
    /// A JSON array of head_dim numbers.
    #[arg(long, value_name = "FILE")]
    vector: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    match args.what {
        What::Positions(args) => positions(args),
        What::Rotate(args) => rotate(args),
        What::Cache(args) => super::cache_error::run(*args),
        What::Skip(args) => super::skip::run(*args),
        What::Prune(args) => super::prune::run(*args),
        #[cfg(feature = "eval")]
        What::Theory(args) => super::theory::run(args),
        What::Frequencies(args) => super::frequencies::run(args),
    }
}

fn positions(args: PositionsArgs) -> Result<()> {
    let layout = Layout::from_name(&args.layout)?;
    let segments = args.segments.iter().map(|s| parse_segment(s)).collect::<Result<Vec<_>>>()?;
    let scales = args.scales.iter().map(|s| parse_temporal_scale(s)).collect::<Result<Vec<_>>>()?;
    let (pos, placer) = place_all(layout, &segments, &scales)?;
    let (next_pos, step) = (placer.next_pos(), layout.decode_step());
    let mut out = stdout();
    if args.json {
        let row = |axis: fn(&Pos) -> f64| pos.iter().map(|p| number(axis(p))).collect::<Vec<_>>();
        let value = json!({
            "layout": layout.name(), "n_tokens": pos.len(),
            "t": row(|p| p.t), "h": row(|p| p.h), "w": row(|p| p.w),
            "next_pos": number(next_pos), "decode_step": number(step),
        });
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "{:>8} {:>10} {:>10} {:>10}", "token", "t", "h", "w")?;
        for (it, p) in pos.iter().enumerate() {
            writeln!(out, "{it:>8} {:>10} {:>10} {:>10}", p.t, p.h, p.w)?;
        }
        writeln!(out, "next position {next_pos}, decode step {step}")?;
    }
    Ok(())
}

/// Longest file with a vector, in bytes.
const MAX_VECTOR: u64 = 1 << 20;

fn rotate(args: RotateArgs) -> Result<()> {
    let layout = Layout::from_name(&args.layout)?;
    let sections = match &args.sections {
        Some(text) => triple(text, "--sections")?,
        None => default_sections(layout, args.head_dim),
    };
    let rotary = Rotary::new(layout, args.head_dim, args.rope_base, sections).map_err(as_bad_input)?;
    let [t, h, w] = triple::<f64>(&args.pos, "--pos")?;
    if ![t, h, w].iter().all(|p| p.is_finite()) {
        return Err(Error::bad_input(format!("position `{}` must be finite", args.pos)));
    }
    let pos = Pos { t, h, w };
    let place = || args.vector.display().to_string();
    let text = read_text(&args.vector, MAX_VECTOR).at(place)?;
    let vector: Vec<f64> = serde_json::from_str(&text)
        .map_err(|err| Error::bad_input(format!("expected a JSON array of numbers: {err}")).at(place()))?;
    if vector.len() != args.head_dim {
        let message = format!("`{}` numbers, expected the head dimension `{}`", vector.len(), args.head_dim);
        return Err(Error::bad_input(message).at(place()));
    }
    let mut exact = vector.clone();
    rotate_f64(&rotary, &mut exact, pos);
    let mut single: Vec<f32> = vector.iter().map(|v| *v as f32).collect();
    let mut table = Default::default();
    rotary.fill(&[pos], &mut table);
    let (cos, sin) = table.token(0);
    rotate_f32(&mut single, cos, sin);
    let mut out = stdout();
    if args.json {
        writeln!(out, "{}", json!({ "f64": exact, "f32": single }))?;
    } else {
        writeln!(out, "{:>6} {:>22} {:>14}", "index", "f64", "f32")?;
        for (i, (a, b)) in exact.iter().zip(&single).enumerate() {
            writeln!(out, "{i:>6} {a:>22.15} {b:>14.8}")?;
        }
    }
    Ok(())
}

/// What is a mismatch inside a file is a wrong flag here.
fn as_bad_input(err: Error) -> Error {
    Error::bad_input(err.to_string())
}

fn parse_segment(text: &str) -> Result<Segment> {
    let wrong = || Error::bad_input(format!("segment `{text}` is none of text:N, image:HxW, video:TxHxW"));
    let (kind, size) = text.split_once(':').ok_or_else(wrong)?;
    let sides = size.split('x').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<Vec<usize>>>()?;
    match (kind, sides.as_slice()) {
        ("text", [n]) => Ok(Segment::Text(*n)),
        ("image", [h, w] | [1, h, w]) => Ok(Segment::Image { h: *h, w: *w }),
        ("video", [t, h, w]) => Ok(Segment::Video { t: *t, h: *h, w: *w }),
        _ => Err(wrong()),
    }
}

pub(super) fn triple<T: std::str::FromStr>(text: &str, flag: &str) -> Result<[T; 3]> {
    let parts: Option<Vec<T>> = text.split(',').map(|p| p.trim().parse().ok()).collect();
    let parts: Option<[T; 3]> = parts.and_then(|p| p.try_into().ok());
    parts.ok_or_else(|| Error::bad_input(format!("{flag} `{text}` must be three numbers as T,H,W")))
}

/// A JSON number without a fraction where there is none.
fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 9e15 { json!(v as i64) } else { json!(v) }
}
