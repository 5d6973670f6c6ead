// Rows and heads put where others want them: the queries out of rows that hold gates as well, rows in another order, and learned
// positions where rows stand.
#include "epilogue.cuh"

// rows: (n_tokens, n_head, 2, d), a query and a gate for each head; out, x: (n_tokens, n_head, d), n elements.
__device__ __forceinline__ size_t query_at(size_t i, int d) { return i / d * 2 * d + i % d; }

extern "C" __global__ void take_queries(const float *rows, float *out, int d, uint64_t n) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = rows[query_at(i, d)];
}
EXPORT(take_queries);

// x *= sigmoid(gate)
extern "C" __global__ void gate_heads(const float *rows, float *x, int d, uint64_t n) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) x[i] = x[i] / (1.0f + expf(-rows[query_at(i, d) + d]));
}
EXPORT(gate_heads);

// A block per row: row i goes to row to[i % n_seq] of its sequence of n_seq rows.
extern "C" __global__ void reorder_rows(const float *rows, const int *to, float *out, int width, int n_seq) {
    const int it = int(blockIdx.x);
    const float *from = rows + size_t(it) * width;
    float *dst = out + size_t(it / n_seq * n_seq + to[it % n_seq]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) dst[i] = from[i];
}
EXPORT(reorder_rows);

// Where one of `n` cells falls on a table of `side`, corners on corners: the entry before, the one behind, and how far between.
struct Between {
    int before, behind;
    float share;
};

__device__ __forceinline__ Between between(int at, int n, int side) {
    const float x = n > 1 ? __fdiv_rn(float(at) * float(side - 1), float(n - 1)) : 0.0f;
    int before = int(x);
    before = before < 0 ? 0 : before < side ? before : side - 1;
    return {before, before + 1 < side ? before + 1 : side - 1, x - float(before)};
}

// A block per row of x: (n_tokens, width); places: (n_seq, 2), row and column of the h x w grid; table: (side * side, width).
extern "C" __global__ void add_positions(float *x, const int *places, const float *table, int width, int n_seq, int h, int w, int side) {
    const int *place = places + 2 * (blockIdx.x % n_seq);
    const Between row = between(place[0], h, side), col = between(place[1], w, side);
    const float *top = table + size_t(row.before) * side * width, *bottom = table + size_t(row.behind) * side * width;
    float *to = x + size_t(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float above = top[size_t(col.before) * width + i] * (1.0f - col.share) + top[size_t(col.behind) * width + i] * col.share;
        const float below =
            bottom[size_t(col.before) * width + i] * (1.0f - col.share) + bottom[size_t(col.behind) * width + i] * col.share;
        to[i] += above * (1.0f - row.share) + below * row.share;
    }
}
EXPORT(add_positions);
