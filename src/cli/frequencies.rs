//! `longtake analyze frequencies`: which axis drives which rotary pair, at which frequency.

use std::f64::consts::TAU;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::out::stdout;
use crate::error::Context;
use crate::gguf::Gguf;
use crate::model::HParams;
use crate::position::{Layout, Pos, Rotary, Stretch, default_sections};
use crate::{Error, ErrorKind, Result};

/// Which axis drives which rotary pair, at which frequency.
#[derive(clap::Args)]
pub(super) struct Args {
    /// rope, tad, mrope, videorope, hope or hopex.
    #[arg(long, required_unless_present = "model")]
    layout: Option<String>,
    /// Read layout, head dimension, base and sections from this model file (GGUF); other flags replace them.
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Elements per head (default 128).
    #[arg(long, value_name = "N")]
    head_dim: Option<usize>,
    /// Rope base (default 1000000).
    #[arg(long, value_name = "B")]
    rope_base: Option<f64>,
    /// Section split in pairs, as T,H,W; the default follows the head dimension.
    #[arg(long, value_name = "T,H,W")]
    sections: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the table of frequencies.
pub(super) fn run(args: Args) -> Result<()> {
    const MAX_HEAD: usize = 1024;
    let hparams = args.model.as_deref().map(hparams).transpose()?;
    let layout = match (&args.layout, &hparams) {
        (Some(name), _) => Layout::from_name(name)?,
        (None, Some(hp)) => hp.layout,
        (None, None) => return Err(Error::bad_input("which layout? pass --layout or --model")),
    };
    let from_model = |get: fn(&HParams) -> usize| hparams.as_ref().map(get);
    let n_rot = args.head_dim.or(from_model(|hp| hp.n_embd_head)).unwrap_or(128);
    if n_rot > MAX_HEAD {
        return Err(Error::bad_input(format!("head dimension `{n_rot}` is above {MAX_HEAD}")));
    }
    let base = args.rope_base.or(hparams.as_ref().map(|hp| hp.rope_freq_base)).unwrap_or(1e6);
    // A model's sections belong to its own layout and head.
    let own = hparams.as_ref().filter(|hp| hp.layout == layout && hp.n_embd_head == n_rot).map(|hp| hp.rope_sections);
    let sections = match &args.sections {
        Some(text) => super::analyze::triple(text, "--sections")?,
        None => own.unwrap_or_else(|| default_sections(layout, n_rot)),
    };
    let as_bad_input = |err: Error| Error::new(ErrorKind::BadInput, err.to_string());
    // As its sections, a model's longer context belongs to its own head and base.
    let own = hparams.as_ref().filter(|hp| hp.n_embd_head == n_rot && args.rope_base.is_none());
    let stretch = own.map_or(Stretch::NONE, |hp| hp.rope_stretch);
    let rotary = Rotary::new(layout, n_rot, base, sections)
        .and_then(|rotary| rotary.stretched(&stretch))
        .map_err(as_bad_input)?;
    let rows: Vec<Row> = (0..rotary.n_pair()).map(|i| Row::of(&rotary, i)).collect();
    let mut out = stdout();
    if args.json {
        let row = |row: &Row| json!({ "pair": row.pair, "axis": row.axis, "theta": row.theta, "period": row.period });
        let value = json!({
            "layout": layout.name(), "head_dim": n_rot, "rope_base": base, "sections": sections,
            "pairs": rows.iter().map(row).collect::<Vec<_>>(),
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    let [t, h, w] = sections;
    writeln!(out, "layout {layout}, head dimension {n_rot}, base {base}, sections {t},{h},{w}\n")?;
    writeln!(out, "{:>5} {:>5} {:>14} {:>14}", "pair", "axis", "theta", "period")?;
    for row in &rows {
        let axis = row.axis.as_deref().unwrap_or("-");
        match row.period {
            Some(period) => writeln!(out, "{:>5} {axis:>5} {:>14.8e} {period:>14.1}", row.pair, row.theta)?,
            None => writeln!(out, "{:>5} {axis:>5} {:>14} {:>14}", row.pair, "0", "stands still")?,
        }
    }
    Ok(())
}

/// A rotary pair.
struct Row {
    pair: usize,
    /// Nothing where no id drives it.
    axis: Option<String>,
    /// Radians per step of the id, and steps per turn.
    theta: f64,
    period: Option<f64>,
}

impl Row {
    fn of(rotary: &Rotary, pair: usize) -> Row {
        let driver = rotary.drivers()[pair];
        let axis = driver.weights().map(|_| driver.name());
        let theta = rotary.angle(pair, Pos { t: 1.0, h: 1.0, w: 1.0 });
        Row { pair, period: axis.as_ref().map(|_| TAU / theta), axis, theta }
    }
}

fn hparams(path: &Path) -> Result<HParams> {
    HParams::from_gguf(&Gguf::open(path)?).at(|| path.display().to_string())
}
