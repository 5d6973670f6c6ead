// Rows of keys and values as the cache stores them: floats, Q8_0, and the formats of 32 elements with nibbles.
#pragma once

#include "formats.cuh"

// A block of 32 elements: its scale, f16, perhaps a minimum, f16, perhaps fifth bits; then 16 bytes of two codes each, of
// elements i and i + 16.
struct Nibbles {
    // Per block; 0 for types that are not of this kind.
    int bytes;
    // What a code is less to be a number; codes of IQ4_NL stand for values of their own.
    int offset;
    bool min, fifth, values;
};

__device__ __forceinline__ constexpr Nibbles nibbles(int type) {
    return type == Q4_0     ? Nibbles{18, 8, false, false, false}
           : type == Q4_1   ? Nibbles{20, 0, true, false, false}
           : type == Q5_0   ? Nibbles{22, 16, false, true, false}
           : type == Q5_1   ? Nibbles{24, 0, true, true, false}
           : type == IQ4_NL ? Nibbles{18, 0, false, false, true}
                            : Nibbles{0, 0, false, false, false};
}

// The element with this code.
__device__ __forceinline__ float nibble_value(const Nibbles &n, int code, float scale, float min) {
    const int number = n.values ? int(int8_t(iq4_values(uint32_t(code)) & 255)) : code - n.offset;
    const float x = __fmul_rn(scale, float(number));
    return n.min ? __fadd_rn(x, min) : x;
}

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
    } else if (const Nibbles n = nibbles(ty); n.bytes > 0) {
        const uint8_t *block = row + i / 32 * n.bytes;
        const float scale = load_f16(block), min = n.min ? load_f16(block + 2) : 0.0f;
        const uint8_t *codes = block + n.bytes - 16;
        const uint32_t fifth = n.fifth ? load_word(codes - 4) >> i % 32 : 0;
        const uint32_t words[2] = {load_word(codes + i % 16), load_word(codes + i % 16 + 4)};
        const int shift = i % 32 < 16 ? 0 : 4;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const int code = int((words[e / 4] >> (e % 4 * 8 + shift) & 15) | (fifth >> e & 1) << 4);
            x[e] = nibble_value(n, code, scale, min);
        }
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
    const int block = type == Q8_0 ? 34 : nibbles(type).bytes;
    return block > 0 ? d / 32 * block : type == F32 ? 4 * d : 2 * d;
}

// Element `i` of a stored row.
template <int TYPE> __device__ __forceinline__ float load1(int type, const uint8_t *row, int i) {
    const int ty = TYPE < 0 ? type : TYPE;
    if (ty == Q8_0) {
        const uint8_t *block = row + i / 32 * 34;
        return load_f16(block) * float(int8_t(block[2 + i % 32]));
    }
    if (const Nibbles n = nibbles(ty); n.bytes > 0) {
        const uint8_t *block = row + i / 32 * n.bytes, *codes = block + n.bytes - 16;
        const int fifth = n.fifth ? codes[i % 32 / 8 - 4] >> i % 8 & 1 : 0;
        const int code = (codes[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) | fifth << 4;
        return nibble_value(n, code, load_f16(block), n.min ? load_f16(block + 2) : 0.0f);
    }
    if (ty == F32) return reinterpret_cast<const float *>(row)[i];
    const uint32_t bits = load_u16(row + 2 * i);
    return ty == F16 ? f16_to_f32(uint16_t(bits)) : __uint_as_float(bits << 16);
}
