//! Attention: softmax(q·kᵀ / sqrt(d)) · v over stored keys and values, without a score matrix.
//! In: queries of a batch, the [`KvView`] of a layer. Out: one row per token and head. Serves the language model (causal,
//! any cache type) and the vision tower (full, f32).
//! Start reading at [`attention()`], which cuts the work into tasks: a [`AttentionTile`] of queries (several tokens, all heads that
//! share a KV head) against a range of keys. `scalar.rs` defines what a tile is; `tile.rs` computes it with vectors.
//! On purpose absent here: masks other than causal and full, positions.

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
mod keys;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod product;
mod scalar;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod simd;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod tile;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
mod unpack;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
mod values;

pub(super) use scalar::OPS as SCALAR;

use super::disjoint::SharedMat;
use super::{Kernels, scratch, threads};
use crate::gguf::GgmlType;

/// Query rows per task: with these, unpacking a block of keys and values is a few percent of the work on them, while
/// the rows and their sums stay in the second-level cache.
const TILE_ROWS: usize = 768;
/// Keys that a task has at least, where keys are split.
const MIN_KEYS: usize = 256;

/// Stored keys and values, head-major: head `ih` starts at `ih * stride` bytes and holds one row of `d` elements per slot.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// Type of stored keys.
    pub type_k: GgmlType,
    /// Type of stored values.
    pub type_v: GgmlType,
    /// The keys of all heads.
    pub k: &'a [u8],
    /// The values of all heads.
    pub v: &'a [u8],
    /// Bytes from head to head of the keys.
    pub stride_k: usize,
    /// Bytes from head to head of the values.
    pub stride_v: usize,
}

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Heads of queries.
    pub n_head: usize,
    /// Heads of keys and values: query head `ih` attends to head `ih / (n_head / n_head_kv)` of them.
    pub n_head_kv: usize,
    /// Elements per head.
    pub d: usize,
    /// Slots filled before the first query token; its own key is at slot `n_past`.
    pub n_past: usize,
    /// Query token `it` sees slots up to `n_past + it`; otherwise all see all.
    pub causal: bool,
    /// Compute with an F32 cache in f32; otherwise a table may round it to 12 bits per row of keys and column of values,
    /// as it does with the other types (an error of some 1e-7 of the power of the result, at up to twice the speed).
    pub exact: bool,
}

/// The operations of attention and of the cache write, per instruction set.
#[derive(Clone, Copy)]
pub struct AttentionOps {
    /// See [`Kernels::features`].
    pub features: &'static str,
    /// Attention of a tile of queries over a range of keys, not yet divided by the sum.
    pub tile: fn(&AttentionTile<'_>, Partial<'_>),
    /// Rotates a head in place: pairs (i, i + n/2) by the cosines and sines of the leading pairs.
    pub rotate: fn(&mut [f32], &[f32], &[f32]),
    /// Encodes a row as a cache type, byte for byte as `tensor::quantize_row`; whether all of it was finite and fits.
    pub encode: fn(GgmlType, &[f32], &mut [u8]) -> bool,
}

/// Queries and the keys and values that they attend to.
pub struct AttentionTile<'a> {
    /// Type of stored keys.
    pub type_k: GgmlType,
    /// Type of stored values.
    pub type_v: GgmlType,
    /// Rows of keys, from the first of the range on.
    pub k: &'a [u8],
    /// Rows of values, likewise.
    pub v: &'a [u8],
    /// How many there are.
    pub n_keys: usize,
    /// Elements per row.
    pub d: usize,
    /// (rows, d), multiplied by log2(e) / sqrt(d): exponentials are to base 2.
    pub q: &'a [f32],
    /// Row `r` sees the first `first_seen + r / group` keys, none where that is negative.
    pub first_seen: isize,
    /// Rows of queries that belong to one token.
    pub group: usize,
    /// See [`AttentionShape::exact`].
    pub exact: bool,
}

