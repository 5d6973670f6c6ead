// What the kernels are written in: CUDA, and a handful of functions around PTX that the host-side emulation of
// tests/cuda_emu replaces. Nothing else in this folder knows where it runs.
#pragma once

#ifdef LONGTAKE_EMULATION
#include "emulation.h"
#else

#include <stdint.h>

// Kernels are found by name; only the emulation has to be told of them.
#define EXPORT(name)

__device__ __forceinline__ float f16_to_f32(uint16_t h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}

// To nearest, ties to even.
__device__ __forceinline__ uint16_t f32_to_f16(float x) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

// Two floats as bf16, to nearest, ties to even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    auto round = [](float x) {
        const uint32_t bits = __float_as_uint(x);
        return x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return round(low) | round(high) << 16;
#endif
}

#if __CUDA_ARCH__ < 800
// `mma_bf16` for GPUs that multiply bf16 on no tensor core: lanes hand each other their numbers. Right, not fast; a call,
// because hundreds of copies would take minutes to compile.
__device__ __noinline__ float4 mma_bf16_by_hand(float4 c, uint4 a, uint2 b) {
    const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
    auto low = [](uint32_t word) { return __uint_as_float(word << 16); };
    auto high = [](uint32_t word) { return __uint_as_float(word & 0xffff0000u); };
#pragma unroll 1
    for (int k = 0; k < 8; k++) {
        const bool second = k >= 4;
        const uint32_t a0 = __shfl_sync(0xffffffffu, second ? a.z : a.x, 4 * g + k % 4);
        const uint32_t a1 = __shfl_sync(0xffffffffu, second ? a.w : a.y, 4 * g + k % 4);
        const uint32_t b0 = __shfl_sync(0xffffffffu, second ? b.y : b.x, 8 * t + k % 4);
        const uint32_t b1 = __shfl_sync(0xffffffffu, second ? b.y : b.x, 8 * t + 4 + k % 4);
        c.x += low(a0) * low(b0) + high(a0) * high(b0);
        c.y += low(a0) * low(b1) + high(a0) * high(b1);
        c.z += low(a1) * low(b0) + high(a1) * high(b0);
        c.w += low(a1) * low(b1) + high(a1) * high(b1);
    }
    return c;
}
#endif

// c(16, 8) += a(16, 16) b(16, 8). Lane 4g + t holds, of a, rows g and g + 8 at columns 2t, 2t + 1 and the same behind
// column 8; of b, rows 2t, 2t + 1 and the same behind row 8, at column g; of c, rows g and g + 8 at columns 2t, 2t + 1.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    const float4 sum =
        mma_bf16_by_hand(make_float4(c[0], c[1], c[2], c[3]), make_uint4(a[0], a[1], a[2], a[3]), make_uint2(b[0], b[1]));
    c[0] = sum.x, c[1] = sum.y, c[2] = sum.z, c[3] = sum.w;
#endif
}

// c(16, 8) += a(16, 16) b(16, 8) of signed bytes. Lane 4g + t holds, of a, rows g and g + 8 at columns 4t to 4t + 3; of b,
// rows 4t to 4t + 3 at column g; of c as above.
__device__ __forceinline__ void mma_s8_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(b0));
#else
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[0]), "+r"(c[1])
                 : "r"(a0), "r"(b0));
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[2]), "+r"(c[3])
                 : "r"(a1), "r"(b0));
#endif
}

// The same for 32 columns: a[2], a[3] and b[1] hold the second 16.
__device__ __forceinline__ void mma_s8_k32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    mma_s8_k16(c, a[0], a[1], b[0]);
    mma_s8_k16(c, a[2], a[3], b[1]);
#endif
}

#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// The sum over a block of up to 32 warps, for every thread. All threads take part, with one dimension.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    x = warp_sum(x);
    __syncthreads(); // of a sum before this one, all parts were read
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    const int n = (blockDim.x + WARP - 1) / WARP, lane = threadIdx.x % WARP;
    return warp_sum(lane < n ? parts[lane] : 0.0f);
}

// A float as the sum of N numbers of 8 bits each, the largest first: what is left of it after each goes on to the next.
template <int N> __device__ __forceinline__ void split_pair(float x, float y, uint32_t (&parts)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        parts[i] = pack_bf16(x, y);
        x = __fsub_rn(x, __uint_as_float(parts[i] << 16));
        y = __fsub_rn(y, __uint_as_float(parts[i] & 0xffff0000u));
    }
}
