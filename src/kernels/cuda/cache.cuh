// Rows of keys and values as the cache stores them: F32, F16, BF16, Q8_0 or Q4_0.
#pragma once

#include "formats.cuh"

// Elements i to i + 7 of a stored row, i a multiple of 8; those from `d` on are 0. TYPE is the type, or -1 where only `type`
// knows it.
template <int TYPE> __device__ __forceinline__ void load8(int type, const uint8_t *row, int i, int d, float (&x)[8]) {
    const int ty = TYPE < 0 ? type : TYPE;
    if (ty == Q8_0) {
        const uint8_t *block = row + i / 32 * 34;
        const float scale = load_f16(block);
        const uint32_t words[2] = {load_word(block + 2 + i % 32), load_word(block + 6 + i % 32)};
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = scale * float(int8_t(words[e / 4] >> e % 4 * 8));
    } else if (ty == Q4_0) {
        const uint8_t *block = row + i / 32 * 18;
        const float scale = load_f16(block);
        const uint8_t *codes = block + 2 + i % 16;
        const uint32_t words[2] = {load_word(codes), load_word(codes + 4)};
        const int shift = i % 32 < 16 ? 0 : 4;
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = scale * float(int(words[e / 4] >> (e % 4 * 8 + shift) & 15) - 8);
    } else if (ty == F32) {
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = i + e < d ? reinterpret_cast<const float *>(row)[i + e] : 0.0f;
    } else {
        uint32_t halves[8];
        if (d % 8 == 0) {
            // Rows are then whole multiples of 16 bytes.
            const uint4 four = *reinterpret_cast<const uint4 *>(row + 2 * i);
            const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int e = 0; e < 8; e++) halves[e] = words[e / 2] >> e % 2 * 16 & 0xffff;
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++) halves[e] = i + e < d ? load_u16(row + 2 * (i + e)) : 0;
        }
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = ty == F16 ? f16_to_f32(uint16_t(halves[e])) : __uint_as_float(halves[e] << 16);
    }
}

// Bytes of a row of `d` elements.
__device__ __forceinline__ int cache_row_bytes(int type, int d) {
    return type == F32 ? 4 * d : type == Q8_0 ? d / 32 * 34 : type == Q4_0 ? d / 32 * 18 : 2 * d;
}

// Element `i` of a stored row.
template <int TYPE> __device__ __forceinline__ float load1(int type, const uint8_t *row, int i) {
    const int ty = TYPE < 0 ? type : TYPE;
    if (ty == Q8_0) {
        const uint8_t *block = row + i / 32 * 34;
        return load_f16(block) * float(int8_t(block[2 + i % 32]));
    }
    if (ty == Q4_0) {
        const uint8_t *block = row + i / 32 * 18;
        return load_f16(block) * float((block[2 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8);
    }
    if (ty == F32) return reinterpret_cast<const float *>(row)[i];
    const uint32_t bits = load_u16(row + 2 * i);
    return ty == F16 ? f16_to_f32(uint16_t(bits)) : __uint_as_float(bits << 16);
}
