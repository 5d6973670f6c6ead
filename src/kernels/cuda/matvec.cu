// Products of a few tokens (up to 8) straight from packed rows: one pass over the weights, at the speed of memory.
// A warp computes a row; its lanes take groups of columns in turn, and every token meets a group while it is unpacked.
#include "product.cuh"

constexpr int MATVEC_THREADS = 128;

// Sums over the warp, and stores those of all tokens.
template <int TOKENS> __device__ __forceinline__ void store_sums(const Product &m, int row, float (&sums)[TOKENS]) {
#pragma unroll
    for (int it = 0; it < TOKENS; it++) {
        if (it >= m.n_tokens) break;
        const float sum = warp_sum(sums[it]);
        if (threadIdx.x % WARP == 0) finish(sum, m.bias, row, m.out + size_t(row_out(m, it)) * m.n_rows + row, m.flags);
    }
}

// Where the tokens are in the input.
template <int TOKENS> __device__ __forceinline__ void rows_in(const Product &m, int (&rows)[TOKENS]) {
#pragma unroll
    for (int it = 0; it < TOKENS; it++) rows[it] = it < m.n_tokens ? row_in(m, it) : 0;
}

template <int TYPE, int TOKENS> __device__ __forceinline__ void matvec_quantized(const Product &m) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, n_groups = m.n_cols / 32;
    if (row >= m.n_rows) return;
    const uint8_t *w = m.w + m.row_bytes * row;
    float sums[TOKENS] = {};
    int rows[TOKENS];
    rows_in(m, rows);
    for (int g = threadIdx.x % WARP; g < n_groups; g += WARP) {
        Group group;
        unpack_group<TYPE>(w, g, group);
#pragma unroll
        for (int it = 0; it < TOKENS; it++) {
            if (it >= m.n_tokens) break;
            const size_t at = size_t(rows[it]) * n_groups + g;
            const uint4 *q = reinterpret_cast<const uint4 *>(m.q + at * 32);
            int dots[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint4 x = q[half];
                const uint32_t *codes = group.codes + 4 * half;
                int dot = __dp4a(int(codes[0]), int(x.x), 0);
                dot = __dp4a(int(codes[1]), int(x.y), dot);
                dot = __dp4a(int(codes[2]), int(x.z), dot);
                dots[half] = __dp4a(int(codes[3]), int(x.w), dot);
            }
            if (Format<TYPE>::HALVES) {
                sums[it] += m.d[at] * (group.a[0] * float(dots[0]) + group.a[1] * float(dots[1]));
            } else {
                sums[it] += m.d[at] * group.a[0] * float(dots[0] + dots[1]);
            }
            if (Format<TYPE>::OFFSET) sums[it] += group.b[0] * m.s[2 * at] + group.b[1] * m.s[2 * at + 1];
        }
    }
    store_sums(m, row, sums);
}

template <int TYPE, int TOKENS> __device__ __forceinline__ void matvec_floats(const Product &m) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= m.n_rows) return;
    const uint8_t *w = m.w + m.row_bytes * row;
    float sums[TOKENS] = {};
    int rows[TOKENS];
    rows_in(m, rows);
    for (int i = threadIdx.x % WARP; i < m.n_cols; i += WARP) {
        const float value = load_float<TYPE>(w, i);
#pragma unroll
        for (int it = 0; it < TOKENS; it++) {
            if (it >= m.n_tokens) break;
            sums[it] += value * m.x[size_t(rows[it]) * m.n_cols + i];
        }
    }
    store_sums(m, row, sums);
}

// `_1` is for one token, `_8` for up to eight; tiles are blocks' y.
#define MATVEC(TYPE, NAME, HOW)                                                                                        \
    extern "C" __global__ void __launch_bounds__(MATVEC_THREADS) matvec_##NAME##_1(Product m) {                          \
        if (take_tile(m, blockIdx.y)) HOW<TYPE, 1>(m);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MATVEC_THREADS) matvec_##NAME##_8(Product m) {                          \
        if (take_tile(m, blockIdx.y)) HOW<TYPE, 8>(m);                                                                 \
    }                                                                                                                  \
    EXPORT(matvec_##NAME##_1);                                                                                         \
    EXPORT(matvec_##NAME##_8);
#define MATVEC_QUANTIZED(TYPE, NAME) MATVEC(TYPE, NAME, matvec_quantized)
#define MATVEC_FLOATS(TYPE, NAME) MATVEC(TYPE, NAME, matvec_floats)
QUANTIZED_TYPES(MATVEC_QUANTIZED)
FLOAT_TYPES(MATVEC_FLOATS)
