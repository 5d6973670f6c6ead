//! `longtake inspect --cpu`: what this machine can run, what is chosen, and why.
#![forbid(unsafe_code)]

use std::io::Write;

use serde_json::{Value, json};

use super::out::stdout;
use crate::Result;
use crate::kernels::cpus::{self, CpuCount, Limit};
use crate::kernels::{self, Candidate, Wish};

/// Prints the report, as text or as one JSON object.
///
/// # Errors
/// `BadInput` when `LONGTAKE_KERNELS` names a table that cannot be used; the report comes first.
pub(super) fn run(json: bool) -> Result<()> {
    let chosen = kernels::select();
    let report = Report {
        features: kernels::cpu_features(),
        candidates: kernels::candidates(),
        chosen: chosen.as_ref().ok().map(|table| table.name),
        wanted: kernels::wanted(),
        cpus: cpus::count(),
    };
    let text = if json { format!("{}\n", report.json()) } else { report.text() };
    stdout().write_all(text.as_bytes())?;
    chosen.map(|_| ())
}

struct Report {
    features: Vec<(&'static str, bool)>,
    candidates: Vec<Candidate>,
    chosen: Option<&'static str>,
    wanted: Option<&'static Wish>,
    cpus: CpuCount,
}

impl Report {
    fn text(&self) -> String {
        let listed = |has: bool| {
            let names = self.features.iter().filter(|(_, found)| *found == has).map(|(name, _)| *name);
            words(&names.collect::<Vec<_>>())
        };
        let mut out = format!("cpu       {}\n", std::env::consts::ARCH);
        out += &format!("has       {}\n", listed(true));
        out += &format!("lacks     {}\n", listed(false));
        out += "\nkernels   slowest first\n";
        for candidate in &self.candidates {
            let verdict = if candidate.missing.is_empty() {
                format!("can run, needs {}", words(&candidate.needs))
            } else {
                format!("cannot run, this CPU has no {}", words(&candidate.missing))
            };
            out += &format!("  {:10}  {verdict}\n", candidate.name);
        }
        let chosen = self.chosen.unwrap_or("none");
        out += &format!("chosen    {chosen}: {}\n", self.why());
        out + &format!("\nthreads   {}: {}\n", self.cpus.n, why_threads(&self.cpus))
    }

    fn json(&self) -> Value {
        let features = self.features.iter().map(|(name, has)| (name.to_string(), json!(has)));
        let kernels = self
            .candidates
            .iter()
            .map(|candidate| json!({ "name": candidate.name, "needs": candidate.needs, "missing": candidate.missing }));
        let cpus = &self.cpus;
        json!({
            "arch": std::env::consts::ARCH,
            "features": features.collect::<serde_json::Map<_, _>>(),
            "kernels": kernels.collect::<Vec<_>>(),
            "chosen": self.chosen,
            "why": self.why(),
            "threads": {
                "default": cpus.n, "why": why_threads(cpus), "cpus_bound": cpus.bound, "cpus_online": cpus.online,
            },
        })
    }

    fn why(&self) -> String {
        match self.wanted {
            None => "the fastest that can run here".to_string(),
            Some(Wish { name, by }) => format!("{by} is `{}`", name.escape_debug()),
        }
    }
}

fn why_threads(cpus: &CpuCount) -> String {
    let count = |n: Option<usize>| n.map_or("an unknown number of".to_string(), |n| n.to_string());
    match cpus.limit {
        Limit::Quota => format!("a cgroup quota allows no more, of {} CPUs", count(cpus.bound)),
        Limit::Affinity => format!("this process is bound to that many of {} CPUs", count(cpus.online)),
        Limit::Machine => "all CPUs of this machine".to_string(),
    }
}

fn words(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_string() } else { names.join(" ") }
}
