// The operands of every product.
#pragma once

#include "epilogue.cuh"
#include "formats.cuh"

struct Product {
    // (n_rows, n_cols) packed
    const uint8_t *w;
    uint64_t row_bytes;
    // (n_tokens, n_cols): floats for weights in floats, else what quantize.cu made of them
    const float *x;
    const int8_t *q;
    const float *d, *s;
    // (n_rows,) or null
    const float *bias;
    // (n_tokens, n_rows)
    float *out;
    int n_rows, n_cols, n_tokens, flags;
    // Null, or where `w` is the first of several matrices, `step` bytes apart: who multiplies which (see experts.cu). Rows of the
    // input are then numbers of pairs over `per_row`, rows of `out` numbers of pairs.
    const int *order, *tiles;
    uint64_t step;
    int per_row, padding;
};

// Makes `m` the product of tile `i` where there are tiles; false where that is empty.
__device__ __forceinline__ bool take_tile(Product &m, int i) {
    if (!m.tiles) return true;
    const int *tile = m.tiles + 3 * size_t(i);
    m.w += m.step * tile[0];
    m.order += tile[1];
    m.n_tokens = tile[2];
    return m.n_tokens > 0;
}

// Where token `it` of the tile is in the input, and in the output.
__device__ __forceinline__ int row_in(const Product &m, int it) { return m.tiles ? m.order[it] / m.per_row : it; }
__device__ __forceinline__ int row_out(const Product &m, int it) { return m.tiles ? m.order[it] : it; }
