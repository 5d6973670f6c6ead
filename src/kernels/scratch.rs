//! Per-thread working memory: grown once, kept for the life of the thread, so that no kernel allocates per token.

use std::cell::RefCell;

thread_local! {
    static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends `n` floats of this thread's buffer (content arbitrary).
pub fn with<R>(n: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < n {
            buffer.resize(n, 0.0);
        }
        work(&mut buffer[..n])
    })
}

/// Lends `n` floats that begin at a cache line (content arbitrary).
pub fn with_aligned<R>(n: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    const LINE: usize = 64;
    with(n + LINE / size_of::<f32>(), |buffer| {
        let skip = buffer.as_ptr().align_offset(LINE);
        work(&mut buffer[skip..][..n])
    })
}
