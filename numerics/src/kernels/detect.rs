//! Which tables this CPU can run, which one is used, and why.

use std::sync::OnceLock;

use super::isa::Unproven;
use super::{Kernels, scalar};
use crate::{Error, ErrorKind, Result};

#[cfg(all(target_arch = "aarch64", not(test)))]
use super::aarch64::TABLES;
#[cfg(target_arch = "aarch64")]
pub(super) use super::aarch64::features;
#[cfg(all(target_arch = "x86_64", not(test)))]
use super::x86_64::TABLES;
#[cfg(target_arch = "x86_64")]
pub(super) use super::x86_64::features;

/// Unit tests are about everything else, and do without most of this crate's code: `tests/tables` judges
/// every table. (A static is compiled with all that it refers to, whether somebody uses it or not; a constant is not.)
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
static TABLES: [&Unproven<Kernels>; 0] = [];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Defines `features()`, the CPU features that tables of this architecture may ask for, and whether this CPU has them.
macro_rules! ask_cpu {
    ($detected:ident: $($name:tt)*) => {
        pub(super) fn features() -> Vec<(&'static str, bool)> {
            vec![$(($name, std::arch::$detected!($name))),*]
        }
    };
}
#[allow(unused_imports)]
pub(super) use ask_cpu;

/// A table of this build, and what it asks of the CPU.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// As [`prefer`] takes it.
    pub name: &'static str,
    /// The CPU features that its functions are compiled with.
    pub needs: Vec<&'static str>,
    /// Those of them that this CPU does not have: where there are none, the table can run.
    pub missing: Vec<&'static str>,
}

impl Candidate {
    fn of(table: &Unproven<Kernels>) -> Candidate {
        Candidate { name: table.name(), needs: table.needs(), missing: table.missing() }
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
    all().filter_map(Unproven::prove).collect()
}

/// The scalar table that defines what another one computes: with panels of the same kind.
pub fn definition(of: &Kernels) -> &'static Kernels {
    if of.int8.layout.codes { &scalar::CODES } else { &scalar::TABLE }
}

/// A table that somebody wishes for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The table's name, in letters of any case.
    pub name: String,
    /// What says so, for messages: a variable, an option.
    pub by: &'static str,
}

/// The wish of this process, once it is settled that there is one or none.
static WISH: OnceLock<Option<Wish>> = OnceLock::new();

/// Asks for the table `name` instead of the fastest, in all of this process, as `by` says. Whether it can run shows in
/// [`select`].
///
/// # Errors
/// `Busy` when another table was asked for, or is in use.
pub fn prefer(name: &str, by: &'static str) -> Result<()> {
    let wish = Wish { name: name.to_string(), by };
    match WISH.get_or_init(|| Some(wish)) {
        Some(first) if first.name.eq_ignore_ascii_case(name) => Ok(()),
        Some(first) => {
            Err(Error::new(ErrorKind::Busy, format!("{by} `{name}` comes after {} `{}`", first.by, first.name)))
        }
        None if select().is_ok_and(|table| table.name.eq_ignore_ascii_case(name)) => Ok(()),
        None => Err(Error::new(ErrorKind::Busy, format!("{by} `{name}` comes too late: another table is in use"))),
    }
}

/// The table in use: the fastest that this machine can run, or the one that [`prefer`] asked for. Chosen once.
///
/// # Errors
/// A name that this machine or this build does not know.
pub fn select() -> Result<&'static Kernels> {
    static CHOSEN: OnceLock<Option<&'static Kernels>> = OnceLock::new();
    let (tables, wish) = (supported(), WISH.get_or_init(|| None));
    let chosen = *CHOSEN.get_or_init(|| match wish {
        None => tables.last().copied(),
        Some(wish) => tables.iter().copied().find(|table| table.name.eq_ignore_ascii_case(&wish.name)),
    });
    chosen.ok_or_else(|| {
        let (name, by) = wish.as_ref().map_or(("", ""), |wish| (&wish.name, wish.by));
        let known = tables.iter().map(|table| table.name).collect::<Vec<_>>().join(", ");
        let why = match candidates().into_iter().find(|c| c.name.eq_ignore_ascii_case(name)) {
            Some(candidate) => format!("cannot run here, this CPU has no {}", candidate.missing.join(", ")),
            None => "is no table of this build".to_string(),
        };
        Error::bad_input(format!("{by} `{name}` {why}; expected one of {known}"))
    })
}

/// What [`prefer`] asked for, if anything.
pub fn wanted() -> Option<&'static Wish> {
    WISH.get().and_then(Option::as_ref)
}

/// Every table of this build, whether this CPU can run it or not.
fn all() -> impl Iterator<Item = &'static Unproven<Kernels>> {
    std::iter::once(&scalar::UNPROVEN).chain(TABLES.iter().copied())
}
