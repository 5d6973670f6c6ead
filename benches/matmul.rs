//! Matrix products with every weight type at the shapes of a 2B model, as a share of what this machine can do: the bench
//! first measures the peaks itself, on the same threads and in the same run.
//!
//! `cargo bench --bench matmul -- [--tokens N] [--kernels NAME] [--types Q4_K,Q8_0] [--quick] [--hog]`
//!
//! Prefill rows give GOP/s (two per weight and token) and the share of the peak of the dot-product instruction that the
//! kernels use; decode rows give the weights read per second and the share of the read bandwidth. Every number is the best
//! of several runs: what else the machine does only makes them slower. On Unix the time that the process really had the
//! processors for, divided by its threads, is taken where that is shorter (a spinning thread counts as busy). Built with the feature `ggml`, it also runs the same
//! products in ggml, with plain and with repacked weights, and prints the better of the two and how many times faster ours
//! is (`RUSTFLAGS=-Ctarget-cpu=native`, or ggml uses AVX2 only).
//!
//! `--hog` instead tells what is left of the rates when another thread spins on one of the cores: mean rates, by the clock.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longtake::gguf::GgmlType;
use longtake::kernels::{Activations, Kernels, Number, Panel, supported, threads};
use longtake::random::Rng;
use longtake::tensor::MatView;
use rayon::prelude::*;

/// (n_cols, n_rows) of the matrices, without the output layer.
const SHAPES: [(usize, usize); 4] = [(1536, 1536), (1536, 8960), (8960, 1536), (1536, 256)];
/// (n_cols, n_rows) of the output layer.
const OUTPUT: (usize, usize) = (1536, 151_936);

const TYPES: [GgmlType; 15] = [
    GgmlType::Q4_K,
    GgmlType::Q6_K,
    GgmlType::Q5_K,
    GgmlType::Q3_K,
    GgmlType::Q2_K,
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::F32,
];

