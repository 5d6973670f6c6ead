// Rows of packed weights as floats: the embedding of tokens, or a whole matrix where no tokens are given.
#include "formats.cuh"

// w: (.., n_cols) packed, tokens: (rows,) or null, out: (rows, n_cols). One block per row.
template <int TYPE>
__device__ __forceinline__ void embed_quantized(const uint8_t *w, const int *tokens, float *out, int n_cols, uint64_t row_bytes) {
    const uint8_t *row = w + row_bytes * (tokens ? tokens[blockIdx.x] : int(blockIdx.x));
    float *to = out + size_t(blockIdx.x) * n_cols;
    for (int g = threadIdx.x; g < n_cols / 32; g += blockDim.x) {
        Group group;
        unpack_group<TYPE>(row, g, group);
#pragma unroll
        for (int i = 0; i < 32; i++) to[32 * g + i] = value_of(group, i);
    }
}

template <int TYPE>
__device__ __forceinline__ void embed_floats(const uint8_t *w, const int *tokens, float *out, int n_cols, uint64_t row_bytes) {
    const uint8_t *row = w + row_bytes * (tokens ? tokens[blockIdx.x] : int(blockIdx.x));
    for (int i = threadIdx.x; i < n_cols; i += blockDim.x) {
        out[size_t(blockIdx.x) * n_cols + i] = load_float<TYPE>(row, i);
    }
}

#define EMBED(TYPE, NAME, HOW)                                                                                         \
    extern "C" __global__ void embed_##NAME(const uint8_t *w, const int *tokens, float *out, int n_cols,               \
                                            uint64_t row_bytes) {                                                      \
        HOW<TYPE>(w, tokens, out, n_cols, row_bytes);                                                                  \
    }                                                                                                                  \
    EXPORT(embed_##NAME);
#define EMBED_QUANTIZED(TYPE, NAME) EMBED(TYPE, NAME, embed_quantized)
#define EMBED_FLOATS(TYPE, NAME) EMBED(TYPE, NAME, embed_floats)
QUANTIZED_TYPES(EMBED_QUANTIZED)
FLOAT_TYPES(EMBED_FLOATS)
