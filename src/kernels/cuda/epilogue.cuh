// What happens to a result of a product before it is stored, as in `Epilogue` of numerics/src/kernels/matmul, and the activation
// functions that it shares with activation.cu.
#pragma once

#include "device.cuh"

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ __forceinline__ float quick_gelu_of(float x) { return x / (1.0f + expf(-1.702f * x)); }
__device__ __forceinline__ float gelu_erf_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ __forceinline__ float gelu_tanh_of(float x) {
    // 0.5 (1 + tanh(u)) is sigmoid(2 u).
    return x / (1.0f + expf(-1.59576912160573f * (x + 0.044715f * x * x * x)));
}

enum EpilogueFlags : int { ADD = 1, QUICK_GELU = 2, GELU_ERF = 4, GELU_TANH = 8 };

// Adds the bias (if there is one), applies the function, and puts the result into `out` or adds it.
__device__ __forceinline__ void finish(float x, const float *bias, int row, float *out, int flags) {
    if (bias) x += bias[row];
    if (flags & QUICK_GELU) x = quick_gelu_of(x);
    if (flags & GELU_ERF) x = gelu_erf_of(x);
    if (flags & GELU_TANH) x = gelu_tanh_of(x);
    *out = flags & ADD ? *out + x : x;
}
