//! The worker threads: started once per process.

use crate::{Error, Result};

/// Starts `n` worker threads (0: as many as this process may use, by affinity and cgroup quota). Only the first call in a
/// process decides; without one, the default is the same as 0.
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
