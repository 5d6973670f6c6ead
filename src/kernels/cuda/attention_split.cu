// Attention of few queries over many keys: a block takes one token, up to HEADS heads that share a KV head, and one of
// its ranges of keys; attention_merge brings the ranges together. For any head dimension up to 32 * PER_LANE.
// For scores a lane takes a key; for sums a lane takes elements. All in f32.
#include "attention.cuh"

constexpr int SPLIT_WARPS = 4, SPLIT_THREADS = WARP * SPLIT_WARPS;

template <int TYPE_K, int TYPE_V, int HEADS, int PER_LANE> __device__ __forceinline__ void attention_split(const Attention &a) {
    constexpr int MAX_D = WARP * PER_LANE;
    __shared__ float q[HEADS][MAX_D];
    __shared__ float parts[SPLIT_WARPS][MAX_D];
    __shared__ float maxima[SPLIT_WARPS][HEADS], totals[SPLIT_WARPS][HEADS];
    const int group = a.n_head / a.n_head_kv, chunks = (group + HEADS - 1) / HEADS;
    const int ih_kv = blockIdx.y / chunks, first = blockIdx.y % chunks * HEADS, it = blockIdx.z;
    const int n_heads = group - first < HEADS ? group - first : HEADS, head0 = ih_kv * group + first;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, d = a.d;
    const int row_k = cache_row_bytes(a.type_k, d), row_v = cache_row_bytes(a.type_v, d);
    const Seen sees = seen_by(a, it, ih_kv);
    const uint8_t *keys = sees.keys, *values = sees.values;
    const int seen = sees.n, n_splits = sees.n_splits;
    // Others of the launch may have more ranges.
    if (int(blockIdx.x) >= n_splits) return;
    // Ranges are whole warps of keys.
    const int per_split = ((seen + n_splits - 1) / n_splits + WARP - 1) / WARP * WARP;
    const int begin = blockIdx.x * per_split, end = begin + per_split < seen ? begin + per_split : seen;
    const float scale = score_scale(d);
    for (int i = threadIdx.x; i < HEADS * MAX_D; i += SPLIT_THREADS) {
        const int h = i / MAX_D, e = i % MAX_D;
        const bool there = h < n_heads && e < d;
        q[h][e] = there ? a.q[(size_t(it) * a.n_head + head0 + h) * d + e] * scale : 0.0f;
    }
    __syncthreads();
    float max[HEADS], total[HEADS], sums[HEADS][PER_LANE];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        max[h] = -INFINITY;
        total[h] = 0.0f;
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) sums[h][e] = 0.0f;
    }
    for (int j0 = begin + warp * WARP; j0 < end; j0 += SPLIT_THREADS) {
        const bool there = j0 + lane < end;
        float scores[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) scores[h] = 0.0f;
        if (there) {
            const uint8_t *row = keys + size_t(j0 + lane) * row_k;
            for (int i = 0; i < d; i += 8) {
                float x[8];
                load8<TYPE_K>(a.type_k, row, i, d, x);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
#pragma unroll
                    for (int e = 0; e < 8; e++) scores[h] += q[h][i + e] * x[e];
                }
            }
        }
        // From here on scores are weights.
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float score = there ? scores[h] : -INFINITY;
            const float top = fmaxf(max[h], warp_max(score));
            const float fade = exp2f(max[h] - top);
            scores[h] = exp2f(score - top);
            max[h] = top;
            total[h] = total[h] * fade + warp_sum(scores[h]);
