//! Limits on memory and time, and how a plan is shown.

use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::progress::waiting;
use crate::stream::{Budget, Cost, Limits, MediaPlan};
use crate::{Error, Result};

/// How much may be used.
#[derive(clap::Args, Default)]
pub struct BudgetFlags {
    /// Memory to stay within, weights included (3G, 1500M): smaller pictures and frames, then fewer frames, are taken.
    #[arg(long, value_name = "BYTES")]
    max_memory: Option<String>,
    /// Time to stay within (20m, 1h30m, 90s), likewise.
    #[arg(long, value_name = "TIME")]
    max_time: Option<String>,
}

impl BudgetFlags {
    /// Whether there is a limit on time, for which this machine has to be measured.
    pub fn has_time(&self) -> bool {
        self.max_time.is_some()
    }

    /// The limits, with a context of `ctx_size` slots unless that is 0.
    pub fn limits(&self, ctx_size: usize) -> Result<Limits> {
        Ok(Limits {
            n_ctx: (ctx_size > 0).then_some(ctx_size),
            memory: self.max_memory.as_deref().map(bytes).transpose()?,
            time: self.max_time.as_deref().map(duration).transpose()?,
        })
    }
}

/// `3G`, `1.5GB`, `900MiB`, `1000000`: powers of 1024.
fn bytes(text: &str) -> Result<u64> {
    let wrong = || Error::bad_input(format!("`{text}` is no number of bytes, expected something like 3G or 1500M"));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let power = match text[end..].trim().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let n = number * 1024f64.powi(power);
    if (1.0..1e18).contains(&n) { Ok(n as u64) } else { Err(wrong()) }
}

/// `90`, `90s`, `20m`, `1h30m`.
fn duration(text: &str) -> Result<Duration> {
    let wrong = || Error::bad_input(format!("`{text}` is no time, expected something like 90s, 20m or 1h30m"));
    let (mut seconds, mut rest) = (0.0, text.trim());
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next();
        seconds += number
            * match unit {
                None | Some('s') => 1.0,
                Some('m') => 60.0,
                Some('h') => 3600.0,
                Some(_) => return Err(wrong()),
            };
        rest = &rest[end + unit.map_or(0, char::len_utf8)..];
    }
    if seconds > 0.0 && seconds < 1e9 { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// The plan in a few lines on stderr, without its time, which may have to be measured first ([`print_time`]).
pub fn print_plan(media: &[&MediaPlan], cost: &Cost) {
    for plan in media {
        let Some(info) = &plan.info else {
            eprintln!("picture: {}, {}x{}, {} tokens", plan.label, plan.width, plan.height, plan.n_tokens);
            continue;
        };
        eprintln!(
            "video:   {}, {:.1} s at {:.4} fps, {}x{} ({})",
            plan.label, info.duration, info.fps, info.width, info.height, info.decoder
        );
        let n = plan.frames.len();
        eprintln!(
            "frames:  {n} of {}x{}, one every {:.2} s, in {} pairs, {} tokens",
            plan.width,
            plan.height,
            info.duration / n as f64,
            plan.n_pairs(),
            plan.n_tokens
        );
    }
    eprintln!("tokens:  {} of media, a context of {}", cost.n_tokens, cost.n_ctx);
    print_memory(cost);
    for what in &cost.reduced {
        eprintln!("reduced: {what}");
    }
}

/// How long it will take, measured now if it is not known yet.
pub fn measure_time(budget: &Budget, cost: &mut Cost, quiet: bool) -> Result<()> {
    waiting("measuring this machine", quiet, || budget.time(cost))
}

/// How long it will take, in a line on stderr, where that is known.
pub fn print_time(cost: &Cost) {
    let Some(seconds) = cost.seconds else { return };
    let human = |s: f64| HumanDuration(Duration::from_secs_f64(s.max(0.0))).to_string();
    eprintln!(
        "time:    about {} (vision {}, reading {}, decoding beside them {})",
        human(seconds.total()),
        human(seconds.encode),
        human(seconds.prefill),
        human(seconds.decode)
    );
}

/// Memory in a line on stderr.
pub fn print_memory(cost: &Cost) {
    eprintln!(
        "memory:  {} = weights {} + cache {} + working memory {}",
        HumanBytes(cost.memory()),
        HumanBytes(cost.weights),
        HumanBytes(cost.cache),
        HumanBytes(cost.working)
    );
    if let Some(cards) = &cost.cards {
        eprintln!(
            "GPU:     {} = weights {} + cache {} + working memory {}; {} stay free",
            HumanBytes(cards.memory()),
            HumanBytes(cards.weights),
            HumanBytes(cards.cache),
            HumanBytes(cards.working),
            HumanBytes(cards.spare.max(0) as u64)
        );
    }
}

/// Memory in bytes as JSON.
pub fn memory_json(cost: &Cost) -> serde_json::Value {
    let mut memory =
        json!({ "total": cost.memory(), "weights": cost.weights, "cache": cost.cache, "working": cost.working });
    if let Some(cards) = &cost.cards {
        memory["gpu"] = json!({
            "total": cards.memory(), "weights": cards.weights, "cache": cards.cache, "working": cards.working,
            "spare": cards.spare,
        });
    }
    memory
}

/// The plan as one JSON object, with so many tokens of text.
pub fn plan_json(media: &[&MediaPlan], n_text: usize, cost: &Cost) -> serde_json::Value {
    let medium = |plan: &&MediaPlan| {
        json!({
            "type": plan.kind.name(), "source": plan.label, "duration": plan.info.as_ref().map(|info| info.duration),
            "frames": plan.frames.len(), "pairs": plan.n_pairs(), "width": plan.width, "height": plan.height,
            "n_tokens": plan.n_tokens,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_or_refused_by_name() {
        assert_eq!(bytes("3G").unwrap(), 3 << 30);
        assert_eq!(bytes("1.5gib").unwrap(), 3 << 29);
        assert_eq!(bytes("1500 MB").unwrap(), 1500 << 20);
        assert_eq!(bytes("77").unwrap(), 77);
        for wrong in ["", "G", "-1", "3X", "0", "1e30", "NaN", "3GG"] {
            assert!(bytes(wrong).unwrap_err().to_string().contains(&format!("`{wrong}`")), "{wrong}");
        }
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("90").unwrap().as_secs(), 90);
        assert_eq!(duration("0.5m").unwrap().as_secs(), 30);
        for wrong in ["", "m", "-1s", "5d", "0", "1h-2m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
