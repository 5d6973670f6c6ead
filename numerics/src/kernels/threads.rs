//! The worker threads: started once per process, they take the tasks of one job after another.
//!
//! A decode step forks and joins hundreds of times, each for tens of microseconds of work. Workers therefore wait for the
//! next job with open eyes for a while before they sleep, and a job is over when its tasks are: whoever woke too late for
//! them is not waited for. Nothing is allocated per job. Where others use the machine, too, a thread that waits lends its core
//! to the one it waits for (`seat.rs`).

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::sync::{Parker, Unparker};
use crossbeam::utils::CachePadded;

use super::disjoint::SharedSlice;
use super::seat::Seat;
use crate::{Error, Result};

/// Tasks per thread that even out what else the machine does.
pub const TASKS_PER_THREAD: usize = 4;
/// How long an idle worker looks for a job before it sleeps: longer than the gaps between the jobs of a step, but short,
/// because on a busy machine the time that is spent looking is taken off the time for work.
const AWAKE: Duration = Duration::from_micros(50);
/// How often a thread that waits for another's task looks whether that one has lost its core.
const CHECK: Duration = Duration::from_micros(100);

/// Starts the threads: `n` with the caller's (0: as many as this process may use, by affinity and cgroup quota). Only the
/// first call in a process decides; without one, the default is the same as 0.
///
/// # Errors
/// A senseless count, or an operating system that refuses.
pub fn start(n: usize) -> Result<()> {
    const MAX_THREADS: usize = 1024;
    if n > MAX_THREADS {
        return Err(Error::bad_input(format!("`{n}` threads are more than {MAX_THREADS}")));
    }
    let n = if n == 0 { available() } else { n };
    POOL.get_or_init(|| Pool::start(n));
    Ok(())
}

/// Runs `work` where rayon's parallel iterators are split over as many threads as there are here. They are for long and uneven
/// work (conversion, scans, drawing), are started when that first comes, and are nobody else's: rayon's global pool belongs to
/// the program that this library is part of.
///
/// # Errors
/// An operating system that gives no threads.
pub fn in_rayon<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();
    let pool = match POOL.get() {
        Some(pool) => pool,
        None => {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(count()).stack_size(STACK_BYTES);
            let built = builder.thread_name(|i| format!("longtake-rayon-{i}")).build();
            let built = built.map_err(|err| Error::limit(format!("cannot start {} threads: {err}", count())))?;
            // Of two that were started at once, one ends with its threads.
            POOL.get_or_init(|| built)
        }
    };
    Ok(pool.install(work))
}

/// Stack of every thread that is started here: what the standard library gives, whatever `RUST_MIN_STACK` says.
const STACK_BYTES: usize = 2 << 20;

/// A thread to be started, with a name and a stack of known size.
pub fn builder(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_string()).stack_size(STACK_BYTES)
}

/// Threads in use, the caller's among them.
pub fn count() -> usize {
    pool().workers.len() + 1
}

/// Threads that this process may use, by affinity and cgroup quota.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `task` once for each number below `n`, on all threads, and returns when all calls have returned. Within a task
/// everything runs on its own thread. Callers on several threads take turns.
///
/// # Panics
/// With the first panic of a task, once no other runs.
pub fn for_each(n: usize, task: impl Fn(usize) + Sync) {
    if n <= 1 || pool().workers.is_empty() || IN_TASK.get() {
        (0..n).for_each(task);
    } else {
        pool().run(n, &task);
    }
}

/// Calls `work` with every `len` elements of `data` (the last piece may be shorter) and their number, as [`for_each`] does.
pub fn for_chunks<T: Send>(data: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let n = data.len().div_ceil(len);
    let data = &SharedSlice::new(data);
    for_each(n, |i| {
        let start = i * len;
        // SAFETY: the pieces of different tasks do not overlap.
        work(i, unsafe { data.get(start..(start + len).min(data.len())) });
    });
}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    /// Where a caller sleeps that waits for workers.
    static PARKER: Parker = Parker::new();
}

