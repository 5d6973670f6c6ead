// A small CUDA on the host, so that the kernels of src/kernels/cuda run where there is no GPU: blocks one after the
// other, each thread a fiber that runs until it meets a barrier or an operation of its warp.
//
// What it keeps: the order that barriers and warp operations impose, the values that lanes exchange, the fragments of mma.
// Each warp runs on until it waits, so a barrier that is missing shows: the first warp reads what the others have yet to
// write, or writes over what they have yet to read. Loads that are not aligned stop the program, as they stop a GPU.
// What it does not keep: timing, the rounding of sums within mma, limits on registers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static const
#define __launch_bounds__(...)
// A block runs on one thread of the host, so its shared memory is that thread's. Like a GPU's, it starts with what the
// block before left there.
#define __shared__ static thread_local

namespace emu {

struct Dim3 {
    unsigned x, y, z;
};

// Where a fiber is.
struct Place {
    Dim3 thread, block, block_dim, grid_dim;
};

// `__thread`, so that units which only use it need not ask whether it was made.
extern __thread Place here;

// Waits until every living lane of the warp arrived, then sees what each brought: 32 slots of `SLOT` bytes.
constexpr size_t SLOT = 32;
const unsigned char *exchange(const void *mine, size_t size);
// Waits until every living thread of the block arrived.
void block_barrier();

inline unsigned lane() {
    const Place &p = here;
    return (p.thread.x + p.block_dim.x * (p.thread.y + p.block_dim.y * p.thread.z)) % 32;
}

template <class T> T from(const unsigned char *slots, unsigned lane) {
    T value;
    std::memcpy(&value, slots + SLOT * lane, sizeof(T));
    return value;
}

using Call = void (*)(void *kernel, void **args);
void add_kernel(const char *name, void *kernel, Call call);

template <class... A> struct Caller {
    template <size_t... I> static void unpack(void (*kernel)(A...), void **args, std::integer_sequence<size_t, I...>) {
        kernel(*static_cast<std::remove_reference_t<A> *>(args[I])...);
    }
    static void call(void *kernel, void **args) {
        unpack(reinterpret_cast<void (*)(A...)>(kernel), args, std::make_integer_sequence<size_t, sizeof...(A)>());
    }
};

// Makes a kernel known by its name.
struct Register {
    template <class... A> Register(const char *name, void (*kernel)(A...)) {
        add_kernel(name, reinterpret_cast<void *>(kernel), Caller<A...>::call);
    }
};

} // namespace emu

#define threadIdx (emu::here.thread)
#define blockIdx (emu::here.block)
#define blockDim (emu::here.block_dim)
#define gridDim (emu::here.grid_dim)

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline void __syncthreads() { emu::block_barrier(); }
inline void __syncwarp() { emu::exchange(nullptr, 0); }

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return emu::from<T>(emu::exchange(&value, sizeof value), emu::lane() ^ unsigned(mask));
}
template <class T> T __shfl_sync(unsigned, T value, int lane) {
    return emu::from<T>(emu::exchange(&value, sizeof value), unsigned(lane) % 32);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    // Lanes that have left bring nothing.
    const unsigned char *slots = emu::exchange(&predicate, sizeof predicate);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; i++) bits |= unsigned(emu::from<int>(slots, i) != 0) << i;
    return bits;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

template <class T> T bits_as(const void *p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(&x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(&x); }

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}

// Four bytes chosen from eight; the selector has four bits each, of which the highest is not used here.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= unsigned((bytes >> 8 * (selector >> 4 * i & 7)) & 0xff) << 8 * i;
    return out;
}

inline int atomicOr(int *at, int bits) {
    const int old = *at;
    *at |= bits;
    return old;
}

using std::isfinite;

// ---- what device.cuh does with PTX ----

inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = uint32_t(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(float(fraction) * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// To nearest, ties to even.
inline uint16_t f32_to_f16(float x) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;
    const float size = std::fabs(x);
    if (std::isnan(x)) return uint16_t(sign | 0x7e00);
    if (size >= 65520.0f) return uint16_t(sign | 0x7c00);
    // Below the smallest normal number steps are 2^-24.
    if (size < 0x1p-14f) return uint16_t(sign | uint32_t(std::nearbyint(size * 0x1p24f)));
    const uint32_t magnitude = bits & 0x7fffffff;
    return uint16_t(sign | (((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112u << 10)));
}

inline uint32_t pack_bf16(float low, float high) {
    auto round = [](float x) {
        const uint32_t bits = __float_as_uint(x);
        return std::isnan(x) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return round(low) | round(high) << 16;
}

struct Fragments {
    uint32_t a[4], b[2];
};

// c(16, 8) += a(16, 16) b(16, 8). Lane 4g + t holds, of a, rows g and g + 8 at columns 2t, 2t + 1 and the same behind
// column 8; of b, rows 2t, 2t + 1 and the same behind row 8, at column g; of c, rows g and g + 8 at columns 2t, 2t + 1.
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *slots = emu::exchange(&mine, sizeof mine);
    const unsigned g = emu::lane() / 4, t = emu::lane() % 4;
    auto split = [](uint32_t word, float *to) {
        to[0] = __uint_as_float(word << 16);
        to[1] = __uint_as_float(word & 0xffff0000u);
    };
    float rows[2][16], columns[2][16];
    for (unsigned k = 0; k < 4; k++) {
        const Fragments fa = emu::from<Fragments>(slots, 4 * g + k);
        for (unsigned i = 0; i < 4; i++) split(fa.a[i], &rows[i % 2][i / 2 * 8 + 2 * k]);
        for (unsigned j = 0; j < 2; j++) {
            const Fragments fb = emu::from<Fragments>(slots, 4 * (2 * t + j) + k);
            for (unsigned i = 0; i < 2; i++) split(fb.b[i], &columns[j][8 * i + 2 * k]);
        }
    }
    for (int i = 0; i < 4; i++) {
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) sum += rows[i / 2][k] * columns[i & 1][k];
        c[i] += sum;
    }
}

// c(16, 8) += a(16, 16) b(16, 8) of signed bytes. Lane 4g + t holds, of a, rows g and g + 8 at columns 4t to 4t + 3; of b,
// rows 4t to 4t + 3 at column g; of c as above.
inline void mma_s8_k16(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    const Fragments mine = {{a0, a1, 0, 0}, {b0, 0}};
    const unsigned char *slots = emu::exchange(&mine, sizeof mine);
    const unsigned g = emu::lane() / 4, t = emu::lane() % 4;
    for (unsigned k = 0; k < 4; k++) {
        const Fragments fa = emu::from<Fragments>(slots, 4 * g + k);
        for (unsigned j = 0; j < 2; j++) {
            const int column = int(emu::from<Fragments>(slots, 4 * (2 * t + j) + k).b[0]);
            for (unsigned i = 0; i < 2; i++) c[2 * i + j] = __dp4a(int(fa.a[i]), column, c[2 * i + j]);
        }
    }
}

// The same for 32 columns: a[2], a[3] and b[1] hold the second 16.
inline void mma_s8_k32(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_s8_k16(c, a[0], a[1], b[0]);
    mma_s8_k16(c, a[2], a[3], b[1]);
}

#define EXPORT(name) static const emu::Register register_##name(#name, name)
