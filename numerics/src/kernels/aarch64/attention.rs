//! Attention and cache writes with NEON, with and without dot products of bytes: four lanes.

use std::arch::aarch64::*;

use super::asm::{fcvtl, fcvtn, sdot};
use super::lanes::transpose;
use crate::kernels::attention::simd::{Simd, attention_ops};
use crate::kernels::vector_fns::vector_fns;

attention_ops!(plain: Neon<false>, "neon");
attention_ops!(dot: Neon<true>, "neon,dotprod");

/// Vectors of 128 bits; DOT says whether there are dot products of bytes.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>;

impl<const DOT: bool> Simd for Neon<DOT> {
    const L: usize = 4;
    const REGISTERS: usize = 32;
    const DOT_I8: bool = DOT;
    const EXCESS: u8 = 0;
    type F = float32x4_t;
    type I = int32x4_t;
    type B = [uint8x16_t; 2];

    vector_fns! { unsafe;
        fn splat(x: f32) -> float32x4_t { vdupq_n_f32(x) }
        fn load(p: *const f32) -> float32x4_t { vld1q_f32(p) }
        fn store(p: *mut f32, x: float32x4_t) { vst1q_f32(p, x) }
        fn load_f16(p: *const u8) -> float32x4_t { fcvtl(vld1_u16(p.cast())) }
        fn store_f16(p: *mut u8, x: float32x4_t) { vst1_u16(p.cast(), fcvtn(x)) }
        fn load_bf16(p: *const u8) -> float32x4_t {
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(p.cast()))))
        }
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmaxq_f32(a, b) }
        fn abs(a: float32x4_t) -> float32x4_t { vabsq_f32(a) }
        fn round(a: float32x4_t) -> float32x4_t { vrndnq_f32(a) }
        fn scale_down(x: float32x4_t, n: float32x4_t) -> float32x4_t {
            let fits = vcgeq_f32(n, vdupq_n_f32(-126.0));
            let power = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127))));
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vmulq_f32(x, power)), fits))
        }
        fn max_of(a: float32x4_t) -> f32 { vmaxvq_f32(a) }
        fn sum_of(a: float32x4_t) -> f32 { vaddvq_f32(a) }
        fn store_sums(a: [float32x4_t; 4], p: *mut f32) {
            vst1q_f32(p, vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])))
        }
        fn keep_first(a: float32x4_t, n: usize) -> float32x4_t {
            let keep = vcltq_u32(vld1q_u32([0, 1, 2, 3].as_ptr()), vdupq_n_u32(n as u32));
            vbslq_f32(keep, a, vdupq_n_f32(f32::NEG_INFINITY))
        }
        fn zero_i() -> int32x4_t { vdupq_n_s32(0) }
        fn splat_i(x: i32) -> int32x4_t { vdupq_n_s32(x) }
        fn load_i(p: *const i32) -> int32x4_t { vld1q_s32(p) }
        fn store_i(p: *mut i32, x: int32x4_t) { vst1q_s32(p, x) }
        fn to_i(a: float32x4_t) -> int32x4_t { vcvtnq_s32_f32(a) }
        fn to_f(a: int32x4_t) -> float32x4_t { vcvtq_f32_s32(a) }
        fn as_f(a: int32x4_t) -> float32x4_t { vreinterpretq_f32_s32(a) }
        fn pair(low: int32x4_t, high: int32x4_t) -> int32x4_t { vsliq_n_s32::<16>(low, high) }
        fn max16(a: int32x4_t, p: *const u8) -> int32x4_t {
            let x = vandq_u16(vld1q_u16(p.cast()), vdupq_n_u16(i16::MAX as u16));
            vreinterpretq_s32_u16(vmaxq_u16(vreinterpretq_u16_s32(a), x))
        }
        fn wide<const N: u32>(a: int32x4_t) -> [int32x4_t; 2] {
            let a = vreinterpretq_s16_s32(a);
            let shift = |a, by: i16| vshlq_s16(a, vdupq_n_s16(by));
            [
                vreinterpretq_s32_s16(shift(shift(a, 8), N as i16 - 8)),
                vreinterpretq_s32_s16(shift(shift(a, -8), N as i16)),
            ]
        }
        fn mul_fraction(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            vreinterpretq_s32_s16(vqrdmulhq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)))
        }
        fn load_bytes(p: *const u8) -> [uint8x16_t; 2] { [vld1q_u8(p), vld1q_u8(p.add(16))] }
        fn load_halves(p: *const u8) -> [uint8x16_t; 2] {
            // A code is 8 less than its nibble: the same bits with the top one changed.
            let (x, top) = (vld1q_u8(p), vdupq_n_u8(128));
            [veorq_u8(vshlq_n_u8::<4>(x), top), veorq_u8(vandq_u8(x, vdupq_n_u8(240)), top)]
        }
        fn weave(a: [uint8x16_t; 2], b: [uint8x16_t; 2], fraction: int32x4_t, to: *mut i32) {
            let zero = vdupq_n_u8(0);
            for half in 0..2 {
                let (low, high) = (vzip1q_u8(a[half], b[half]), vzip2q_u8(a[half], b[half]));
                let pairs = [vzip1q_u8(zero, low), vzip2q_u8(zero, low), vzip1q_u8(zero, high), vzip2q_u8(zero, high)];
                for (i, pairs) in pairs.into_iter().enumerate() {
                    let scaled = vqrdmulhq_s16(vreinterpretq_s16_u8(pairs), vreinterpretq_s16_s32(fraction));
                    vst1q_s32(to.add(16 * half + 4 * i), vreinterpretq_s32_s16(scaled));
                }
            }
        }
        fn dot_i16(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // In a register block, the halves of each operand are taken apart once for all products.
            let acc = vmlal_s16(acc, vmovn_s32(a), vmovn_s32(b));
            vmlal_s16(acc, vshrn_n_s32::<16>(a), vshrn_n_s32::<16>(b))
        }
        fn dot_i8(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            if !DOT {
                unreachable!("DOT_I8 is false");
            }
            sdot(acc, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
        }
        fn columns(rows: *const u8, stride: usize) -> [int32x4_t; 4] {
            let row = |i: usize| vreinterpretq_s32_u8(vld1q_u8(rows.add(i * stride)));
            transpose([row(0), row(1), row(2), row(3)])
        }
        fn add8(a: int32x4_t, b: u8) -> int32x4_t {
            vreinterpretq_s32_u8(vaddq_u8(vreinterpretq_u8_s32(a), vdupq_n_u8(b)))
        }
        fn nibbles(a: int32x4_t) -> [int32x4_t; 2] {
            let a = vreinterpretq_u8_s32(a);
            [vreinterpretq_s32_u8(vandq_u8(a, vdupq_n_u8(15))), vreinterpretq_s32_u8(vshrq_n_u8::<4>(a))]
        }
        fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize) {
            let row = |i: usize| vld1q_s32(src.add(i * lds));
            for (i, column) in transpose([row(0), row(1), row(2), row(3)]).into_iter().enumerate() {
                vst1q_s32(dst.add(i * ldd), column);
            }
        }
    }
}
