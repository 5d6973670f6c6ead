//! A core for who needs it: a thread that waits for the task of another lends it its core, if the operating system has given
//! that of the other one to somebody else.
//!
//! On a machine that others use, a thread may be taken off its core in the middle of a task for milliseconds, a hundred times
//! as long as the whole job of a decode step, while the core of who waits for it idles: the scheduler moves threads only when it
//! sees an imbalance for longer. Elsewhere than on Linux nobody lends.

#[cfg(target_os = "linux")]
pub(super) use linux::Seat;
#[cfg(not(target_os = "linux"))]
pub use others::Seat;

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::{Cell, UnsafeCell};
    use std::mem::{MaybeUninit, size_of};
    use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, Ordering};

    use libc::{cpu_set_t, pid_t};

    /// Where a thread works, as long as it does.
    pub(crate) struct Seat {
        state: AtomicU8,
        thread: AtomicI32,
        home: AtomicI32,
        /// When it was last moved off another's core, in time that it has run.
        moved_off: AtomicI64,
        /// The cores that the thread may use when nobody lends it one: written in `BEING_MOVED`, read in `MOVED`.
        before: UnsafeCell<MaybeUninit<cpu_set_t>>,
    }

    const AWAY: u8 = 0;
    const AT_WORK: u8 = 1;
    const BEING_MOVED: u8 = 2;
    const MOVED: u8 = 3;

    // SAFETY: `before` belongs to who brought the state to `BEING_MOVED`, and then, in `MOVED`, to the thread of the seat.
    unsafe impl Sync for Seat {}

    thread_local! {
        static THREAD: Cell<pid_t> = const { Cell::new(0) };
    }

    impl Default for Seat {
        fn default() -> Seat {
            Seat {
                state: AtomicU8::new(AWAY),
                thread: AtomicI32::new(0),
                home: AtomicI32::new(-1),
                moved_off: AtomicI64::new(i64::MIN / 2),
                before: UnsafeCell::new(MaybeUninit::uninit()),
            }
        }
    }

    impl Seat {
        /// The calling thread begins to work, on another core than the thread of the seat `beside`.
        pub(crate) fn take(&self, beside: Option<&Seat>) {
            if THREAD.get() == 0 {
                // SAFETY: it only asks for a number.
                THREAD.set(unsafe { libc::gettid() });
            }
            self.thread.store(THREAD.get(), Ordering::Relaxed);
            let mut home = core();
            if home >= 0 && beside.is_some_and(|beside| beside.home.load(Ordering::Relaxed) == home) {
                self.move_off(home);
                home = core();
            }
            self.home.store(home, Ordering::Relaxed);
            // From here on others may move it.
            self.state.store(AT_WORK, Ordering::SeqCst);
        }

        /// Leaves `core`, if there is another one: where every core has something to do, threads are often put where they were
        /// woken.
        fn move_off(&self, core: i32) {
            /// Nanoseconds of work between two moves, for threads that have no other core to go to.
            const SELDOM: i64 = 5_000_000;
            let now = time_of(self.thread.load(Ordering::Relaxed)).unwrap_or(0);
            if now >= self.moved_off.load(Ordering::Relaxed) + SELDOM {
                self.moved_off.store(now, Ordering::Relaxed);
                move_to(|cores| {
                    // SAFETY: a number of the system's, and the function checks it.
                    unsafe { libc::CPU_CLR(core as usize, cores) }
                });
            }
        }

        /// The calling thread is done, if it took the seat. On a core that is lent it stays, or else goes back to its own,
        /// where it may have to wait for its turn.
        pub(crate) fn leave(&self, stay: bool) {
            loop {
                if self.change(AT_WORK, AWAY) || self.state.load(Ordering::SeqCst) == AWAY {
                    return;
                }
                if self.state.load(Ordering::SeqCst) == MOVED {
                    // SAFETY: in this state `before` is filled, and this thread's.
                    let before = unsafe { (*self.before.get()).assume_init_ref() };
                    if !stay {
                        bind(0, &only(self.home.load(Ordering::Relaxed)));
                    }
                    bind(0, before);
                    self.state.store(AWAY, Ordering::SeqCst);
                    return;
                }
                std::thread::yield_now();
            }
        }

        /// Whether the thread of this seat is at work but has not run for some microseconds.
        pub(crate) fn is_stuck(&self) -> bool {
            const SPINS: usize = 100;
            if self.state.load(Ordering::SeqCst) != AT_WORK {
                return false;
            }
            let thread = self.thread.load(Ordering::Relaxed);
            let before = time_of(thread);
            (0..SPINS).for_each(|_| std::hint::spin_loop());
            before.is_some() && before == time_of(thread) && self.state.load(Ordering::SeqCst) == AT_WORK
        }

        /// Brings the thread of this seat onto the core of the calling thread, which will sleep now. With `swap` that one goes
        /// to the other's core. Whether it worked.
        pub(crate) fn lend(&self, swap: bool) -> bool {
            let (mine, home) = (core(), self.home.load(Ordering::Relaxed));
            // Who is on the same core gets it as soon as this thread sleeps.
            if mine < 0 || mine == home || !self.change(AT_WORK, BEING_MOVED) {
                return false;
            }
            let thread = self.thread.load(Ordering::Relaxed);
            // SAFETY: this state makes `before` ours; the call fills what it is given.
            let known = unsafe {
                libc::sched_getaffinity(thread, size_of::<cpu_set_t>(), (*self.before.get()).as_mut_ptr()) == 0
            };
            let moved = known && bind(thread, &only(mine));
            self.state.store(if moved { MOVED } else { AT_WORK }, Ordering::SeqCst);
            if moved && swap {
                move_to(|cores| *cores = only(home));
            }
            moved
        }

        fn change(&self, from: u8, to: u8) -> bool {
            self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        }
    }

    /// Moves the calling thread to those of its cores that `choose` leaves, without binding it there.
    fn move_to(choose: impl Fn(&mut cpu_set_t)) {
        let mut before = MaybeUninit::uninit();
        // SAFETY: the call fills what it is given.
        if unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), before.as_mut_ptr()) } == 0 {
            // SAFETY: filled just above.
            let before = unsafe { before.assume_init() };
            let mut chosen = before;
            choose(&mut chosen);
            if bind(0, &chosen) {
                bind(0, &before);
            }
        }
    }

    /// The core that the calling thread runs on.
    fn core() -> i32 {
        // SAFETY: it only asks for a number.
        unsafe { libc::sched_getcpu() }
    }

    /// A set of one core.
    fn only(core: i32) -> cpu_set_t {
        // SAFETY: a set is made of integers; the core is one that the system named, and the function checks it.
        unsafe {
            let mut set: cpu_set_t = std::mem::zeroed();
            libc::CPU_SET((core.max(0) as usize).min(libc::CPU_SETSIZE as usize - 1), &mut set);
            set
        }
    }

    /// Lets a thread (0: this one) use these cores only; whether the system agreed.
    fn bind(thread: pid_t, cores: &cpu_set_t) -> bool {
        // SAFETY: the call reads the set.
        unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), cores) == 0 }
    }

    /// Nanoseconds that a thread has run.
    #[allow(clippy::unnecessary_cast)] // some machines count in 32 bits
    fn time_of(thread: pid_t) -> Option<i64> {
        // The clock of a thread, as the kernel numbers them: 2 is its running time, 4 says that it is one thread's.
        let clock = (!thread << 3) | 6;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills what it is given, or fails.
        let known = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
        known.then(|| time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn cores() -> Vec<bool> {
            let mut set = MaybeUninit::uninit();
            // SAFETY: the call fills what it is given.
            let set: cpu_set_t = unsafe {
                assert_eq!(libc::sched_getaffinity(0, size_of::<cpu_set_t>(), set.as_mut_ptr()), 0);
                set.assume_init()
            };
            // SAFETY: numbers below the size of the set.
            (0..libc::CPU_SETSIZE as usize).map(|i| unsafe { libc::CPU_ISSET(i, &set) }).collect()
        }

        #[test]
        fn who_was_lent_a_core_may_use_the_same_ones_afterwards() {
            for stay in [true, false] {
                let (seat, asleep) = (Seat::default(), std::sync::Barrier::new(2));
                std::thread::scope(|scope| {
                    let worker = scope.spawn(|| {
                        let before = cores();
                        seat.take(None);
                        asleep.wait();
                        asleep.wait();
                        let lent = cores();
                        seat.leave(stay);
                        (before, lent, cores())
                    });
                    assert!(!Seat::default().is_stuck(), "nobody is there");
                    asleep.wait();
                    // The worker sleeps now, or soon.
                    while !seat.is_stuck() {
                        std::thread::yield_now();
                    }
                    let moved = seat.lend(false);
                    assert!(!moved || !seat.lend(false), "it has been lent one already");
                    asleep.wait();
                    let (before, lent, after) = worker.join().unwrap();
                    assert_eq!(before, after);
                    assert!(!moved || lent.iter().filter(|core| **core).count() == 1);
                });
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod others {
    /// Nobody lends here.
    #[derive(Default)]
    pub struct Seat;

    impl Seat {
        pub fn take(&self, _beside: Option<&Seat>) {}
        pub fn leave(&self, _stay: bool) {}
        pub fn is_stuck(&self) -> bool {
            false
        }
        pub fn lend(&self, _swap: bool) -> bool {
            false
        }
    }
}
