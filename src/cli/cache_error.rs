//! `longtake analyze cache`: what the type of cached keys and values does to a model's answers.

use std::io::Write;

use serde_json::json;

use super::out::stdout;
use super::progress::catch_interrupt;
use super::question::QuestionFlags;
use crate::Result;
use crate::cache::{CacheType, cache_type};
use crate::stream::{Divergence, Events, FullAnswer, Session, SessionOptions};

/// Answers one question over a full cache and compares the next-token distributions of smaller ones with it: how far they are away
/// on the mean, of 99 in 100 tokens, at most; and which tokens a greedy answer would have changed.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    question: QuestionFlags,
    /// Types to compare, K or K/V.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "TYPE[/TYPE],…",
        default_value = "f16,bf16,q8_0,q8_0/q4_0,q8_0/q4_0h,q4_0,q4_0h"
    )]
    types: Vec<String>,
    /// The type that they are compared with, K or K/V.
    #[arg(long, value_name = "TYPE[/TYPE]", default_value = "f32")]
    full: String,
    /// Tokens of the answer.
    #[arg(short = 'n', long = "predict", default_value_t = 64, value_name = "N")]
    predict: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let pair = |text: &String| -> Result<(CacheType, CacheType)> {
        let (k, v) = text.split_once('/').unwrap_or((text, text));
        Ok((cache_type(k)?, cache_type(v)?))
    };
    let types = args.types.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let full = pair(&args.full)?;
    let question = args.question.load()?;
    let n_tokens = question.prompt()?.n_tokens()?;
    let n_predict = question.room(n_tokens, args.predict)?;
    let (engine, options) = (&question.engine, question.options);
    let interrupt = catch_interrupt()?;
    let fed = |(type_k, type_v): (CacheType, CacheType)| -> Result<Session> {
        let mut session = Session::new(
            engine,
            SessionOptions { n_ctx: n_tokens.saturating_add(n_predict), type_k, type_v, ..options },
        )?;
        let mut sink = |_| {};
        session.feed(&mut question.prompt()?, &mut Events::new(&mut sink, interrupt))?;
        Ok(session)
    };
    let answer = FullAnswer::of(&mut fed(full)?, n_predict)?;
    let mut rows = Vec::new();
    for types in types {
        let (k, v) = engine.cache_shape(1, types).part_bytes()?;
        rows.push((types, k + v, answer.beside(&mut fed(types)?)?));
    }
    let mut out = stdout();
    if args.json {
        let row = |((type_k, type_v), n_bytes, d): &((CacheType, CacheType), usize, Divergence)| {
            json!({
                "type_k": type_k.name(), "type_v": type_v.name(), "bytes_per_token": n_bytes,
                "kl_mean": d.kl_mean, "kl_p99": d.kl_p99, "kl_max": d.kl_max,
                "same_top": (d.n - d.n_changed) as f64 / d.n as f64,
                "n_changed": d.n_changed, "first_changed": d.first_changed,
            })
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let full = [full.0.name(), full.1.name()];
        writeln!(out, "{}", json!({"n_prompt": n_tokens, "n_predict": n_predict, "full": full, "types": rows}))?;
        return Ok(());
    }
    let in_words = |(k, v): (CacheType, CacheType)| if k == v { k.to_string() } else { format!("{k} / {v}") };
    writeln!(out, "{n_tokens} tokens of prompt, {n_predict} of answer, beside a cache in {}\n", in_words(full))?;
    writeln!(out, "| K / V | bytes per token | KL, mean | KL, p99 | KL, largest | changed tokens |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for (types, n_bytes, d) in &rows {
        let first = d.first_changed.map_or(String::new(), |at| format!(", first {}", at + 1));
        writeln!(
            out,
            "| {} / {} | {n_bytes} | {:.2e} | {:.2e} | {:.2e} | {} of {}{first} |",
            types.0, types.1, d.kl_mean, d.kl_p99, d.kl_max, d.n_changed, d.n
        )?;
    }
    Ok(())
}
