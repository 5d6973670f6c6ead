// Attention of many queries on tensor cores: a block takes 64 rows (tokens, and of each the heads that share a KV head) and
// goes through the keys 32 at a time, with a running maximum, so that no matrix of scores exists.
// Queries, keys, weights and values are each the sum of two numbers of 8 bits, which bf16 holds exactly whatever their size;
// products of both second parts are left out, so a term is off by 2^-16 at most. Q4_0 and F16 rows are exact in two parts.
#include "attention.cuh"

constexpr int FLASH_ROWS = 64, FLASH_KEYS = 32, FLASH_THREADS = 128;

__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Rows that are computed together: a sequence's of the launch, or a window's.
struct Together {
    // The first of them in the launch, and what it sees: the least of all, or as much as they.
    size_t token0;
    int n;
    Seen first;
};

__device__ __forceinline__ Together rows_of(const Attention &a, int i, int ih_kv) {
    if (a.table.seqs) {
        const CachedSeq &seq = a.table.seqs[a.first_seq + i];
        const int start = seq.first < a.first ? a.first : seq.first;
        return {size_t(start - a.first), seq.first + seq.n - start, in_cache(a, start, ih_kv)};
    }
    const int is = i / a.n_windows;
    const Window window = window_of(a, i % a.n_windows);
    return {size_t(is) * a.n_seq + window.begin, window.end - window.begin, in_window(a, is, window, ih_kv)};
}

// For heads of up to D elements.
template <int D> __device__ __forceinline__ void attention_flash(const Attention &a) {
    // Rows in shared memory, in words of two columns: 4 more than they hold, so that lanes of a fragment meet different banks.
    constexpr int LD_K = D / 2 + 4, LD_V = FLASH_KEYS / 2 + 4;
    __shared__ uint32_t k_parts[2][FLASH_KEYS * LD_K];
    // (D, keys): a word holds two keys.
    __shared__ uint32_t v_parts[2][D * LD_V];
    const int tid = threadIdx.x, lane = tid % WARP, g = lane / 4, t = lane % 4;
    const int group = a.n_head / a.n_head_kv, ih_kv = blockIdx.y, d = a.d;
    const Together rows = rows_of(a, int(blockIdx.z), ih_kv);
    const int total = rows.n * group, first = blockIdx.x * FLASH_ROWS, row0 = first + tid / WARP * 16 + g;
    // Blocks are there for the longest window.
    if (first >= total) return;
    const size_t token0 = rows.token0;
    const int row_k = cache_row_bytes(a.type_k, d), row_v = cache_row_bytes(a.type_v, d);
    const uint8_t *keys = rows.first.keys, *values = rows.first.values;
    // In a cache each row sees one more than the one before.
    const int seen_first = rows.first.n, is_causal = a.table.seqs != nullptr;
    const float scale = score_scale(d);

    // This lane's two rows: where their queries are, and how many keys they see. Rows behind the last do as the last does.
    size_t at[2];
    int seen[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = row0 + 8 * r < total ? row0 + 8 * r : total - 1;
        at[r] = ((token0 + row / group) * a.n_head + ih_kv * group + row % group) * d;
        seen[r] = seen_first + is_causal * (row / group);
    }
    const int last_row = first + FLASH_ROWS <= total ? first + FLASH_ROWS - 1 : total - 1;
    const int n_keys = seen_first + is_causal * (last_row / group);

    uint32_t q[2][D / 16][4];
#pragma unroll
    for (int s = 0; s < D / 16; s++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int col = 16 * s + 2 * t + i / 2 * 8;
            uint32_t parts[2];
            // Heads have an even number of elements.
            const float *from = a.q + at[i % 2] + col;
            split_pair(col < d ? from[0] * scale : 0.0f, col < d ? from[1] * scale : 0.0f, parts);
            q[0][s][i] = parts[0];
            q[1][s][i] = parts[1];
        }
    }
    float out[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    for (int j0 = 0; j0 < n_keys; j0 += FLASH_KEYS) {
        __syncthreads();
        for (int i = tid; i < FLASH_KEYS * (D / 8); i += FLASH_THREADS) {
            const int j = i / (D / 8), e0 = i % (D / 8) * 8;
            float x[8] = {};
            if (j0 + j < n_keys && e0 < d) load8<-1>(a.type_k, keys + size_t(j0 + j) * row_k, e0, d, x);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint32_t parts[2];
                split_pair(x[2 * e], x[2 * e + 1], parts);
                k_parts[0][j * LD_K + e0 / 2 + e] = parts[0];
                k_parts[1][j * LD_K + e0 / 2 + e] = parts[1];
            }
        }
        for (int i = tid; i < FLASH_KEYS / 2 * (D / 8); i += FLASH_THREADS) {
            const int j = i % (FLASH_KEYS / 2), e0 = i / (FLASH_KEYS / 2) * 8;
            float x[8] = {}, y[8] = {};
            const uint8_t *row = values + size_t(j0 + 2 * j) * row_v;
            if (j0 + 2 * j < n_keys && e0 < d) load8<-1>(a.type_v, row, e0, d, x);
            if (j0 + 2 * j + 1 < n_keys && e0 < d) load8<-1>(a.type_v, row + row_v, e0, d, y);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                uint32_t parts[2];
                split_pair(x[e], y[e], parts);
                v_parts[0][(e0 + e) * LD_V + j] = parts[0];
                v_parts[1][(e0 + e) * LD_V + j] = parts[1];
            }
        }
        __syncthreads();
        float scores[FLASH_KEYS / 8][4] = {};
