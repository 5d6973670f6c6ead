//! Kernels: meaning gets speed. One list of operations, one table of functions per instruction set.
//! In: rows of f32 activations, packed weight blocks, cache memory. Out: f32 rows, filled cache slots.
//! Start reading at [`Kernels`], then `body.rs`, where each operation is written once in plain Rust; `scalar.rs`, `avx2.rs`
//! and `avx512.rs` compile the same bodies for their instruction set. Work is split over threads in [`matmul()`],
//! [`attention()`] and [`kv_write()`].
//! On purpose absent here: layer order, positions (kernels see cos and sin), what a tensor is called.

mod attention;
mod body;
mod disjoint;
mod kv_write;
mod matmul;
mod scratch;
pub mod threads;
mod vector_fns;

mod scalar;
mod scalar_matmul;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::sync::OnceLock;

use rayon::prelude::*;

use crate::gguf::GgmlType;
use crate::{Error, Result};

pub use attention::{AttentionOps, AttentionShape, KvView, Partial, Tile as AttentionTile, attention};
pub use kv_write::{CacheRows, kv_write, rotate_rows};
pub use matmul::{
    Activations, CHUNK, DotRows, Int8Ops, Layout, PackRows, QuantizeTile, RowChunk, Tile, Word, matmul, panel_group,
};

/// The operations of one instruction set. Only a successful CPU check hands a table out, so calling its functions is safe.
///
/// Matrices are row-major f32; `ld*` is the distance between rows in elements.
pub struct Kernels {
    /// The instruction set, as `LONGTAKE_KERNELS` spells it.
    pub name: &'static str,
    /// Decodes whole blocks of a type that has a decoder.
    pub dequantize: fn(GgmlType, &[u8], &mut [f32]),
    /// out(m, n) = [out +] x(m, k) · w(n, k)ᵀ; see [`Nt`].
    pub gemm_nt: fn(Nt<'_>, &mut [f32]),
    /// out = x / sqrt(mean(x²) + eps) * weight.
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// out = (x - mean) / sqrt(var + eps) * weight + bias.
    pub layer_norm: LayerNorm,
    /// gate = silu(gate) * up.
    pub silu_mul: fn(&mut [f32], &[f32]),
    /// x = x * sigmoid(1.702 x).
    pub quick_gelu: fn(&mut [f32]),
    /// Products with quantized weights.
    pub int8: Int8Ops,
    /// Attention and the cache write.
    pub attend: AttentionOps,
}

/// The operands of a `gemm_nt`: x(m, k) and w(n, k) in rows of `ldx`, `ldw`, into rows of `ldo`.
#[derive(Clone, Copy)]
pub struct Nt<'a> {
    pub x: &'a [f32],
    pub ldx: usize,
    pub w: &'a [f32],
    pub ldw: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub ldo: usize,
    /// Add to `out` instead of replacing it.
    pub accumulate: bool,
}

/// (x, weight, bias, eps, out)
pub type LayerNorm = fn(&[f32], &[f32], &[f32], f32, &mut [f32]);

/// Every table that this machine can run, slowest first.
pub fn supported() -> Vec<&'static Kernels> {
    #[allow(unused_mut)]
    let mut tables = vec![&scalar::TABLE];
    #[cfg(target_arch = "x86_64")]
    tables.extend(x86_64::detect());
    tables
}

/// The table in use: the fastest that this machine can run, or the one named by `LONGTAKE_KERNELS`. Chosen once.
///
/// # Errors
/// A name that this machine or this build does not know.
pub fn select() -> Result<&'static Kernels> {
    static CHOSEN: OnceLock<Option<&'static Kernels>> = OnceLock::new();
    let wanted = std::env::var("LONGTAKE_KERNELS").ok().filter(|name| !name.is_empty());
    let chosen = CHOSEN.get_or_init(|| {
        let tables = supported();
        match &wanted {
            None => tables.last().copied(),
            Some(name) => tables.into_iter().find(|k| k.name.eq_ignore_ascii_case(name)),
        }
    });
    chosen.ok_or_else(|| {
        let known: Vec<_> = supported().iter().map(|k| k.name).collect();
        let name = wanted.unwrap_or_default();
        Error::bad_input(format!("LONGTAKE_KERNELS `{name}` cannot run here, expected one of {}", known.join(", ")))
    })
}

/// x = 0.5 x (1 + erf(x / sqrt(2))): exact GELU, used once per merged token.
pub fn gelu_erf(x: &mut [f32]) {
    for v in x {
        *v = 0.5 * *v * (1.0 + libm::erff(*v * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// x += y, on all threads where they are long.
pub fn add(x: &mut [f32], y: &[f32]) {
    const TASK: usize = 1 << 15;
    let part = |x: &mut [f32], y: &[f32]| x.iter_mut().zip(y).for_each(|(a, b)| *a += b);
    if x.len() <= TASK {
        part(x, y);
    } else {
        x.par_chunks_mut(TASK).zip(y.par_chunks(TASK)).for_each(|(x, y)| part(x, y));
    }
}

/// Adds `bias` to every row of `x`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}
