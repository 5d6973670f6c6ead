// RMSNorm and LayerNorm. One block per row.
#include "device.cuh"

// out, x: (rows, n); weight: (n,). out = x / sqrt(mean(x²) + eps) * weight.
extern "C" __global__ void rms_norm(const float *x, const float *weight, float *out, int n, float eps) {
    const float *row = x + size_t(blockIdx.x) * n;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += row[i] * row[i];
    const float scale = 1.0f / sqrtf(block_sum(sum) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[size_t(blockIdx.x) * n + i] = row[i] * scale * weight[i];
}
EXPORT(rms_norm);

// out, x: (rows, n); weight, bias: (n,). out = (x - mean) / sqrt(var + eps) * weight + bias.
extern "C" __global__ void layer_norm(const float *x, const float *weight, const float *bias, float *out, int n, float eps) {
    const float *row = x + size_t(blockIdx.x) * n;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += row[i];
    const float mean = block_sum(sum) / n;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) squares += (row[i] - mean) * (row[i] - mean);
    const float scale = 1.0f / sqrtf(block_sum(squares) / n + eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        out[size_t(blockIdx.x) * n + i] = (row[i] - mean) * scale * weight[i] + bias[i];
    }
}
EXPORT(layer_norm);