/// Seconds that it takes to hand every thread nothing, one time after the other.
fn fork_and_join(time: Duration) -> f64 {
    const TIMES: u32 = 1000;
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed() < time {
        let t = Instant::now();
        for _ in 0..TIMES {
            threads::for_each(threads::count(), |i| {
                black_box(i);
            });
        }
        best = best.min(t.elapsed().as_secs_f64() / f64::from(TIMES));
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let n_tokens = after("--tokens").map_or(512, |n| n.parse().expect("--tokens takes a number"));
    let quick = args.iter().any(|a| a == "--quick");
    let types: Vec<GgmlType> = match after("--types") {
        None => TYPES.to_vec(),
        Some(names) => {
            let find = |name: &str| TYPES.into_iter().find(|ty| ty.to_string().eq_ignore_ascii_case(name));
            names.split(',').map(|name| find(name).unwrap_or_else(|| panic!("no type `{name}`"))).collect()
        }
    };
    let tables = supported();
    let kernels = match after("--kernels") {
        None => tables.last().expect("there is always a table"),
        Some(name) => tables.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("no kernels `{name}` here")),
    };
    let time = if quick { Duration::from_millis(150) } else { Duration::from_millis(600) };

    if args.iter().any(|a| a == "--hog") {
        return beside_a_hog(kernels, n_tokens, 4 * time);
    }
    let read = read_bandwidth(time);
    println!("kernels {}, {} threads, {n_tokens} tokens; best of several runs", kernels.name, threads::count());
    println!("read bandwidth {read:.1} GB/s");
    println!("a fork and join without work {:.2} us", fork_and_join(time) * 1e6);
    let peaks = peaks::all(time);
    for (name, gops) in &peaks {
        println!("{name} {gops:.0} GOP/s");
    }
    let peak = |name: &str| peaks.iter().find(|p| p.0.starts_with(name)).map_or(f64::NAN, |p| p.1);
    // The instructions that the kernels multiply 8-bit and 16-bit integers and floats with.
    let instructions = match kernels.name {
        "avx512vnni" => ["vpdpbusd zmm", "vpdpwssd zmm", "f32 fma zmm"],
        "avx512" => ["vpmaddwd zmm", "vpmaddwd zmm", "f32 fma zmm"],
        "avxvnni" => ["vpdpbusd ymm", "vpdpwssd ymm", "f32 fma ymm"],
        _ => ["vpmaddwd ymm", "vpmaddwd ymm", "f32 fma ymm"],
    };
    let [int8, int16, f32] = instructions.map(peak);
    let codes = peak(if kernels.name == "avx512" { "vpmaddubsw zmm" } else { "vpmaddubsw ymm" });

    println!(
        "\n{:<7} {:>12} {:>8} {:>9} {:>6}{}   {:>8} {:>9} {:>6}{}",
        "type",
        "n_cols x n_rows",
        "prefill",
        "GOP/s",
        "share",
        peer::HEAD,
        "decode",
        "GB/s",
        "share",
        peer::HEAD
    );
    for ty in types {
        let peak = match kernels.int8.layout.panel(ty).expect("has a decoder").number {
            Number::Codes { .. } => codes,
            Number::Int8 => int8,
            Number::Int16 => int16,
            Number::F32 => f32,
        };
        let (mut prefill_total, mut decode_total, mut ops_total, mut bytes_total) = (0.0, 0.0, 0.0, 0.0);
        let mut peer_totals = [Some(0.0), Some(0.0)];
        for (n_cols, n_rows) in SHAPES.into_iter().chain([OUTPUT]) {
            let weights = Weights::new(ty, n_cols, n_rows);
            let ops = 2.0 * (n_cols * n_rows * n_tokens) as f64;
            let bytes = weights.row_bytes as f64 * n_rows as f64;
            // The output layer meets one token only.
            let prefill = if n_rows == OUTPUT.1 { None } else { Some(weights.prefill(kernels, n_tokens, time)) };
            let decode = weights.decode(kernels, time);
            let peers = peer::seconds(&weights, n_tokens, time);
            let peers = if prefill.is_none() { [None, peers[1]] } else { peers };
            print!("{:<7} {:>15}", ty.to_string(), format!("{n_cols} x {n_rows}"));
            match prefill {
                None => print!(" {:>8} {:>9} {:>6}{}", "", "", "", peer::column(None, 0.0, 0.0)),
                Some(secs) => {
                    (prefill_total, ops_total) = (prefill_total + secs, ops_total + ops);
                    peer_totals[0] = peer_totals[0].zip(peers[0]).map(|(total, secs)| total + secs);
                    print!(" {:>6.2}ms {:>9.0} {:>5.0}%", secs * 1e3, ops / secs / 1e9, ops / secs / 1e7 / peak);
                    print!("{}", peer::column(peers[0], ops, secs));
                }
            }
            (decode_total, bytes_total) = (decode_total + decode, bytes_total + bytes);
            let gbs = bytes / decode / 1e9;
            print!("   {:>6.0}us {gbs:>9.1} {:>5.0}%", decode * 1e6, 100.0 * gbs / read);
            println!("{}", peer::column(peers[1], bytes, decode));
            peer_totals[1] = peer_totals[1].zip(peers[1]).map(|(total, secs)| total + secs);
        }
        let (gops, gbs) = (ops_total / prefill_total / 1e9, bytes_total / decode_total / 1e9);
        println!(
            "{ty:<7} {:>15} {:>8} {gops:>9.0} {:>5.0}%{}   {:>8} {gbs:>9.1} {:>5.0}%{}\n",
            "all",
            "",
            100.0 * gops / peak,
            peer::column(peer_totals[0], ops_total, prefill_total),
            "",
            100.0 * gbs / read,
            peer::column(peer_totals[1], bytes_total, decode_total)
        );
    }
}

/// The shortest time of `work`, repeated for about `time` but at least three times.
fn best(time: Duration, mut work: impl FnMut()) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed() < time {
        let (one, cpu) = (Instant::now(), cpu_seconds());
        work();
        // f64::min takes the other one where there is no such clock.
        let busy = (cpu_seconds() - cpu) / threads::count() as f64;
        best = best.min(one.elapsed().as_secs_f64().min(busy));
        runs += 1;
    }
    best
}

/// Prefill and decode without and with a thread that spins on the last core of the process, in turn.
fn beside_a_hog(kernels: &Kernels, n_tokens: usize, time: Duration) {
    const ROUNDS: usize = 5;
    println!("kernels {}, {} threads; of the quiet rate is left, with one core taken:", kernels.name, threads::count());
    let weights = Weights::new(GgmlType::Q4_K, SHAPES[1].0, SHAPES[1].1);
    for (name, n_tokens) in [("prefill", n_tokens), ("decode", 1)] {
        let x: Vec<f32> = (0..n_tokens * weights.n_cols).map(|i| (i % 251) as f32 - 125.0).collect();
        let mut out = vec![0.0; n_tokens * weights.n_rows];
        let mut products = || {
            let (start, mut n) = (Instant::now(), 0);
            while start.elapsed() < time {
                n += 1;
                Activations::new(kernels, &x, weights.n_cols).matmul(weights.copy(n), &mut out);
            }
            n as f64 / start.elapsed().as_secs_f64()
        };
        let mut left: Vec<f64> = (0..ROUNDS).map(|_| products() / with_hog(&mut products)).map(f64::recip).collect();
        left.sort_by(f64::total_cmp);
        println!(
            "{name:<8} {:.0} % (median of {ROUNDS}; {:.0} to {:.0})",
            100.0 * left[ROUNDS / 2],
            100.0 * left[0],
            100.0 * left[ROUNDS - 1]
        );
    }
}

