// What the two ways of attention share.
#pragma once

#include "cache.cuh"
#include "table.cuh"

struct Attention {
    // (n_tokens, n_head * d)
    const float *q;
    // Where rows see the slots of their caches, up to their own; `q` begins with row `first` of the batch.
    SeqTable table;
    // Else keys and values of a KV head `ih` begin at `ih * stride` bytes, one row per slot; those of sequence `is`, of
    // `n_seq` tokens that see each other, at `is * n_head_kv * stride`.
    const uint8_t *k, *v;
    uint64_t stride_k, stride_v;
    // Null, or where the windows of a sequence end, of which each sees itself alone.
    const int *ends;
    // (n_tokens, n_head * d)
    float *out;
    // Partial results of split keys: (n_tokens, n_head, n_splits, d + 2): sums, the largest score, the sum of weights.
    float *parts;
    int type_k, type_v, n_head, n_head_kv, d, n_tokens, n_seq;
    // The most ranges of keys that a row has.
    int n_splits;
    int n_windows, layer, first;
    // The first sequence of the launch, and which of its numbers of ranges counts.
    int first_seq, last_rows, padding;
};

// The rows of a sequence that see each other.
struct Window {
    int begin, end;
};

__device__ __forceinline__ Window window_of(const Attention &a, int i) {
    if (!a.ends) return {0, a.n_seq};
    return {i > 0 ? a.ends[i - 1] : 0, a.ends[i]};
}

// The window of row `it` of a sequence.
__device__ __forceinline__ Window window_at(const Attention &a, int it) {
    int i = 0;
    while (a.ends && i + 1 < a.n_windows && a.ends[i] <= it) i++;
    return window_of(a, i);
}

// Scores are to base 2.
__device__ __forceinline__ float score_scale(int d) { return 1.44269504088896340736f / sqrtf(float(d)); }

// What a row sees: where the rows of its keys and values begin, how many there are, and into how many ranges they are split.
struct Seen {
    const uint8_t *keys, *values;
    int n, n_splits;
};

// What row `row` of the batch sees of its cache, for a KV head.
__device__ __forceinline__ Seen in_cache(const Attention &a, int row, int ih_kv) {
    const CachedSeq &seq = a.table.seqs[a.table.seq_of[row]];
    const uint64_t head = uint64_t(a.layer) * a.n_head_kv + ih_kv;
    const int n = seq.past + row - seq.first + 1;
    return {seq.k + head * seq.stride_k, seq.v + head * seq.stride_v, n, seq.n_splits[a.last_rows]};
}

// What the rows of a window of sequence `is` see.
__device__ __forceinline__ Seen in_window(const Attention &a, int is, const Window &window, int ih_kv) {
    const uint64_t head = uint64_t(is) * a.n_head_kv + ih_kv, begin = window.begin;
    return {a.k + head * a.stride_k + begin * cache_row_bytes(a.type_k, a.d),
            a.v + head * a.stride_v + begin * cache_row_bytes(a.type_v, a.d), window.end - window.begin, a.n_splits};
}

// What token `it` of the launch sees.
__device__ __forceinline__ Seen seen_by(const Attention &a, int it, int ih_kv) {
    if (a.table.seqs) return in_cache(a, a.first + it, ih_kv);
    return in_window(a, it / a.n_seq, window_at(a, it % a.n_seq), ih_kv);
}
