// Experts: who goes to which, which pairs of a token and an expert are multiplied together, and what tokens get of it. The
// products themselves are those of all other matrices (product.cuh).
#include "epilogue.cuh"

// A warp per token: the k largest of its n scores, largest first, of equal ones the lower number, and the share of each in the
// softmax of those. scores: (n_tokens, n); ids, weights: (n_tokens, k).
extern "C" __global__ void __launch_bounds__(WARP) choose_experts(const float *scores, int *ids, float *weights, int n, int k) {
    const float *row = scores + size_t(blockIdx.x) * n;
    const int lane = threadIdx.x;
    int *to = ids + size_t(blockIdx.x) * k;
    float *share = weights + size_t(blockIdx.x) * k;
    float last = INFINITY, top = 0.0f, sum = 0.0f;
    int last_id = -1;
    for (int place = 0; place < k; place++) {
        // What is not a number comes behind everything, and wherever it counts it shows in the result.
        float best = -INFINITY;
        int id = -1;
        for (int i = lane; i < n; i += WARP) {
            const float x = row[i] == row[i] ? row[i] : -INFINITY;
            const bool open = x < last || (x == last && i > last_id);
            if (open && (id < 0 || x > best)) best = x, id = i;
        }
        for (int step = WARP / 2; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, step);
            const int other_id = __shfl_xor_sync(ALL_LANES, id, step);
            if (other_id >= 0 && (id < 0 || other > best || (other == best && other_id < id))) best = other, id = other_id;
        }
        last = best, last_id = id;
        const float score = row[id];
        if (place == 0) top = score;
        const float x = expf(score - top);
        sum += x;
        if (lane == 0) to[place] = id, share[place] = x;
    }
    __syncwarp();
    for (int place = lane; place < k; place += WARP) share[place] /= sum;
}
EXPORT(choose_experts);

// A warp per expert: brings the pairs that chose it together, in order of their numbers, behind those of lower experts, and makes
// tiles of up to `most` of them. ids: (n_pairs). order: (n_pairs), numbers of pairs. tiles: (n_tiles, 3), an expert, a place in
// `order` and how many from there on, or none. A tile has a place of its own without anybody counting those before: the place of its
// first pair where `by_pair`, else number `before / most + expert` and those behind, which an expert's tiles never exceed.
extern "C" __global__ void __launch_bounds__(WARP)
    group_pairs(const int *ids, int *order, int *tiles, int n_pairs, int most, int by_pair) {
    const int expert = blockIdx.x, lane = threadIdx.x;
    int before = 0, n = 0;
    for (int first = 0; first < n_pairs; first += WARP) {
        const int id = first + lane < n_pairs ? ids[first + lane] : 0x7fffffff;
        before += __popc(__ballot_sync(ALL_LANES, id < expert));
        n += __popc(__ballot_sync(ALL_LANES, id == expert));
    }
    int place = before;
    for (int first = 0; first < n_pairs; first += WARP) {
        const bool mine = first + lane < n_pairs && ids[first + lane] == expert;
        const unsigned all = __ballot_sync(ALL_LANES, mine);
        if (mine) order[place + __popc(all & ((1u << lane) - 1))] = first + lane;
        place += __popc(all);
    }
    const int tile0 = by_pair ? before : before / most + expert;
    const int n_tiles = by_pair ? n : (before + n) / most + expert + 1 - tile0;
    for (int i = lane; i < n_tiles; i += WARP) {
        const int from = by_pair ? i : i * most, left = by_pair && i % most ? 0 : n - from;
        int *tile = tiles + 3 * size_t(tile0 + i);
        tile[0] = expert, tile[1] = before + from, tile[2] = left < 0 ? 0 : left < most ? left : most;
    }
}
EXPORT(group_pairs);

// out (n_tokens, width) += the k rows of each token by their weights, in their order; n elements of out.
extern "C" __global__ void add_pairs(float *out, const float *rows, const float *weights, int width, int k, uint64_t n) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const size_t pair0 = i / width * k;
    float sum = 0.0f;
    for (int place = 0; place < k; place++) sum += weights[pair0 + place] * rows[(pair0 + place) * width + i % width];
    out[i] += sum;
}
EXPORT(add_pairs);

// x *= sigmoid(gate), one for each row of `width`; n elements of x.
extern "C" __global__ void gate_rows(float *x, const float *gate, int width, uint64_t n) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) x[i] = x[i] / (1.0f + expf(-gate[i / width]));
}
EXPORT(gate_rows);