fn with_hog(work: impl FnOnce() -> f64) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bind_to_last_core();
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

#[cfg(target_os = "linux")]
fn bind_to_last_core() {
    // SAFETY: the calls fill and read the sets that they are given, and numbers are below the size of one.
    unsafe {
        let (mut cores, mut last): (libc::cpu_set_t, libc::cpu_set_t) = (std::mem::zeroed(), std::mem::zeroed());
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cores), 0);
        let core = (0..libc::CPU_SETSIZE as usize).rfind(|core| libc::CPU_ISSET(*core, &cores)).expect("this one");
        libc::CPU_SET(core, &mut last);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const last), 0);
    }
}

#[cfg(not(target_os = "linux"))]
fn bind_to_last_core() {}

/// Seconds that the threads of this process have run, in all.
#[cfg(unix)]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills what it is given.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every Unix has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(not(unix))]
fn cpu_seconds() -> f64 {
    f64::NAN
}

/// As many copies of a random matrix as it takes to outgrow the caches.
struct Weights {
    ty: GgmlType,
    n_cols: usize,
    n_rows: usize,
    row_bytes: usize,
    copies: usize,
    data: Vec<u8>,
}

impl Weights {
    fn new(ty: GgmlType, n_cols: usize, n_rows: usize) -> Weights {
        const COLD: usize = 512 << 20;
        let row_bytes = ty.row_bytes(n_cols).expect("whole blocks");
        let copies = COLD.div_ceil(row_bytes * n_rows).min(64);
        let mut data = vec![0u8; copies * row_bytes * n_rows];
        // Any bytes do: kernels have no branches on them. Small ones keep f16 scales finite; but floats must not be so small
        // that arithmetic with them is slow.
        let float = Panel::of(ty).is_some_and(|panel| panel.number != Number::Int8);
        let element = if float { ty.row_bytes(1).expect("one element") } else { usize::MAX };
        data.par_chunks_mut(row_bytes).enumerate().for_each(|(i, row)| {
            let mut rng = Rng::new(i as u64);
            row.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8 & 0x3b);
            row.chunks_exact_mut(element).for_each(|float| float[element - 1] |= 0x38);
        });
        Weights { ty, n_cols, n_rows, row_bytes, copies, data }
    }

    fn copy(&self, i: usize) -> MatView<'_> {
        let bytes = self.row_bytes * self.n_rows;
        let data = &self.data[i % self.copies * bytes..][..bytes];
        MatView::new(self.ty, self.n_cols, self.n_rows, data).expect("whole rows")
    }

    fn prefill(&self, kernels: &Kernels, n_tokens: usize, time: Duration) -> f64 {
        let x: Vec<f32> = (0..n_tokens * self.n_cols).map(|i| (i % 251) as f32 - 125.0).collect();
        let mut out = vec![0.0; n_tokens * self.n_rows];
        let mut i = 0;
        best(time, || {
            i += 1;
            Activations::new(kernels, &x, self.n_cols).matmul(self.copy(i), &mut out);
            black_box(&mut out);
        })
    }

    /// Seconds per product with one token.
    fn decode(&self, kernels: &Kernels, time: Duration) -> f64 {
        let x: Vec<f32> = (0..self.n_cols).map(|i| (i % 251) as f32 - 125.0).collect();
        let mut out = vec![0.0; self.n_rows];
        let mut i = 0;
        let many = (4 << 20) / (self.row_bytes * self.n_rows) + 1;
        best(time, || {
            for _ in 0..many {
                i += 1;
                Activations::new(kernels, &x, self.n_cols).matmul(self.copy(i), &mut out);
                black_box(&mut out);
            }
        }) / many as f64
    }
}

