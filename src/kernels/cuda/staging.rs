//! Memory of the host that a GPU reads and writes by itself. A copy from or to any other memory goes through it in pieces:
//! the GPU copies one while the host copies the next.

use super::memory::{Copy2d, Driver, Gpu, Mem, RawCopy};
use super::stream::{GpuEvent, Stream};
use crate::Result;

/// The pieces of copies of one GPU, reserved once: two, which take turns.
pub(super) struct Staging {
    /// Null until the first copy.
    at: *mut u8,
    /// Bytes of a piece.
    piece: usize,
    /// When the GPU has done with each.
    events: [u64; 2],
    /// Which is next.
    turn: usize,
}

// SAFETY: the memory is reached through this alone.
unsafe impl Send for Staging {}

/// Rows of a copy that go together: `rows` of them of `width` bytes, the first at byte `at`.
#[derive(Clone, Copy)]
struct Piece {
    at: usize,
    pitch: usize,
    width: usize,
    rows: usize,
}

/// The pieces of `copy` of at most `most` bytes: whole rows, or parts of one.
fn pieces(copy: Copy2d, most: usize) -> impl Iterator<Item = Piece> {
    let Copy2d { at, pitch, width, rows } = copy;
    let (row_step, width_step) = ((most / width.max(1)).max(1), width.clamp(1, most));
    (0..rows).step_by(row_step).flat_map(move |row| {
        (0..width).step_by(width_step).map(move |start| Piece {
            at: at + row * pitch + start,
            pitch,
            width: width_step.min(width - start),
            rows: row_step.min(rows - row),
        })
    })
}

impl Staging {
    pub(super) fn new() -> Staging {
        Staging { at: std::ptr::null_mut(), piece: 0, events: [0; 2], turn: 0 }
    }

    fn reserve(&mut self, driver: &dyn Driver) -> Result<()> {
        if self.at.is_null() {
            let piece = driver.staging_piece();
            let events = [driver.new_event()?, driver.new_event()?];
            *self = Staging { at: driver.alloc_host(2 * piece)?, piece, events, turn: 0 };
        }
        Ok(())
    }

    /// Gives the memory back.
    pub(super) fn free(&mut self, driver: &dyn Driver) {
        if !self.at.is_null() {
            // SAFETY: it came from `alloc_host`, and nothing is left of it here.
            unsafe { driver.free_host(self.at) };
            self.events.iter().for_each(|event| driver.free_event(*event));
            *self = Staging::new();
        }
    }

    /// Copies rows at the same places in `host` and, from address `gpu` on, on the GPU, as the next work of `stream`. What is
    /// sent has left `host` when this returns; what is brought has arrived.
    ///
    /// # Safety
    /// All rows lie within both sides, and nothing else uses those of `host` meanwhile.
    pub(super) unsafe fn copy(
        &mut self,
        driver: &dyn Driver,
        stream: Stream,
        (host, gpu): (*mut u8, u64),
        copy: Copy2d,
        to_gpu: bool,
    ) -> Result<()> {
        self.reserve(driver)?;
        let mut before = None;
        for piece in pieces(copy, self.piece) {
            let (staged, event) = (self.at.wrapping_add(self.turn * self.piece), self.events[self.turn]);
            self.turn ^= 1;
            // Of the copy before the last one.
            driver.sync_event(event)?;
            let Piece { at, pitch, width, rows } = piece;
            let host = host.wrapping_add(at);
            if to_gpu {
                // SAFETY: the piece lies within `host` and, packed, within the staging memory, which the GPU has done with.
                unsafe { copy_rows((host, pitch), (staged, width), width, rows) };
            }
            let raw = RawCopy {
                host: staged,
                host_pitch: width,
                gpu: gpu + at as u64,
                gpu_pitch: pitch,
                width,
                rows,
                to_gpu,
            };
            // SAFETY: the rows are the GPU's, and the staging memory is left alone until the event.
            unsafe { driver.copy(stream, raw)? };
            driver.record(event, stream)?;
            if !to_gpu && let Some((event, staged, host, piece)) = before.replace((event, staged, host, piece)) {
                // SAFETY: as below.
                unsafe { self.fetch(driver, event, staged, host, piece)? };
            }
        }
        if let Some((event, staged, host, piece)) = before {
            // SAFETY: the piece lies within `host`, and was sent to `staged` before the event.
            unsafe { self.fetch(driver, event, staged, host, piece)? };
        }
        Ok(())
    }

