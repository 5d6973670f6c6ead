//! Attention: softmax(q·kᵀ / sqrt(d)) · v over stored keys and values, without a score matrix.
//! In: queries of a batch, the [`KvView`] of a layer. Out: one row per token and head. Serves the language model (causal,
//! any cache type) and the vision tower (full, f32).
//! Start reading at [`attention_of`], which cuts the work into tasks: an [`AttentionTile`] of queries (several tokens of a sequence, all
//! heads that share a KV head) against a range of keys. `scalar.rs` defines what a tile is; `tile.rs` computes it with vectors,
//! through panels of unpacked keys and values, or where few queries meet stored floats as `stored.rs` does.
//! On purpose absent here: masks other than causal and full, positions.

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod keys;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod product;
mod scalar;
mod shares;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod simd;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
mod softmax;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod stored;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod tile;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
mod unpack;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) mod values;

pub(super) use scalar::OPS as SCALAR;
pub use shares::attention_shares;

use std::ops::Range;

use super::disjoint::{SharedMat, SharedSlice};
use super::{Kernels, scratch, threads};
use crate::ggml_type::GgmlType;
use crate::tensor::CacheType;

/// Query rows per task: with these, unpacking a block of keys and values is a few percent of the work on them, while
/// the rows and their sums stay in the second-level cache.
const TILE_ROWS: usize = 768;
/// Keys that a task has at least, where keys are split.
const MIN_KEYS: usize = 256;

/// Stored keys and values, head-major: head `ih` starts at `ih * stride` bytes and holds one row of `d` elements per slot.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// Type of stored keys. Queries for transformed ones are transformed, too, on their way to a task.
    pub type_k: CacheType,
    /// Type of stored values. What attention makes of transformed ones is transformed back on its way out.
    pub type_v: CacheType,
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
    /// Transforms a head in place, bit for bit as [`hadamard`](crate::tensor::hadamard).
    pub hadamard: fn(&mut [f32]),
    /// Encodes a head as a cache type, byte for byte as [`CacheType::encode`]; whether all of it was finite and fits.
    pub encode: fn(CacheType, &mut [f32], &mut [u8]) -> bool,
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
    let rows = 0..q.len() / (shape.n_head * shape.d);
    attention_of(kernels, std::iter::once(AttentionPart { shape, kv, rows }), q, out);
}

/// A sequence that has some of the rows of queries.
#[derive(Clone)]
pub struct AttentionPart<'a> {
    /// Heads and their size are the same for all.
    pub shape: AttentionShape,
    /// What it attends to.
    pub kv: KvView<'a>,
    /// Its rows of queries and results.
    pub rows: Range<usize>,
}

/// [`attention`] for several sequences, whose rows stand behind each other: their tasks are shared out together, and each row
/// gets what it gets alone, bit for bit.
///
/// # Panics
/// When the lengths disagree.
pub fn attention_of<'a>(
    kernels: &Kernels,
    parts: impl Iterator<Item = AttentionPart<'a>> + Clone + Sync,
    q: &[f32],
    out: &mut [f32],
) {
    let Some(AttentionShape { n_head, d, .. }) = parts.clone().next().map(|part| part.shape) else { return };
    let end = parts.clone().fold(0, |end, AttentionPart { shape, rows, .. }| {
        assert!(shape.n_head == n_head && shape.d == d && n_head.is_multiple_of(shape.n_head_kv));
        assert!(rows.start == end && rows.end >= end, "rows {rows:?} behind {end}");
        rows.end
    });
    assert!(q.len() == end * n_head * d && out.len() == q.len());
    let out = &SharedMat::new(out, n_head * d);
    let calls = |is_split: bool| {
        let calls = parts.clone().filter(|part| !part.rows.is_empty()).map(|part| Call::new(kernels, part, q, out));
        calls.filter(move |call| (call.cut.n_splits > 1) == is_split)
    };
    threads::for_each(calls(false).map(|call| call.n_whole()).sum(), |whole| {
        let (call, whole, _) = find(calls(false), whole, Call::n_whole);
        scratch::with_shared(call.task_floats, |memory| {
            call.run(whole, memory);
            call.finish(whole, memory);
        });
    });
    let n_tasks = calls(true).map(|call| call.n_tasks()).sum();
    if n_tasks == 0 {
        return;
    }
    scratch::with_shared(calls(true).map(|call| call.n_tasks() * call.task_floats).sum(), |memory| {
        let memory = &SharedSlice::new(memory);
        threads::for_each(n_tasks, |task| {
            let (call, task, before) = find(calls(true), task, Call::n_tasks);
            let at = before + task * call.task_floats;
            // SAFETY: every task has memory of its own.
            call.run(task, unsafe { memory.get(at..at + call.task_floats) });
        });
        threads::for_each(calls(true).map(|call| call.n_whole()).sum(), |whole| {
            let (call, whole, before) = find(calls(true), whole, Call::n_whole);
            let n = call.cut.n_splits * call.task_floats;
            // SAFETY: what the tasks for the same queries left, and nobody else's.
            call.finish(whole, unsafe { memory.get(before + whole * n..before + (whole + 1) * n) });
        });
    });
}