#pragma unroll
        for (int s = 0; s < D / 16; s++) {
#pragma unroll
            for (int n = 0; n < FLASH_KEYS / 8; n++) {
                uint32_t k[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++) k[i / 2][i % 2] = k_parts[i / 2][(8 * n + g) * LD_K + 8 * s + i % 2 * 4 + t];
                mma_bf16(scores[n], q[0][s], k[0]);
                mma_bf16(scores[n], q[0][s], k[1]);
                mma_bf16(scores[n], q[1][s], k[0]);
            }
        }
        // Scores become weights.
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = max[r];
#pragma unroll
            for (int n = 0; n < FLASH_KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &score = scores[n][2 * r + i];
                    if (j0 + 8 * n + 2 * t + i >= seen[r]) score = -INFINITY;
                    top = fmaxf(top, score);
                }
            }
            top = row_max(top);
            // Every row sees the first key, so from the first step on the maximum is a number.
            const float fade = exp2f(max[r] - top);
            max[r] = top;
            float part = 0.0f;
#pragma unroll
            for (int n = 0; n < FLASH_KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float &score = scores[n][2 * r + i];
                    score = exp2f(score - top);
                    part += score;
                }
            }
            sum[r] = sum[r] * fade + row_sum(part);
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * r] *= fade;
                out[n][2 * r + 1] *= fade;
            }
        }
#pragma unroll
        for (int s = 0; s < FLASH_KEYS / 16; s++) {
            // What lanes hold of two tiles of scores is what they have to hold of a tile of weights.
            uint32_t p[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *pair = scores[2 * s + i / 2] + i % 2 * 2;
                uint32_t parts[2];
                split_pair(pair[0], pair[1], parts);
                p[0][i] = parts[0];
                p[1][i] = parts[1];
            }
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                uint32_t v[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++) v[i / 2][i % 2] = v_parts[i / 2][(8 * n + g) * LD_V + 8 * s + i % 2 * 4 + t];
                mma_bf16(out[n], p[0], v[0]);
                mma_bf16(out[n], p[0], v[1]);
                mma_bf16(out[n], p[1], v[0]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (row0 + 8 * r >= total) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const int col = 8 * n + 2 * t;
            if (col >= d) continue;
            a.out[at[r] + col] = out[n][2 * r] / sum[r];
            a.out[at[r] + col + 1] = out[n][2 * r + 1] / sum[r];
        }
    }
}

#define ATTENTION_FLASH(D)                                                                                             \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS) attention_flash_##D(Attention a) { attention_flash<D>(a); } \
    EXPORT(attention_flash_##D);
ATTENTION_FLASH(32)
ATTENTION_FLASH(64)
ATTENTION_FLASH(80)
ATTENTION_FLASH(128)
