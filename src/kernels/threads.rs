//! The worker threads: started once per process.

use std::thread::available_parallelism;

use crate::{Error, Result};

/// The variable with which rayon, whose pool this is, lets a user set the default.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Starts `n` worker threads (0: as many as this process may use, see [`default`]). Only the first call in a process
/// decides; without one, the default is the same as 0.
///
/// # Errors
/// A senseless count, or an operating system that refuses.
pub fn start(n: usize) -> Result<()> {
    const MAX_THREADS: usize = 1024;
    if n > MAX_THREADS {
        return Err(Error::bad_input(format!("`{n}` threads are more than {MAX_THREADS}")));
    }
    // A second call finds the pool running, which is what it asked for.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("longtake-{i}")).build_global();
    Ok(())
}

/// Worker threads in use.
pub fn count() -> usize {
    rayon::current_num_threads()
}

/// What decides how many threads are started by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The environment variable `RAYON_NUM_THREADS`.
    Variable,
    /// A cgroup's quota of CPU time.
    Quota,
    /// The CPUs that this process is bound to.
    Affinity,
    /// The CPUs of the machine.
    Machine,
}

/// How many threads are started by default, and why.
#[derive(Debug, Clone, Copy)]
pub struct DefaultCount {
    pub n: usize,
    pub limit: Limit,
    /// CPUs that this process may run on, and CPUs of the machine, where the operating system tells.
    pub allowed: Option<usize>,
    pub online: Option<usize>,
}

/// The number of threads that `start(0)` starts: of the CPUs that are online those that the process is bound to, or fewer
/// where a cgroup allows less time than they have.
pub fn default() -> DefaultCount {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| cpus_in(line.strip_prefix("Cpus_allowed_list:")?));
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| cpus_in(&list));
    let n = available_parallelism().map_or(1, usize::from);
    let variable = std::env::var(VARIABLE).ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let limit = match (allowed, online) {
        _ if variable.is_some() => Limit::Variable,
        (Some(allowed), _) if n < allowed => Limit::Quota,
        (Some(allowed), Some(online)) if allowed < online => Limit::Affinity,
        _ => Limit::Machine,
    };
    DefaultCount { n: variable.unwrap_or(n), limit, allowed, online }
}

/// How many CPUs a list such as `0-3,8` names.
fn cpus_in(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(count).try_fold(0usize, |sum, n| sum.checked_add(n?))
}

#[cfg(test)]
mod tests {
    use super::cpus_in;

    #[test]
    fn lists_of_cpus() {
        for (list, want) in [
            ("0", Some(1)),
            ("0-3\n", Some(4)),
            ("\t0-3,8", Some(5)),
            ("1,3,5-6", Some(4)),
            ("", None),
            ("3-1", None),
            ("0-x", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(cpus_in(list), want, "{list:?}");
        }
    }

    #[test]
    fn the_default_is_what_rayon_starts() {
        assert_eq!(super::default().n, rayon::current_num_threads());
    }
}
