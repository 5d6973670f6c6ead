// Block formats of weights, unpacked 32 columns at a time; what their bytes mean is told in numerics/src/tensor/block.
#pragma once

#include "device.cuh"

// ggml's numbers of the types that weights and caches can have.
enum Type : int {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
    Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23, BF16 = 30,
};

// Calls X for every quantized type.
#define QUANTIZED_TYPES(X)                                                                                             \
    X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q8_0, q8_0) X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k)     \
    X(Q5_K, q5_k) X(Q6_K, q6_k) X(IQ4_NL, iq4_nl) X(IQ4_XS, iq4_xs)
#define FLOAT_TYPES(X) X(F32, f32) X(F16, f16) X(BF16, bf16)

// 32 columns of a row: column i has the value a[i / 16] * code[i] + b[i / 16]. Codes are signed bytes, four to a word.
struct Group {
    uint32_t codes[8];
    float a[2], b[2];
};

constexpr uint32_t NIBBLES = 0x0f0f0f0fu, ONES = 0x01010101u, TWOS = 0x03030303u;

// Rows of every format begin at even addresses, and so do the fields read here.
__device__ __forceinline__ uint32_t load_u16(const uint8_t *p) { return *reinterpret_cast<const uint16_t *>(p); }
__device__ __forceinline__ uint32_t load_word(const uint8_t *p) { return load_u16(p) | load_u16(p + 2) << 16; }
__device__ __forceinline__ float load_f16(const uint8_t *p) {
    return f16_to_f32(*reinterpret_cast<const uint16_t *>(p));
}

// Takes `offset` off each of four bytes below 128.
__device__ __forceinline__ uint32_t lower(uint32_t bytes, uint32_t offset) {
    return ((bytes | 0x80808080u) - offset * ONES) ^ 0x80808080u;
}

// Bit i of four goes to bit 4 of byte i.
__device__ __forceinline__ uint32_t fifth_bits(uint32_t bits) { return ((bits & 15) * 0x00204081u & ONES) << 4; }

// What the codes of IQ4_NL and IQ4_XS stand for, four at a time.
__device__ __forceinline__ uint32_t iq4_values(uint32_t nibbles) {
    uint32_t s = nibbles & 0x07070707u;
    s = (s | s >> 4) & 0x00ff00ffu;
    s = s | s >> 8;
    // -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
    const uint32_t low = __byte_perm(0xbfad9881u, 0xf6eaddcfu, s & 0xffff);
    const uint32_t high = __byte_perm(0x26190d01u, 0x71594535u, s & 0xffff);
    const uint32_t mask = (nibbles >> 3 & ONES) * 255;
    return (low & ~mask) | (high & mask);
}

// 16 bytes of two nibbles: low ones are columns 0 to 15, high ones 16 to 31.
template <class F> __device__ __forceinline__ void split_nibbles(const uint8_t *p, Group &out, F finish) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t word = load_word(p + 4 * j);
        out.codes[j] = finish(word & NIBBLES, j);
        out.codes[j + 4] = finish(word >> 4 & NIBBLES, j + 4);
    }
}

__device__ __forceinline__ void set_scales(Group &out, float a, float b) {
    out.a[0] = out.a[1] = a;
    out.b[0] = out.b[1] = b;
}

// Per type: BYTES per block of GROUPS groups; HALVES where the two halves of a group have scales of their own; OFFSET where
// b is not zero.
template <int TYPE> struct Format;

template <> struct Format<Q4_0> {
    static constexpr int BYTES = 18, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), 0.0f);
        split_nibbles(p + 2, out, [](uint32_t codes, int) { return lower(codes, 8); });
    }
};

template <> struct Format<Q4_1> {
    static constexpr int BYTES = 20, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = true;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), load_f16(p + 2));
        split_nibbles(p + 4, out, [](uint32_t codes, int) { return codes; });
    }
};

template <> struct Format<Q5_0> {
    static constexpr int BYTES = 22, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), 0.0f);
        const uint32_t fifth = load_word(p + 2);
        split_nibbles(p + 6, out, [=](uint32_t codes, int j) { return lower(codes | fifth_bits(fifth >> 4 * j), 16); });
    }
};

template <> struct Format<Q5_1> {
    static constexpr int BYTES = 24, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = true;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), load_f16(p + 2));
        const uint32_t fifth = load_word(p + 4);
        split_nibbles(p + 8, out, [=](uint32_t codes, int j) { return codes | fifth_bits(fifth >> 4 * j); });
    }
};

template <> struct Format<Q8_0> {
    static constexpr int BYTES = 34, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), 0.0f);
#pragma unroll
        for (int j = 0; j < 8; j++) out.codes[j] = load_word(p + 2 + 4 * j);
    }
};

template <> struct Format<IQ4_NL> {
    static constexpr int BYTES = 18, GROUPS = 1;
    static constexpr bool HALVES = false, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int, Group &out) {
        set_scales(out, load_f16(p), 0.0f);
        split_nibbles(p + 2, out, [](uint32_t codes, int) { return iq4_values(codes); });
    }
};

