//! What all fuzz targets share: an allocator that counts, and the frame in which a target runs.
//!
//! Targets themselves stand in `longtake::fuzzing`; here one is given its input, and its appetite is judged: at the peak a
//! parser may hold [`FREE`] and [`PER_BYTE`] times its input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

pub use libfuzzer_sys;
use longtake::fuzzing::{Target, target};

/// Bytes that any parser may hold.
const FREE: usize = 64 << 20;
/// Bytes for each byte of input on top.
const PER_BYTE: usize = 4;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a count of bytes held and of the most that were. Threads of a target count as well.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(n: usize) {
    let held = HELD.fetch_add(n, Relaxed).wrapping_add(n);
    if held > PEAK.load(Relaxed) {
        PEAK.fetch_max(held, Relaxed);
    }
}

// SAFETY: every call goes to `System` as it came; the counts beside it touch no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What the last panic said, and where.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Called once: finds the target called `name`, and writes its seeds into the folder that `LONGTAKE_FUZZ_SEEDS` names.
///
/// # Panics
/// When there is no such target, or the folder cannot be written to.
pub fn begin(name: &str) {
    let target = target(name);
    // A panic that the program catches is an error to it, as those of decoders are. So the fuzzer's hook, which ends the
    // process at any panic, makes room for one that remembers what would be said.
    std::panic::set_hook(Box::new(|panic| {
        *LAST_PANIC.lock().unwrap_or_else(|err| err.into_inner()) = panic.to_string();
    }));
    let Some(dir) = std::env::var_os("LONGTAKE_FUZZ_SEEDS") else { return };
    for (i, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&dir).join(format!("seed-{i:03}"));
        std::fs::write(&path, seed).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    }
}

/// Runs the target called `name` and judges how much memory it held.
///
/// Ends the process, and says why, when the target panics or held too much.
pub fn run(name: &str, input: &[u8]) {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| target(name));
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        eprintln!("{}", LAST_PANIC.lock().unwrap_or_else(|err| err.into_inner()));
        std::process::abort();
    }
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    let most = FREE + PER_BYTE * input.len();
    if peak > most {
        eprintln!("{peak} bytes held for an input of {}, at most {most}", input.len());
        std::process::abort();
    }
}

/// A fuzz target around the one of `longtake::fuzzing` that is called so.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::begin($name),
            |input: &[u8]| $crate::run($name, input)
        );
    };
}