#pragma unroll
            for (int e = 0; e < PER_LANE; e++) sums[h][e] *= fade;
        }
        const int n = end - j0 < WARP ? end - j0 : WARP;
        for (int j = 0; j < n; j++) {
            const uint8_t *row = values + size_t(j0 + j) * row_v;
            float x[PER_LANE];
#pragma unroll
            for (int e = 0; e < PER_LANE; e++) x[e] = e * WARP + lane < d ? load1<TYPE_V>(a.type_v, row, e * WARP + lane) : 0.0f;
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                const float weight = __shfl_sync(ALL_LANES, scores[h], j);
#pragma unroll
                for (int e = 0; e < PER_LANE; e++) sums[h][e] += weight * x[e];
            }
        }
    }
    // The warps' results become one.
    if (lane == 0) {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            maxima[warp][h] = max[h];
            totals[warp][h] = total[h];
        }
    }
    __syncthreads();
    for (int h = 0; h < n_heads; h++) {
        float top = maxima[0][h];
        for (int w = 1; w < SPLIT_WARPS; w++) top = fmaxf(top, maxima[w][h]);
        // The loop over h is not unrolled; picking by comparison keeps the arrays in registers.
        float mine = -INFINITY;
#pragma unroll
        for (int i = 0; i < HEADS; i++) mine = i == h ? max[i] : mine;
        const float fade = mine == -INFINITY ? 0.0f : exp2f(mine - top);
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < HEADS; i++) sum = i == h ? sums[i][e] : sum;
            parts[warp][e * WARP + lane] = sum * fade;
        }
        __syncthreads();
        float *out = a.parts + ((size_t(it) * a.n_head + head0 + h) * a.n_splits + blockIdx.x) * (d + 2);
        for (int e = threadIdx.x; e < d; e += SPLIT_THREADS) {
            float sum = 0.0f;
            for (int w = 0; w < SPLIT_WARPS; w++) sum += parts[w][e];
            out[e] = sum;
        }
        if (threadIdx.x == 0) {
            float sum = 0.0f;
            for (int w = 0; w < SPLIT_WARPS; w++) {
                sum += maxima[w][h] == -INFINITY ? 0.0f : totals[w][h] * exp2f(maxima[w][h] - top);
            }
            out[d] = top;
            out[d + 1] = sum;
        }
        __syncthreads();
    }
}

// Elements per lane suit heads of up to 128; `_wide` takes one head of up to 1024 instead of 8.
#define ATTENTION_SPLIT(NAME, TYPE_K, TYPE_V, HEADS, PER_LANE)                                                         \
    extern "C" __global__ void __launch_bounds__(SPLIT_THREADS) attention_split_##NAME(Attention a) {                  \
        attention_split<TYPE_K, TYPE_V, HEADS, PER_LANE>(a);                                                           \
    }                                                                                                                  \
    EXPORT(attention_split_##NAME);
ATTENTION_SPLIT(f16, F16, F16, 8, 4)
ATTENTION_SPLIT(q8_0, Q8_0, Q8_0, 8, 4)
ATTENTION_SPLIT(any, -1, -1, 8, 4)
ATTENTION_SPLIT(wide, -1, -1, 1, 32)

// Brings the ranges of keys together: a block per token (x) and head (y).
extern "C" __global__ void attention_merge(Attention a) {
    const size_t row = size_t(blockIdx.x) * a.n_head + blockIdx.y;
    const float *parts = a.parts + row * a.n_splits * (a.d + 2);
    const int n_splits = seen_by(a, int(blockIdx.x), 0).n_splits;
    float top = -INFINITY;
    for (int s = 0; s < n_splits; s++) top = fmaxf(top, parts[size_t(s) * (a.d + 2) + a.d]);
    float total = 0.0f;
    for (int s = 0; s < n_splits; s++) {
        const float *part = parts + size_t(s) * (a.d + 2) + a.d;
        total += part[0] == -INFINITY ? 0.0f : part[1] * exp2f(part[0] - top);
    }
    for (int e = threadIdx.x; e < a.d; e += blockDim.x) {
        float sum = 0.0f;
        for (int s = 0; s < n_splits; s++) {
            const float *part = parts + size_t(s) * (a.d + 2);
            sum += part[a.d] == -INFINITY ? 0.0f : part[e] * exp2f(part[a.d] - top);
        }
        a.out[row * a.d + e] = sum / total;
    }
}
EXPORT(attention_merge);
