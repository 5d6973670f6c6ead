//! Attention: tiles of queries (all heads that share a KV head, several tokens) against blocks of the stored keys and
//! values, with a one-pass softmax and no score matrix. Serves the language model (causal, any cache type) and the vision
//! tower (full, f32).

use rayon::prelude::*;

use super::disjoint::SharedMat;
use super::{Kernels, Nn, Nt, scratch};
use crate::gguf::GgmlType;

/// Keys per step.
const BLOCK: usize = 64;
/// Query rows per task.
const TILE: usize = 48;

/// Stored keys and values, head-major: head `ih` starts at `ih * stride` bytes and holds one row of `d` elements per slot.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    pub type_k: GgmlType,
    pub type_v: GgmlType,
    pub k: &'a [u8],
    pub v: &'a [u8],
    pub stride_k: usize,
    pub stride_v: usize,
}

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Elements per head.
    pub d: usize,
    /// Slots filled before the first query token; its own key is at slot `n_past`.
    pub n_past: usize,
    /// Query token `it` sees slots up to `n_past + it`; otherwise all see all.
    pub causal: bool,
}

/// out(n_tokens, n_head * d) = softmax(q·kᵀ / sqrt(d)) · v, with q (n_tokens, n_head * d), keys of slots
/// `0..n_past + n_tokens`.
///
/// # Panics
/// When the lengths disagree.
pub fn attention(kernels: &Kernels, shape: AttentionShape, kv: KvView<'_>, q: &[f32], out: &mut [f32]) {
    let AttentionShape { n_head, n_head_kv, d, n_past, causal } = shape;
    let n_embd = n_head * d;
    let n_tokens = q.len() / n_embd;
    assert!(q.len() == n_tokens * n_embd && out.len() == q.len() && n_head.is_multiple_of(n_head_kv));
    let group = n_head / n_head_kv;
    let tile_tokens = (TILE / group).max(1);
    let (row_k, row_v) = (row_bytes(kv.type_k, d), row_bytes(kv.type_v, d));
    let out = &SharedMat::new(out, n_embd);
    let n_tiles = n_tokens.div_ceil(tile_tokens);
    (0..n_tiles * n_head_kv).into_par_iter().for_each(|task| {
        let (tile, ih_kv) = (task / n_head_kv, task % n_head_kv);
        let first = tile * tile_tokens;
        let n = tile_tokens.min(n_tokens - first);
        let rows = n * group;
        let n_kv = if causal { n_past + first + n } else { n_past + n_tokens };
        let k_head = &kv.k[ih_kv * kv.stride_k..];
        let v_head = &kv.v[ih_kv * kv.stride_v..];
        scratch::with(2 * rows * d + rows * BLOCK + BLOCK * d + 2 * rows, |buffer| {
            let (queries, rest) = buffer.split_at_mut(rows * d);
            let (sums, rest) = rest.split_at_mut(rows * d);
            let (scores, rest) = rest.split_at_mut(rows * BLOCK);
            let (block, rest) = rest.split_at_mut(BLOCK * d);
            let (max, sum) = rest.split_at_mut(rows);
            gather(&q[first * n_embd..], queries, n_embd, ih_kv * group, group, d);
            sums.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            for j0 in (0..n_kv).step_by(BLOCK) {
                let nj = BLOCK.min(n_kv - j0);
                let keys = &mut block[..nj * d];
                (kernels.dequantize)(kv.type_k, &k_head[j0 * row_k..(j0 + nj) * row_k], keys);
                let a = Nt { x: queries, ldx: d, w: keys, ldw: d, m: rows, n: nj, k: d, ldo: BLOCK, accumulate: false };
                (kernels.gemm_nt)(a, scores);
                for r in 0..rows {
                    let last = if causal { n_past + first + r / group } else { n_kv - 1 };
                    let seen = (last + 1).saturating_sub(j0).min(nj);
                    let row = &mut scores[r * BLOCK..][..nj];
                    row[seen..].fill(0.0);
                    if seen == 0 {
                        continue;
                    }
                    let factor = (kernels.softmax_step)(&mut row[..seen], &mut max[r], &mut sum[r]);
                    if factor != 1.0 {
                        sums[r * d..][..d].iter_mut().for_each(|s| *s *= factor);
                    }
                }
                let values = &mut block[..nj * d];
                (kernels.dequantize)(kv.type_v, &v_head[j0 * row_v..(j0 + nj) * row_v], values);
                (kernels.gemm_nn)(Nn { p: scores, ldp: BLOCK, v: values, n: nj, d }, sums);
            }
            for (r, row) in sums.chunks_exact_mut(d).enumerate() {
                row.iter_mut().for_each(|s| *s /= sum[r]);
                // SAFETY: a task owns its tokens' rows within its KV head's columns.
                unsafe { out.write(first + r / group, (ih_kv * group + r % group) * d, row) };
            }
        });
    });
}

/// Rows (token, head of the group) of the queries of one KV head, scaled by 1/sqrt(d).
fn gather(q: &[f32], rows: &mut [f32], n_embd: usize, first_head: usize, group: usize, d: usize) {
    let scale = 1.0 / (d as f32).sqrt();
    for (r, row) in rows.chunks_exact_mut(d).enumerate() {
        let at = (r / group) * n_embd + (first_head + r % group) * d;
        for (o, v) in row.iter_mut().zip(&q[at..][..d]) {
            *o = v * scale;
        }
    }
}

fn row_bytes(ty: GgmlType, d: usize) -> usize {
    ty.row_bytes(d).expect("the cache was made for whole blocks")
}
