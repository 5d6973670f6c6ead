// The likeliest tokens: the largest of a row of logits, and the k largest in order.
#include "device.cuh"

constexpr int PICK_THREADS = 1024;

// The larger value wins; of equal ones, the lower index.
__device__ __forceinline__ bool beats(float x, int i, float y, int j) { return x > y || (x == y && i < j); }

// logits: (rows, n). values, ids: (rows, k), largest first; a place for which there is no number left gets id -1. One block
// per row. Numbers that are NaN are never picked.
extern "C" __global__ void __launch_bounds__(PICK_THREADS) top_k(const float *logits, float *values, int *ids, int n, int k) {
    __shared__ float best_value[PICK_THREADS / WARP];
    __shared__ int best_id[PICK_THREADS / WARP];
    const float *row = logits + size_t(blockIdx.x) * n;
    // What was picked last: everything that does not come behind it was picked, too.
    float last = INFINITY;
    int last_id = -1;
    for (int place = 0; place < k; place++) {
        float value = -INFINITY;
        int id = -1;
        for (int i = threadIdx.x; i < n; i += PICK_THREADS) {
            const float x = row[i];
            const bool open = beats(last, last_id, x, i) && x == x;
            if (open && (id < 0 || beats(x, i, value, id))) {
                value = x;
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
            values[size_t(blockIdx.x) * k + place] = value;
            ids[size_t(blockIdx.x) * k + place] = id;
        }
        last = value;
        last_id = id;
        // Nothing is left: the places that follow stay empty as well.
        if (id < 0) last = -INFINITY, last_id = 0x7fffffff;
    }
}
EXPORT(top_k);
