//! A GPU and its memory. What Rust sees of memory are [`Mem`]s, which are freed with their last handle. A [`Gpu`] is a handle
//! to one of the streams of a GPU, and memory belongs to the stream through which it was made: it is read and written in the
//! order of that stream.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::kernel::Kernel;
use super::staging::Staging;
use super::stream::Stream;
use crate::{Error, Result};

/// What a GPU is asked for. Addresses are the GPU's; events and graphs are numbers of the driver's choice.
pub(super) trait Driver: Send + Sync {
    fn name(&self) -> &str;
    /// Bytes (free, in all).
    fn memory(&self) -> Result<(u64, u64)>;
    /// Zeroed memory; `None` when there is not as much.
    fn alloc(&self, bytes: usize) -> Result<Option<u64>>;
    /// Waits for everything that was asked for.
    ///
    /// # Safety
    /// `at` came from `alloc` and is freed once.
    unsafe fn free(&self, at: u64);
    /// Zeroed memory of the host, aligned to 16 bytes or more, that `copy` works with.
    fn alloc_host(&self, bytes: usize) -> Result<*mut u8>;
    /// # Safety
    /// `at` came from `alloc_host`, is freed once, and no copy uses it any more.
    unsafe fn free_host(&self, at: *mut u8);
    /// Bytes of a piece of a long copy.
    fn staging_piece(&self) -> usize;
    /// Copies as the next work of `stream`.
    ///
    /// # Safety
    /// Both sides of every row are valid, and nothing else uses the host's, which `alloc_host` made, until it is done.
    unsafe fn copy(&self, stream: Stream, copy: RawCopy) -> Result<()>;
    /// Runs `kernel` as the next work of `stream`.
    ///
    /// # Safety
    /// `args` are the arguments of the kernel, and what they say about memory is true and stays so until it is done.
    unsafe fn launch(&self, stream: Stream, kernel: Kernel, grid: [u32; 3], block: u32, args: Args<'_>) -> Result<()>;
    /// Waits until all that was asked of `stream` is done.
    fn sync(&self, stream: Stream) -> Result<()>;
    fn new_event(&self) -> Result<u64>;
    fn free_event(&self, event: u64);
    fn record(&self, event: u64, stream: Stream) -> Result<()>;
    /// Makes `stream` wait for what `event` last recorded.
    fn wait(&self, event: u64, stream: Stream) -> Result<()>;
    /// Waits for what `event` last recorded.
    fn sync_event(&self, event: u64) -> Result<()>;
    /// From now on launches in `stream` are recorded and not run.
    fn begin_capture(&self, stream: Stream) -> Result<()>;
    /// The graph of what was recorded.
    fn end_capture(&self, stream: Stream) -> Result<u64>;
    /// # Safety
    /// What is promised of each launch holds again.
    unsafe fn replay(&self, graph: u64, stream: Stream) -> Result<()>;
    fn free_graph(&self, graph: u64);
}

/// Arguments of a kernel: where they are, and their sizes.
pub(super) struct Args<'a> {
    pub at: &'a mut [*mut c_void],
    /// Only who keeps arguments needs them.
    #[cfg_attr(not(feature = "cuda-emulation"), expect(dead_code))]
    pub sizes: &'a [usize],
}

/// Rows of `width` bytes between host and GPU; a pitch is the distance of rows.
pub(super) struct RawCopy {
    pub host: *mut u8,
    pub host_pitch: usize,
    pub gpu: u64,
    pub gpu_pitch: usize,
    pub width: usize,
    pub rows: usize,
    pub to_gpu: bool,
}

/// A stream of a GPU, open for work.
#[derive(Clone)]
pub struct Gpu {
    shared: Arc<Shared>,
    stream: Stream,
}

/// What the streams of a GPU share.
struct Shared {
    staging: Mutex<Staging>,
    graphs: Graphs,
    /// How often memory was freed, and how often a kernel was launched.
    n_freed: AtomicU64,
    n_launched: AtomicU64,
    driver: Box<dyn Driver>,
}

/// Whether launches are recorded, and how often they were.
pub(super) struct Graphs {
    pub on: AtomicBool,
    /// Whether there is a refusal that nobody heard: asked at every token, so that the lock is taken once.
    pub has_refusal: AtomicBool,
    pub n_captured: AtomicUsize,
    /// Why the driver records none, until somebody hears it.
    pub refusal: Mutex<Option<String>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).free(&*self.driver);
    }
}

/// Rows of `width` bytes, `rows` of them, which begin `at` bytes into a [`Mem`] and into the host's memory; `pitch` bytes from
/// row to row on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Copy2d {
    /// Bytes before the first row.
    pub at: usize,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Bytes of a row.
    pub width: usize,
    /// How many there are.
    pub rows: usize,
}

impl Copy2d {
    /// Whether all rows lie within `len` bytes.
    fn fits(&self, len: usize) -> bool {
        let last = self.rows.saturating_sub(1).checked_mul(self.pitch).and_then(|n| n.checked_add(self.at));
        self.width <= self.pitch && last.and_then(|n| n.checked_add(self.width)).is_some_and(|end| end <= len)
    }
}

