//! `longtake analyze cache`: what the type of cached keys and values does to a model's answers.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::flags::{MediaFlags, ModelFlags};
use super::out::stdout;
use super::progress::catch_interrupt;
use crate::cache::cache_type;
use crate::gguf::GgmlType;
use crate::stream::{Events, Prompt, cache_errors, conversation};
use crate::text::template::RenderOptions;
use crate::text::{Content, Message};
use crate::{Error, Result};

/// Answers one question over an F32 cache and compares the next-token distributions of smaller ones with it.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// The question.
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Video that the question is about.
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// Types to compare, K or K/V.
    #[arg(long, value_delimiter = ',', value_name = "TYPE[/TYPE],…", default_value = "f16,bf16,q8_0,q8_0/q4_0,q4_0")]
    types: Vec<String>,
    /// Tokens of the answer.
    #[arg(short = 'n', long = "predict", default_value_t = 64, value_name = "N")]
    predict: usize,
    #[command(flatten)]
    media: MediaFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let pair = |text: &String| -> Result<(GgmlType, GgmlType)> {
        let (k, v) = text.split_once('/').unwrap_or((text, text));
        Ok((cache_type(k)?, cache_type(v)?))
    };
    let types = args.types.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let engine = args.model.load(args.video.is_some())?;
    let messages = match &args.video {
        Some(video) => conversation(None, &video.display().to_string(), &args.prompt),
        None => vec![Message::new("user", Content::Text(args.prompt.clone()))],
    };
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(&engine, 0, scale)?;
    let render = RenderOptions { add_generation_prompt: true, add_vision_id: false, special: false, tools: &[] };
    let mut prompt = || Prompt::build(&engine, &messages, render, &args.media.options()?);
    let n_tokens = prompt()?.n_tokens()?;
    let n_predict = match args.model.compute.ctx_size {
        0 => args.predict,
        n_ctx => match n_ctx.checked_sub(n_tokens) {
            Some(room @ 1..) => args.predict.min(room),
            _ => return Err(Error::limit(format!("the prompt has `{n_tokens}` tokens, the context holds `{n_ctx}`"))),
        },
    };
    let mut sink = |_| {};
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    let errors = cache_errors(&engine, &mut prompt, options, &types, n_predict, &mut events)?;
    let mut out = stdout();
    if args.json {
        let row = |e: &crate::stream::CacheError| {
            json!({
                "type_k": e.type_k.name(), "type_v": e.type_v.name(), "bytes_per_token": e.n_bytes,
                "kl_mean": e.kl_mean, "kl_max": e.kl_max, "same_top": e.same_top,
            })
        };
        let rows: Vec<_> = errors.iter().map(row).collect();
        writeln!(out, "{}", json!({"n_prompt": n_tokens, "n_predict": n_predict, "types": rows}))?;
        return Ok(());
    }
    writeln!(out, "{n_tokens} tokens of prompt, {n_predict} of answer, beside a cache in F32\n")?;
    writeln!(out, "| K / V | bytes per token | KL, mean | KL, largest | same token |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for e in &errors {
        let (k, v) = (e.type_k.name(), e.type_v.name());
        writeln!(
            out,
            "| {k} / {v} | {} | {:.2e} | {:.2e} | {:.1}% |",
            e.n_bytes,
            e.kl_mean,
            e.kl_max,
            100.0 * e.same_top
        )?;
    }
    Ok(())
}