template <> struct Format<IQ4_XS> {
    static constexpr int BYTES = 136, GROUPS = 8;
    static constexpr bool HALVES = false, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        const int low = p[4 + g / 2] >> g % 2 * 4 & 15, high = load_u16(p + 2) >> 2 * g & 3;
        set_scales(out, __fmul_rn(load_f16(p), float((low | high << 4) - 32)), 0.0f);
        split_nibbles(p + 8 + 16 * g, out, [](uint32_t codes, int) { return iq4_values(codes); });
    }
};

// Scale and minimum of group `g` of Q4_K and Q5_K, from their 12 bytes.
__device__ __forceinline__ void k_scales(const uint8_t *p, int g, int &scale, int &min) {
    if (g < 4) {
        scale = p[g] & 63;
        min = p[g + 4] & 63;
    } else {
        scale = (p[g + 4] & 15) | p[g - 4] >> 6 << 4;
        min = p[g + 4] >> 4 | p[g] >> 6 << 4;
    }
}

template <> struct Format<Q4_K> {
    static constexpr int BYTES = 144, GROUPS = 8;
    static constexpr bool HALVES = false, OFFSET = true;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        int scale, min;
        k_scales(p + 4, g, scale, min);
        set_scales(out, __fmul_rn(load_f16(p), float(scale)), -__fmul_rn(load_f16(p + 2), float(min)));
#pragma unroll
        for (int j = 0; j < 8; j++) out.codes[j] = load_word(p + 16 + g / 2 * 32 + 4 * j) >> g % 2 * 4 & NIBBLES;
    }
};

template <> struct Format<Q5_K> {
    static constexpr int BYTES = 176, GROUPS = 8;
    static constexpr bool HALVES = false, OFFSET = true;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        int scale, min;
        k_scales(p + 4, g, scale, min);
        set_scales(out, __fmul_rn(load_f16(p), float(scale)), -__fmul_rn(load_f16(p + 2), float(min)));
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t low = load_word(p + 48 + g / 2 * 32 + 4 * j) >> g % 2 * 4 & NIBBLES;
            out.codes[j] = low | (load_word(p + 16 + 4 * j) >> g & ONES) << 4;
        }
    }
};

template <> struct Format<Q6_K> {
    static constexpr int BYTES = 210, GROUPS = 8;
    static constexpr bool HALVES = true, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        const float d = load_f16(p + 208);
#pragma unroll
        for (int side = 0; side < 2; side++) {
            out.a[side] = __fmul_rn(d, float(int8_t(p[192 + 2 * g + side])));
            out.b[side] = 0.0f;
        }
        const uint8_t *low = p + g / 4 * 64 + g % 2 * 32, *high = p + 128 + g / 4 * 32;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t four = load_word(low + 4 * j) >> g % 4 / 2 * 4 & NIBBLES;
            const uint32_t two = load_word(high + 4 * j) >> g % 4 * 2 & TWOS;
            out.codes[j] = lower(four | two << 4, 32);
        }
    }
};

template <> struct Format<Q2_K> {
    static constexpr int BYTES = 84, GROUPS = 8;
    static constexpr bool HALVES = true, OFFSET = true;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        const float d = load_f16(p + 80), dmin = load_f16(p + 82);
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const int scales = p[2 * g + side];
            out.a[side] = __fmul_rn(d, float(scales & 15));
            out.b[side] = -__fmul_rn(dmin, float(scales >> 4));
        }
#pragma unroll
        for (int j = 0; j < 8; j++) out.codes[j] = load_word(p + 16 + g / 4 * 32 + 4 * j) >> g % 4 * 2 & TWOS;
    }
};

template <> struct Format<Q3_K> {
    static constexpr int BYTES = 110, GROUPS = 8;
    static constexpr bool HALVES = true, OFFSET = false;
    __device__ static __forceinline__ void unpack(const uint8_t *p, int g, Group &out) {
        const float d = load_f16(p + 108);
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const int i = 2 * g + side;
            const int scale = (p[96 + i % 8] >> i / 8 * 4 & 15) | (p[104 + i % 4] >> i / 4 * 2 & 3) << 4;
            out.a[side] = __fmul_rn(d, float(scale - 32));
            out.b[side] = 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t two = load_word(p + 32 + g / 4 * 32 + 4 * j) >> g % 4 * 2 & TWOS;
            out.codes[j] = lower(two | (load_word(p + 4 * j) >> g & ONES) << 2, 4);
        }
    }
};

// Group `g` of a row.
template <int TYPE> __device__ __forceinline__ void unpack_group(const uint8_t *row, int g, Group &out) {
    using F = Format<TYPE>;
    F::unpack(row + size_t(g / F::GROUPS) * F::BYTES, g % F::GROUPS, out);
}

// The value of column `i` of a group, rounded as numerics/src/tensor/block rounds.
__device__ __forceinline__ float value_of(const Group &group, int i) {
    const int code = int8_t(group.codes[i / 4] >> i % 4 * 8);
    return __fadd_rn(__fmul_rn(group.a[i / 16], float(code)), group.b[i / 16]);
}

// Element `i` of a row of floats.
template <int TYPE> __device__ __forceinline__ float load_float(const uint8_t *row, int i) {
    if (TYPE == F32) return reinterpret_cast<const float *>(row)[i];
    const uint16_t bits = reinterpret_cast<const uint16_t *>(row)[i];
    return TYPE == F16 ? f16_to_f32(bits) : __uint_as_float(uint32_t(bits) << 16);
}