/// Without ggml there is nothing beside our numbers.
#[cfg(not(feature = "ggml"))]
mod peer {
    pub const HEAD: &str = "";

    pub fn seconds(_: &super::Weights, _: usize, _: std::time::Duration) -> [Option<f64>; 2] {
        [None, None]
    }

    pub fn column(_: Option<f64>, _: f64, _: f64) -> String {
        String::new()
    }
}

#[cfg(feature = "ggml")]
mod peer {
    //! The same products through a ggml graph.

    use ggml_sys::MatMul;

    use super::*;

    pub const HEAD: &str = "      ggml  ratio";

    /// Seconds per product with all tokens, where the output layer is left out, and with one.
    pub fn seconds(weights: &Weights, n_tokens: usize, time: Duration) -> [Option<f64>; 2] {
        let many = if weights.n_rows == OUTPUT.1 { None } else { best_way(weights, n_tokens, time) };
        [many, best_way(weights, 1, time)]
    }

    /// The better of plain and repacked weights.
    fn best_way(weights: &Weights, n_tokens: usize, time: Duration) -> Option<f64> {
        let x: Vec<f32> = (0..n_tokens * weights.n_cols).map(|i| (i % 251) as f32 - 125.0).collect();
        let bytes = weights.row_bytes * weights.n_rows;
        let run = |repack: bool| {
            let shape = (weights.n_cols, weights.n_rows);
            let made = MatMul::new(weights.ty.id(), shape, n_tokens, weights.copies, threads::count(), repack);
            let mut products = made.expect("memory for ggml's copies")?;
            (0..weights.copies).for_each(|i| products.set_weights(i, &weights.data[i * bytes..][..bytes]));
            products.set_input(&x);
            let many = if n_tokens == 1 { (4 << 20) / bytes + 1 } else { 1 };
            let mut i = 0;
            let secs = best(time, || {
                for _ in 0..many {
                    i += 1;
                    products.compute(i % weights.copies);
                }
            });
            Some(secs / many as f64)
        };
        [run(false), run(true)].into_iter().flatten().reduce(f64::min)
    }

    /// ggml's operations or bytes per second, and how many times faster ours is.
    pub fn column(theirs: Option<f64>, work: f64, ours: f64) -> String {
        match theirs {
            None => format!("{:>17}", ""),
            Some(secs) => format!(" {:>9.1} {:>5.2}x", work / secs / 1e9, secs / ours),
        }
    }
}

/// Reading memory that no cache holds, on all threads; GB/s. In slices, of which the best counts.
fn read_bandwidth(time: Duration) -> f64 {
    const SLICE: usize = (32 << 20) / 8;
    let data = vec![1u64; (1 << 30) / 8];
    let mut slices = data.chunks_exact(SLICE).cycle();
    let secs = best(time * 5, || {
        let slice = slices.next().expect("cycles");
        let sum = slice.par_chunks(SLICE / threads::count() / 4).map(|part| {
            let sums = part.chunks_exact(32).fold([0u64; 32], |mut sums, v| {
                sums.iter_mut().zip(v).for_each(|(sum, v)| *sum ^= v);
                sums
            });
            sums.iter().fold(0, |a, b| a ^ b)
        });
        black_box(sum.reduce(|| 0, |a, b| a ^ b));
    });
    SLICE as f64 * 8.0 / secs / 1e9
}

#[cfg(not(target_arch = "x86_64"))]
mod peaks {
    pub fn all(_time: std::time::Duration) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

#[cfg(target_arch = "x86_64")]
mod peaks {
    //! Loops of independent instructions, on all threads.

    use std::arch::x86_64::*;
    use std::time::Duration;

    use super::*;

    /// Steps per run: a fraction of a millisecond, which finds the moments in which nothing else runs.
    const STEPS: usize = 1 << 14;

