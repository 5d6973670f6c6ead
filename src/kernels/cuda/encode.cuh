// A block of 32 elements in the formats of a cache, an element to each lane of a warp: byte for byte as numerics/src/tensor/block.
// Each function says whether this lane's element fits the format.
#pragma once

#include "cache.cuh"

__device__ __forceinline__ void put_u16(uint8_t *to, uint16_t bits) { *reinterpret_cast<uint16_t *>(to) = bits; }

// 1 / d, or 0 where that is no finite number.
__device__ __forceinline__ float reciprocal(float d) {
    const float inverse = __fdiv_rn(1.0f, d);
    return isfinite(inverse) ? inverse : 0.0f;
}

// What the first lane of those for which `wanted` holds has; 0 where there is none.
__device__ __forceinline__ float first_of(float x, bool wanted) {
    const unsigned lanes = __ballot_sync(ALL_LANES, wanted);
    const float found = __shfl_sync(ALL_LANES, x, lanes ? __ffs(int(lanes)) - 1 : 0);
    return lanes ? found : 0.0f;
}

__device__ __forceinline__ bool encode_q8_0(float x, int lane, uint8_t *block) {
    const float size = fabsf(x), d = __fdiv_rn(warp_max(size), 127.0f);
    if (lane == 0) put_u16(block, f32_to_f16(d));
    // Half away from zero.
    block[2 + lane] = uint8_t(int8_t(int(roundf(__fmul_rn(x, reciprocal(d))))));
    // No comparison holds for a NaN.
    return size <= 65504.0f * 127.0f;
}

// Writes a code of four bits, or five, per lane where the format has them.
__device__ __forceinline__ void put_codes(const Nibbles &n, int code, int lane, uint8_t *block) {
    uint8_t *codes = block + n.bytes - 16;
    const unsigned fifth = __ballot_sync(ALL_LANES, code >> 4 & 1);
    if (n.fifth && lane == 0) {
        put_u16(codes - 4, uint16_t(fifth & 0xffff));
        put_u16(codes - 2, uint16_t(fifth >> 16));
    }
    const int high = __shfl_xor_sync(ALL_LANES, code, 16);
    if (lane < 16) codes[lane] = uint8_t((code & 15) | (high & 15) << 4);
}

// Q4_0, Q5_0: the element of the largest magnitude gets code 0, the end that reaches further.
__device__ __forceinline__ bool encode_symmetric(const Nibbles &n, float x, int lane, uint8_t *block) {
    const float size = fabsf(x), top = warp_max(size);
    const float d = __fdiv_rn(top == 0.0f ? 0.0f : first_of(x, size == top), float(-n.offset));
    if (lane == 0) put_u16(block, f32_to_f16(d));
    const int code = int(__dadd_rn(__dmul_rn(double(x), double(reciprocal(d))), n.offset + 0.5));
    put_codes(n, code < 2 * n.offset ? code : 2 * n.offset - 1, lane, block);
    return size <= 65504.0f * float(n.offset);
}

// Q4_1, Q5_1: the smallest element gets code 0, the largest the last.
__device__ __forceinline__ bool encode_affine(const Nibbles &n, float x, int lane, uint8_t *block) {
    const float high = warp_max(x), low = -warp_max(-x);
    // Of zeros, the sign of the first counts.
    const float base = first_of(x, x == low), range = high == low ? 0.0f : __fsub_rn(high, base);
    const int last = n.fifth ? 31 : 15;
    const float d = __fdiv_rn(range, float(last));
    if (lane == 0) {
        put_u16(block, f32_to_f16(d));
        put_u16(block + 2, f32_to_f16(base));
    }
    const int code = int(__fadd_rn(__fmul_rn(__fsub_rn(x, base), reciprocal(d)), 0.5f));
    put_codes(n, code < last ? code : last, lane, block);
    return fabsf(x) <= 65504.0f;
}

// The sum over all lanes, in the order of lanes.rs.
__device__ __forceinline__ double ordered_sum(float x, int lane) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < 4; part++) sum = __fadd_rn(sum, __shfl_sync(ALL_LANES, x, lane % 8 + 8 * part));
    sum = __fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, 4));
    sum = __fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, 2));
    return double(__fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, 1)));
}

