// Prefill with quantized weights: tensor cores multiply signed bytes, 32 columns at a time, and each such product of
// integers, which is exact, meets the scales of its row and its token.
// A block computes 64 rows of 128 tokens, 128 columns per step: each of its threads unpacks one group of weights, once for
// all tokens of the block.
#include "matmul.cuh"

constexpr int TILE_ROWS = 64, TILE_TOKENS = 128, STEP_GROUPS = 4, STEP = 32 * STEP_GROUPS;
// A row in shared memory, in words: 4 more than it holds, so that the lanes of a fragment meet different banks.
constexpr int LD = STEP / 4 + 4;

template <int TYPE> __device__ __forceinline__ void matmul_int8(const Product &m) {
    using F = Format<TYPE>;
    constexpr int HALVES = F::HALVES ? 2 : 1;
    __shared__ uint32_t w_codes[TILE_ROWS * LD];
    // Filled 16 bytes at a time.
    alignas(16) __shared__ uint32_t x_codes[TILE_TOKENS * LD];
    __shared__ float a[STEP_GROUPS * HALVES][TILE_ROWS], b[F::OFFSET ? STEP_GROUPS * HALVES : 1][TILE_ROWS];
    __shared__ float d[STEP_GROUPS][TILE_TOKENS], s[F::OFFSET ? STEP_GROUPS * HALVES : 1][TILE_TOKENS];
    const int tid = threadIdx.x, warp = tid / WARP, g = tid % WARP / 4, t = tid % 4;
    const int first_row = blockIdx.x * TILE_ROWS, n_groups = m.n_cols / 32;
    const int first_token = m.tiles ? 0 : blockIdx.y * TILE_TOKENS;
    // Each warp has 32 rows and 32 tokens.
    const int row0 = warp % 2 * 32, token0 = warp / 2 * 32;
    float acc[2][4][4] = {};
    for (int g0 = 0; g0 < n_groups; g0 += STEP_GROUPS) {
        {
            const int r = tid / STEP_GROUPS, k = tid % STEP_GROUPS;
            Group group = {};
            if (first_row + r < m.n_rows && g0 + k < n_groups) {
                unpack_group<TYPE>(m.w + m.row_bytes * (first_row + r), g0 + k, group);
            }
#pragma unroll
            for (int j = 0; j < 8; j++) w_codes[r * LD + 8 * k + j] = group.codes[j];
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                a[HALVES * k + half][r] = group.a[half];
                if (F::OFFSET) b[HALVES * k + half][r] = group.b[half];
            }
        }
        for (int i = tid; i < TILE_TOKENS * STEP_GROUPS; i += MATMUL_THREADS) {
            const int it = i / STEP_GROUPS, k = i % STEP_GROUPS;
            const bool there = first_token + it < m.n_tokens && g0 + k < n_groups;
            const size_t at = there ? size_t(row_in(m, first_token + it)) * n_groups + g0 + k : 0;
            uint4 lo = {}, hi = {};
            if (there) {
                lo = reinterpret_cast<const uint4 *>(m.q + at * 32)[0];
                hi = reinterpret_cast<const uint4 *>(m.q + at * 32)[1];
            }
            uint4 *to = reinterpret_cast<uint4 *>(x_codes + it * LD + 8 * k);
            to[0] = lo;
            to[1] = hi;
            d[k][it] = there ? m.d[at] : 0.0f;
            if (F::OFFSET) {
                const float s0 = there ? m.s[2 * at] : 0.0f, s1 = there ? m.s[2 * at + 1] : 0.0f;
                if (HALVES == 2) {
                    s[(HALVES * k) % (STEP_GROUPS * HALVES)][it] = s0;
                    s[(HALVES * k + 1) % (STEP_GROUPS * HALVES)][it] = s1;
                } else {
                    s[k][it] = s0 + s1;
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP_GROUPS; k++) {
            uint32_t fa[2][4], fb[4][2];
#pragma unroll
            for (int im = 0; im < 2; im++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    fa[im][i] = w_codes[(row0 + 16 * im + g + i % 2 * 8) * LD + 8 * k + i / 2 * 4 + t];
                }
            }
#pragma unroll
            for (int in = 0; in < 4; in++) {
#pragma unroll
                for (int i = 0; i < 2; i++) fb[in][i] = x_codes[(token0 + 8 * in + g) * LD + 8 * k + 4 * i + t];
            }
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
#pragma unroll
                for (int im = 0; im < 2; im++) {
                    const int r = row0 + 16 * im + g, kh = HALVES * k + half;
                    const float a_low = a[kh][r], a_high = a[kh][r + 8];
#pragma unroll
                    for (int in = 0; in < 4; in++) {
                        const int it = token0 + 8 * in + 2 * t;
                        int c[4] = {};
                        if (HALVES == 2) {
                            mma_s8_k16(c, fa[im][2 * half], fa[im][2 * half + 1], fb[in][half]);
                        } else {
                            mma_s8_k32(c, fa[im], fb[in]);
                        }
                        float *to = acc[im][in];
                        to[0] += a_low * d[k][it] * float(c[0]);
                        to[1] += a_low * d[k][it + 1] * float(c[1]);
                        to[2] += a_high * d[k][it] * float(c[2]);
                        to[3] += a_high * d[k][it + 1] * float(c[3]);
                        if (F::OFFSET) {
                            to[0] += b[kh][r] * s[kh][it];
                            to[1] += b[kh][r] * s[kh][it + 1];
                            to[2] += b[kh][r + 8] * s[kh][it];
                            to[3] += b[kh][r + 8] * s[kh][it + 1];
                        }
                    }
                }
            }
        }
        __syncthreads();
    }
    store_tiles(m, first_row + row0, first_token + token0, acc);
}

#define MATMUL_INT8(TYPE, NAME)                                                                                        \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS) matmul_##NAME(Product m) {                              \
        if (take_tile(m, blockIdx.y)) matmul_int8<TYPE>(m);                                                            \
    }                                                                                                                  \
    EXPORT(matmul_##NAME);
QUANTIZED_TYPES(MATMUL_INT8)
