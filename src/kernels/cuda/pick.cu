// The likeliest tokens: the k largest of a row of logits, in order. First of each slice of the row, then of what the slices
// brought, so that many blocks share a long row.
#include "device.cuh"

constexpr int PICK_THREADS = 256;

// The larger value wins; of equal ones, the lower index.
__device__ __forceinline__ bool beats(float x, int i, float y, int j) { return x > y || (x == y && i < j); }

// x: (rows, n). names: (rows, n) or null, what each number is called instead of its index; below 0, there is none. Block
// (x, y) looks at numbers x * n_slice up to the next slice of row y. values, ids: (rows, slices, k), largest first; a place
// for which there is no number left gets id -1. Numbers that are NaN are never picked; they and +infinity set bit 1 of `flags`.
extern "C" __global__ void __launch_bounds__(PICK_THREADS)
    top_k(const float *x, const int *names, float *values, int *ids, int *flags, int n, int n_slice, int k) {
    __shared__ float best_value[PICK_THREADS / WARP];
    __shared__ int best_id[PICK_THREADS / WARP];
    const float *row = x + size_t(blockIdx.y) * n;
    const int *row_names = names ? names + size_t(blockIdx.y) * n : nullptr;
    const int begin = blockIdx.x * n_slice, end = n - begin < n_slice ? n : begin + n_slice;
    const size_t out = (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * k;
    // What was picked last: everything that does not come behind it was picked, too.
    float last = INFINITY;
    int last_id = -1;
    for (int place = 0; place < k; place++) {
        float value = -INFINITY;
        int id = -1;
        for (int i = begin + threadIdx.x; i < end; i += PICK_THREADS) {
            const float y = row[i];
            if (place == 0 && !(y < INFINITY)) atomicOr(flags, 2);
            const bool open = beats(last, last_id, y, i) && y == y && (!row_names || row_names[i] >= 0);
            if (open && (id < 0 || beats(y, i, value, id))) {
                value = y;
                id = i;
            }
        }
        for (int step = WARP / 2; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, value, step);
            const int other_id = __shfl_xor_sync(ALL_LANES, id, step);
            if (other_id >= 0 && (id < 0 || beats(other, other_id, value, id))) {
                value = other;
                id = other_id;
            }
        }
        __syncthreads(); // everyone has read the winner of the place before
        if (threadIdx.x % WARP == 0) {
            best_value[threadIdx.x / WARP] = value;
            best_id[threadIdx.x / WARP] = id;
        }
        __syncthreads();
        value = best_value[0];
        id = best_id[0];
        for (int w = 1; w < PICK_THREADS / WARP; w++) {
            if (best_id[w] >= 0 && (id < 0 || beats(best_value[w], best_id[w], value, id))) {
                value = best_value[w];
                id = best_id[w];
            }
        }
        if (threadIdx.x == 0) {
            values[out + place] = value;
            ids[out + place] = row_names && id >= 0 ? row_names[id] : id;
        }
        last = value;
        last_id = id;
        // Nothing is left: the places that follow stay empty as well.
        if (id < 0) last = -INFINITY, last_id = 0x7fffffff;
    }
}
EXPORT(top_k);