// Q4_0, Q5_0 of a transformed head: codes at the smallest angle, and the scale with which the block's product with itself is kept;
// see `aligned` in numerics/src/tensor/block/symmetric.rs.
__device__ __forceinline__ bool encode_aligned(const Nibbles &n, float x, int lane, uint8_t *block) {
    const float ends[6] = {0.0f, 1.0f, 0.5f, -0.5f, -1.0f, -1.5f}, most = float(n.offset), magic = 12582912.0f;
    const float size = fabsf(x), top = warp_max(size), extreme = first_of(x, size == top);
    const auto nearest = [&](float inverse) {
        const float y = fminf(fmaxf(__fmul_rn(x, inverse), -most), most - 1.0f);
        return __fsub_rn(__fadd_rn(y, magic), magic);
    };
    double best = 0.0;
    float of_best = 0.0f, d = 0.0f;
    if (top >= 1e-30f) {
        for (int i = 0; i < 6; i++) {
            const float inverse = __fdiv_rn(-most - ends[i], extreme), value = nearest(inverse);
            const double vv = ordered_sum(__fmul_rn(value, value), lane), vx = ordered_sum(__fmul_rn(value, x), lane);
            const double gain = __dmul_rn(vx, vx) / vv;
            if (gain > best) {
                best = gain;
                of_best = inverse;
            }
        }
        const double own = ordered_sum(__fmul_rn(x, x), lane);
        d = float(own / ordered_sum(__fmul_rn(nearest(of_best), x), lane));
        d = isfinite(d) ? d : 0.0f;
    }
    if (lane == 0) put_u16(block, f32_to_f16(d));
    put_codes(n, int(nearest(of_best)) + n.offset, lane, block);
    return size <= 65504.0f * most / 2.0f;
}

// The code whose value is nearest to `y`: how many middles between values lie below it.
__device__ __forceinline__ int iq4_nearest(float y) {
    const float middles[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                               7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};
    int code = 0;
#pragma unroll
    for (int i = 0; i < 15; i++) code += y > middles[i];
    return code;
}

__device__ __forceinline__ float iq4_value(int code) { return float(int8_t(iq4_values(uint32_t(code)) & 255)); }

// The best scale so far, with its squared error less the sum of squared elements.
struct Iq4Search {
    float x;
    int lane;
    bool constant;
    double error, scale;

    // Tries the codes of x * inverse with the scale that suits them best.
    __device__ __forceinline__ bool consider(float inverse) {
        const float value = iq4_value(iq4_nearest(__fmul_rn(x, inverse)));
        double vv, vx;
        if (constant) {
            vv = __dmul_rn(double(value), double(value));
            vx = __dmul_rn(double(value), double(x));
        } else {
            vv = ordered_sum(__fmul_rn(value, value), lane);
            vx = ordered_sum(__fmul_rn(value, x), lane);
        }
        if (vv == 0.0) return false;
        const double ratio = vx / vv;
        const float rounded = f16_to_f32(f32_to_f16(fminf(fmaxf(float(ratio), -65504.0f), 65504.0f)));
        // The smallest f16 is a better scale than none.
        const float smallest = ratio < 0.0 ? -5.9604644775390625e-8f : 5.9604644775390625e-8f;
        const double next = double(rounded == 0.0f && ratio != 0.0 ? smallest : rounded);
        const double gain = __dmul_rn(__dmul_rn(2.0, next), vx);
        const double now = __dadd_rn(__dmul_rn(__dmul_rn(next, next), vv), -gain);
        // Differences that rounding could have made are none.
        if (!(now < __dmul_rn(error, __dadd_rn(1.0, constant ? 1e-13 : 1e-6)))) return false;
        error = now;
        scale = next;
        return true;
    }
};

__device__ __forceinline__ bool encode_iq4_nl(const Nibbles &n, float x, int lane, uint8_t *block) {
    const float size = fabsf(x), top = warp_max(size), extreme = first_of(x, size == top);
    Iq4Search search = {x, lane, __ballot_sync(ALL_LANES, x != __shfl_sync(ALL_LANES, x, 0)) == 0, 0.0, 0.0};
    if (top >= 1e-30f) {
        for (int end = 0; end < 2; end++) {
            for (int step = 0; step < 17; step++) {
                const float stretch = __fmul_rn(16.0f, float(step) / 8.0f - 1.0f);
                search.consider(__fdiv_rn(__fadd_rn(end == 0 ? -127.0f : 113.0f, stretch), extreme));
            }
        }
        for (int more = 0; more < 3; more++) {
            if (!search.consider(reciprocal(float(search.scale)))) break;
        }
    }
    const float d = float(search.scale);
    if (lane == 0) put_u16(block, f32_to_f16(d));
    put_codes(n, iq4_nearest(__fmul_rn(x, reciprocal(d))), lane, block);
    return size <= 65504.0f * 113.0f;
}
