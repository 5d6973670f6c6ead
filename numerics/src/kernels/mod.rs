//! Kernels: meaning gets speed. One list of operations, one table of functions per instruction set.
//! In: rows of f32 activations, packed weight blocks, cache memory. Out: f32 rows, filled cache slots.
//! Start reading at [`Kernels`], then `body.rs`, where each operation is written once in plain Rust; `scalar.rs` and the
//! folders `x86_64` and `aarch64` compile the same bodies for their instruction sets, and `detect.rs` chooses. Work is
//! split over threads in [`matmul()`], [`experts()`], [`attention()`], [`delta()`] and [`kv_write()`].
//! On purpose absent here: layer order, positions (kernels see cos and sin), what a tensor is called.

mod attention;
mod body;
pub mod cpus;
mod delta;
mod detect;
mod disjoint;
mod experts;
mod isa;
mod kv_write;
mod matmul;
mod prefetch;
mod scratch;
mod seat;
pub mod threads;
mod vector_fns;

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod scalar;
mod scalar_matmul;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use attention::{
    AttentionOps, AttentionPart, AttentionShape, AttentionTile, KvView, Partial, attention, attention_of,
    attention_shares,
};
pub use delta::{
    CONV_KERNEL, DELTA_ALIGN, DELTA_CHUNK, DeltaOps, DeltaProduct, DeltaRows, DeltaShape, DeltaState, DeltaStep,
    DeltaWeights, Keep, delta,
};
pub use detect::{Candidate, Wish, candidates, cpu_features, definition, prefer, select, supported, wanted};
pub use experts::{Experts, expert_bytes, experts};
pub use kv_write::{CacheRows, kv_write, rotate_rows};
pub use matmul::{
    Activations, CHUNK, DotRows, Epilogue, FloatRows, Gelu, Int8Ops, Layout as PanelLayout, MAX_DOT_TOKENS, Number,
    PackRows, Panel, QuantizeTile, RowChunk, Stacked, Tile as MatmulTile, TokenGroup, Word, matmul, matmul_with,
    panel_group,
};

/// The operations of one instruction set. Only a successful CPU check hands a table out, so calling its functions is safe.
pub struct Kernels {
    /// The instruction set, as [`prefer`] takes it.
    pub name: &'static str,
    /// The CPU features, separated by commas, that its functions are compiled with; those of `int8` and `attend` have
    /// lists of their own.
    pub features: &'static str,
    /// out = x / sqrt(mean(x²) + eps) * weight.
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// out = (x - mean) / sqrt(var + eps) * weight + bias.
    pub layer_norm: LayerNorm,
    /// gate = silu(gate) * up.
    pub silu_mul: fn(&mut [f32], &[f32]),
    /// x = x * sigmoid(gate).
    pub sigmoid_mul: fn(&mut [f32], &[f32]),
    /// x = x * sigmoid(1.702 x).
    pub quick_gelu: fn(&mut [f32]),
    /// x = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))).
    pub gelu_tanh: fn(&mut [f32]),
    /// Products with packed weights.
    pub int8: Int8Ops,
    /// Attention and the cache write.
    pub attend: AttentionOps,
    /// Gated DeltaNet.
    pub delta: DeltaOps,
}

/// (x, weight, bias, eps, out)
pub type LayerNorm = fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// x = 0.5 x (1 + erf(x / sqrt(2))): exact GELU, used once per merged token.
pub fn gelu_erf(x: &mut [f32]) {
    for v in x {
        *v = 0.5 * *v * (1.0 + libm::erff(*v * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// Elements of simple work that are worth a task.
const TASK: usize = 1 << 15;

/// Calls `work` with every row of `width` elements and its number, on all threads where there are many.
pub fn for_rows(rows: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let at_once = (TASK / width).max(1);
    threads::for_chunks(rows, at_once * width, |task, rows| {
        rows.chunks_exact_mut(width).enumerate().for_each(|(i, row)| work(task * at_once + i, row));
    });
}