static POOL: OnceLock<Pool> = OnceLock::new();

fn pool() -> &'static Pool {
    POOL.get_or_init(|| Pool::start(available()))
}

/// The workers, and the job that they share with the caller.
struct Pool {
    workers: Vec<Worker>,
    shared: &'static Shared,
    /// Held by the caller whose job it is.
    turn: Mutex<()>,
}

struct Worker {
    unparker: Unparker,
    asleep: &'static CachePadded<AtomicBool>,
    seat: &'static Seat,
}

#[derive(Default)]
struct Shared {
    // What everybody looks at, what changes with every worker, and what changes with every task have cache lines of their own.
    /// Twice the number of the job, plus 1 while workers may join it.
    job: CachePadded<AtomicUsize>,
    /// Workers that have joined, or are about to find out that they may not.
    inside: CachePadded<AtomicUsize>,
    /// The next task.
    next: CachePadded<AtomicUsize>,
    call: UnsafeCell<Option<Call>>,
    /// The caller, where it sleeps until nobody is inside.
    sleeper: Mutex<Option<Unparker>>,
    sleeping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The caller's, as long as it takes tasks.
    caller: Seat,
}

/// The tasks of a job. The lifetime of the closure is that of the job, which ends before `Pool::run` returns.
#[derive(Clone, Copy)]
struct Call {
    n: usize,
    task: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `call` is written only while no worker is inside and none may join, and read only by workers inside; its closure
// is `Sync`.
unsafe impl Sync for Shared {}

impl Pool {
    fn start(n: usize) -> Pool {
        let shared: &'static Shared = Box::leak(Box::default());
        let mut workers = Vec::with_capacity(n - 1);
        for i in 1..n {
            let asleep: &'static CachePadded<AtomicBool> = Box::leak(Box::default());
            let seat: &'static Seat = Box::leak(Box::default());
            let parker = Parker::new();
            let unparker = parker.unparker().clone();
            let spawned = builder(&format!("longtake-{i}")).spawn(move || shared.serve(asleep, &parker, seat));
            // With fewer threads than wished everything works, only slower.
            if spawned.is_err() {
                break;
            }
            workers.push(Worker { unparker, asleep, seat });
        }
        Pool { workers, shared, turn: Mutex::new(()) }
    }

    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        let turn = locked(&self.turn);
        let shared = self.shared;
        // SAFETY: only the lifetime changes, and this function leaves only when no worker can see the closure any more.
        let task =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(task) };
        let call = Call { n, task };
        // SAFETY: it is this caller's turn, and the job before has ended: nobody is inside, and nobody may join.
        unsafe { *shared.call.get() = Some(call) };
        shared.next.store(0, Ordering::Relaxed);
        shared.job.fetch_add(1, Ordering::SeqCst);
        for worker in &self.workers[..self.workers.len().min(n - 1)] {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.unparker.unpark();
            }
        }
        shared.caller.take(None);
        shared.work(call);
        shared.caller.leave(true);
        // A worker says that it is inside before it looks whether it may be; here it is the other way round, so one of the
        // two sees the other.
        shared.job.fetch_add(1, Ordering::SeqCst);
        shared.wait_for_workers(&self.workers);
        let panic = locked(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// What a worker does all its life.
    fn serve(&self, asleep: &AtomicBool, parker: &Parker, seat: &Seat) {
        let mut seen = 0;
        loop {
            let job = self.wait(seen, asleep, parker);
            seen = job;
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.job.load(Ordering::SeqCst) == job {
                // SAFETY: the job is open and this worker is inside, so the caller waits before it changes the call.
                if let Some(call) = unsafe { *self.call.get() } {
                    seat.take(Some(&self.caller));
                    self.work(call);
                }
            }
            if self.inside.fetch_sub(1, Ordering::SeqCst) == 1 && self.sleeping.load(Ordering::SeqCst) {
                locked(&self.sleeper).iter().for_each(Unparker::unpark);
            }
            // After the caller knows: on its own core this thread may have to wait for its turn.
            seat.leave(false);
        }
    }

    /// Waits for a job that may be joined and is not the one `seen`.
    fn wait(&self, seen: usize, asleep: &AtomicBool, parker: &Parker) -> usize {
        let open = || Some(self.job.load(Ordering::SeqCst)).filter(|job| job % 2 == 1 && *job != seen);
        let since = Instant::now();
        loop {
            for _ in 0..32 {
                if let Some(job) = open() {
                    return job;
                }
                std::hint::spin_loop();
            }
            if since.elapsed() > AWAKE {
                asleep.store(true, Ordering::SeqCst);
                // A job that came meanwhile has not seen the mark; one that comes now does.
                let job = loop {
                    match open() {
                        Some(job) => break job,
                        // The caller is at a last task, or has lost its core.
                        None if self.job.load(Ordering::SeqCst) == seen => {
                            if self.caller.is_stuck() {
                                self.caller.lend(true);
                            }
                            parker.park_timeout(CHECK);
                        }
                        None => parker.park(),
                    }
                };
                asleep.store(false, Ordering::SeqCst);
                return job;
            }
        }
    }

    /// Returns when nobody is inside. That is a matter of microseconds, unless a worker is at a long task or has lost its core.
    fn wait_for_workers(&self, workers: &[Worker]) {
        const SPINS: usize = 500;
        let done = || self.inside.load(Ordering::SeqCst) == 0;
        // Not a backoff, neither here nor where workers wait: its pauses grow, and jobs are a few microseconds apart.
        for _ in 0..SPINS {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        PARKER.with(|parker| {
            *locked(&self.sleeper) = Some(parker.unparker().clone());
            self.sleeping.store(true, Ordering::SeqCst);
            while !done() {
                if let Some(worker) = workers.iter().find(|worker| worker.seat.is_stuck()) {
                    worker.seat.lend(false);
                }
                parker.park_timeout(CHECK);
            }
            self.sleeping.store(false, Ordering::SeqCst);
        });
    }

    /// Takes tasks until there are none.
    fn work(&self, call: Call) {
        IN_TASK.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= call.n {
                    return;
                }
                // SAFETY: the job has not ended, so its closure lives.
                unsafe { (*call.task)(i) };
            }
        }));
        IN_TASK.set(false);
        if let Err(panic) = result {
            self.next.store(call.n, Ordering::Relaxed);
            locked(&self.panic).get_or_insert(panic);
        }
    }
}

