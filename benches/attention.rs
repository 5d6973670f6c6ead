//! Attention and the cache write beside the machine's limits, measured in the same run.
//!
//! `cargo bench --bench attention [-- WORD...]`: only rows whose name contains one of the words. `LONGTAKE_KERNELS` picks
//! the table. Times are the best of several runs, since other work on the machine only ever adds to them. On Linux the
//! time that the process really had the processors for, divided by its threads, is taken where that is shorter (a spinning
//! thread counts as busy): on a machine that others use, the wall clock says more about them.
//!
//! Attention counts 4 * d operations per pair of a query row and a key that it sees, whatever it really does.

mod timing;

use std::hint::black_box;

use longtake::cache::CacheType;
use longtake::gguf::GgmlType;
use longtake::kernels::{self, AttentionShape, CacheRows, Kernels, KvView, attention, kv_write, threads};
use longtake::position::{Layout, Pos, Rotary, RotaryTable};
use longtake::random::Rng;
use rayon::prelude::*;

use timing::best;

/// Qwen2-VL-2B.
const HEADS: (usize, usize, usize) = (12, 2, 128);

/// Models with their layers of attention and the heads of these.
const MODELS: [(&str, usize, (usize, usize, usize)); 3] =
    [("Qwen2-VL-2B", 28, HEADS), ("Qwen3-VL-2B", 28, (16, 8, 128)), ("Qwen3.5-2B", 6, (8, 2, 256))];

struct Bench {
    words: Vec<String>,
    kernels: &'static Kernels,
    peaks: Peaks,
}

