//! `longtake analyze skip`: how much of its cache a model could leave unread while it decodes, with proof.

use std::io::Write;

use serde_json::{Value, json};

use super::out::stdout;
use super::progress::catch_interrupt;
use super::question::QuestionFlags;
use crate::Result;
use crate::stream::{Events, SkipOptions, SkipRow, Skips, skips};

/// How much of its cache a model could leave unread while it answers, where blocks of keys go whose share of the softmax is provably
/// small. It measures what that would be worth; answers read all of it.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    question: QuestionFlags,
    /// Share of each softmax that may be lost.
    #[arg(long, default_value_t = 1e-3, value_name = "SHARE")]
    limit: f64,
    /// Keys of a block.
    #[arg(long, default_value_t = 64, value_name = "N")]
    block: usize,
    /// Tokens of the answer.
    #[arg(short = 'n', long = "predict", default_value_t = 8, value_name = "N")]
    predict: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let question = args.question.load()?;
    let prompt = question.prompt()?;
    let n_predict = question.room(prompt.n_tokens()?, args.predict)?;
    let mut sink = |_| {};
    let mut events = Events::new(&mut sink, catch_interrupt()?);
    let what = SkipOptions { block: args.block, limit: args.limit, n_predict };
    let found = skips(&question.engine, prompt, question.options, what, &mut events)?;
    print(&found, what, args.json)
}

fn print(found: &Skips, what: SkipOptions, is_json: bool) -> Result<()> {
    let Skips { n_keys, d, n_still, rows } = found;
    let mut out = stdout();
    if is_json {
        let row = |row: &SkipRow| {
            json!({
                "bound": row.bound.name(), "read": row.read, "read_together": row.read_together,
                "read_least": row.read_least, "dropped": row.dropped, "proven": row.proven,
            })
        };
        let rows: Vec<Value> = rows.iter().map(row).collect();
        let all = json!({
            "n_keys": n_keys, "n_predict": what.n_predict, "block": what.block, "limit": what.limit,
            "head": d, "unturned": n_still, "bounds": rows,
        });
        writeln!(out, "{all}")?;
        return Ok(());
    }
    let SkipOptions { block, limit, n_predict } = what;
    writeln!(
        out,
        "{n_keys} keys in blocks of {block}, {n_predict} tokens of answer, at most {limit} of a softmax lost;"
    )?;
    writeln!(out, "positions turn {} of {d} dimensions\n", d - n_still)?;
    writeln!(out, "| bound | a head reads | heads together | best layer | lost at most | proven |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for row in rows {
        let [read, together, least] = [row.read, row.read_together, row.read_least].map(|share| 100.0 * share);
        writeln!(
            out,
            "| {} | {read:.1} % | {together:.1} % | {least:.1} % | {:.1e} | {:.1e} |",
            row.bound.name(),
            row.dropped,
            row.proven
        )?;
    }
    Ok(())
}
