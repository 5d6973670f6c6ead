//! How many CPUs this process may use, and what says so: as many threads are started by default.

use super::threads;

/// What decides how many CPUs this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A cgroup's quota of CPU time.
    Quota,
    /// The CPUs that the process is bound to.
    Affinity,
    /// The CPUs of the machine.
    Machine,
}

/// The CPUs that this process may use.
#[derive(Debug, Clone, Copy)]
pub struct CpuCount {
    /// How many it may keep busy.
    pub n: usize,
    /// What allows no more.
    pub limit: Limit,
    /// CPUs that the process is bound to, where the operating system tells.
    pub bound: Option<usize>,
    /// CPUs of the machine, likewise.
    pub online: Option<usize>,
}

/// Of the CPUs that are online those that this process is bound to, or fewer where a cgroup allows less time than they have.
pub fn count() -> CpuCount {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bound = status.lines().find_map(|line| cpus_in(line.strip_prefix("Cpus_allowed_list:")?));
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| cpus_in(&list));
    let n = threads::available();
    CpuCount { n, limit: limit(n, bound, online), bound, online }
}

fn limit(n: usize, bound: Option<usize>, online: Option<usize>) -> Limit {
    match (bound, online) {
        (Some(bound), _) if n < bound => Limit::Quota,
        (Some(bound), Some(online)) if bound < online => Limit::Affinity,
        _ => Limit::Machine,
    }
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
    use super::*;

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
    fn the_tightest_limit_is_named() {
        assert_eq!(limit(2, Some(4), Some(8)), Limit::Quota);
        assert_eq!(limit(4, Some(4), Some(8)), Limit::Affinity);
        assert_eq!(limit(8, Some(8), Some(8)), Limit::Machine);
        assert_eq!(limit(8, None, None), Limit::Machine);
    }
}
