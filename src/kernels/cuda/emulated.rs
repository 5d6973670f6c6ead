//! A GPU that is the host itself: the same kernels, compiled by the host's C++ compiler and run block after block by
//! `tests/cuda_emu`. For tests; thousands of times slower than any GPU.
//!
//! Its streams are as far apart as those of a GPU may be. On a lazy GPU work runs when somebody waits for it, and only as
//! far as he waits; on an eager one kernels run as they are launched, up to the first thing they wait for, and only copies are
//! lazy. So whoever forgets to wait for another stream finds there what was there before, on one of them.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kernel::Kernel;
use super::memory::{Args, Driver, Gpu, RawCopy};
use super::stream::Stream;
use crate::{Error, Result};

unsafe extern "C" {
    fn longtake_emulation_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        args: *mut *mut c_void,
    ) -> c_int;
}

impl Gpu {
    /// An emulated GPU with `memory` bytes.
    pub fn emulated(memory: usize) -> Gpu {
        Gpu::new(Emulated { memory, captures: true, is_eager: false, state: Mutex::default() })
    }

    /// The same, whose kernels wait for nothing that they are not told to wait for.
    pub fn emulated_eager(memory: usize) -> Gpu {
        Gpu::new(Emulated { memory, captures: true, is_eager: true, state: Mutex::default() })
    }

    /// The same as [`Gpu::emulated`] with a driver that refuses to record launches.
    pub fn emulated_without_capture(memory: usize) -> Gpu {
        Gpu::new(Emulated { memory, captures: false, is_eager: false, state: Mutex::default() })
    }
}

/// Bytes of a piece of a long copy: little, so that copies of tests have several.
const STAGING_PIECE: usize = 10_000;

/// Words of 16 bytes, as a GPU aligns memory (and better), for `bytes` bytes.
fn words(bytes: usize) -> Vec<u128> {
    vec![0u128; bytes.div_ceil(size_of::<u128>())]
}

struct Emulated {
    memory: usize,
    captures: bool,
    is_eager: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Memory of the GPU and of the host, by its address.
    taken: HashMap<u64, Vec<u128>>,
    host: HashMap<usize, Vec<u128>>,
    queues: [VecDeque<Work>; Stream::COUNT],
    events: HashMap<u64, EventState>,
    /// What is being recorded.
    captured: [Option<Vec<Arc<Launch>>>; Stream::COUNT],
    graphs: HashMap<u64, Vec<Arc<Launch>>>,
    /// The last number given to an event or a graph.
    last_id: u64,
}

/// How often an event was recorded, where last, and how many of these were reached.
#[derive(Clone, Copy, Default)]
struct EventState {
    n_recorded: u64,
    stream: Stream,
    n_reached: u64,
}

/// A kernel with copies of its arguments.
struct Launch {
    kernel: Kernel,
    grid: [u32; 3],
    block: u32,
    /// Each from a new word on.
    args: Vec<Vec<u128>>,
}

enum Work {
    Launch(Arc<Launch>),
    Copy(RawCopy),
    /// The event was recorded for the `n`th time.
    Reach {
        event: u64,
        n: u64,
    },
    Wait {
        event: u64,
        n: u64,
        stream: Stream,
    },
}

// SAFETY: the host's side of a copy is left alone until the copy is done, whichever thread does it.
unsafe impl Send for Work {}

impl Launch {
    fn run(&self) -> Result<()> {
        let mut args: Vec<*mut c_void> = self.args.iter().map(|arg| arg.as_ptr().cast_mut().cast()).collect();
        let (name, block) = (self.kernel.c_name().as_ptr(), [self.block, 1, 1]);
        // SAFETY: the promise made at the launch about the arguments; grid and block are three numbers each.
        match unsafe { longtake_emulation_launch(name, self.grid.as_ptr(), block.as_ptr(), args.as_mut_ptr()) } {
            0 => Ok(()),
            1 => Err(Error::unsupported(format!("there is no kernel `{}`", self.kernel.name()))),
            _ => Err(Error::limit(format!(
                "no GPU runs `{}` on {:?} blocks of {} threads",
                self.kernel.name(),
                self.grid,
                self.block
            ))),
        }
    }
}