/// Which call number `i` is of, where `n` counts those of each; its number there, and floats of the memory of those before.
fn find<'a>(
    mut calls: impl Iterator<Item = Call<'a>>,
    mut i: usize,
    n: fn(&Call<'a>) -> usize,
) -> (Call<'a>, usize, usize) {
    let mut before = 0;
    let call = calls.find(|call| {
        let is_here = i < n(call);
        if !is_here {
            i -= n(call);
            before += call.n_tasks() * call.task_floats;
        }
        is_here
    });
    (call.expect("every number is of some call"), i, before)
}

/// The attention of one sequence, cut into tasks.
struct Call<'a> {
    kernels: &'a Kernels,
    shape: AttentionShape,
    kv: KvView<'a>,
    /// Its own rows.
    q: &'a [f32],
    n_tokens: usize,
    out: &'a SharedMat<'a>,
    /// The first of its rows there.
    first: usize,
    cut: Cut,
    /// Memory of a task.
    task_floats: usize,
}

impl<'a> Call<'a> {
    fn new(
        kernels: &'a Kernels,
        AttentionPart { shape, kv, rows }: AttentionPart<'a>,
        q: &'a [f32],
        out: &'a SharedMat<'a>,
    ) -> Call<'a> {
        let AttentionShape { n_head, n_head_kv, d, n_past, .. } = shape;
        let (n_tokens, group, n_embd) = (rows.len(), n_head / n_head_kv, n_head * d);
        let cut = Cut::new(n_tokens, n_past + n_tokens, n_head_kv, group);
        let task_floats = cut.tile_tokens * group * (2 * d + 2);
        let (first, q) = (rows.start, &q[rows.start * n_embd..rows.end * n_embd]);
        Call { kernels, shape, kv, q, n_tokens, out, first, cut, task_floats }
    }

    /// Tiles of queries, of all KV heads.
    fn n_whole(&self) -> usize {
        self.cut.n_tiles * self.shape.n_head_kv
    }

    fn n_tasks(&self) -> usize {
        self.n_whole() * self.cut.n_splits
    }

    /// The KV head of a tile, its first token and how many it has.
    fn tile(&self, whole: usize) -> (usize, usize, usize) {
        let (tile, ih_kv) = (whole / self.shape.n_head_kv, whole % self.shape.n_head_kv);
        let first = tile * self.cut.tile_tokens;
        (ih_kv, first, self.cut.tile_tokens.min(self.n_tokens - first))
    }

    /// Attention of a tile over a range of keys: the tasks of a tile are neighbours.
    fn run(&self, task: usize, memory: &mut [f32]) {
        let Call { shape: AttentionShape { n_head, n_head_kv, d, n_past, causal, exact }, kv, cut, .. } = self;
        let ((ih_kv, first, n), split) = (self.tile(task / cut.n_splits), task % cut.n_splits);
        let (group, n_embd) = (n_head / n_head_kv, n_head * d);
        let (row_k, row_v) = (row_bytes(kv.type_k.ty, *d), row_bytes(kv.type_v.ty, *d));
        let (j0, end) = (split * cut.split_keys, n_past + if *causal { first + n } else { self.n_tokens });
        let (q_rows, out) = task_memory(memory, n * group, *d);
        gather(&self.q[first * n_embd..], q_rows, n_embd, ih_kv * group, group, *d);
        transform(self.kernels, kv.type_k, q_rows, *d);
        let j0 = j0.min(end);
        let t = AttentionTile {
            type_k: kv.type_k.ty,
            type_v: kv.type_v.ty,
            k: &kv.k[ih_kv * kv.stride_k + j0 * row_k..],
            v: &kv.v[ih_kv * kv.stride_v + j0 * row_v..],
            n_keys: cut.split_keys.min(end - j0),
            d: *d,
            q: q_rows,
            // A split may start behind what the first tokens see.
            first_seen: if *causal { (n_past + first + 1) as isize - j0 as isize } else { isize::MAX / 2 },
            group,
            exact: *exact,
        };
        (self.kernels.attend.tile)(&t, out);
    }

    /// Brings the results of a tile's tasks together, and to where they belong.
    fn finish(&self, whole: usize, memory: &mut [f32]) {
        let AttentionShape { n_head, n_head_kv, d, .. } = self.shape;
        let ((ih_kv, first, n), group) = (self.tile(whole), n_head / n_head_kv);
        let merged = merge(memory, self.task_floats, n * group, d);
        transform(self.kernels, self.kv.type_v, merged, d);
        for (r, row) in merged.chunks_exact(d).enumerate() {
            let column = (ih_kv * group + r % group) * d;
            // SAFETY: of all calls, only this one is for these tokens and this KV head's columns.
            unsafe { self.out.write(self.first + first + r / group, column, row) };
        }
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
fn merge(memory: &mut [f32], task_floats: usize, rows: usize, d: usize) -> &mut [f32] {
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

/// Transforms heads of `d` elements where those that they belong to are.
fn transform(kernels: &Kernels, ty: CacheType, heads: &mut [f32], d: usize) {
    if ty.hadamard {
        heads.chunks_exact_mut(d).for_each(kernels.attend.hadamard);
    }
}

fn row_bytes(ty: GgmlType, d: usize) -> usize {
    ty.row_bytes(d).expect("the cache was made for whole blocks")
}
