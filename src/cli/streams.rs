//! `longtake eval streams`: what a model still knows of a stream that is longer than its memory.

use std::io::Write;

use serde_json::{Value, json};

use super::flags::ModelFlags;
use super::niah::parse_size;
use super::out::stdout;
use super::trials::{self, KindFlags, TrialFlags};
use crate::Result;
use crate::drawn::hard::Hard;
use crate::eval::left_out::mcnemar;
use crate::eval::streams::{Memory, StreamOptions, StreamOutcome, trial};

/// Most streams of a kind, and most frame pairs of each.
const MAX_STREAMS: u64 = 100_000;
const MAX_PAIRS: u64 = 1 << 14;
/// Parts of a stream by which the depth of symbols is told.
const N_PARTS: usize = 5;

/// What is left of streams that fill the context (`--when-full`): drawn ones, several times longer than the memory, with a symbol at
/// any depth. Beside `forget` and `compress` stand ways that do not look at what they leave out, with as much memory: fewer frame
/// pairs, tokens at random, and frames as small as they must be, which needs to know the length before.
///
/// Without a model, the embedded one is asked.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Streams of each kind, with symbols spread from the beginning to the end.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_STREAMS))]
    streams: u64,
    #[command(flatten)]
    kinds: KindFlags,
    /// Frame pairs of a stream.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u64).range(5..=MAX_PAIRS))]
    pairs: u64,
    /// Frame pairs for which there is room.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_PAIRS))]
    room: u64,
    /// Size of frames.
    #[arg(long, default_value = "252x168", value_name = "WxH")]
    frame: String,
    #[command(flatten)]
    trial: TrialFlags,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    args.trial.check()?;
    let engine = args.model.load_or_embedded()?;
    let options = StreamOptions {
        frame: parse_size(&args.frame)?,
        n_pairs: args.pairs as usize,
        n_room: args.room as usize,
        session: args.model.compute.session(&engine, 1, None)?,
        seed: args.trial.seed,
    };
    let kinds = args.kinds.chosen();
    let outcomes = trials::each(kinds, args.streams, "streams", |kind, i, cancel| {
        trial(&engine, &options, (kind, i, args.streams), cancel)
    })?;
    args.trial.write(outcomes.iter().map(line))?;
    print(&outcomes, kinds, args.trial.json)
}

fn line(outcome: &StreamOutcome) -> Value {
    json!({
        "kind": outcome.kind.id(), "stream": outcome.trial, "depth": outcome.depth, "memory": outcome.memory.name(),
        "right": outcome.right, "visual_tokens": outcome.n_tokens, "pairs": outcome.n_pairs,
        "tokens_of_symbol": outcome.n_shown,
    })
}

/// What a way came to over some streams.
type Sum<'a> = trials::Sum<'a, StreamOutcome>;

impl Sum<'_> {
    fn of_memory(outcomes: &[StreamOutcome], memory: Memory, is_in: impl Fn(&StreamOutcome) -> bool) -> Sum<'_> {
        Sum::of(outcomes, |o| o.memory == memory && is_in(o))
    }

    fn right(&self) -> f64 {
        self.share(|o| o.right)
    }

    fn n_tokens(&self) -> f64 {
        self.mean(|o| o.n_tokens as f64)
    }

    fn n_pairs(&self) -> f64 {
        self.mean(|o| o.n_pairs as f64)
    }
}

/// The part of a stream in which its symbol is.
fn part(outcome: &StreamOutcome) -> usize {
    ((outcome.depth * N_PARTS as f64) as usize).min(N_PARTS - 1)
}

fn print(outcomes: &[StreamOutcome], kinds: &[Hard], is_json: bool) -> Result<()> {
    let of_kind = |memory, kind| Sum::of_memory(outcomes, memory, |o| o.kind == kind);
    let of_part = |memory, i| Sum::of_memory(outcomes, memory, |o| part(o) == i);
    let all = |memory| Sum::of_memory(outcomes, memory, |_| true);
    let flips = |other: Memory| {
        let answers = |memory| -> Vec<_> { all(memory).0.iter().map(|o| ((o.kind, o.trial), o.right)).collect() };
        mcnemar(&answers(Memory::Compress), &answers(other))
    };
    let others = || Memory::ALL.into_iter().filter(|memory| *memory != Memory::Compress);
    let right = |kind: &Hard| of_kind(Memory::Compress, *kind).right();
    let worst = kinds.iter().copied().min_by(|a, b| right(a).total_cmp(&right(b)));
    let mut out = stdout();
    if is_json {
        let row = |memory: Memory| -> Value {
            let kind = |kind: &Hard| {
                let sum = of_kind(memory, *kind);
                json!({
                    "kind": kind.id(), "right": sum.right(), "visual_tokens": sum.n_tokens(), "pairs": sum.n_pairs(),
                })
            };
            let depths: Vec<f64> = (0..N_PARTS).map(|i| of_part(memory, i).right()).collect();
            json!({ "memory": memory.name(), "kinds": kinds.iter().map(kind).collect::<Vec<_>>(), "depths": depths })
        };
        let test = |other: Memory| {
            let (only_compress, only_other, p) = flips(other);
            json!({ "beside": other.name(), "only_compress": only_compress, "only_other": only_other, "p": p })
        };
        let (rows, tests) = (Memory::ALL.map(row), others().map(test).collect::<Vec<_>>());
        let worst = worst.map(Hard::id);
        writeln!(out, "{}", json!({ "memories": rows, "tests": tests, "worst_of_compress": worst }))?;
        return Ok(());
    }
    writeln!(out, "right answers in % (visual tokens at the end, pairs that have any)\n")?;
    write!(out, "| memory |")?;
    kinds.iter().try_for_each(|kind| write!(out, " {} |", kind.name()))?;
    writeln!(out, " all |\n|---{}|---|", "|---".repeat(kinds.len()))?;
    for memory in Memory::ALL {
        write!(out, "| {} |", memory.name())?;
        for kind in kinds {
            let sum = of_kind(memory, *kind);
            write!(out, " {:.0} ({:.0}, {:.0}) |", 100.0 * sum.right(), sum.n_tokens(), sum.n_pairs())?;
        }
        let sum = all(memory);
        writeln!(out, " {:.1} ({:.0}, {:.0}) |", 100.0 * sum.right(), sum.n_tokens(), sum.n_pairs())?;
    }
    writeln!(
        out,
        "\nby where the symbol is, from the beginning of the stream to its end\n\n| memory |{}",
        " |".repeat(N_PARTS)
    )?;
    writeln!(out, "|---{}|", "|---".repeat(N_PARTS))?;
    for memory in Memory::ALL {
        let cells: Vec<String> = (0..N_PARTS).map(|i| format!("{:.0}", 100.0 * of_part(memory, i).right())).collect();
        writeln!(out, "| {} | {} |", memory.name(), cells.join(" | "))?;
    }
    writeln!(out, "\n| compress beside | only compress is right | only the other | p |\n|---|---|---|---|")?;
    for other in others() {
        let (only_compress, only_other, p) = flips(other);
        writeln!(out, "| {} | {only_compress} | {only_other} | {p:.2e} |", other.name())?;
    }
    if let Some(worst) = worst {
        writeln!(out, "\ncompress is worst with: {} ({:.0} % right)", worst.name(), 100.0 * right(&worst))?;
    }
    Ok(())
}