impl State {
    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn queue(&mut self, stream: Stream) -> &mut VecDeque<Work> {
        &mut self.queues[stream as usize]
    }

    fn has_reached(&self, event: u64, n: u64) -> bool {
        self.events.get(&event).is_none_or(|event| event.n_reached >= n)
    }

    /// Runs what is in `stream` up to the first event that it waits for and that was not reached.
    fn run_ahead(&mut self, stream: Stream) -> Result<()> {
        while let Some(work) = self.queue(stream).pop_front() {
            if let Work::Wait { event, n, .. } = work
                && !self.has_reached(event, n)
            {
                self.queue(stream).push_front(work);
                break;
            }
            self.work(work)?;
        }
        Ok(())
    }

    /// Runs what is in `stream`, up to the `n`th record of an event where one is given, and what that waits for.
    fn run(&mut self, stream: Stream, until: Option<(u64, u64)>) -> Result<()> {
        while until.is_none_or(|(event, n)| !self.has_reached(event, n)) {
            let Some(work) = self.queue(stream).pop_front() else { break };
            self.work(work)?;
        }
        Ok(())
    }

    fn work(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Launch(launch) => launch.run()?,
            Work::Copy(copy) => {
                for row in 0..copy.rows {
                    let host = copy.host.wrapping_add(row * copy.host_pitch);
                    let gpu = (copy.gpu as *mut u8).wrapping_add(row * copy.gpu_pitch);
                    let (from, to) = if copy.to_gpu { (host, gpu) } else { (gpu, host) };
                    // SAFETY: the promise of `copy`: `width` bytes on both sides, which do not overlap.
                    unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), to, copy.width) };
                }
            }
            Work::Reach { event, n } => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.n_reached = n;
                }
            }
            Work::Wait { event, n, stream } => {
                if !self.has_reached(event, n) {
                    self.run(stream, Some((event, n)))?;
                }
            }
        }
        Ok(())
    }

    fn run_all(&mut self) -> Result<()> {
        [Stream::Text, Stream::Vision, Stream::Copy].into_iter().try_for_each(|stream| self.run(stream, None))
    }
}

impl Emulated {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets an eager GPU run kernels that were just launched.
    fn ahead(&self, state: &mut State, stream: Stream) -> Result<()> {
        if self.is_eager && stream != Stream::Copy { state.run_ahead(stream) } else { Ok(()) }
    }

    fn free_bytes(&self, taken: &HashMap<u64, Vec<u128>>) -> usize {
        self.memory.saturating_sub(taken.values().map(|words| words.len() * size_of::<u128>()).sum())
    }
}

impl Driver for Emulated {
    fn name(&self) -> &str {
        "emulated GPU"
    }

    fn memory(&self) -> Result<(u64, u64)> {
        Ok((self.free_bytes(&self.state().taken) as u64, self.memory as u64))
    }

    fn alloc(&self, bytes: usize) -> Result<Option<u64>> {
        let mut state = self.state();
        if bytes > self.free_bytes(&state.taken) {
            return Ok(None);
        }
        let words = words(bytes);
        let at = words.as_ptr() as u64;
        state.taken.insert(at, words);
        Ok(Some(at))
    }

    unsafe fn free(&self, at: u64) {
        let mut state = self.state();
        // Nothing can be done about a failure here.
        let _ = state.run_all();
        state.taken.remove(&at);
    }

    fn alloc_host(&self, bytes: usize) -> Result<*mut u8> {
        let mut words = words(bytes);
        let at = words.as_mut_ptr().cast::<u8>();
        self.state().host.insert(at as usize, words);
        Ok(at)
    }

