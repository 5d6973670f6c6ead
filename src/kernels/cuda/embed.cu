// Rows of packed weights as floats: the embedding of tokens, or a whole matrix where no tokens are given.
#include "formats.cuh"

// The row that a block takes; a token outside the matrix is its first row, so that nothing reads beyond it.
__device__ __forceinline__ const uint8_t *row_of(const uint8_t *w, const int *tokens, int n_rows, uint64_t row_bytes) {
    const int id = tokens ? tokens[blockIdx.x] : int(blockIdx.x);
    return w + row_bytes * (unsigned(id) < unsigned(n_rows) ? id : 0);
}

// w: (n_rows, n_cols) packed, tokens: (rows,) or null, out: (rows, n_cols). One block per row.
template <int TYPE>
__device__ __forceinline__ void embed_quantized(const uint8_t *w, const int *tokens, float *out, int n_cols, int n_rows, uint64_t row_bytes) {
    const uint8_t *row = row_of(w, tokens, n_rows, row_bytes);
    float *to = out + size_t(blockIdx.x) * n_cols;
    for (int g = threadIdx.x; g < n_cols / 32; g += blockDim.x) {
        Group group;
        unpack_group<TYPE>(row, g, group);
#pragma unroll
        for (int i = 0; i < 32; i++) to[32 * g + i] = value_of(group, i);
    }
}

template <int TYPE>
__device__ __forceinline__ void embed_floats(const uint8_t *w, const int *tokens, float *out, int n_cols, int n_rows, uint64_t row_bytes) {
    const uint8_t *row = row_of(w, tokens, n_rows, row_bytes);
    for (int i = threadIdx.x; i < n_cols; i += blockDim.x) {
        out[size_t(blockIdx.x) * n_cols + i] = load_float<TYPE>(row, i);
    }
}

#define EMBED(TYPE, NAME, HOW)                                                                                         \
    extern "C" __global__ void embed_##NAME(const uint8_t *w, const int *tokens, float *out, int n_cols, int n_rows,   \
                                            uint64_t row_bytes) {                                                      \
        HOW<TYPE>(w, tokens, out, n_cols, n_rows, row_bytes);                                                          \
    }                                                                                                                  \
    EXPORT(embed_##NAME);
#define EMBED_QUANTIZED(TYPE, NAME) EMBED(TYPE, NAME, embed_quantized)
#define EMBED_FLOATS(TYPE, NAME) EMBED(TYPE, NAME, embed_floats)
QUANTIZED_TYPES(EMBED_QUANTIZED)
FLOAT_TYPES(EMBED_FLOATS)