    pub fn all(time: Duration) -> Vec<(&'static str, f64)> {
        let mut peaks = Vec::new();
        let mut measure = |name, found: bool, ops_per_step: usize, work: fn()| {
            if found {
                let secs = best(time, || (0..threads::count()).into_par_iter().for_each(|_| work()));
                peaks.push((name, (ops_per_step * STEPS * threads::count()) as f64 / secs / 1e9));
            }
        };
        macro_rules! measure {
            ($name:literal, $($feature:tt)&&+, $ops:expr, $peak_loop:ident) => {
                measure($name, true $(&& is_x86_feature_detected!($feature))+, $ops, || {
                    // SAFETY: called only where the features that it is compiled with were found.
                    unsafe { $peak_loop() }
                })
            };
        }
        measure!("f32 fma ymm", "avx2" && "fma", 12 * 8 * 2, fma_ymm);
        measure!("f32 fma zmm", "avx512f", 24 * 16 * 2, fma_zmm);
        measure!("vpmaddwd ymm", "avx2", 12 * 16 * 2, maddwd_ymm);
        measure!("vpmaddwd zmm", "avx512f" && "avx512bw", 12 * 32 * 2, maddwd_zmm);
        measure!("vpmaddubsw ymm", "avx2", 12 * 32 * 2, maddubsw_ymm);
        measure!("vpmaddubsw zmm", "avx512f" && "avx512bw", 12 * 64 * 2, maddubsw_zmm);
        measure!("vpdpbusd ymm", "avxvnni", 12 * 32 * 2, dpbusd_ymm);
        measure!("vpdpbusd zmm", "avx512f" && "avx512vnni", 24 * 64 * 2, dpbusd_zmm);
        measure!("vpdpwssd ymm", "avxvnni", 12 * 16 * 2, dpwssd_ymm);
        measure!("vpdpwssd zmm", "avx512f" && "avx512vnni", 24 * 32 * 2, dpwssd_zmm);
        peaks
    }

    /// A loop of one instruction, or two by way of a register, on many accumulators. The instructions are spelled out so
    /// that no compiler takes them together.
    macro_rules! peak_loop {
        ($name:ident, $features:literal, $n:literal, $register:ident, $zero:expr, $first:literal $(, $second:literal)?) => {
            #[target_feature(enable = $features)]
            fn $name() {
                let (mut acc, operand) = ([$zero; $n], black_box($zero));
                for _ in 0..STEPS {
                    for acc in acc.iter_mut() {
                        let mut by_way = operand;
                        // SAFETY: arithmetic on registers.
                        unsafe {
                            std::arch::asm!(
                                $first, $($second,)?
                                acc = inout($register) *acc, x = in($register) operand, t = inout($register) by_way,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                        }
                        let _ = by_way;
                    }
                }
                black_box(acc);
            }
        };
    }

    peak_loop!(fma_ymm, "avx2,fma", 12, ymm_reg, _mm256_setzero_ps(), "vfmadd231ps {acc}, {x}, {x} // {t}");
    peak_loop!(fma_zmm, "avx512f", 24, zmm_reg, _mm512_setzero_ps(), "vfmadd231ps {acc}, {x}, {x} // {t}");
    peak_loop!(
        maddwd_ymm,
        "avx2",
        12,
        ymm_reg,
        _mm256_setzero_si256(),
        "vpmaddwd {t}, {x}, {x}",
        "vpaddd {acc}, {acc}, {t}"
    );
    peak_loop!(
        maddwd_zmm,
        "avx512f,avx512bw",
        12,
        zmm_reg,
        _mm512_setzero_si512(),
        "vpmaddwd {t}, {x}, {x}",
        "vpaddd {acc}, {acc}, {t}"
    );
    peak_loop!(dpwssd_ymm, "avxvnni", 12, ymm_reg, _mm256_setzero_si256(), "{{vex}} vpdpwssd {acc}, {x}, {x} // {t}");
    peak_loop!(
        dpwssd_zmm,
        "avx512f,avx512vnni",
        24,
        zmm_reg,
        _mm512_setzero_si512(),
        "vpdpwssd {acc}, {x}, {x} // {t}"
    );
    peak_loop!(dpbusd_ymm, "avxvnni", 12, ymm_reg, _mm256_setzero_si256(), "{{vex}} vpdpbusd {acc}, {x}, {x} // {t}");
    peak_loop!(
        dpbusd_zmm,
        "avx512f,avx512vnni",
        24,
        zmm_reg,
        _mm512_setzero_si512(),
        "vpdpbusd {acc}, {x}, {x} // {t}"
    );
    // Bytes to sums of 16 bits.
    peak_loop!(
        maddubsw_ymm,
        "avx2",
        12,
        ymm_reg,
        _mm256_setzero_si256(),
        "vpmaddubsw {t}, {x}, {x}",
        "vpaddw {acc}, {acc}, {t}"
    );
    peak_loop!(
        maddubsw_zmm,
        "avx512f,avx512bw",
        12,
        zmm_reg,
        _mm512_setzero_si512(),
        "vpmaddubsw {t}, {x}, {x}",
        "vpaddw {acc}, {acc}, {t}"
    );
}