/// Nothing here is left half done by a panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number() {
        for round in 0..2000 {
            let n = round % 67;
            let mut runs = vec![0u8; n];
            for_chunks(&mut runs, 1, |_, run| run[0] += 1);
            assert!(runs.iter().all(|n| *n == 1), "{n} tasks: {runs:?}");
            if round % 500 == 0 {
                std::thread::sleep(2 * AWAKE); // workers sleep, and wake again
            }
        }
    }

    #[test]
    fn callers_on_several_threads_and_within_tasks_get_their_work_done() {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let total = AtomicUsize::new(0);
                        for_each(8, |i| for_each(4, |j| _ = total.fetch_add(i * 4 + j, Ordering::Relaxed)));
                        assert_eq!(total.into_inner(), 31 * 32 / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        for i in 0..20 {
            let caught = catch_unwind(|| for_each(20, |task| assert!(task != i, "task {i}")));
            let text = caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*text, format!("task {i}"));
            every_task_runs_once();
        }
    }

    fn every_task_runs_once() {
        let mut runs = [0u8; 33];
        for_chunks(&mut runs, 2, |_, runs| runs.iter_mut().for_each(|n| *n += 1));
        assert_eq!(runs, [1; 33]);
    }

    #[test]
    fn pieces_are_numbered_and_the_last_may_be_short() {
        let mut data = [0usize; 10];
        for_chunks(&mut data, 4, |i, piece| piece.fill(i + 10 * piece.len()));
        assert_eq!(data, [40, 40, 40, 40, 41, 41, 41, 41, 22, 22]);
    }
}
