//! `longtake convert`: flags, a progress bar, a summary. The work is [`crate::convert::convert`].
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::progress::catch_interrupt;
use crate::convert::{ConvertOptions, FileType, OutputFile, Progress, convert};
use crate::position::{Layout, parse_temporal_scale};
use crate::{Error, ErrorKind, Result};

/// Convert a Hugging Face checkpoint folder to GGUF.
///
/// Writes two files: the text model and, beside it, the projector (vision tower and merger). With M-RoPE positions both
/// are files that llama.cpp reads too; any other layout gets its own architecture name, which it refuses.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The checkpoint folder: config.json, model*.safetensors, tokenizer.json
    checkpoint: PathBuf,
    /// The text model's file, or a folder to name both files in (`models/`); folders that are absent are made
    #[arg(short, long = "output", visible_alias = "outfile", value_name = "FILE")]
    output: PathBuf,
    /// The projector's file [default: mmproj-NAME.gguf beside the text model]
    #[arg(long, value_name = "FILE")]
    mmproj_out: Option<PathBuf>,
    /// The text model's file type: auto (as stored), f32, f16, bf16, q8_0, q4_0, Q4_K_M, ...
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    outtype: String,
    /// The projector's file type: f32, f16, bf16 or q8_0 [default: as the text model, but 16 bits where that is quantized]
    #[arg(long, value_name = "TYPE")]
    mmproj_outtype: Option<String>,
    /// The position layout the checkpoint was trained with: mrope (that of the published models), hope, and for Qwen2-VL
    /// and Qwen2.5-VL also videorope, rope, tad, hopex
    #[arg(long, visible_alias = "layout", value_name = "LAYOUT", default_value = "mrope")]
    rope: String,
    /// The temporal scale that readers use unless told otherwise: a number, `understanding` or `retrieval` [default: 1 for
    /// hope and hopex, 2 for videorope]
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    temporal_scale: Option<String>,
    /// The model's name in the file [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// A family description to use instead of those compiled in; see docs/converters.md
    #[arg(long, value_name = "FILE")]
    family: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What [`convert`] says; `Cancelled` on Ctrl-C.
pub(super) fn run(args: Args) -> Result<()> {
    let options = ConvertOptions {
        input: args.checkpoint,
        output: args.output,
        mmproj_output: args.mmproj_out,
        outtype: file_type_or_auto(&args.outtype)?,
        mmproj_outtype: args.mmproj_outtype.as_deref().map(file_type_or_auto).transpose()?.flatten(),
        layout: Layout::from_name(&args.rope)?,
        temporal_scale: args.temporal_scale.as_deref().map(parse_temporal_scale).transpose()?,
        model_name: args.model_name,
        family: args.family,
    };
    let report = convert(&options, &mut Bar::new()?)?;
    for OutputFile { path, n_bytes, n_tensors, file_type } in [&report.text, &report.mmproj] {
        eprintln!("{}: {file_type}, {n_tensors} tensors, {}", path.display(), HumanBytes(*n_bytes));
    }
    Ok(())
}

fn file_type_or_auto(name: &str) -> Result<Option<FileType>> {
    if name.eq_ignore_ascii_case("auto") { Ok(None) } else { FileType::from_name(name).map(Some) }
}

/// A progress bar on stderr, drawn only on a terminal, that turns Ctrl-C into an orderly stop: temporary files go.
pub(super) struct Bar {
    bar: ProgressBar,
    interrupted: &'static AtomicBool,
}

impl Bar {
    pub(super) fn new() -> Result<Bar> {
        Ok(Bar { bar: ProgressBar::hidden(), interrupted: catch_interrupt()? })
    }
}

impl Progress for Bar {
    fn begin(&mut self, what: &str, n_bytes: u64) {
        self.bar.finish_and_clear();
        let style =
            ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}");
        self.bar = ProgressBar::new(n_bytes).with_style(style.expect("a valid template"));
        self.bar.set_prefix(what.to_string());
    }

    fn advance(&mut self, tensor: &str, n_bytes: u64) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted; nothing was written"));
        }
        self.bar.set_message(tensor.to_string());
        self.bar.inc(n_bytes);
        Ok(())
    }

    fn note(&mut self, message: &str) {
        self.bar.suspend(|| eprintln!("note: {message}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