/// What a tile yields: 2^(score - max) summed with and without the values.
pub struct Partial<'a> {
    /// (rows, d)
    pub sums: &'a mut [f32],
    /// (rows)
    pub max: &'a mut [f32],
    /// (rows)
    pub sum: &'a mut [f32],
}

impl AttentionTile<'_> {
    /// How many of the keys row `r` sees.
    pub fn seen(&self, r: usize) -> usize {
        (self.first_seen + (r / self.group) as isize).clamp(0, self.n_keys as isize) as usize
    }

    /// Bytes per row of keys.
    pub fn row_k(&self) -> usize {
        row_bytes(self.type_k, self.d)
    }

    /// Bytes per row of values.
    pub fn row_v(&self) -> usize {
        row_bytes(self.type_v, self.d)
    }

    /// # Panics
    /// When lengths disagree.
    pub fn check(&self, out: &Partial<'_>) {
        let rows = out.max.len();
        assert!(out.sum.len() == rows && out.sums.len() == rows * self.d && self.q.len() == rows * self.d);
        assert!(self.k.len() >= self.n_keys * self.row_k() && self.v.len() >= self.n_keys * self.row_v());
        assert!(self.d > 0 && self.group > 0);
    }
}

/// How one call is cut into tasks.
#[derive(Debug, Clone, Copy)]
struct Cut {
    tile_tokens: usize,
    n_tiles: usize,
    n_splits: usize,
    split_keys: usize,
}

impl Cut {
    fn new(n_tokens: usize, n_kv: usize, n_head_kv: usize, group: usize) -> Cut {
        let wanted = threads::TASKS_PER_THREAD * threads::count();
        // Tiles as large as they may be, unless there are too few of them even at a quarter of that.
        let most = (TILE_ROWS / group).max(1);
        let fair = (n_tokens * n_head_kv).div_ceil(wanted);
        let tile_tokens = fair.clamp(most.div_ceil(4), most).min(n_tokens);
        let n_tiles = n_tokens.div_ceil(tile_tokens);
        let tile_tokens = n_tokens.div_ceil(n_tiles);
        let n_splits = if n_tiles * n_head_kv >= wanted {
            1
        } else {
            wanted.div_ceil(n_tiles * n_head_kv).min(n_kv / MIN_KEYS).max(1)
        };
        // Whole blocks, so that splitting costs no padding.
        let split_keys = n_kv.div_ceil(n_splits).next_multiple_of(unpack::BLOCK);
        Cut { tile_tokens, n_tiles, n_splits: n_kv.div_ceil(split_keys), split_keys }
    }
}

