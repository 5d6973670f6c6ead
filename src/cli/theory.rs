//! `longtake analyze theory`: what a position layout can and cannot prefer.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::out::stdout;
use crate::error::Context;
use crate::eval::plot::{KEPT_AS, save};
use crate::eval::theory::{Experiment, experiments, plots};
use crate::files::atomic::check_outputs_in;
use crate::kernels::threads;
use crate::{Error, Result};

/// The experiments of the theory: expected numbers beside computed ones, and plots.
#[derive(clap::Args)]
pub(super) struct TheoryArgs {
    /// Run these experiments only (E1 to E9).
    #[arg(long, value_delimiter = ',', value_name = "E1,…")]
    only: Vec<String>,
    /// Seed of those that draw random vectors.
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Also draw the plots, as SVG and (with the feature `plots`) PNG files in this folder.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the experiments. Fails when one of them does not come out as expected.
pub(super) fn run(args: TheoryArgs) -> Result<()> {
    args.out.as_deref().map_or(Ok(()), |dir| check_outputs_in(dir, &[]))?;
    threads::start(0)?;
    let found = experiments(&args.only, args.seed)?;
    let mut out = stdout();
    if args.json {
        let row = |row: &crate::eval::theory::ExperimentRow| json!({ "what": row.what, "expected": row.expected, "computed": row.computed, "ok": row.ok });
        let experiment = |e: &Experiment| {
            json!({
                "id": e.id, "title": e.title, "ok": e.holds(), "rows": e.rows.iter().map(row).collect::<Vec<_>>(),
            })
        };
        let ok = found.iter().all(Experiment::holds);
        let all: Vec<_> = found.iter().map(experiment).collect();
        writeln!(out, "{}", json!({ "seed": args.seed, "ok": ok, "experiments": all }))?;
    } else {
        for experiment in &found {
            print(&mut out, experiment)?;
        }
    }
    if let Some(dir) = &args.out {
        draw(dir)?;
    }
    let wrong: Vec<&str> = found.iter().filter(|e| !e.holds()).map(|e| e.id).collect();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(Error::mismatch(format!("not as expected: {}", wrong.join(", ")))),
    }
}

fn print(out: &mut dyn Write, experiment: &Experiment) -> Result<()> {
    let count = |text: &str| text.chars().count();
    let width = experiment.rows.iter().map(|row| count(&row.what)).max().unwrap_or(0);
    writeln!(out, "{}: {}\n", experiment.id, experiment.title)?;
    writeln!(out, "  {:<width$} {:>16} {:>16}", "", "expected", "computed")?;
    for row in &experiment.rows {
        let ok = match row.ok {
            Some(true) => "ok",
            Some(false) => "WRONG",
            None => "",
        };
        writeln!(out, "  {:<width$} {:>16} {:>16}  {ok}", row.what, row.expected, row.computed)?;
    }
    Ok(writeln!(out)?)
}

fn draw(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).at(|| dir.display().to_string())?;
    for plot in plots()? {
        let stem = dir.join(plot.name);
        save(&stem, &plot.svg)?;
        eprintln!("wrote {}.{}", stem.display(), KEPT_AS.join(" and ."));
    }
    Ok(())
}
