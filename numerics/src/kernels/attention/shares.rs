//! How much of its attention a token gives to each run of keys: what softmax gives to all of them together.
//!
//! An [`AttentionTile`] of a range of keys yields the sum of their exponentials, so shares come out of the very arithmetic
//! that attention is computed in, for every table and cache type; what the tile makes of values is dropped. Attention itself
//! knows nothing of it: who wants shares pays for a second pass over the keys of one token.

use super::{AttentionShape, AttentionTile, KvView, Partial, gather, row_bytes, transform};
use crate::kernels::{Kernels, scratch, threads};

/// Runs of keys per task.
const RUNS: usize = 8;

/// The shares of runs of keys, (n_head, runs), in the softmax of one token with queries `q` (n_head * d), which sees
/// the slots `0..n_past + 1`: run `i` begins where the one before it ends and ends before slot `ends[i]`.
///
/// # Panics
/// When the lengths disagree, or runs are not in order or not all of what the token sees.
pub fn attention_shares(
    kernels: &Kernels,
    shape: AttentionShape,
    kv: KvView<'_>,
    q: &[f32],
    ends: &[usize],
    out: &mut [f64],
) {
    let AttentionShape { n_head, n_head_kv, d, n_past, exact, .. } = shape;
    let (group, n_runs) = (n_head / n_head_kv, ends.len());
    assert!(q.len() == n_head * d && n_head.is_multiple_of(n_head_kv) && out.len() == n_head * n_runs);
    assert!(ends.is_sorted() && ends.last() == Some(&(n_past + 1)), "runs up to {:?} of {}", ends.last(), n_past + 1);
    let (row_k, row_v) = (row_bytes(kv.type_k.ty, d), row_bytes(kv.type_v.ty, d));
    // Of a task: queries, what becomes of values, and of each run and head the largest score and the sum.
    let (n_tasks, task_floats) = (n_runs.div_ceil(RUNS), group * (2 * d + 2 * RUNS));
    scratch::with_shared(n_head_kv * n_tasks * task_floats, |memory| {
        threads::for_chunks(memory, task_floats, |task, memory| {
            let (ih_kv, first) = (task / n_tasks, task % n_tasks * RUNS);
            let (rows, rest) = memory.split_at_mut(group * d);
            let (sums, found) = rest.split_at_mut(group * d);
            gather(q, rows, n_head * d, ih_kv * group, group, d);
            transform(kernels, kv.type_k, rows, d);
            for (i, found) in (first..n_runs.min(first + RUNS)).zip(found.chunks_exact_mut(2 * group)) {
                let (max, sum) = found.split_at_mut(group);
                let begin = i.checked_sub(1).map_or(0, |before| ends[before]);
                let tile = AttentionTile {
                    type_k: kv.type_k.ty,
                    type_v: kv.type_v.ty,
                    k: &kv.k[ih_kv * kv.stride_k + begin * row_k..],
                    v: &kv.v[ih_kv * kv.stride_v + begin * row_v..],
                    n_keys: ends[i] - begin,
                    d,
                    q: rows,
                    first_seen: isize::MAX / 2,
                    group,
                    exact,
                };
                (kernels.attend.tile)(&tile, Partial { sums, max, sum });
            }
        });
        for (ih, out) in out.chunks_exact_mut(n_runs).enumerate() {
            let found = |i: usize| {
                let of_run = (ih / group * n_tasks + i / RUNS) * task_floats + group * (2 * d + 2 * (i % RUNS));
                let at = of_run + ih % group;
                (f64::from(memory[at]), f64::from(memory[at + group]))
            };
            let top = (0..n_runs).map(|i| found(i).0).fold(f64::NEG_INFINITY, f64::max);
            // A run of no keys has a sum of zero.
            let mass = |i: usize| found(i).1 * (found(i).0 - top).exp2();
            let total: f64 = (0..n_runs).map(mass).sum();
            out.iter_mut().enumerate().for_each(|(i, out)| *out = mass(i) / total);
        }
    });
}
