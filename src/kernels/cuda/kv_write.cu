// The fused cache write: bias, rotation, Hadamard transform, quantization and store in one pass over fresh rows, byte for byte as
// numerics/src/kernels/kv_write.rs; and the same bias and rotation for queries, and the same transform of queries and of results.
#include "encode.cuh"
#include "table.cuh"

// Cosines and sines: (n_table, 2, n_turning), a row for each token; token `it` uses row it % n_table. Pairs are (i, i + n_pair);
// those from n_turning on, and elements behind the pairs, are not touched.
struct Rotation {
    const float *table;
    int n_table, n_turning, n_pair, padding;
};

// Element `i` of a head, with its bias and rotated.
__device__ __forceinline__ float finished(const float *head, const float *bias, const Rotation &rotation, int it, int i) {
    const int half = rotation.n_pair, pair = i < half ? i : i - half;
    float x = head[i];
    if (bias) x = __fadd_rn(x, bias[i]);
    // Also where there is no partner.
    if (pair >= rotation.n_turning) return x;
    const int other = i < half ? i + half : i - half;
    float y = head[other];
    if (bias) y = __fadd_rn(y, bias[other]);
    const float *row = rotation.table + size_t(it % rotation.n_table) * 2 * rotation.n_turning;
    const float c = row[pair], s = row[rotation.n_turning + pair];
    return i < half ? __fsub_rn(__fmul_rn(x, c), __fmul_rn(y, s)) : __fadd_rn(__fmul_rn(x, c), __fmul_rn(y, s));
}

// Elements of a head that a warp holds at a time, and how many of them a lane does.
constexpr int RUN = 128, PER_LANE = RUN / WARP;

// How heads are transformed: elements that are transformed together, a power of two up to RUN, and 1 / sqrt of that; 0 where
// they are not.
struct Transform {
    int run;
    float factor;
};

// Transforms elements e * WARP + lane of a part of a head, in the order of numerics/src/tensor/hadamard.rs.
__device__ __forceinline__ void transform(const Transform &t, int lane, float (&x)[PER_LANE]) {
    for (int apart = 1; apart < WARP && apart < t.run; apart *= 2) {
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) {
            const float other = __shfl_xor_sync(ALL_LANES, x[e], apart);
            x[e] = lane & apart ? __fsub_rn(other, x[e]) : __fadd_rn(x[e], other);
        }
    }
#pragma unroll
    for (int apart = 1; apart < PER_LANE; apart *= 2) {
        if (apart * WARP >= t.run) break;
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) {
            if (e & apart) continue;
            const float low = x[e], high = x[e + apart];
            x[e] = __fadd_rn(low, high);
            x[e + apart] = __fsub_rn(low, high);
        }
    }
#pragma unroll
    for (int e = 0; e < PER_LANE; e++) x[e] = __fmul_rn(x[e], t.factor);
}

struct KvWrite {
    // (n_tokens, n_head * d)
    const float *rows;
    // (n_head * d,) or null
    const float *bias;
    // Where rows belong to caches, behind what is filled there, of values or else of keys; `rows` begin with row `first`.
    SeqTable table;
    // Else head `ih` begins at `ih * stride` bytes; sequence `is`, of `n_seq` tokens, at `is * n_head * stride`.
    uint8_t *out;
    uint64_t stride;
    // Set to 1 where a row is not finite, or beyond what the type holds.
    int *broken;
    Rotation rotation;
    int n_head, d, type, n_tokens, n_seq, layer, first, values;
    Transform transform;
};

// Where head `ih` of token `it` goes.
__device__ __forceinline__ uint8_t *place_of(const KvWrite &w, int it, int ih) {
    uint8_t *out = w.out;
    uint64_t stride = w.stride, head = uint64_t(it / w.n_seq) * w.n_head + ih;
    int slot = it % w.n_seq;
    if (w.table.seqs) {
        const CachedSeq &seq = w.table.seqs[w.table.seq_of[w.first + it]];
        out = w.values ? seq.v : seq.k, stride = w.values ? seq.stride_v : seq.stride_k;
        head = uint64_t(w.layer) * w.n_head + ih, slot = seq.past + w.first + it - seq.first;
    }
    return out + head * stride + uint64_t(slot) * cache_row_bytes(w.type, w.d);
}

