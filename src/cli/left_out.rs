//! `longtake eval prune`: whether reading less costs answers about videos that were drawn to hurt.

use std::io::Write;

use serde_json::{Value, json};

use super::flags::{ModelFlags, parse_share, parse_steps};
use super::niah::parse_size;
use super::out::stdout;
use super::question::less;
use super::trials::{self, KindFlags, TrialFlags};
use crate::Result;
use crate::drawn::hard::Hard;
use crate::eval::left_out::{LeftOutOptions, LeftOutOutcome, Way, mcnemar, trial};
use crate::stream::{Control, Less};

/// Most videos of a kind, and most frame pairs of each.
const MAX_VIDEOS: u64 = 100_000;
const MAX_PAIRS: u64 = 1 << 14;

/// Whether reading less of a video (`--dedup`, `--keep-share`) costs answers: drawn videos that hurt, read whole, with less, and with as few
/// tokens in other ways (fewer frames, smaller frames, tokens left out at random or evenly).
///
/// Without a model, the embedded one is asked.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Videos of each kind.
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_VIDEOS))]
    videos: u64,
    #[command(flatten)]
    kinds: KindFlags,
    /// Frame pairs of a video.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u64).range(5..=MAX_PAIRS))]
    pairs: u64,
    /// Size of frames.
    #[arg(long, default_value = "252x168", value_name = "WxH")]
    frame: String,
    /// Limits of `--dedup`, in steps of 255.
    #[arg(long, default_value = "4,16", value_name = "LIST", value_delimiter = ',', value_parser = parse_steps)]
    dedup: Vec<f32>,
    /// Shares of `--keep-share`.
    #[arg(long = "keep-share", default_value = "0.25,0.1", value_name = "LIST", value_delimiter = ',', value_parser = parse_share)]
    keep: Vec<f32>,
    #[command(flatten)]
    trial: TrialFlags,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    args.trial.check()?;
    let engine = args.model.load_or_embedded()?;
    let options = LeftOutOptions {
        frame: parse_size(&args.frame)?,
        n_pairs: args.pairs as usize,
        less: less(&args.dedup, &args.keep),
        session: args.model.compute.session(&engine, 1, None)?,
        seed: args.trial.seed,
    };
    let kinds = args.kinds.chosen();
    let outcomes =
        trials::each(kinds, args.videos, "videos", |kind, i, cancel| trial(&engine, &options, (kind, i), cancel))?;
    args.trial.write(outcomes.iter().map(line))?;
    print(&outcomes, kinds, &options.less, args.trial.json)
}

fn name(way: Way) -> String {
    match way {
        Way::Whole => "whole".to_string(),
        Way::Less(less) => less.to_string(),
        Way::Instead(_, control) => control.name().to_string(),
    }
}

fn line(outcome: &LeftOutOutcome) -> Value {
    let less = match outcome.way {
        Way::Whole => None,
        Way::Less(less) | Way::Instead(less, _) => Some(less.to_string()),
    };
    json!({
        "kind": outcome.kind.id(), "video": outcome.trial, "way": name(outcome.way), "less": less,
        "right": outcome.right, "kl": outcome.kl, "visual_tokens": outcome.n_tokens, "encoded_pairs": outcome.n_encoded,
    })
}

/// What a way came to over some videos.
type Sum<'a> = trials::Sum<'a, LeftOutOutcome>;

impl Sum<'_> {
    fn of_way(outcomes: &[LeftOutOutcome], way: Way, kind: Option<Hard>) -> Sum<'_> {
        Sum::of(outcomes, |o| o.way == way && kind.is_none_or(|kind| o.kind == kind))
    }

    fn right(&self) -> f64 {
        self.share(|o| o.right)
    }

    fn n_tokens(&self) -> f64 {
        self.mean(|o| o.n_tokens as f64)
    }

    fn n_encoded(&self) -> f64 {
        self.mean(|o| o.n_encoded as f64)
    }
}

fn print(outcomes: &[LeftOutOutcome], kinds: &[Hard], less: &[Less], is_json: bool) -> Result<()> {
    let ways = |less: Less| {
        let instead = Control::ALL.map(|control| Way::Instead(less, control));
        std::iter::once(Way::Less(less)).chain(instead)
    };
    let all: Vec<Way> = std::iter::once(Way::Whole).chain(less.iter().flat_map(|less| ways(*less))).collect();
    let answers =
        |way| -> Vec<_> { Sum::of_way(outcomes, way, None).0.iter().map(|o| ((o.kind, o.trial), o.right)).collect() };
    let flips = |one: Way, other: Way| mcnemar(&answers(one), &answers(other));
    let mut out = stdout();
    if is_json {
        let row = |way: &Way| -> Value {
            let kinds: Vec<Value> = kinds
                .iter()
                .map(|kind| {
                    let sum = Sum::of_way(outcomes, *way, Some(*kind));
                    json!({
                        "kind": kind.id(), "right": sum.right(), "visual_tokens": sum.n_tokens(),
                        "encoded_pairs": sum.n_encoded(), "kl_mean": sum.mean(|o| o.kl),
                        "kl_max": sum.0.iter().map(|o| o.kl).fold(0.0, f64::max),
                    })
                })
                .collect();
            json!({ "way": name(*way), "kinds": kinds })
        };
        let rows: Vec<Value> = all.iter().map(row).collect();
        let tests: Vec<Value> = less
            .iter()
            .flat_map(|less| std::iter::once(Way::Whole).chain(ways(*less).skip(1)).map(move |way| (*less, way)))
            .map(|(less, way)| {
                let (only_less, only_other, p) = flips(Way::Less(less), way);
                let (less, beside) = (less.to_string(), name(way));
                json!({ "less": less, "beside": beside, "only_less": only_less, "only_other": only_other, "p": p })
            })
            .collect();
        writeln!(out, "{}", json!({ "ways": rows, "tests": tests }))?;
        return Ok(());
    }
    writeln!(out, "right answers in % (visual tokens, pairs encoded)\n")?;
    write!(out, "| way |")?;
    kinds.iter().try_for_each(|kind| write!(out, " {} |", kind.name()))?;
    writeln!(out, " all |\n|---{}|---|", "|---".repeat(kinds.len()))?;
    for way in all {
        write!(out, "| {} |", name(way))?;
        for kind in kinds {
            let sum = Sum::of_way(outcomes, way, Some(*kind));
            write!(out, " {:.0} ({:.0}, {:.0}) |", 100.0 * sum.right(), sum.n_tokens(), sum.n_encoded())?;
        }
        let sum = Sum::of_way(outcomes, way, None);
        writeln!(out, " {:.1} ({:.0}, {:.0}) |", 100.0 * sum.right(), sum.n_tokens(), sum.n_encoded())?;
    }
    writeln!(out, "\n| way | beside | only the first is right | only the second | p |\n|---|---|---|---|---|")?;
    for &less in less {
        for way in std::iter::once(Way::Whole).chain(ways(less).skip(1)) {
            let (only_less, only_other, p) = flips(Way::Less(less), way);
            writeln!(out, "| {less} | {} | {only_less} | {only_other} | {p:.2e} |", name(way))?;
        }
    }
    Ok(())
}
