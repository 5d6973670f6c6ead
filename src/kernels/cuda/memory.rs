//! A card and its memory. Everything on a card happens in the order in which it was asked for; what Rust sees of it are
//! [`Mem`]s, which are freed with their last handle.

use std::ffi::c_void;
use std::sync::Arc;

use crate::{Error, Result};

/// What a card is asked for. Addresses are the card's.
pub(super) trait Driver: Send + Sync {
    fn name(&self) -> &str;
    /// Bytes (free, in all).
    fn memory(&self) -> Result<(u64, u64)>;
    /// Zeroed memory; `None` when there is not as much.
    fn alloc(&self, bytes: usize) -> Result<Option<u64>>;
    /// # Safety
    /// `at` came from `alloc` and is freed once.
    unsafe fn free(&self, at: u64);
    /// # Safety
    /// Both sides of every row of the copy are valid; nothing else uses them meanwhile.
    unsafe fn copy(&self, copy: RawCopy) -> Result<()>;
    /// # Safety
    /// `args` point at the arguments of kernel `name`, and what they say about memory is true.
    unsafe fn launch(&self, name: &str, grid: [u32; 3], block: u32, args: &mut [*mut c_void]) -> Result<()>;
    /// Waits until all that was asked for is done.
    fn sync(&self) -> Result<()>;
}

/// Rows of `width` bytes between host and card; a pitch is the distance of rows.
pub(super) struct RawCopy {
    pub host: *mut u8,
    pub host_pitch: usize,
    pub card: u64,
    pub card_pitch: usize,
    pub width: usize,
    pub rows: usize,
    pub to_card: bool,
}

/// A card, open for work.
#[derive(Clone)]
pub struct Card(Arc<dyn Driver>);

/// Rows of `width` bytes, `rows` of them, at `host` bytes in host memory and `card` bytes in a [`Mem`]; `pitch` bytes from
/// row to row on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Copy2d {
    pub at: usize,
    pub pitch: usize,
    pub width: usize,
    pub rows: usize,
}

impl Copy2d {
    /// Whether all rows lie within `len` bytes.
    fn fits(&self, len: usize) -> bool {
        let last = self.rows.saturating_sub(1).checked_mul(self.pitch).and_then(|n| n.checked_add(self.at));
        self.width <= self.pitch && last.and_then(|n| n.checked_add(self.width)).is_some_and(|end| end <= len)
    }
}

impl Card {
    pub(super) fn new(driver: impl Driver + 'static) -> Card {
        Card(Arc::new(driver))
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.0
    }

    /// As its maker calls it.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether `other` is the same card.
    pub fn is(&self, other: &Card) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Bytes (free, in all).
    ///
    /// # Errors
    /// A card that no longer answers.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.0.memory()
    }

    /// `bytes` of zeroed memory for `what`.
    ///
    /// # Errors
    /// `Limit` with the numbers when there is not as much.
    pub fn alloc(&self, bytes: usize, what: &str) -> Result<Mem> {
        let Some(at) = self.0.alloc(bytes.max(1))? else {
            let (free, total) = self.memory()?;
            return Err(Error::limit(format!(
                "`{bytes}` bytes for {what} do not fit on {}: {free} of {total} bytes are free",
                self.name()
            )));
        };
        Ok(Mem { owner: Arc::new(Owner { card: self.clone(), at }), at, len: bytes })
    }

    /// A copy of `data` in memory of the card.
    ///
    /// # Errors
    /// See [`Card::alloc`].
    pub fn upload<T: bytemuck::NoUninit>(&self, data: &[T], what: &str) -> Result<Mem> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let mem = self.alloc(bytes.len(), what)?;
        mem.write(bytes)?;
        Ok(mem)
    }

    /// Memory for parts of `sizes` bytes each, reserved at once.
    ///
    /// # Errors
    /// See [`Card::alloc`].
    pub fn alloc_parts<const N: usize>(&self, sizes: [usize; N], what: &str) -> Result<[Mem; N]> {
        let room = |size: &usize| size.next_multiple_of(Card::ALIGN);
        let all = self.alloc(sizes.iter().map(room).sum(), what)?;
        let mut at = 0;
        Ok(sizes.map(|size| {
            let part = all.part(at, size);
            at += room(&size);
            part
        }))
    }

    /// Parts of one allocation begin at multiples of this, which suits every kernel.
    const ALIGN: usize = 256;

    /// Waits until all that was asked for is done.
    ///
    /// # Errors
    /// What went wrong on the card meanwhile.
    pub fn sync(&self) -> Result<()> {
        self.0.sync()
    }
}

