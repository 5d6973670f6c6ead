//! Per-thread working memory: grown once, kept for the life of the thread, so that no kernel allocates per token.

use std::cell::{Cell, RefCell};

thread_local! {
    static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SHARED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `n` floats of this thread's buffer (content arbitrary) to work that starts no other.
pub(super) fn with<R>(n: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < n {
            buffer.resize(n, 0.0);
        }
        work(&mut buffer[..n])
    })
}

/// The same for results of several tasks: a second buffer, which `work` may share out to other threads. Where a task that
/// runs on this thread asks for it again meanwhile, it gets a fresh one.
pub(super) fn with_shared<R>(n: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SHARED.take();
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    let result = work(&mut buffer[..n]);
    SHARED.set(buffer);
    result
}

/// Cuts a buffer into pieces that start at multiples of 64 bytes, as vectors like them.
pub(super) struct Carve<'a>(&'a mut [f32]);

/// Floats in 64 bytes.
const LINE: usize = 16;

impl<'a> Carve<'a> {
    /// The floats that pieces of these lengths take, the start included.
    pub(super) fn room(lengths: &[usize]) -> usize {
        LINE + lengths.iter().map(|n| n.next_multiple_of(LINE)).sum::<usize>()
    }

    pub(super) fn new(buffer: &'a mut [f32]) -> Carve<'a> {
        let misaligned = buffer.as_ptr().addr() % 64 / size_of::<f32>();
        Carve(&mut buffer[(LINE - misaligned) % LINE..])
    }

    /// The next `n` floats.
    ///
    /// # Panics
    /// When the buffer is used up.
    pub(super) fn take(&mut self, n: usize) -> &'a mut [f32] {
        let (piece, rest) = std::mem::take(&mut self.0).split_at_mut(n.next_multiple_of(LINE));
        self.0 = rest;
        &mut piece[..n]
    }
}
