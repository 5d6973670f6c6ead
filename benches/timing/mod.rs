//! How long work takes on a machine that others use, too: wall clock or the threads' own, whichever is shorter.

use std::time::Instant;

use longtake::kernels::threads;

/// The shortest of several runs, about a second in all. Work that is short is repeated within a run: the clock of the
/// processors' time ticks every few milliseconds.
pub fn best(mut work: impl FnMut()) -> f64 {
    const RUN: f64 = 0.1;
    let mut repeat = 1;
    let (mut best, mut runs, start) = (f64::INFINITY, 0, Instant::now());
    while runs < 3 || start.elapsed().as_secs_f64() < 0.8 {
        let (t, cpu) = (Instant::now(), cpu_seconds());
        (0..repeat).for_each(|_| work());
        let wall = t.elapsed().as_secs_f64();
        if wall < RUN / 2.0 {
            repeat = (repeat as f64 * (RUN / wall).clamp(1.5, 100.0)).ceil() as usize;
            continue;
        }
        let busy = cpu_seconds().zip(cpu).map_or(wall, |(end, begin)| (end - begin) / threads::count() as f64);
        best = best.min(wall.min(busy) / repeat as f64);
        runs += 1;
    }
    best
}

/// Seconds that the threads of this process have run, in all.
fn cpu_seconds() -> Option<f64> {
    let mut sum = 0f64;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let line = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += line.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(sum / 1e9)
}
