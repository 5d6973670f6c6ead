// SwiGLU, the two GELUs, and addition, element by element over n elements. One thread per element.
#include "epilogue.cuh"

#define ELEMENT size_t(blockIdx.x) * blockDim.x + threadIdx.x

// gate = silu(gate) * up
extern "C" __global__ void silu_mul(float *gate, const float *up, uint64_t n) {
    const size_t i = ELEMENT;
    if (i < n) gate[i] = silu(gate[i]) * up[i];
}
EXPORT(silu_mul);

// x = x * sigmoid(1.702 x)
extern "C" __global__ void quick_gelu(float *x, uint64_t n) {
    const size_t i = ELEMENT;
    if (i < n) x[i] = quick_gelu_of(x[i]);
}
EXPORT(quick_gelu);

// x = 0.5 x (1 + erf(x / sqrt(2)))
extern "C" __global__ void gelu_erf(float *x, uint64_t n) {
    const size_t i = ELEMENT;
    if (i < n) x[i] = gelu_erf_of(x[i]);
}
EXPORT(gelu_erf);

// x += y
extern "C" __global__ void add(float *x, const float *y, uint64_t n) {
    const size_t i = ELEMENT;
    if (i < n) x[i] += y[i];
}
EXPORT(add);