    /// Waits for a piece, and unpacks it.
    ///
    /// # Safety
    /// The piece lies within `host`; it is what the GPU writes to `staged` before the event.
    unsafe fn fetch(
        &self,
        driver: &dyn Driver,
        event: u64,
        staged: *mut u8,
        host: *mut u8,
        piece: Piece,
    ) -> Result<()> {
        driver.sync_event(event)?;
        let Piece { pitch, width, rows, .. } = piece;
        // SAFETY: the caller's promise.
        unsafe { copy_rows((staged, width), (host, pitch), width, rows) };
        Ok(())
    }
}

/// # Safety
/// `rows` rows of `width` bytes lie on both sides, a pitch apart, and do not overlap.
unsafe fn copy_rows((from, from_pitch): (*mut u8, usize), (to, to_pitch): (*mut u8, usize), width: usize, rows: usize) {
    for row in 0..rows {
        let (from, to) = (from.wrapping_add(row * from_pitch), to.wrapping_add(row * to_pitch));
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, width) };
    }
}

/// Words of the host that a GPU copies by itself, for what goes there and back in every step: no lock, no second copy.
pub struct HostMem {
    at: *mut u32,
    len: usize,
    /// When the GPU has done with what was asked for last.
    event: GpuEvent,
    gpu: Gpu,
}

// SAFETY: the memory is reached through this alone, and through the GPU's copies that `event` waits for.
unsafe impl Send for HostMem {}
// SAFETY: as above; shared, it is only read.
unsafe impl Sync for HostMem {}

impl HostMem {
    /// `len` words for copies in the stream of `gpu`.
    ///
    /// # Errors
    /// Memory that the system refuses.
    pub fn new(gpu: &Gpu, len: usize) -> Result<HostMem> {
        let event = GpuEvent::new(gpu)?;
        let at = gpu.driver().alloc_host(len.max(1) * size_of::<u32>())?.cast();
        Ok(HostMem { at, len, event, gpu: gpu.clone() })
    }

    /// The words, once the GPU has done with them.
    ///
    /// # Errors
    /// What went wrong on the GPU meanwhile.
    pub fn words_mut(&mut self) -> Result<&mut [u32]> {
        self.event.sync()?;
        // SAFETY: `len` words were reserved and zeroed, aligned to pages, and the GPU has done with them.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at, self.len) })
    }

    /// Sends words `from` on, `n` of them, to the beginning of `to`, without waiting.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When they leave either side.
    pub fn send(&mut self, (from, n): (usize, usize), to: &Mem) -> Result<()> {
        self.copy((from, n), to, true)
    }

    /// Asks for the first `n` words of `from`, to be found from word `to` on by the next [`HostMem::words_mut`].
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When they leave either side.
    pub fn receive(&mut self, from: &Mem, (to, n): (usize, usize)) -> Result<()> {
        self.copy((to, n), from, false)
    }

    fn copy(&mut self, (at, n): (usize, usize), mem: &Mem, to_gpu: bool) -> Result<()> {
        let width = n * size_of::<u32>();
        assert!(at + n <= self.len && width <= mem.len(), "{at} + {n} of {} words, {} bytes", self.len, mem.len());
        if n == 0 {
            return Ok(());
        }
        let host = self.at.wrapping_add(at).cast();
        let raw = RawCopy { host, host_pitch: width, gpu: mem.at(), gpu_pitch: width, width, rows: 1, to_gpu };
        // SAFETY: both sides were checked; `words_mut` and `drop` wait for the event.
        unsafe { self.gpu.driver().copy(self.gpu.stream(), raw)? };
        self.event.record(&self.gpu)
    }
}

impl Drop for HostMem {
    fn drop(&mut self) {
        // A failure leaves nothing that could still be waited for.
        let _ = self.event.sync();
        // SAFETY: it came from `alloc_host`, and the GPU has done with it.
        unsafe { self.gpu.driver().free_host(self.at.cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_copy_once_and_stay_small() {
        for (pitch, width, rows, most) in
            [(10, 10, 1, 4), (10, 7, 5, 20), (10, 7, 5, 7), (10, 7, 5, 3), (8, 8, 3, 100), (1, 1, 1, 1), (9, 0, 4, 8)]
        {
            let copy = Copy2d { at: 3, pitch, width, rows };
            let mut seen = vec![0; 3 + pitch * rows];
            for piece in pieces(copy, most) {
                assert!(piece.rows * piece.width <= most && piece.rows * piece.width > 0);
                for row in 0..piece.rows {
                    seen[piece.at + row * piece.pitch..][..piece.width].iter_mut().for_each(|n| *n += 1);
                }
            }
            let want = (0..seen.len()).map(|i| usize::from(i >= 3 && (i - 3) % pitch < width));
            assert!(seen.iter().copied().eq(want), "{copy:?} in pieces of {most}");
        }
    }
}
