//! `longtake inspect`: what a GGUF file holds, for people (`text`) or as JSON (`json`), what it is as a model (`model`), and on request a scan of all its numbers
//! (`scan`). What the CPU can do is told by `cpu.rs`.

mod json;
mod model;
mod scan;
mod text;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use self::json::{Json, write_json};
use self::scan::check;
use self::text::{write_take, write_text};
use super::out::stdout;
use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::stream::take::{self, Take};
use crate::{Error, Result};

/// Show what a GGUF file holds, or what this CPU can run.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The GGUF file; of a split model, the first part
    #[arg(required_unless_present_any = ["cpu", "gpus"])]
    file: Option<PathBuf>,
    /// Print one JSON object, for a file with all arrays in full; numbers that are not finite appear as strings
    #[arg(long)]
    json: bool,
    /// Read all tensor data as well and look for NaN and infinity; exit code 1 if there are any
    #[arg(long)]
    check: bool,
    /// Show instead what this CPU can run, which kernels are used, on how many threads, and why
    #[arg(long, conflicts_with_all = ["file", "check"])]
    cpu: bool,
    /// Show instead the GPUs of this machine and whether this binary can use them
    #[arg(long, alias = "cards", conflicts_with_all = ["file", "check", "cpu"])]
    gpus: bool,
}

/// Runs the command.
///
/// # Errors
/// What [`Gguf::open`] says, and `Format` when `--check` found a number that is not finite; for `--cpu`, see `cpu.rs`.
pub(super) fn run(args: Args) -> Result<()> {
    if args.gpus {
        return super::gpus::list(args.json);
    }
    let Some(file) = args.file else { return super::cpu::run(args.json) };
    let gguf = Gguf::open(&file)?;
    let report = if args.check { Some(check(&gguf)?) } else { None };
    // A take is checked whole: its tables alone would say little.
    let is_take = gguf.meta().str("general.architecture").is_ok_and(|arch| arch == Some(take::ARCHITECTURE));
    let take = if is_take { Some(Take::open(&file, true)?) } else { None };
    let mut out = BufWriter::new(stdout());
    let printed = if args.json {
        write_json(&mut out, &Json { gguf: &gguf, report: report.as_ref(), take: take.as_ref() })
    } else {
        write_text(&mut out, &gguf, report.as_ref())
            .and_then(|()| take.iter().try_for_each(|t| write_take(&mut out, t)))
    };
    printed.and_then(|()| out.flush())?;
    match report.filter(|report| !report.bad.is_empty()) {
        None => Ok(()),
        Some(report) => {
            let n_bad = report.bad.len();
            Err(Error::format(format!("`{n_bad}` tensors hold numbers that are not finite")).at(file_name(&gguf)))
        }
    }
}

/// Sums over the tensor table.
struct Totals {
    n_elements: u128,
    n_bytes: u64,
    /// Per type: tensors and bytes.
    by_type: BTreeMap<GgmlType, (usize, u64)>,
}

impl Totals {
    fn of(tensors: &[TensorInfo]) -> Totals {
        let mut totals = Totals { n_elements: 0, n_bytes: 0, by_type: BTreeMap::new() };
        for tensor in tensors {
            let (count, bytes) = totals.by_type.entry(tensor.ty).or_default();
            *count += 1;
            *bytes += tensor.n_bytes as u64;
            totals.n_elements += tensor.n_elements() as u128;
            totals.n_bytes += tensor.n_bytes as u64;
        }
        totals
    }
}

fn file_name(gguf: &Gguf) -> String {
    gguf.path().display().to_string()
}