fn main() {
    longtake::cli::environment::choose_kernels().expect("nothing else chooses");
    let kernels = kernels::select().expect("LONGTAKE_KERNELS names a table");
    let words = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let peaks = Peaks::measure();
    println!("table {}, {} threads", kernels.name, threads::count());
    println!(
        "peaks: f32 {:.0} GFLOP/s, i16 {:.0} and i8 {:.0} GOP/s, read {:.1} GB/s",
        peaks.f32, peaks.i16, peaks.i8, peaks.read
    );
    let bench = Bench { words, kernels, peaks };
    for ty in CacheType::all() {
        for depth in [4096, 16384, 65536] {
            bench.text(&format!("prefill {ty} @{depth}"), ty, HEADS, depth, 512);
        }
    }
    for ty in CacheType::all() {
        for depth in [4096, 16384, 65536] {
            bench.text(&format!("decode {ty} @{depth}"), ty, HEADS, depth, 1);
        }
    }
    // A video of 64k tokens in steps of 512, which see half of them on average.
    for (model, n_layer, heads) in MODELS {
        let name = format!("{model} Q8_0 64k");
        if let Some(secs) = bench.text(&name, GgmlType::Q8_0.into(), heads, 32_512, 512) {
            println!("{name:<22} {:>9.1} s of attention in {n_layer} layers", secs * 128.0 * n_layer as f64);
        }
    }
    for n in [576, 1196, 4000] {
        bench.vision(&format!("vision {n}"), n, false);
        bench.vision(&format!("vision {n} exact"), n, true);
    }
    for ty in CacheType::all() {
        bench.write(&format!("write {ty}"), ty, 512);
    }
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Prints a row, and returns its seconds where it is wanted.
    fn text(
        &self,
        name: &str,
        ty: CacheType,
        (n_head, n_head_kv, d): (usize, usize, usize),
        depth: usize,
        n: usize,
    ) -> Option<f64> {
        if !self.wants(name) {
            return None;
        }
        let n_kv = depth + n;
        let store = Store::new(ty, n_head_kv, d, n_kv);
        let q = noise(2, n * n_head * d);
        let mut out = vec![0f32; q.len()];
        let shape = AttentionShape { n_head, n_head_kv, d, n_past: depth, causal: true, exact: true };
        let secs = best(|| attention(self.kernels, shape, store.view(), &q, &mut out));
        let pairs = n * depth + n * (n + 1) / 2;
        let rate = (pairs * n_head * 4 * d) as f64 / secs / 1e9;
        let read = 2.0 * (n_head_kv * n_kv * ty.row_bytes(d).unwrap()) as f64 / secs / 1e9;
        if n == 1 {
            let share = 100.0 * read / self.peaks.read;
            println!("{name:<22} {:>9.3} ms {read:>7.1} GB/s {share:>4.0} % of read bandwidth", secs * 1e3);
        } else {
            println!("{name:<22} {:>9.3} ms {rate:>7.0} GFLOP/s {}", secs * 1e3, self.shares(rate));
        }
        Some(secs)
    }

    fn shares(&self, rate: f64) -> String {
        let p = &self.peaks;
        format!(
            "{:.0} % of f32, {:.0} % of i16, {:.0} % of i8",
            100.0 * rate / p.f32,
            100.0 * rate / p.i16,
            100.0 * rate / p.i8
        )
    }

    fn vision(&self, name: &str, n: usize, exact: bool) {
        if !self.wants(name) {
            return;
        }
        let (n_head, d) = (16, 80);
        let store = Store::new(GgmlType::F32.into(), n_head, d, n);
        let q = noise(2, n * n_head * d);
        let mut out = vec![0f32; q.len()];
        let shape = AttentionShape { n_head, n_head_kv: n_head, d, n_past: 0, causal: false, exact };
        let secs = best(|| attention(self.kernels, shape, store.view(), &q, &mut out));
        let rate = (n * n * n_head * 4 * d) as f64 / secs / 1e9;
        println!("{name:<22} {:>9.3} ms {rate:>7.0} GFLOP/s {}", secs * 1e3, self.shares(rate));
    }

    fn write(&self, name: &str, ty: CacheType, n: usize) {
        if !self.wants(name) {
            return;
        }
        let (n_head, n_head_kv, d) = HEADS;
        let rotary = Rotary::new(Layout::Hope, d, 1e6, [16, 24, 24]).expect("sections sum to 64");
        let pos: Vec<Pos> = (0..n).map(|i| Pos { t: i as f64, h: (i % 23) as f64, w: (i % 29) as f64 }).collect();
        let mut table = RotaryTable::default();
        // On one thread, unlike all else here.
        let fill = best(|| rotary.fill(&pos, &mut table)) * threads::count() as f64;
        let (rows, bias) = (noise(3, n * n_head_kv * d), noise(4, n_head_kv * d));
        let stride = n * ty.row_bytes(d).unwrap();
        let mut data = vec![0u8; n_head_kv * stride];
        let mut write = |rotary| {
            let to = CacheRows { ty, data: &mut data, stride, slot: 0 };
            kv_write(self.kernels, &rows, Some(&bias), rotary, (n_head_kv, d), to).expect("finite");
        };
        let secs = best(|| {
            write(Some((&table, 0)));
            write(None);
        });
        let mut q = noise(3, n * n_head * d);
        let bias = noise(4, n_head * d);
        let rotate = best(|| kernels::rotate_rows(self.kernels, &mut q, Some(&bias), Some((&table, 0)), (n_head, d)));
        let us = |s: f64| s * 1e6;
        println!(
            "{name:<22} {:>9.1} us for K and V of {n} tokens; queries {:.1} us; angles {:.1} us a batch",
            us(secs),
            us(rotate),
            us(fill)
        );
    }
}

/// Keys and values of one layer, filled with noise.
struct Store {
    ty: CacheType,
    stride: usize,
    k: Vec<u8>,
    v: Vec<u8>,
}

impl Store {
    fn new(ty: CacheType, n_head_kv: usize, d: usize, n: usize) -> Store {
        let stride = n * ty.row_bytes(d).unwrap();
        let mut bytes = [vec![0u8; n_head_kv * stride], vec![0u8; n_head_kv * stride]];
        for (seed, data) in bytes.iter_mut().enumerate() {
            // Repeating rows are fine: their addresses differ.
            let rows = noise(seed as u64, 1024.min(n) * n_head_kv * d);
            let tokens = 1024.min(n);
            for slot in (0..n).step_by(tokens) {
                let rows = &rows[..tokens.min(n - slot) * n_head_kv * d];
                let to = CacheRows { ty, data, stride, slot };
                kv_write(kernels::select().unwrap(), rows, None, None, (n_head_kv, d), to).expect("finite");
            }
        }
        let [k, v] = bytes;
        Store { ty, stride, k, v }
    }