impl Gpu {
    pub(super) fn new(driver: impl Driver + 'static) -> Gpu {
        let graphs = Graphs {
            on: AtomicBool::new(true),
            has_refusal: AtomicBool::new(false),
            n_captured: AtomicUsize::new(0),
            refusal: Mutex::default(),
        };
        let (staging, driver) = (Mutex::new(Staging::new()), Box::new(driver));
        Gpu {
            shared: Arc::new(Shared {
                staging,
                graphs,
                n_freed: AtomicU64::new(0),
                n_launched: AtomicU64::new(0),
                driver,
            }),
            stream: Stream::default(),
        }
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.shared.driver
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    pub(super) fn graphs(&self) -> &Graphs {
        &self.shared.graphs
    }

    pub(super) fn n_freed(&self) -> u64 {
        self.shared.n_freed.load(Ordering::Acquire)
    }

    /// Kernels that were launched on this GPU, or recorded; what a recorded step launches again does not count.
    pub fn n_launched(&self) -> u64 {
        self.shared.n_launched.load(Ordering::Relaxed)
    }

    pub(super) fn count_launch(&self) {
        self.shared.n_launched.fetch_add(1, Ordering::Relaxed);
    }

    /// The same GPU through another stream.
    pub fn on(&self, stream: Stream) -> Gpu {
        Gpu { shared: Arc::clone(&self.shared), stream }
    }

    /// As its maker calls it.
    pub fn name(&self) -> &str {
        self.driver().name()
    }

    /// Whether `other` is the same GPU, through whichever stream.
    pub fn is(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Bytes (free, in all).
    ///
    /// # Errors
    /// A GPU that no longer answers.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.driver().memory()
    }

    /// `bytes` of zeroed memory for `what`.
    ///
    /// # Errors
    /// `Limit` with the numbers when there is not as much.
    pub fn alloc(&self, bytes: usize, what: &str) -> Result<Mem> {
        let Some(at) = self.driver().alloc(bytes.max(1))? else {
            let (free, total) = self.memory()?;
            return Err(Error::limit(format!(
                "`{bytes}` bytes for {what} do not fit on {}: {free} of {total} bytes are free",
                self.name()
            )));
        };
        Ok(Mem { owner: Arc::new(Owner { gpu: self.clone(), at }), at, len: bytes })
    }

    /// A copy of `data` in memory of the GPU.
    ///
    /// # Errors
    /// See [`Gpu::alloc`].
    pub fn upload<T: bytemuck::NoUninit>(&self, data: &[T], what: &str) -> Result<Mem> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let mem = self.alloc(bytes.len(), what)?;
        mem.write(bytes)?;
        Ok(mem)
    }

    /// Memory for parts of `sizes` bytes each, reserved at once.
    ///
    /// # Errors
    /// See [`Gpu::alloc`].
    pub fn alloc_parts<const N: usize>(&self, sizes: [usize; N], what: &str) -> Result<[Mem; N]> {
        let room = |size: &usize| size.next_multiple_of(Gpu::ALIGN);
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

    /// Waits until all that was asked of this stream is done.
    ///
    /// # Errors
    /// What went wrong on the GPU meanwhile.
    pub fn sync(&self) -> Result<()> {
        self.driver().sync(self.stream)
    }
}

struct Owner {
    gpu: Gpu,
    at: u64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.gpu.shared.n_freed.fetch_add(1, Ordering::Release);
        // SAFETY: made by `alloc`, and this is the last handle.
        unsafe { self.gpu.driver().free(self.at) };
    }
}

/// Memory of a GPU, or a part of one: a handle, cheap to clone.
#[derive(Clone)]
pub struct Mem {
    owner: Arc<Owner>,
    at: u64,
    len: usize,
}

/// Which bytes of a GPU these are. Unlike a [`Mem`] it keeps them from nobody: once memory of the GPU is freed, it is no
/// other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemId {
    at: u64,
    len: usize,
    n_freed: u64,
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

    /// The GPU that it is on, through its stream.
    pub fn gpu(&self) -> &Gpu {
        &self.owner.gpu
    }

    /// Which bytes these are.
    pub fn id(&self) -> MemId {
        MemId { at: self.at, len: self.len, n_freed: self.gpu().n_freed() }
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

    /// Replaces the first bytes by `data`, as the next work of its stream. `data` is not needed any more when this returns.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    ///
    /// # Panics
    /// When `data` is longer.
    pub fn write<T: bytemuck::NoUninit>(&self, data: &[T]) -> Result<()> {
        let data: &[u8] = bytemuck::cast_slice(data);
        let all = Copy2d { at: 0, pitch: data.len(), width: data.len(), rows: 1 };
        self.write_rows(data, all)
    }

    /// The first bytes, once everything asked of its stream before is done.
    ///
    /// # Errors
    /// What went wrong on the GPU.
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
    /// What went wrong on the GPU.
    ///
    /// # Panics
    /// When rows leave either side.
    pub fn write_rows(&self, host: &[u8], rows: Copy2d) -> Result<()> {
        self.copy(host.as_ptr().cast_mut(), host.len(), rows, true)
    }

    /// The opposite direction.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    ///
    /// # Panics
    /// When rows leave either side.
    pub fn read_rows(&self, host: &mut [u8], rows: Copy2d) -> Result<()> {
        self.copy(host.as_mut_ptr(), host.len(), rows, false)
    }

    fn copy(&self, host: *mut u8, len: usize, rows: Copy2d, to_gpu: bool) -> Result<()> {
        assert!(rows.fits(len) && rows.fits(self.len), "{rows:?} between {len} and {} bytes", self.len);
        if rows.width == 0 || rows.rows == 0 {
            return Ok(());
        }
        let gpu = self.gpu();
        let mut staging = gpu.shared.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: all rows lie within both sides, checked above; the host's side is borrowed for as long as this takes, and
        // mutably where it is written.
        unsafe { staging.copy(gpu.driver(), gpu.stream, (host, self.at), rows, to_gpu) }
    }
}