// One warp per head of a token: up to 128 elements at a time, of which it encodes 32 at a time, one to a lane.
extern "C" __global__ void kv_write(KvWrite w) {
    const size_t task = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP, it = int(task / w.n_head), ih = int(task % w.n_head);
    if (it >= w.n_tokens) return;
    const float *head = w.rows + (size_t(it) * w.n_head + ih) * w.d;
    const float *bias = w.bias ? w.bias + ih * w.d : nullptr;
    uint8_t *to = place_of(w, it, ih);
    const Nibbles n = nibbles(w.type);
    const int block_bytes = w.type == Q8_0 ? 34 : n.bytes;
    bool fits = true;
    float run[PER_LANE];
    for (int first = 0; first < w.d; first += WARP) {
        const int i = first + lane, part = first % RUN / WARP;
        if (part == 0) {
#pragma unroll
            for (int e = 0; e < PER_LANE; e++) {
                run[e] = i + e * WARP < w.d ? finished(head, bias, w.rotation, it, i + e * WARP) : 0.0f;
            }
            if (w.transform.run) transform(w.transform, lane, run);
        }
        // Picking by comparison keeps the array in registers.
        float x = run[0];
#pragma unroll
        for (int e = 1; e < PER_LANE; e++) x = e == part ? run[e] : x;
        uint8_t *block = to + first / 32 * block_bytes;
        if (w.type == Q8_0) {
            fits &= encode_q8_0(x, lane, block);
        } else if (n.values) {
            fits &= encode_iq4_nl(n, x, lane, block);
        } else if (n.min) {
            fits &= encode_affine(n, x, lane, block);
        } else if (n.bytes > 0 && w.transform.run) {
            fits &= encode_aligned(n, x, lane, block);
        } else if (n.bytes > 0) {
            fits &= encode_symmetric(n, x, lane, block);
        } else if (i < w.d) {
            fits &= isfinite(x) != 0;
            if (w.type == F32) reinterpret_cast<float *>(to)[i] = x;
            if (w.type == F16) put_u16(to + 2 * i, f32_to_f16(x));
            if (w.type == BF16) put_u16(to + 2 * i, uint16_t(pack_bf16(x, 0.0f) & 0xffff));
        }
    }
    if (!fits) atomicOr(w.broken, 1);
}
EXPORT(kv_write);

// rows: (n_tokens, n_head * d), in place; bias: (n_head * d,) or null. One thread per pair, and per two elements behind them.
extern "C" __global__ void rotate_rows(float *rows, const float *bias, Rotation rotation, int n_head, int d, uint64_t n_pairs) {
    const size_t task = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (task >= n_pairs) return;
    const int half = d / 2, i = int(task % half), ih = int(task / half % n_head), it = int(task / half / n_head);
    float *head = rows + (size_t(it) * n_head + ih) * d;
    if (bias) bias += ih * d;
    const int n_pair = rotation.n_pair, first = i < n_pair ? i : 2 * i, second = i < n_pair ? i + n_pair : 2 * i + 1;
    const float low = finished(head, bias, rotation, it, first), high = finished(head, bias, rotation, it, second);
    head[first] = low;
    head[second] = high;
}
EXPORT(rotate_rows);

// rows: (n_heads, d), in place. One warp per head.
extern "C" __global__ void hadamard_rows(float *rows, Transform t, int d, uint64_t n_heads) {
    const size_t ih = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (ih >= n_heads) return;
    float *head = rows + ih * d;
    for (int first = lane; first - lane < d; first += RUN) {
        float x[PER_LANE];
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) x[e] = first + e * WARP < d ? head[first + e * WARP] : 0.0f;
        transform(t, lane, x);
#pragma unroll
        for (int e = 0; e < PER_LANE; e++) {
            if (first + e * WARP < d) head[first + e * WARP] = x[e];
        }
    }
}
EXPORT(hadamard_rows);
