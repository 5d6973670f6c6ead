//! Trials over drawn videos, as commands of `longtake eval` make and sum them up.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::progress::{bar, catch_interrupt};
use crate::Result;
use crate::drawn::hard::Hard;
use crate::files::atomic::{check_output, write_beside};

/// What trials over drawn videos have in common.
#[derive(clap::Args)]
pub(super) struct TrialFlags {
    /// Seed of what is drawn.
    #[arg(short, long, default_value_t = 1)]
    pub seed: u64,
    /// File for a line of JSON for each trial.
    #[arg(short, long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

impl TrialFlags {
    /// Whether its file can be written, before any work begins.
    pub(super) fn check(&self) -> Result<()> {
        self.out.as_deref().map_or(Ok(()), check_output)
    }

    /// Writes the lines, where they are wanted.
    pub(super) fn write(&self, mut lines: impl Iterator<Item = Value>) -> Result<()> {
        let Some(path) = &self.out else { return Ok(()) };
        write_beside(path, |file| lines.try_for_each(|line| Ok(writeln!(file, "{line}")?)))
    }
}

/// Videos that are drawn to hurt.
#[derive(clap::Args)]
pub(super) struct KindFlags {
    /// Kinds of videos: still, pan, flicker, noise, cuts, scenes, two, three, mover; all by default.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_kind)]
    kinds: Vec<Hard>,
}

impl KindFlags {
    /// Those that are wanted.
    pub(super) fn chosen(&self) -> &[Hard] {
        if self.kinds.is_empty() { &Hard::ALL } else { &self.kinds }
    }
}

fn parse_kind(text: &str) -> std::result::Result<Hard, String> {
    Hard::ALL.into_iter().find(|kind| kind.id() == text).ok_or_else(|| {
        let known: Vec<_> = Hard::ALL.into_iter().map(Hard::id).collect();
        format!("expected one of {}", known.join(", "))
    })
}

/// Runs trials 0 to `n` of every kind, and says how far it is with a bar of so many `what`.
///
/// # Errors
/// Those of a trial.
pub(super) fn each<T>(
    kinds: &[Hard],
    n: u64,
    what: &'static str,
    mut trial: impl FnMut(Hard, u64, &AtomicBool) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let cancel = catch_interrupt()?;
    let progress = bar(what, kinds.len() * n as usize, what);
    let mut outcomes = Vec::new();
    for i in 0..n {
        for &kind in kinds {
            outcomes.extend(trial(kind, i, cancel)?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(outcomes)
}

/// Outcomes that are summed up.
pub(super) struct Sum<'a, T>(pub Vec<&'a T>);

impl<'a, T> Sum<'a, T> {
    /// Those of them that are `is_in`.
    pub(super) fn of(outcomes: &'a [T], is_in: impl Fn(&T) -> bool) -> Sum<'a, T> {
        Sum(outcomes.iter().filter(|outcome| is_in(outcome)).collect())
    }

    /// The mean of a value, of none 0.
    pub(super) fn mean(&self, value: impl Fn(&T) -> f64) -> f64 {
        // Not `sum`: of nothing that is -0.
        self.0.iter().fold(0.0, |sum, outcome| sum + value(outcome)) / self.0.len().max(1) as f64
    }

    /// The share that is right.
    pub(super) fn share(&self, is_right: impl Fn(&T) -> bool) -> f64 {
        self.mean(|outcome| f64::from(u8::from(is_right(outcome))))
    }
}
