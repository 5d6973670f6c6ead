// Gated DeltaNet: numerics/src/kernels/delta says what it is. Four kernels, one after the other: the convolution of all channels, unit length
// of queries and keys and the gates of tokens, the recurrence, and the gated norm of what comes out.
//
// The recurrence goes through the tokens one by one, however many there are: columns of a head's matrix have nothing to do with each
// other, so each warp keeps four of them in registers, and only rows of queries, keys and values are read meanwhile.
#include "epilogue.cuh"
#include "table.cuh"

// Tokens whose inputs are read before the first of them is needed.
constexpr int AHEAD = 8;

// What a sequence remembers of a layer: (3, n_channels), the inputs before, oldest first, then (n_head_v, d_k, d_v).
__device__ __forceinline__ float *state_of(const CachedSeq &seq, int layer, uint64_t n_state) { return seq.states + layer * n_state; }

// qkv: (n, n_channels), in place; taps: (4, n_channels). One thread per channel (x) of a sequence (y).
extern "C" __global__ void delta_conv(float *qkv, SeqTable table, const float *taps, uint64_t n_state, int layer, int n_channels) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= n_channels) return;
    const CachedSeq &seq = table.seqs[blockIdx.y];
    float *past = state_of(seq, layer, n_state);
    const int n = seq.n;
    qkv += size_t(seq.first) * n_channels;
    float tap[4], x[3];
    for (int i = 0; i < 4; i++) tap[i] = taps[size_t(i) * n_channels + c];
    for (int i = 0; i < 3; i++) x[i] = past[size_t(i) * n_channels + c];
    for (int first = 0; first < n; first += AHEAD) {
        float input[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) input[i] = first + i < n ? qkv[size_t(first + i) * n_channels + c] : 0.0f;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (first + i >= n) break;
            const float sum = tap[0] * x[0] + tap[1] * x[1] + tap[2] * x[2] + tap[3] * input[i];
            qkv[size_t(first + i) * n_channels + c] = silu(sum);
            x[0] = x[1], x[1] = x[2], x[2] = input[i];
        }
    }
    for (int i = 0; i < 3; i++) past[size_t(i) * n_channels + c] = x[i];
}
EXPORT(delta_conv);

struct DeltaUnit {
    // (n, n_channels): queries, keys, values
    float *qkv;
    // (n, n_head_v), in place: sigmoid(beta), e^(a softplus(alpha + dt_bias))
    float *beta, *alpha;
    const float *a, *dt_bias;
    int n_channels, n_head_k, n_head_v, d_k;
};

// One block per token.
extern "C" __global__ void delta_unit(DeltaUnit u) {
    const size_t it = blockIdx.x;
    const int lane = threadIdx.x % WARP;
    for (int head = threadIdx.x / WARP; head < 2 * u.n_head_k; head += blockDim.x / WARP) {
        float *x = u.qkv + it * u.n_channels + head * u.d_k;
        float sum = 0.0f;
        for (int i = lane; i < u.d_k; i += WARP) sum += x[i] * x[i];
        const float length = head < u.n_head_k ? 1.0f / sqrtf(float(u.d_k)) : 1.0f;
        const float scale = length / sqrtf(warp_sum(sum) + 1e-6f);
        for (int i = lane; i < u.d_k; i += WARP) x[i] *= scale;
    }
    for (int j = threadIdx.x; j < u.n_head_v; j += blockDim.x) {
        const size_t at = it * u.n_head_v + j;
        const float x = u.alpha[at] + u.dt_bias[j];
        u.beta[at] = 1.0f / (1.0f + expf(-u.beta[at]));
        u.alpha[at] = expf(u.a[j] * (x > 20.0f ? x : log1pf(expf(x))));
    }
}
EXPORT(delta_unit);

struct DeltaScan {
    const float *qkv, *beta, *decay;
    SeqTable table;
    // Floats of all that a sequence remembers of a layer.
    uint64_t n_state;
    // (n, n_head_v * d_v)
    float *out;
    int layer, n_channels, n_head_k, n_head_v, d_k, d_v;
};

