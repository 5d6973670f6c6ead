// What the two prefill products share: how a tile is stored.
#pragma once

#include "product.cuh"

constexpr int MATMUL_THREADS = 256;

// Stores the tiles of 16 rows and 8 tokens of a warp; `row0`, `token0` are those of its first.
template <int M, int N>
__device__ __forceinline__ void store_tiles(const Product &m, int row0, int token0, const float (&acc)[M][N][4]) {
    const int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int im = 0; im < M; im++) {
#pragma unroll
        for (int in = 0; in < N; in++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = row0 + 16 * im + g + i / 2 * 8, token = token0 + 8 * in + 2 * t + i % 2;
                if (row < m.n_rows && token < m.n_tokens) {
                    finish(acc[im][in][i], m.bias, row, m.out + size_t(row_out(m, token)) * m.n_rows + row, m.flags);
                }
            }
        }
    }
}
