//! Gated DeltaNet beside the projections of its layer, at the shapes of Qwen3.5: what share of a layer's time the recurrence takes.
//!
//! `cargo bench --bench delta [-- WORD...]`: only rows whose name contains one of the words. `LONGTAKE_KERNELS` picks the
//! table. Times are the best of several runs; on Linux the time that the process really had the processors for, divided by
//! its threads, is taken where that is shorter, as in `benches/attention.rs`.

use std::hint::black_box;
use std::time::Instant;

use longtake::gguf::GgmlType;
use longtake::kernels::{
    self, Activations, DeltaRows, DeltaShape, DeltaState, DeltaWeights, Epilogue, Kernels, delta, threads,
};
use longtake::random::Rng;
use longtake::tensor::MatView;

/// Name, n_embd, heads of keys and of values; all heads have 128 elements.
const MODELS: [(&str, usize, usize, usize); 2] = [("2B", 2048, 16, 16), ("4B", 2560, 16, 32)];

fn main() {
    let kernels = kernels::select().expect("LONGTAKE_KERNELS names a table");
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("table {}, {} threads", kernels.name, threads::count());
    for (model, n_embd, n_head_k, n_head_v) in MODELS {
        let shape = DeltaShape { n_head_k, n_head_v, d_k: 128, d_v: 128 };
        for n in [512, 64, 8, 1] {
            for ty in [GgmlType::Q4_K, GgmlType::Q8_0] {
                let name = format!("{model} {ty} {n}");
                if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
                    layer(kernels, &name, n_embd, shape, ty, n);
                }
            }
        }
    }
}

/// One row: the layer's projections of `n` tokens, and what is between them.
fn layer(kernels: &'static Kernels, name: &str, n_embd: usize, shape: DeltaShape, ty: GgmlType, n: usize) {
    let (n_channels, n_value) = (shape.conv_dim(), shape.value_dim());
    let weights = |n_cols: usize, n_rows: usize| {
        let row = ty.row_bytes(n_cols).expect("whole blocks");
        // Whatever the bytes are, products take as long; scales must not be NaN.
        (n_cols, n_rows, (0..row * n_rows).map(|i| (i * 7 % 37) as u8).collect::<Vec<u8>>())
    };
    let (qkv, z, out) = (weights(n_embd, n_channels), weights(n_embd, n_value), weights(n_value, n_embd));
    let x = noise(1, n * n_embd);
    let (mut rows_qkv, mut rows_z) = (vec![0f32; n * n_channels], vec![0f32; n * n_value]);
    let (mut mixed, mut to) = (noise(2, n * n_value), vec![0f32; n * n_embd]);
    let projections = best(|| {
        let mut input = Activations::new(kernels, &x, n_embd);
        for ((n_cols, n_rows, data), to) in [(&qkv, &mut rows_qkv), (&z, &mut rows_z)] {
            let w = MatView::new(ty, *n_cols, *n_rows, data).expect("whole rows");
            input.matmul_with(w, Epilogue::default(), to);
        }
        let w = MatView::new(ty, out.0, out.1, &out.2).expect("whole rows");
        Activations::new(kernels, &mixed, n_value).matmul_with(w, Epilogue::default(), &mut to);
    });
    let (conv, a, norm) = (noise(3, 4 * n_channels), vec![-0.5; shape.n_head_v], vec![1.0; shape.d_v]);
    let dt_bias = vec![0.5; shape.n_head_v];
    let weights = DeltaWeights { conv: &conv, a: &a, dt_bias: &dt_bias, norm: &norm, norm_eps: 1e-6 };
    let (fresh, z) = (noise(4, n * n_channels), noise(5, n * n_value));
    let (beta, alpha) = (noise(6, n * shape.n_head_v), noise(7, n * shape.n_head_v));
    let mut state = vec![0f32; shape.n_state()];
    let recurrence = best(|| {
        rows_qkv.copy_from_slice(&fresh);
        let rows = DeltaRows { qkv: &mut rows_qkv, z: &z, beta: &beta, alpha: &alpha };
        delta(kernels, &shape, weights, DeltaState::of(&shape, &mut state), rows, &mut mixed).expect("finite");
    });
    black_box(&to);
    let flops = n as f64 * (shape.n_head_v * 8 * shape.d_k * shape.d_v) as f64;
    println!(
        "{name:<14} projections {:>9.3} ms, recurrence {:>8.3} ms ({:>5.0} GFLOP/s): {:>5.1} % of them",
        projections * 1e3,
        recurrence * 1e3,
        flops / recurrence / 1e9,
        100.0 * recurrence / projections
    );
}

/// Seconds of the best run.
fn best(mut work: impl FnMut()) -> f64 {
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

/// Roughly normal numbers of variance 1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    Rng::new(seed).vec(n)
}
