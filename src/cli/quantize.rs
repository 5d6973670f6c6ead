//! `longtake quantize`: flags, a progress bar, a table of errors. The work is [`crate::convert::quantize`].
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;

use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::convert::Bar;
use super::out::stdout;
use crate::convert::{FileType, QuantizeOptions, QuantizeReport, TensorReport, quantize};
use crate::gguf::GgmlType;
use crate::{Error, Result};

/// Make a smaller GGUF file, and say how far every tensor is off.
///
/// Which tensor gets which type follows llama.cpp's recipes. Text models and projectors, ours and llama.cpp's.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The file to read; of a split model, the first part
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// The recipe: Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q4_K_M, Q4_K_S, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, IQ4_NL, IQ4_XS, Q4_0, Q4_1,
    /// Q5_0, Q5_1, F16, BF16, F32
    #[arg(value_name = "TYPE")]
    file_type: String,
    /// An importance matrix made by llama.cpp (GGUF)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Accept input that is quantized already, and add to its error
    #[arg(long)]
    allow_requantize: bool,
    /// Give every matrix the same type
    #[arg(long)]
    pure: bool,
    /// The type of output.weight, or of the embedding that serves as such
    #[arg(long, value_name = "TYPE")]
    output_tensor_type: Option<String>,
    /// The type of token_embd.weight
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<String>,
    /// A type for the tensors whose name contains or matches a regular expression; the first that fits counts. Repeatable
    #[arg(long, value_name = "REGEX=TYPE")]
    tensor_type: Vec<String>,
    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// What [`quantize`] says; `Cancelled` on Ctrl-C.
pub(super) fn run(args: Args) -> Result<()> {
    let options = QuantizeOptions {
        input: args.input,
        output: args.output,
        file_type: FileType::from_name(&args.file_type)?,
        imatrix: args.imatrix,
        allow_requantize: args.allow_requantize,
        pure: args.pure,
        output_tensor_type: args.output_tensor_type.as_deref().map(tensor_type).transpose()?,
        token_embedding_type: args.token_embedding_type.as_deref().map(tensor_type).transpose()?,
        tensor_types: args.tensor_type.iter().map(|rule| pattern(rule)).collect::<Result<_>>()?,
        leave_output_tensor: args.leave_output_tensor,
        dry_run: args.dry_run,
    };
    let report = quantize(&options, &mut Bar::new()?)?;
    print_table(&report);
    if args.json {
        writeln!(stdout(), "{}", to_json(&report))?;
    }
    Ok(())
}

fn tensor_type(name: &str) -> Result<GgmlType> {
    GgmlType::from_name(name).ok_or_else(|| Error::bad_input(format!("tensor type `{name}` is not known")))
}

fn pattern(rule: &str) -> Result<(String, GgmlType)> {
    let Some((pattern, ty)) = rule.rsplit_once('=') else {
        return Err(Error::bad_input(format!("`{rule}`, expected a pattern and a type such as `ffn_down=q6_k`")));
    };
    Ok((pattern.to_string(), tensor_type(ty)?))
}

fn print_table(report: &QuantizeReport) {
    let width = report.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in report.tensors.iter().filter(|t| t.from != t.to) {
        let ne: Vec<String> = t.ne.iter().map(usize::to_string).collect();
        let error = match (t.rmse, t.nmse) {
            (Some(rmse), Some(nmse)) => format!("rmse {rmse:.3e}  nmse {nmse:.3e}"),
            _ => String::new(),
        };
        let wanted = t.wanted.map_or(String::new(), |ty| format!("  (rows do not fit {ty})"));
        let (name, ne, from, to) = (&t.name, ne.join("x"), t.from.name(), t.to.name());
        eprintln!("{name:<width$}  {ne:>14}  {from:>6} -> {to:<6}  {error}{wanted}");
    }
    let n_changed = report.tensors.iter().filter(|t| t.from != t.to).count();
    let n_params: f64 = report.tensors.iter().map(|t| t.ne.iter().product::<usize>() as f64).sum();
    eprintln!(
        "{}: {n_changed} of {} tensors change type; {} -> {}, {:.2} bits per weight",
        report.file_type,
        report.tensors.len(),
        HumanBytes(report.bytes_before),
        HumanBytes(report.bytes_after),
        report.bytes_after as f64 * 8.0 / n_params.max(1.0)
    );
}

fn to_json(report: &QuantizeReport) -> Json {
    let tensor = |t: &TensorReport| {
        json!({
            "name": t.name,
            "ne": t.ne,
            "from": t.from.name(),
            "to": t.to.name(),
            "wanted": t.wanted.map(GgmlType::name),
            "bytes_before": t.bytes_before,
            "bytes_after": t.bytes_after,
            "rmse": t.rmse,
            "nmse": t.nmse,
            "max_abs_error": t.max_abs_error,
        })
    };
    json!({
        "file_type": report.file_type.name(),
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "file_bytes": report.file_bytes,
        "tensors": report.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}
