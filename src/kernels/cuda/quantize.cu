// Activations as signed bytes with a scale per 32 columns: what products with quantized weights multiply.
#include "device.cuh"

// x: (n) with n a multiple of 32. q: (n) bytes; d: (n / 32) scales; s: (n / 16) sums of half a group's bytes, times the
// scale, for formats with an offset. One warp per group.
extern "C" __global__ void quantize_rows(const float *x, int8_t *q, float *d, float *s, uint64_t n_groups) {
    const size_t g = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (g >= n_groups) return;
    const float value = x[g * 32 + lane];
    const float scale = warp_max(fabsf(value)) / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    // The reciprocal of a scale near the smallest number is infinite; such a group is zero.
    const int code = isfinite(inverse) ? int(rintf(value * inverse)) : 0;
    q[g * 32 + lane] = int8_t(code);
    float sum = float(code);
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (lane == 0) d[g] = scale;
    if (lane % 16 == 0) s[g * 2 + lane / 16] = scale * sum;
}
EXPORT(quantize_rows);
