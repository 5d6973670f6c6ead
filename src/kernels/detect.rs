//! Which tables this CPU can run, which one is used, and why.

use std::sync::OnceLock;

use super::{Kernels, scalar};
use crate::{Error, Result};

#[cfg(target_arch = "aarch64")]
use super::aarch64::{TABLES, features};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{TABLES, features};

/// The variable that names the table to use.
pub const VARIABLE: &str = "LONGTAKE_KERNELS";

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static TABLES: [&Kernels; 0] = [];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Defines `features()`, the CPU features that tables of this architecture may ask for, and whether this CPU has them.
macro_rules! ask_cpu {
    ($detected:ident: $($name:tt)*) => {
        pub fn features() -> Vec<(&'static str, bool)> {
            vec![$(($name, std::arch::$detected!($name))),*]
        }
    };
}
#[allow(unused_imports)]
pub(super) use ask_cpu;

/// A table of this build, and what it asks of the CPU.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// As `LONGTAKE_KERNELS` spells it.
    pub name: &'static str,
    /// The CPU features that its functions are compiled with.
    pub needs: Vec<&'static str>,
    /// Those of them that this CPU does not have: where there are none, the table can run.
    pub missing: Vec<&'static str>,
}

impl Candidate {
    fn of(table: &Kernels) -> Candidate {
        let has = features();
        let mut needs: Vec<&str> = Vec::new();
        for list in [table.features, table.int8.features, table.attend.features, table.delta.features] {
            for name in list.split(',').filter(|name| !name.is_empty()) {
                if !needs.contains(&name) {
                    needs.push(name);
                }
            }
        }
        let missing = needs.iter().copied().filter(|name| !has.contains(&(name, true))).collect();
        Candidate { name: table.name, needs, missing }
    }
}

/// The features that tables of this architecture may ask for, and whether this CPU has them.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    features()
}

/// Every table of this build, slowest first.
pub fn candidates() -> Vec<Candidate> {
    all().map(Candidate::of).collect()
}

/// Every table that this machine can run, slowest first.
pub fn supported() -> Vec<&'static Kernels> {
    all().filter(|table| Candidate::of(table).missing.is_empty()).collect()
}

/// The scalar table that defines what another one computes: with panels of the same kind.
pub fn definition(of: &Kernels) -> &'static Kernels {
    if of.int8.layout.codes { &scalar::CODES } else { &scalar::TABLE }
}

/// The table in use: the fastest that this machine can run, or the one named by `LONGTAKE_KERNELS`. Chosen once.
///
/// # Errors
/// A name that this machine or this build does not know.
pub fn select() -> Result<&'static Kernels> {
    static CHOSEN: OnceLock<Option<&'static Kernels>> = OnceLock::new();
    let tables = supported();
    let chosen = *CHOSEN.get_or_init(|| match &wanted() {
        None => tables.last().copied(),
        Some(name) => tables.iter().copied().find(|table| table.name.eq_ignore_ascii_case(name)),
    });
    chosen.ok_or_else(|| {
        let name = wanted().unwrap_or_default();
        let known = tables.iter().map(|table| table.name).collect::<Vec<_>>().join(", ");
        let why = match candidates().into_iter().find(|c| c.name.eq_ignore_ascii_case(&name)) {
            Some(candidate) => format!("cannot run here, this CPU has no {}", candidate.missing.join(", ")),
            None => "is no table of this build".to_string(),
        };
        Error::bad_input(format!("{VARIABLE} `{name}` {why}; expected one of {known}"))
    })
}

/// What `LONGTAKE_KERNELS` says, if anything.
pub fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// Every table of this build, whether this CPU can run it or not.
fn all() -> impl Iterator<Item = &'static Kernels> {
    std::iter::once(&scalar::TABLE).chain(TABLES.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A feature that is missing in the list would keep its table from ever being used.
    #[test]
    fn every_feature_that_a_table_needs_is_asked_for() {
        let known = features();
        for candidate in candidates() {
            for need in candidate.needs {
                assert!(known.iter().any(|(name, _)| *name == need), "{} needs {need}", candidate.name);
            }
        }
        let unused = |name: &str| candidates().iter().all(|c| !c.needs.contains(&name));
        assert!(known.iter().all(|(name, _)| !unused(name)), "a feature that no table needs");
    }

    #[test]
    fn the_scalar_table_needs_nothing_and_names_differ() {
        let all = candidates();
        assert!(all[0].name == "scalar" && all[0].needs.is_empty());
        for (i, candidate) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|c| c.name != candidate.name), "{} twice", candidate.name);
        }
    }
}