// Columns of a matrix that a warp has.
constexpr int COLUMNS = 4;

// One block of four warps per head of values (x) and 16 of its columns (y) of a sequence (z). Lane `l` has rows l, l + 32, …, up to ROWS of them.
template <int ROWS> __device__ __forceinline__ void scan(const DeltaScan &s) {
    const int lane = threadIdx.x % WARP, j = blockIdx.x;
    const int first = (blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP) * COLUMNS;
    const CachedSeq &seq = s.table.seqs[blockIdx.z];
    float *state = state_of(seq, s.layer, s.n_state) + 3 * size_t(s.n_channels) + size_t(j) * s.d_k * s.d_v + first;
    float m[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int row = r * WARP + lane;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) m[r][c] = row < s.d_k ? state[size_t(row) * s.d_v + c] : 0.0f;
    }
    const float *queries = s.qkv + j % s.n_head_k * s.d_k, *keys = queries + s.n_head_k * s.d_k;
    const float *values = s.qkv + 2 * s.n_head_k * s.d_k + j * s.d_v + first;
    for (int it = seq.first; it < seq.first + seq.n; it++) {
        const size_t at = size_t(it) * s.n_channels;
        const float beta = s.beta[size_t(it) * s.n_head_v + j], decay = s.decay[size_t(it) * s.n_head_v + j];
        float q[ROWS], k[ROWS], u[COLUMNS], o[COLUMNS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int row = r * WARP + lane;
            q[r] = row < s.d_k ? queries[at + row] : 0.0f;
            k[r] = row < s.d_k ? keys[at + row] : 0.0f;
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float said = 0.0f;
#pragma unroll
            for (int r = 0; r < ROWS; r++) said += k[r] * m[r][c];
            u[c] = said;
        }
        // One after the other, so that the sums of all columns are on their way at once.
        for (int step = WARP / 2; step > 0; step /= 2) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) u[c] += __shfl_xor_sync(ALL_LANES, u[c], step);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            u[c] = beta * (values[at + c] - decay * u[c]);
            o[c] = 0.0f;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                m[r][c] = decay * m[r][c] + k[r] * u[c];
                o[c] += q[r] * m[r][c];
            }
        }
        for (int step = WARP / 2; step > 0; step /= 2) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) o[c] += __shfl_xor_sync(ALL_LANES, o[c], step);
        }
        float *out = s.out + size_t(it) * s.n_head_v * s.d_v + j * s.d_v + first;
        if (lane == 0) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) out[c] = o[c];
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int row = r * WARP + lane;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (row < s.d_k) state[size_t(row) * s.d_v + c] = m[r][c];
        }
    }
}

// Heads of up to 128 elements, and up to 256.
extern "C" __global__ void __launch_bounds__(128) delta_scan_128(DeltaScan s) { scan<4>(s); }
EXPORT(delta_scan_128);

extern "C" __global__ void __launch_bounds__(128) delta_scan_256(DeltaScan s) { scan<8>(s); }
EXPORT(delta_scan_256);

// out: (n, n_head_v * d_v), in place: out / sqrt(mean(out²) + eps) * weight * silu(z), head by head. One warp per head of a token.
// `broken` is set to 1 where something is not finite.
extern "C" __global__ void delta_norm(float *out, const float *z, const float *weight, int *broken, int d_v, float eps, uint64_t n_heads) {
    const size_t head = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (head >= n_heads) return;
    out += head * d_v, z += head * d_v;
    float sum = 0.0f;
    for (int i = lane; i < d_v; i += WARP) sum += out[i] * out[i];
    const float scale = 1.0f / sqrtf(warp_sum(sum) / d_v + eps);
    bool fits = true;
    for (int i = lane; i < d_v; i += WARP) {
        const float x = out[i] * scale * weight[i] * silu(z[i]);
        fits &= isfinite(x) != 0;
        out[i] = x;
    }
    if (!fits) atomicOr(broken, 1);
}
EXPORT(delta_norm);