    fn view(&self) -> KvView<'_> {
        let Store { ty, stride, ref k, ref v } = *self;
        KvView { type_k: ty, type_v: ty, k, v, stride_k: stride, stride_v: stride }
    }
}

/// Roughly normal numbers of variance 1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    Rng::new(seed).vec(n)
}

/// What the machine can do at most, all threads together.
struct Peaks {
    f32: f64,
    i16: f64,
    i8: f64,
    read: f64,
}

/// Independent accumulators: enough to hide the latency of any dot product.
const CHAINS: usize = 16;
const STEPS: usize = 1 << 20;

impl Peaks {
    fn measure() -> Peaks {
        let n = threads::count();
        let all = |ops: f64, chain: fn()| {
            let secs = best(|| rayon::broadcast(|_| chain()).into_iter().collect());
            ops * (n * CHAINS * STEPS) as f64 / secs / 1e9
        };
        let memory = vec![1u64; 1 << 26];
        let part = memory.len() / n;
        let read = best(|| {
            let sum = |part: &[u64]| {
                let mut lanes = [0u64; 32];
                part.as_chunks::<32>().0.iter().for_each(|c| (0..32).for_each(|i| lanes[i] ^= c[i]));
                lanes.iter().fold(0, |a, b| a ^ b)
            };
            black_box(memory.par_chunks(part).map(sum).reduce(|| 0, |a, b| a ^ b));
        });
        let read = (memory.len() * 8) as f64 / read / 1e9;
        #[cfg(target_arch = "x86_64")]
        {
            use x86::*;
            let ops = |lanes: usize, each: usize| 2.0 * (lanes * each) as f64;
            if is_x86_feature_detected!("avx512vnni") {
                return Peaks {
                    // SAFETY: checked just above; AVX-512F comes with VNNI.
                    f32: all(ops(16, 1), || unsafe { fma_512() }),
                    // SAFETY: as above.
                    i16: all(ops(16, 2), || unsafe { dpwssd_512() }),
                    // SAFETY: as above.
                    i8: all(ops(16, 4), || unsafe { dpbusd_512() }),
                    read,
                };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: checked just above.
                let f32 = all(ops(8, 1), || unsafe { fma_256() });
                // SAFETY: as above.
                let i16 = all(ops(8, 2), || unsafe { madd_256() });
                return Peaks { f32, i16, i8: i16, read };
            }
        }
        let plain = all(2.0, || {
            let mut acc = [1f32; CHAINS];
            let x = black_box(1.0f32);
            for _ in 0..STEPS {
                acc.iter_mut().for_each(|a| *a = *a * x + x);
            }
            black_box(acc);
        });
        Peaks { f32: plain, i16: plain, i8: plain, read }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, STEPS, black_box};
    use std::arch::x86_64::*;

    macro_rules! chain {
        ($name:ident, $features:literal, $zero:expr, |$acc:ident, $x:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name() {
                let mut accs = [$zero; CHAINS];
                let $x = black_box($zero);
                for _ in 0..STEPS {
                    for acc in &mut accs {
                        let $acc = *acc;
                        *acc = $step;
                    }
                }
                black_box(accs);
            }
        };
    }
    chain!(fma_512, "avx512f", _mm512_setzero_ps(), |acc, x| _mm512_fmadd_ps(x, x, acc));
    chain!(dpwssd_512, "avx512f,avx512vnni", _mm512_setzero_si512(), |acc, x| _mm512_dpwssd_epi32(acc, x, x));
    chain!(dpbusd_512, "avx512f,avx512vnni", _mm512_setzero_si512(), |acc, x| _mm512_dpbusd_epi32(acc, x, x));
    chain!(fma_256, "avx2,fma", _mm256_setzero_ps(), |acc, x| _mm256_fmadd_ps(x, x, acc));
    chain!(madd_256, "avx2", _mm256_setzero_si256(), |acc, x| _mm256_add_epi32(acc, _mm256_madd_epi16(x, acc)));
}