struct Owner {
    card: Card,
    at: u64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: made by `alloc`, and this is the last handle.
        unsafe { self.card.driver().free(self.at) };
    }
}

/// Memory of a card, or a part of one: a handle, cheap to clone.
#[derive(Clone)]
pub struct Mem {
    owner: Arc<Owner>,
    at: u64,
    len: usize,
}

impl Mem {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The card that it is on.
    pub fn card(&self) -> &Card {
        &self.owner.card
    }

    /// Its address there.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The `len` bytes from `start` on.
    ///
    /// # Panics
    /// When they leave the memory.
    pub fn part(&self, start: usize, len: usize) -> Mem {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "{start} + {len} of {} bytes", self.len);
        Mem { owner: Arc::clone(&self.owner), at: self.at + start as u64, len }
    }

    /// The floats from number `start` on, `n` of them.
    ///
    /// # Panics
    /// When they leave the memory.
    pub fn floats(&self, start: usize, n: usize) -> Mem {
        self.part(start * size_of::<f32>(), n * size_of::<f32>())
    }

    /// Replaces the first bytes by `data`, once everything asked for before is done.
    ///
    /// # Errors
    /// What went wrong on the card.
    ///
    /// # Panics
    /// When `data` is longer.
    pub fn write<T: bytemuck::NoUninit>(&self, data: &[T]) -> Result<()> {
        let data: &[u8] = bytemuck::cast_slice(data);
        let all = Copy2d { at: 0, pitch: data.len(), width: data.len(), rows: 1 };
        self.write_rows(data, all)
    }

    /// The first bytes, once everything asked for before is done.
    ///
    /// # Errors
    /// What went wrong on the card.
    ///
    /// # Panics
    /// When `data` is longer.
    pub fn read<T: bytemuck::Pod>(&self, data: &mut [T]) -> Result<()> {
        let data: &mut [u8] = bytemuck::cast_slice_mut(data);
        let all = Copy2d { at: 0, pitch: data.len(), width: data.len(), rows: 1 };
        self.read_rows(data, all)
    }

    /// Replaces rows by those at the same places in `host`.
    ///
    /// # Errors
    /// What went wrong on the card.
    ///
    /// # Panics
    /// When rows leave either side.
    pub fn write_rows(&self, host: &[u8], rows: Copy2d) -> Result<()> {
        self.copy(host.as_ptr().cast_mut(), host.len(), rows, true)
    }

    /// The opposite direction.
    ///
    /// # Errors
    /// What went wrong on the card.
    ///
    /// # Panics
    /// When rows leave either side.
    pub fn read_rows(&self, host: &mut [u8], rows: Copy2d) -> Result<()> {
        self.copy(host.as_mut_ptr(), host.len(), rows, false)
    }

    fn copy(&self, host: *mut u8, len: usize, rows: Copy2d, to_card: bool) -> Result<()> {
        assert!(rows.fits(len) && rows.fits(self.len), "{rows:?} between {len} and {} bytes", self.len);
        if rows.width == 0 || rows.rows == 0 {
            return Ok(());
        }
        let Copy2d { at, pitch, width, rows } = rows;
        let copy = RawCopy {
            host: host.wrapping_add(at),
            host_pitch: pitch,
            card: self.at + at as u64,
            card_pitch: pitch,
            width,
            rows,
            to_card,
        };
        // SAFETY: all rows lie within both sides, checked above; the host's side is borrowed for as long as this takes, and
        // mutably where it is written.
        unsafe { self.card().driver().copy(copy) }
    }
}