    unsafe fn free_host(&self, at: *mut u8) {
        let mut state = self.state();
        let _ = state.run_all();
        state.host.remove(&(at as usize));
    }

    fn staging_piece(&self) -> usize {
        STAGING_PIECE
    }

    unsafe fn copy(&self, stream: Stream, copy: RawCopy) -> Result<()> {
        let mut state = self.state();
        if state.captured[stream as usize].is_some() {
            return Err(Error::unsupported("a copy while launches are recorded"));
        }
        state.queue(stream).push_back(Work::Copy(copy));
        Ok(())
    }

    unsafe fn launch(&self, stream: Stream, kernel: Kernel, grid: [u32; 3], block: u32, args: Args<'_>) -> Result<()> {
        let keep = |(at, size): (&*mut c_void, &usize)| {
            let mut copy = words(*size);
            // SAFETY: the caller's promise: `size` bytes from `at` on are the argument.
            unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), *size) };
            copy
        };
        let args = args.at.iter().zip(args.sizes).map(keep).collect();
        let launch = Arc::new(Launch { kernel, grid, block, args });
        let mut state = self.state();
        match &mut state.captured[stream as usize] {
            Some(captured) => captured.push(launch),
            None => state.queue(stream).push_back(Work::Launch(launch)),
        }
        self.ahead(&mut state, stream)
    }

    fn sync(&self, stream: Stream) -> Result<()> {
        self.state().run(stream, None)
    }

    fn new_event(&self) -> Result<u64> {
        let mut state = self.state();
        let id = state.id();
        state.events.insert(id, EventState::default());
        Ok(id)
    }

    fn free_event(&self, event: u64) {
        let mut state = self.state();
        // Who waits for it goes on waiting.
        let _ = state.run_all();
        state.events.remove(&event);
    }

    fn record(&self, event: u64, stream: Stream) -> Result<()> {
        let mut state = self.state();
        let Some(known) = state.events.get_mut(&event) else { return Err(Error::unsupported("an event that is gone")) };
        known.n_recorded += 1;
        known.stream = stream;
        let n = known.n_recorded;
        state.queue(stream).push_back(Work::Reach { event, n });
        Ok(())
    }

    fn wait(&self, event: u64, stream: Stream) -> Result<()> {
        let mut state = self.state();
        if let Some(known) = state.events.get(&event).copied() {
            state.queue(stream).push_back(Work::Wait { event, n: known.n_recorded, stream: known.stream });
        }
        Ok(())
    }

    fn sync_event(&self, event: u64) -> Result<()> {
        let mut state = self.state();
        match state.events.get(&event).copied() {
            Some(known) if known.n_reached < known.n_recorded => {
                state.run(known.stream, Some((event, known.n_recorded)))
            }
            _ => Ok(()),
        }
    }

    fn begin_capture(&self, stream: Stream) -> Result<()> {
        if !self.captures {
            return Err(Error::unsupported("cannot record launches: not on this GPU"));
        }
        self.state().captured[stream as usize] = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self, stream: Stream) -> Result<u64> {
        let mut state = self.state();
        let captured = state.captured[stream as usize].take();
        let launches = captured.ok_or_else(|| Error::unsupported("nothing was recorded"))?;
        let id = state.id();
        state.graphs.insert(id, launches);
        Ok(id)
    }

    unsafe fn replay(&self, graph: u64, stream: Stream) -> Result<()> {
        let mut state = self.state();
        let State { graphs, queues, .. } = &mut *state;
        let launches = graphs.get(&graph).ok_or_else(|| Error::unsupported("a graph that is gone"))?;
        queues[stream as usize].extend(launches.iter().cloned().map(Work::Launch));
        self.ahead(&mut state, stream)
    }

    fn free_graph(&self, graph: u64) {
        self.state().graphs.remove(&graph);
    }
}
