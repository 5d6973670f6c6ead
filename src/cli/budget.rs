//! Limits on memory and time, and how a plan is shown.

use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::progress::waiting;
use super::run::tell_left_out;
use crate::Result;
use crate::api::PlannedMedium;
use crate::stream::{Cost, Limits};
use crate::text::units::{bytes, duration};

/// How much may be used.
#[derive(clap::Args, Default)]
pub(super) struct BudgetFlags {
    /// Memory to stay within, weights included (3G, 1500M): smaller pictures and frames, then fewer frames, are taken.
    #[arg(long, value_name = "BYTES")]
    max_memory: Option<String>,
    /// Time to stay within (20m, 1h30m, 90s), likewise.
    #[arg(long, value_name = "TIME")]
    max_time: Option<String>,
}

impl BudgetFlags {
    /// Whether there is a limit on time, for which this machine has to be measured.
    pub(super) fn has_time(&self) -> bool {
        self.max_time.is_some()
    }

    /// The limits, with a context of `ctx_size` slots unless that is 0.
    pub(super) fn limits(&self, ctx_size: usize) -> Result<Limits> {
        Ok(Limits {
            n_ctx: (ctx_size > 0).then_some(ctx_size),
            memory: self.max_memory.as_deref().map(bytes).transpose()?,
            time: self.max_time.as_deref().map(duration).transpose()?,
        })
    }
}

/// The plan in a few lines on stderr, without its time, which may have to be measured first ([`print_time`]).
pub(super) fn print_plan(media: &[PlannedMedium], cost: &Cost) {
    for plan in media {
        let Some(info) = &plan.info else {
            eprintln!("picture: {}, {}x{}, {} tokens", plan.label, plan.width, plan.height, plan.n_tokens);
            continue;
        };
        eprintln!(
            "video:   {}, {:.1} s at {:.4} fps, {}x{} ({})",
            plan.label, info.duration, info.fps, info.width, info.height, info.decoder
        );
        let n = plan.n_frames;
        eprintln!(
            "frames:  {n} of {}x{}, one every {:.2} s, in {} pairs, {} tokens",
            plan.width,
            plan.height,
            info.duration / n as f64,
            plan.n_pairs(),
            plan.n_tokens
        );
        if let Some(share) = plan.keep {
            eprintln!(
                "         of every pair but the first, the {:.0} % of tokens that differ most from the one before",
                100.0 * share
            );
        }
        if let Some(limit) = plan.dedup {
            eprintln!(
                "         less what does not change by more than {limit} of 255 steps, which is known once it is decoded"
            );
        }
    }
    eprintln!("tokens:  {} of media, a context of {}", cost.n_tokens, cost.n_ctx);
    print_memory(cost);
    for what in &cost.reduced {
        eprintln!("reduced: {what}");
    }
}

/// Measures this machine.
pub(super) fn measuring<T>(quiet: bool, measure: impl FnOnce() -> T) -> T {
    waiting("measuring this machine", quiet, measure)
}

/// How long it will take, in a line on stderr, where that is known.
pub(super) fn print_time(cost: &Cost) {
    let Some(seconds) = cost.seconds else { return };
    let human = |s: f64| HumanDuration(Duration::from_secs_f64(s.max(0.0))).to_string();
    eprintln!(
        "time:    about {} (vision {}, reading {}, decoding beside them {})",
        human(seconds.total()),
        human(seconds.encode),
        human(seconds.prefill),
        human(seconds.decode)
    );
    if cost.finds_repeats {
        eprintln!("         less where frames come again, which is known once they are decoded");
    }
}

/// Memory in a line on stderr.
pub(super) fn print_memory(cost: &Cost) {
    // Approximations that somebody asked for are named.
    let transformed = cost.cache_types.filter(|(k, v)| k.hadamard || v.hadamard);
    eprintln!(
        "memory:  {} = weights {} + cache {}{} + working memory {}",
        HumanBytes(cost.memory()),
        HumanBytes(cost.weights),
        HumanBytes(cost.cache),
        transformed.map_or(String::new(), |(k, v)| format!(" ({k} keys, {v} values)")),
        HumanBytes(cost.working)
    );
    if let Some(gpus) = &cost.gpus {
        eprintln!(
            "GPU:     {} = weights {} + cache {} + working memory {}; {} stay free",
            HumanBytes(gpus.memory()),
            HumanBytes(gpus.weights),
            HumanBytes(gpus.cache),
            HumanBytes(gpus.working),
            HumanBytes(gpus.spare.max(0) as u64)
        );
    }
}

/// Memory in bytes as JSON.
pub(super) fn memory_json(cost: &Cost) -> serde_json::Value {
    let mut memory =
        json!({ "total": cost.memory(), "weights": cost.weights, "cache": cost.cache, "working": cost.working });
    if let Some((k, v)) = cost.cache_types {
        memory["cache_types"] = json!([k.name(), v.name()]);
    }
    if let Some(gpus) = &cost.gpus {
        memory["gpu"] = json!({
            "total": gpus.memory(), "weights": gpus.weights, "cache": gpus.cache, "working": gpus.working,
            "spare": gpus.spare,
        });
    }
    memory
}

/// The plan as one JSON object, with so many tokens of text.
pub(super) fn plan_json(media: &[PlannedMedium], n_text: usize, cost: &Cost) -> serde_json::Value {
    let medium = |plan: &PlannedMedium| {
        let mut medium = json!({
            "type": plan.kind.name(), "source": plan.label, "duration": plan.info.as_ref().map(|info| info.duration),
            "frames": plan.n_frames, "pairs": plan.n_pairs(), "width": plan.width, "height": plan.height,
            "n_tokens": plan.n_tokens,
        });
        tell_left_out(plan, &mut medium);
        medium
    };
    json!({
        "media": media.iter().map(medium).collect::<Vec<_>>(),
        "n_tokens": cost.n_tokens, "n_text": n_text, "n_ctx": cost.n_ctx,
        "memory": memory_json(cost),
        "seconds": cost.seconds.map(|s| json!({
            "total": s.total(), "encode": s.encode, "prefill": s.prefill, "decode": s.decode,
        })),
        "reduced": cost.reduced,
    })
}
