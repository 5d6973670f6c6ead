//! Every target without a fuzzer: its seeds, then what becomes of them under a simple mutator, for as long as
//! `LONGTAKE_FUZZ_SECONDS` says (a tenth of a second each unless it is set). `LONGTAKE_FUZZ_INPUT` is a file, or a folder of
//! files, to be run beside the seeds: what a fuzzer found.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{TARGETS, Target};
use crate::random::Rng;

/// Longest input that mutation makes.
const MAX_INPUT: usize = 256 << 10;
/// Longest that one input may take on a busy machine.
const MAX_SECONDS: f64 = 20.0;

thread_local! {
    /// What the last panic of this thread said, and where; only while a target runs.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the panics of targets, most of which they catch themselves, out of the output.
fn keep_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let kept = PANIC.with_borrow_mut(|last| last.as_mut().map(|last| *last = panic.to_string()));
        if kept.is_none() {
            print(panic);
        }
    }));
}

#[test]
fn no_target_falls_over_its_seeds_or_what_becomes_of_them() {
    let seconds = std::env::var("LONGTAKE_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.1);
    let only = std::env::var("LONGTAKE_FUZZ_TARGET").unwrap_or_default();
    keep_panics();
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| only.is_empty() || only == target.name).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // As many at a time as there are processors.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = falls_over(target, Duration::from_secs_f64(seconds));
                    failed.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs a target over its seeds, and for so long over what becomes of them; says over what it falls.
fn falls_over(target: &Target, time: Duration) -> Option<String> {
    let mut corpus = (target.seeds)();
    corpus.extend(regressions(target.name).chain(given(target.name)));
    let (mut n, started, whole) = (0u64, Instant::now(), corpus.len());
    let (mut dice, mut wrong) = (Rng::new(0x5eed), None);
    while wrong.is_none() && (n < whole as u64 || started.elapsed() < time) {
        let input = if n < whole as u64 { corpus[n as usize].clone() } else { mutated(&corpus, &mut dice) };
        n += 1;
        wrong = fault(target, &input).map(|wrong| format!("{}, input {n}: {wrong}: {}", target.name, hex(&input)));
    }
    let per_second = n as f64 / started.elapsed().as_secs_f64();
    eprintln!("{:<14} {whole:>4} seeds {n:>9} inputs {per_second:>9.0} a second", target.name);
    wrong
}

/// What goes wrong with `input`, if anything does.
fn fault(target: &Target, input: &[u8]) -> Option<String> {
    PANIC.set(Some(String::new()));
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (seconds, panic) = (started.elapsed().as_secs_f64(), PANIC.take());
    match result {
        Err(_) => panic,
        Ok(()) => (seconds > MAX_SECONDS).then(|| format!("it took {seconds:.1} s")),
    }
}

/// What was once found: inputs that the target `name` fell over.
fn regressions(name: &str) -> impl Iterator<Item = Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(name);
    contents(folder.is_dir().then_some(folder))
}

/// The files that `LONGTAKE_FUZZ_INPUT` names; of a folder with folders, those of the one called `name`.
fn given(name: &str) -> impl Iterator<Item = Vec<u8>> {
    let path = std::env::var_os("LONGTAKE_FUZZ_INPUT").map(PathBuf::from);
    contents(path.map(|path| if path.join(name).is_dir() { path.join(name) } else { path }))
}

/// A file, or the files of a folder in order of their names.
fn contents(path: Option<PathBuf>) -> impl Iterator<Item = Vec<u8>> {
    let mut paths = match path.as_ref().map(std::fs::read_dir) {
        Some(Ok(entries)) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect(),
        Some(Err(_)) => path.into_iter().collect(),
        None => Vec::new(),
    };
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display())))
}

/// The beginning of an input, for a message.
fn hex(input: &[u8]) -> String {
    let shown: String = input.iter().take(4096).map(|b| format!("{b:02x}")).collect();
    format!("{} bytes {shown}{}", input.len(), if input.len() > 4096 { "…" } else { "" })
}

/// A seed with a few changes: flipped bits, numbers at their limits, pieces cut out, repeated, or taken from another seed.
fn mutated(corpus: &[Vec<u8>], dice: &mut Rng) -> Vec<u8> {
    const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
    let mut input = corpus[dice.below(corpus.len())].clone();
    for _ in 0..1 + dice.below(4) {
        let n = input.len();
        if n == 0 {
            input.push(dice.below(256) as u8);
            continue;
        }
        let at = dice.below(n);
        let longest = 1 << dice.below(11);
        let len = 1 + dice.below((n - at).min(longest));
        match dice.below(8) {
            0 => input[at] ^= 1 << dice.below(8),
            1 => input[at] = dice.below(256) as u8,
            2 | 3 => {
                let width = [1, 2, 4, 8][dice.below(4)];
                let number = NUMBERS[dice.below(NUMBERS.len())].wrapping_add(dice.below(3) as u64).wrapping_sub(1);
                let bytes = if dice.below(2) == 0 {
                    number.to_le_bytes()
                } else {
                    number.rotate_left(64 - 8 * width as u32).to_be_bytes()
                };
                let end = (at + width).min(n);
                input[at..end].copy_from_slice(&bytes[..end - at]);
            }
            4 => drop(input.drain(at..at + len)),
            5 => {
                let piece = input[at..at + len].to_vec();
                let to = dice.below(n + 1);
                input.splice(to..to, piece);
            }
            6 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                let piece = &other[from..(from + len).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            _ => input.truncate(at),
        }
        input.truncate(MAX_INPUT);
    }
    input
}
