//! Ids that nobody can guess, and the time.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// `kind-` and 128 random bits in hex.
pub(super) fn id(kind: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    // The keys of the standard library's tables come from the system's randomness; a counter keeps them apart, and a hash
    // tells nothing of them.
    static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut hash = Sha256::new();
    for round in 0..4u64 {
        hash.update(RandomState::new().hash_one((n, round)).to_le_bytes());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    hash.update(now.to_le_bytes());
    hash.update(std::process::id().to_le_bytes());
    let hex: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{hex}")
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
