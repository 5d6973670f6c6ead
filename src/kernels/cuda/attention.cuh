// What the two ways of attention share.
#pragma once

#include "cache.cuh"

struct Attention {
    // (n_tokens, n_head * d)
    const float *q;
    // Keys and values of a KV head `ih` begin at `ih * stride` bytes, one row per slot; those of sequence `is`, of `n_seq`
    // tokens, at `is * n_head_kv * stride`.
    const uint8_t *k, *v;
    uint64_t stride_k, stride_v;
    // Slots filled before the first query token of a sequence.
    const int *past;
    // Null, or where the windows of a sequence end, of which each sees itself alone.
    const int *ends;
    // (n_tokens, n_head * d)
    float *out;
    // Partial results of split keys: (n_tokens, n_head, n_splits, d + 2): sums, the largest score, the sum of weights.
    float *parts;
    int type_k, type_v, n_head, n_head_kv, d, n_tokens, n_seq, causal, n_splits, n_windows, padding;
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

// How many keys token `it` of a window sees.
__device__ __forceinline__ int n_seen(const Attention &a, int past, int it, const Window &window) {
    return a.causal ? past + it + 1 : past + window.end - window.begin;
}
