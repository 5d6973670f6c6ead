//! Gated DeltaNet beside the projections of its layer, at the shapes of Qwen3.5: what share of a layer's time the recurrence takes.
//!
//! `cargo bench --bench delta [-- WORD...]`: only rows whose name contains one of the words. `LONGTAKE_KERNELS` picks the
//! table. Times are the best of several runs; on Linux the time that the process really had the processors for, divided by
//! its threads, is taken where that is shorter, as in `benches/attention.rs`.

mod timing;

use std::hint::black_box;

use longtake::gguf::GgmlType;
use longtake::kernels::{
    self, Activations, DeltaRows, DeltaShape, DeltaState, DeltaWeights, Epilogue, Kernels, delta, threads,
};
use longtake::random::Rng;
use longtake::tensor::MatView;

use timing::best;

/// Name, n_embd, heads of keys and of values; all heads have 128 elements.
const MODELS: [(&str, usize, usize, usize); 2] = [("2B", 2048, 16, 16), ("4B", 2560, 16, 32)];

fn main() {
    longtake::cli::environment::choose_kernels().expect("nothing else chooses");
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

/// Roughly normal numbers of variance 1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    Rng::new(seed).vec(n)
}
