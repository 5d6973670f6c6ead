// Prefill with weights in floats, on tensor cores and yet as exact as the file: every number is split into parts of 8 bits
// each that bf16 holds exactly, and parts are multiplied with parts. A bf16 weight is one part, an F16 weight (11 bits) two,
// an F32 weight three; activations have two parts, or three beside F32. Products of parts that are both small are left out:
// what remains is off by 2^-17 of a term, beside F32 by 2^-24.
// A block computes 128 rows of 64 tokens, 32 columns per step.
#include "matmul.cuh"

constexpr int FLOAT_ROWS = 128, FLOAT_TOKENS = 64, FLOAT_STEP = 32;
// A row in shared memory, in words of two columns: 4 more than it holds, so that lanes of a fragment meet different banks.
constexpr int FLOAT_LD = FLOAT_STEP / 2 + 4;

// Columns `col` and `col + 1` of a row, 0 behind its end.
template <int TYPE> __device__ __forceinline__ float2 load_pair(const uint8_t *row, int col, int n_cols, bool there) {
    float2 pair = {0.0f, 0.0f};
    if (there && col < n_cols) pair.x = load_float<TYPE>(row, col);
    if (there && col + 1 < n_cols) pair.y = load_float<TYPE>(row, col + 1);
    return pair;
}

template <int TYPE, int W_PARTS, int X_PARTS> __device__ __forceinline__ void matmul_float(const Product &m) {
    constexpr int ORDER = W_PARTS > X_PARTS ? W_PARTS : X_PARTS;
    __shared__ uint32_t w[W_PARTS][FLOAT_ROWS * FLOAT_LD], x[X_PARTS][FLOAT_TOKENS * FLOAT_LD];
    const int tid = threadIdx.x, warp = tid / WARP, g = tid % WARP / 4, t = tid % 4;
    const int first_row = blockIdx.x * FLOAT_ROWS, first_token = m.tiles ? 0 : blockIdx.y * FLOAT_TOKENS;
    // Each warp has 32 rows and 32 tokens.
    const int row0 = warp % 4 * 32, token0 = warp / 4 * 32;
    float acc[2][4][4] = {};
    for (int col0 = 0; col0 < m.n_cols; col0 += FLOAT_STEP) {
        for (int i = tid; i < FLOAT_ROWS * FLOAT_STEP / 2; i += MATMUL_THREADS) {
            const int r = i / (FLOAT_STEP / 2), k = i % (FLOAT_STEP / 2);
            const bool there = first_row + r < m.n_rows;
            const uint8_t *row = m.w + m.row_bytes * (there ? first_row + r : 0);
            const float2 pair = load_pair<TYPE>(row, col0 + 2 * k, m.n_cols, there);
            uint32_t parts[W_PARTS];
            split_pair(pair.x, pair.y, parts);
#pragma unroll
            for (int p = 0; p < W_PARTS; p++) w[p][r * FLOAT_LD + k] = parts[p];
        }
        for (int i = tid; i < FLOAT_TOKENS * FLOAT_STEP / 2; i += MATMUL_THREADS) {
            const int it = i / (FLOAT_STEP / 2), k = i % (FLOAT_STEP / 2);
            const bool there = first_token + it < m.n_tokens;
            const float *row = m.x + size_t(there ? row_in(m, first_token + it) : 0) * m.n_cols;
            const float2 pair = load_pair<F32>(reinterpret_cast<const uint8_t *>(row), col0 + 2 * k, m.n_cols, there);
            uint32_t parts[X_PARTS];
            split_pair(pair.x, pair.y, parts);
#pragma unroll
            for (int p = 0; p < X_PARTS; p++) x[p][it * FLOAT_LD + k] = parts[p];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < FLOAT_STEP / 16; k++) {
#pragma unroll
            for (int pw = 0; pw < W_PARTS; pw++) {
                uint32_t fa[2][4];
#pragma unroll
                for (int im = 0; im < 2; im++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        fa[im][i] = w[pw][(row0 + 16 * im + g + i % 2 * 8) * FLOAT_LD + 8 * k + i / 2 * 4 + t];
                    }
                }
#pragma unroll
                for (int px = 0; px < X_PARTS; px++) {
                    if (pw + px >= ORDER) continue;
#pragma unroll
                    for (int in = 0; in < 4; in++) {
                        uint32_t fb[2];
#pragma unroll
                        for (int i = 0; i < 2; i++) fb[i] = x[px][(token0 + 8 * in + g) * FLOAT_LD + 8 * k + 4 * i + t];
#pragma unroll
                        for (int im = 0; im < 2; im++) mma_bf16(acc[im][in], fa[im], fb);
                    }
                }
            }
        }
        __syncthreads();
    }
    store_tiles(m, first_row + row0, first_token + token0, acc);
}

#define MATMUL_FLOAT(TYPE, NAME, W_PARTS, X_PARTS)                                                                     \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS) matmul_##NAME(Product m) {                             \
        if (take_tile(m, blockIdx.y)) matmul_float<TYPE, W_PARTS, X_PARTS>(m);                                         \
    }                                                                                                                  \
    EXPORT(matmul_##NAME);
MATMUL_FLOAT(F32, f32, 3, 3)
MATMUL_FLOAT(F16, f16, 2, 2)
MATMUL_FLOAT(BF16, bf16, 1, 2)
