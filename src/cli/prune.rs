//! `longtake analyze prune`: what leaving out visual tokens does to a model's answers, beside other ways to as few tokens.

use std::io::Write;

use serde_json::{Value, json};

use super::out::stdout;
use super::progress::catch_interrupt;
use super::question::{Question, QuestionFlags, less};
use crate::stream::{
    Control, Divergence, Events, FullAnswer, Less, MediaOptions, Prompt, Session, SessionOptions, Tally, WholeVideo,
};
use crate::{Error, Result};

/// What is tried where nothing is given.
const LIMITS: [f32; 3] = [2.0, 4.0, 8.0];
const SHARES: [f32; 3] = [0.5, 0.25, 0.1];

/// Answers one question about a video of which everything is read, and compares the next-token distributions with those where
/// something is left out (`--dedup STEPS`, `--keep-share SHARE`, or both): how far they are away on the mean, of 99 in 100 tokens, at most; and which tokens a
/// greedy answer would have changed. Fewer frames, smaller frames, and tokens left out at random or evenly have to be worse at as
/// many tokens, or it is not worth it for this video.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    question: QuestionFlags,
    /// Tokens of the answer.
    #[arg(short = 'n', long = "predict", default_value_t = 64, value_name = "N")]
    predict: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a way came to.
struct Row {
    way: String,
    n_tokens: usize,
    encoded_pairs: usize,
    divergence: Divergence,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let mut question = args.question.load()?;
    let given = Less { dedup: question.media.dedup.take(), keep: question.media.keep.take() };
    let is_given = given.dedup.is_some() || given.keep.is_some();
    let tried = if is_given { vec![given] } else { less(&LIMITS, &SHARES) };
    let prompt = question.prompt()?;
    let n_tokens = prompt.n_tokens()?;
    let [plan] = &prompt.videos[..] else {
        return Err(Error::bad_input("something is left out of a video: give --video FILE"));
    };
    let hp = question.engine.need_vision()?.hparams();
    let whole = WholeVideo::of(plan, hp);
    let n_predict = question.room(n_tokens, args.predict)?;
    let n_ctx = n_tokens.saturating_add(n_predict);
    let (answer, _) = feed(&question, prompt, n_ctx, |session| FullAnswer::of(session, n_predict))?;
    let mut rows = Vec::new();
    for less in tried {
        let Less { dedup, keep } = less;
        let prompt = question.prompt_of(&MediaOptions { dedup, keep, ..question.media.clone() })?;
        let row = beside(&question, &answer, less.to_string(), prompt, n_ctx)?;
        let n_kept = row.n_tokens;
        rows.push(row);
        for control in Control::ALL.into_iter().filter(|_| n_kept < whole.n_tokens()) {
            let (media, left_out) = whole.as_few(n_kept, control, &question.media);
            let mut prompt = question.prompt_of(&media)?;
            prompt.videos[0].left_out = left_out;
            rows.push(beside(&question, &answer, control.name().to_string(), prompt, n_ctx)?);
        }
    }
    print(&rows, (whole, n_tokens, n_predict), args.json)
}

/// Reads `prompt` and does `work` with what has read it.
fn feed<T>(
    question: &Question,
    mut prompt: Prompt,
    n_ctx: usize,
    work: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<(T, (usize, usize))> {
    let mut session = Session::new(&question.engine, SessionOptions { n_ctx, ..question.options })?;
    let mut tally = Tally::default();
    let mut sink = |event| tally.see(&event);
    session.feed(&mut prompt, &mut Events::new(&mut sink, catch_interrupt()?))?;
    let plan = &prompt.videos[0];
    let n_visual = plan.n_pairs() * plan.per_pair - plan.n_left_out();
    Ok((work(&mut session)?, (n_visual, tally.encoded_pairs)))
}

fn beside(question: &Question, answer: &FullAnswer, way: String, prompt: Prompt, n_ctx: usize) -> Result<Row> {
    let (divergence, (n_tokens, encoded_pairs)) = feed(question, prompt, n_ctx, |session| answer.beside(session))?;
    Ok(Row { way, n_tokens, encoded_pairs, divergence })
}

fn print(rows: &[Row], (whole, n_prompt, n_predict): (WholeVideo, usize, usize), is_json: bool) -> Result<()> {
    let WholeVideo { n_pairs, .. } = whole;
    let mut out = stdout();
    if is_json {
        let row = |Row { way, n_tokens, encoded_pairs, divergence: d }: &Row| -> Value {
            json!({
                "way": way, "visual_tokens": n_tokens, "encoded_pairs": encoded_pairs,
                "kl_mean": d.kl_mean, "kl_p99": d.kl_p99, "kl_max": d.kl_max,
                "same_top": (d.n - d.n_changed) as f64 / d.n as f64,
                "n_changed": d.n_changed, "first_changed": d.first_changed,
            })
        };
        let rows: Vec<Value> = rows.iter().map(row).collect();
        let all = json!({
            "n_prompt": n_prompt, "n_predict": n_predict, "pairs": n_pairs, "visual_tokens": whole.n_tokens(), "ways": rows,
        });
        writeln!(out, "{all}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{n_prompt} tokens of prompt, {} of them visual in {n_pairs} frame pairs, {n_predict} of answer\n",
        whole.n_tokens()
    )?;
    writeln!(out, "| way | visual tokens | pairs encoded | KL, mean | KL, p99 | KL, largest | changed tokens |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for Row { way, n_tokens, encoded_pairs, divergence: d } in rows {
        let first = d.first_changed.map_or(String::new(), |at| format!(", first {}", at + 1));
        writeln!(
            out,
            "| {} | {n_tokens} | {encoded_pairs} | {:.2e} | {:.2e} | {:.2e} | {} of {}{first} |",
            way, d.kl_mean, d.kl_p99, d.kl_max, d.n_changed, d.n
        )?;
    }
    Ok(())
}
