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
};