/// out(n_tokens, n_head * d) = softmax(q·kᵀ / sqrt(d)) · v, with q (n_tokens, n_head * d), keys of slots
/// `0..n_past + n_tokens`.
///
/// # Panics
/// When the lengths disagree.
pub fn attention(kernels: &Kernels, shape: AttentionShape, kv: KvView<'_>, q: &[f32], out: &mut [f32]) {
    let AttentionShape { n_head, n_head_kv, d, n_past, causal, exact } = shape;
    let n_embd = n_head * d;
    let n_tokens = q.len() / n_embd;
    assert!(q.len() == n_tokens * n_embd && out.len() == q.len() && n_head.is_multiple_of(n_head_kv));
    if n_tokens == 0 {
        return;
    }
    let (group, n_kv) = (n_head / n_head_kv, n_past + n_tokens);
    let (row_k, row_v) = (row_bytes(kv.type_k, d), row_bytes(kv.type_v, d));
    let cut = Cut::new(n_tokens, n_kv, n_head_kv, group);
    let task_floats = cut.tile_tokens * group * (2 * d + 2);
    let run = |tile: usize, ih_kv: usize, split: usize, memory: &mut [f32]| {
        let first = tile * cut.tile_tokens;
        let n = cut.tile_tokens.min(n_tokens - first);
        let (j0, end) = (split * cut.split_keys, if causal { n_past + first + n } else { n_kv });
        let (q_rows, out) = task_memory(memory, n * group, d);
        gather(&q[first * n_embd..], q_rows, n_embd, ih_kv * group, group, d);
        let j0 = j0.min(end);
        let t = AttentionTile {
            type_k: kv.type_k,
            type_v: kv.type_v,
            k: &kv.k[ih_kv * kv.stride_k + j0 * row_k..],
            v: &kv.v[ih_kv * kv.stride_v + j0 * row_v..],
            n_keys: cut.split_keys.min(end - j0),
            d,
            q: q_rows,
            // A split may start behind what the first tokens see.
            first_seen: if causal { (n_past + first + 1) as isize - j0 as isize } else { isize::MAX / 2 },
            group,
            exact,
        };
        (kernels.attend.tile)(&t, out);
    };
    let out = &SharedMat::new(out, n_embd);
    let finish = |tile: usize, ih_kv: usize, memory: &mut [f32]| {
        let first = tile * cut.tile_tokens;
        let rows = cut.tile_tokens.min(n_tokens - first) * group;
        let merged = merge(memory, task_floats, rows, d);
        for (r, row) in merged.chunks_exact(d).enumerate() {
            // SAFETY: of all calls, only this one is for these tokens and this KV head's columns.
            unsafe { out.write(first + r / group, (ih_kv * group + r % group) * d, row) };
        }
    };
    let n_whole = cut.n_tiles * n_head_kv;
    if cut.n_splits == 1 {
        threads::for_each(n_whole, |task| {
            let (tile, ih_kv) = (task / n_head_kv, task % n_head_kv);
            scratch::with_shared(task_floats, |memory| {
                run(tile, ih_kv, 0, memory);
                finish(tile, ih_kv, memory);
            });
        });
    } else {
        scratch::with_shared(n_whole * cut.n_splits * task_floats, |parts| {
            threads::for_chunks(parts, task_floats, |task, memory| {
                let (whole, split) = (task / cut.n_splits, task % cut.n_splits);
                run(whole / n_head_kv, whole % n_head_kv, split, memory);
            });
            threads::for_chunks(parts, cut.n_splits * task_floats, |whole, parts| {
                finish(whole / n_head_kv, whole % n_head_kv, parts);
            });
        });
    }
}

/// The memory of a task as its queries (rows, d) and its results.
fn task_memory(memory: &mut [f32], rows: usize, d: usize) -> (&mut [f32], Partial<'_>) {
    let (q, rest) = memory.split_at_mut(rows * d);
    let (sums, rest) = rest.split_at_mut(rows * d);
    let (max, rest) = rest.split_at_mut(rows);
    (q, Partial { sums, max, sum: &mut rest[..rows] })
}

/// Brings the results of all key ranges of a tile together and divides by the sums: (rows, d), in the memory of the first.
fn merge(memory: &mut [f32], task_floats: usize, rows: usize, d: usize) -> &[f32] {
    let (first, others) = memory.split_at_mut(task_floats);
    let (_, first) = task_memory(first, rows, d);
    for other in others.chunks_exact_mut(task_floats) {
        let (_, other) = task_memory(other, rows, d);
        for (r, (a, b)) in first.sums.chunks_exact_mut(d).zip(other.sums.chunks_exact(d)).enumerate() {
            // A range of which a row sees nothing has a sum of zero.
            if other.sum[r] == 0.0 {
                continue;
            }
            let max = first.max[r].max(other.max[r]);
            let (fa, fb) = ((first.max[r] - max).exp2(), (other.max[r] - max).exp2());
            a.iter_mut().zip(b).for_each(|(a, b)| *a = *a * fa + b * fb);
            first.sum[r] = first.sum[r] * fa + other.sum[r] * fb;
            first.max[r] = max;
        }
    }
    for (row, sum) in first.sums.chunks_exact_mut(d).zip(&*first.sum) {
        row.iter_mut().for_each(|s| *s /= sum);
    }
    first.sums
}

/// Rows (token, head of the group) of the queries of one KV head, scaled for exponentials to base 2.
fn gather(q: &[f32], rows: &mut [f32], n_embd: usize, first_head: usize, group: usize, d: usize) {
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
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
