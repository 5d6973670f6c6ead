//! Vectors of 32 bytes in pairs of NEON registers, for every table of this machine.

use std::arch::aarch64::*;

use super::asm::fcvtl;
use crate::kernels::matmul::lanes::Lanes;
use crate::kernels::vector_fns::vector_fns;

/// `out[i][j] = rows[j][i]`.
#[inline(always)]
pub(crate) fn transpose([r0, r1, r2, r3]: [int32x4_t; 4]) -> [int32x4_t; 4] {
    // SAFETY: NEON, which all code for aarch64 has.
    unsafe {
        let wide = |v| vreinterpretq_s64_s32(v);
        // Even and odd columns of two rows each, then of all four.
        let (even01, odd01) = (wide(vtrn1q_s32(r0, r1)), wide(vtrn2q_s32(r0, r1)));
        let (even23, odd23) = (wide(vtrn1q_s32(r2, r3)), wide(vtrn2q_s32(r2, r3)));
        [
            vreinterpretq_s32_s64(vtrn1q_s64(even01, even23)),
            vreinterpretq_s32_s64(vtrn1q_s64(odd01, odd23)),
            vreinterpretq_s32_s64(vtrn2q_s64(even01, even23)),
            vreinterpretq_s32_s64(vtrn2q_s64(odd01, odd23)),
        ]
    }
}

/// NEON.
pub(crate) struct Pairs;

impl Lanes for Pairs {
    type Bytes = [uint8x16_t; 2];
    type Floats = [float32x4_t; 2];

    vector_fns! { safe;
        fn bytes(src: &[u8; 32]) -> [uint8x16_t; 2] { [vld1q_u8(src.as_ptr()), vld1q_u8(src.as_ptr().add(16))] }
        fn put_bytes(v: [uint8x16_t; 2], dst: &mut [u8; 32]) {
            vst1q_u8(dst.as_mut_ptr(), v[0]);
            vst1q_u8(dst.as_mut_ptr().add(16), v[1]);
        }
        fn halves(src: &[u8; 16]) -> [uint8x16_t; 2] {
            let both = vld1q_u8(src.as_ptr());
            [vandq_u8(both, vdupq_n_u8(15)), vshrq_n_u8::<4>(both)]
        }
        fn bits(word: u32, value: u8) -> [uint8x16_t; 2] {
            let bytes = word.to_le_bytes();
            let bit_of = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let set = |low, high| vtstq_u8(vcombine_u8(vdup_n_u8(low), vdup_n_u8(high)), bit_of);
            Self::and([set(bytes[0], bytes[1]), set(bytes[2], bytes[3])], value)
        }
        fn and(v: [uint8x16_t; 2], mask: u8) -> [uint8x16_t; 2] {
            [vandq_u8(v[0], vdupq_n_u8(mask)), vandq_u8(v[1], vdupq_n_u8(mask))]
        }
        fn or(v: [uint8x16_t; 2], w: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
            [vorrq_u8(v[0], w[0]), vorrq_u8(v[1], w[1])]
        }
        fn xor(v: [uint8x16_t; 2], mask: u8) -> [uint8x16_t; 2] {
            [veorq_u8(v[0], vdupq_n_u8(mask)), veorq_u8(v[1], vdupq_n_u8(mask))]
        }
        fn shift_and(v: [uint8x16_t; 2], from: i32, to: i32, mask: u8) -> [uint8x16_t; 2] {
            let by = vdupq_n_s8((to - from) as i8);
            Self::and([vshlq_u8(v[0], by), vshlq_u8(v[1], by)], mask)
        }
        fn lookup(v: [uint8x16_t; 2], table: &[u8; 16]) -> [uint8x16_t; 2] {
            let table = vld1q_u8(table.as_ptr());
            [vqtbl1q_u8(table, v[0]), vqtbl1q_u8(table, v[1])]
        }
        fn put_floats(v: [float32x4_t; 2], dst: &mut [f32; 8]) {
            vst1q_f32(dst.as_mut_ptr(), v[0]);
            vst1q_f32(dst.as_mut_ptr().add(4), v[1]);
        }
        fn f16(bits: u16) -> f32 { vgetq_lane_f32::<0>(fcvtl(vdup_n_u16(bits))) }
        fn f16s(bits: [u16; 8]) -> [float32x4_t; 2] {
            [fcvtl(vld1_u16(bits.as_ptr())), fcvtl(vld1_u16(bits.as_ptr().add(4)))]
        }
        fn floats(src: &[f32; 8]) -> [float32x4_t; 2] { [vld1q_f32(src.as_ptr()), vld1q_f32(src[4..].as_ptr())] }
        fn from_u8(src: [u8; 8]) -> [float32x4_t; 2] {
            let wide = vmovl_u8(vld1_u8(src.as_ptr()));
            [vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))]
        }
        fn from_i8(src: [i8; 8]) -> [float32x4_t; 2] {
            let wide = vmovl_s8(vld1_s8(src.as_ptr()));
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))]
        }
        fn mul(v: [float32x4_t; 2], by: f32) -> [float32x4_t; 2] { [vmulq_n_f32(v[0], by), vmulq_n_f32(v[1], by)] }
        fn twice(v: [float32x4_t; 2]) -> [[float32x4_t; 2]; 2] {
            [[vzip1q_f32(v[0], v[0]), vzip2q_f32(v[0], v[0])], [vzip1q_f32(v[1], v[1]), vzip2q_f32(v[1], v[1])]]
        }
        fn range(a: [[float32x4_t; 2]; 2], b: [[float32x4_t; 2]; 2], max: f32, n: usize) -> [[float32x4_t; 2]; 2] {
            // Of four lanes; magnitudes as integers order like numbers, infinity and NaN last.
            let top = |a, b| {
                let magnitude = |v| vreinterpretq_u32_f32(vabsq_f32(v));
                // A multiply and an add: the definition has no fused ones.
                let last = vaddq_f32(vmulq_n_f32(a, max), b);
                let top = vmaxq_u32(magnitude(b), magnitude(last));
                let top = vmaxq_u32(top, vrev64q_u32(top));
                if n >= 4 { vmaxq_u32(top, vextq_u32::<2>(top, top)) } else { top }
            };
            let mut tops = [[top(a[0][0], b[0][0]), top(a[0][1], b[0][1])], [top(a[1][0], b[1][0]), top(a[1][1], b[1][1])]];
            if n >= 8 {
                tops = [[vmaxq_u32(tops[0][0], tops[0][1]); 2], [vmaxq_u32(tops[1][0], tops[1][1]); 2]];
            }
            if n == 16 {
                tops = [[vmaxq_u32(tops[0][0], tops[1][0]); 2]; 2];
            }
            let floats = |tops: [uint32x4_t; 2]| [vreinterpretq_f32_u32(tops[0]), vreinterpretq_f32_u32(tops[1])];
            [floats(tops[0]), floats(tops[1])]
        }
        fn inverse(v: [float32x4_t; 2]) -> [float32x4_t; 2] {
            let inverse = |v| {
                let inverse = vdivq_f32(vdupq_n_f32(127.0), v);
                let finite = vcaleq_f32(inverse, vdupq_n_f32(f32::MAX));
                vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(inverse), finite))
            };
            [inverse(v[0]), inverse(v[1])]
        }
        fn fixed_point(
            a: [float32x4_t; 2], b: [float32x4_t; 2], scale: [float32x4_t; 2], centered: bool,
        ) -> [[u32; 8]; 2] {
            let mut out = [[0; 8]; 2];
            for i in 0..2 {
                let fixed = |v| {
                    let fixed = vcvtnq_s32_f32(vmulq_n_f32(vmulq_f32(v, scale[i]), 256.0));
                    vreinterpretq_u16_s32(vsliq_n_s32::<16>(fixed, fixed))
                };
                let a = fixed(a[i]);
                let b = if centered { vsubq_u16(vdupq_n_u16(0), vshlq_n_u16::<7>(a)) } else { fixed(b[i]) };
                vst1q_u32(out[0].as_mut_ptr().add(4 * i), vreinterpretq_u32_u16(a));
                vst1q_u32(out[1].as_mut_ptr().add(4 * i), vreinterpretq_u32_u16(vaddq_u16(b, vdupq_n_u16(0x8080))));
            }
            out
        }
        fn requantize(codes: [uint8x16_t; 2], a: [u32; 2], b: [u32; 2]) -> [uint8x16_t; 2] {
            let each = |codes, a, b| {
                let (a, b) = (vreinterpretq_u16_u32(vdupq_n_u32(a)), vreinterpretq_u16_u32(vdupq_n_u32(b)));
                let low = vmlaq_u16(b, vmovl_u8(vget_low_u8(codes)), a);
                let high = vmlaq_u16(b, vmovl_high_u8(codes), a);
                vuzp2q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high))
            };
            [each(codes[0], a[0], b[0]), each(codes[1], a[1], b[1])]
        }
        fn top(x: &[[f32; 32]]) -> u32 {
            let mut tops = [vdupq_n_u32(0); 2];
            for x in x {
                for i in 0..8 {
                    let v = vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x.as_ptr().add(4 * i))));
                    tops[i % 2] = vmaxq_u32(tops[i % 2], v);
                }
            }
            vmaxvq_u32(vmaxq_u32(tops[0], tops[1]))
        }
        fn quantize(x: &[f32; 32], inverse: f32) -> [uint8x16_t; 2] {
            // Pairs of registers give up the upper halves of their lanes, twice.
            let four = |i: usize| vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x.as_ptr().add(4 * i)), inverse));
            let eight = |i: usize| vuzp1q_u16(vreinterpretq_u16_s32(four(i)), vreinterpretq_u16_s32(four(i + 1)));
            let sixteen = |i: usize| vuzp1q_u8(vreinterpretq_u8_u16(eight(i)), vreinterpretq_u8_u16(eight(i + 2)));
            [sixteen(0), sixteen(4)]
        }
        fn sums(v: [uint8x16_t; 2]) -> [i32; 2] {
            let sum = |v| i32::from(vaddlvq_s8(vreinterpretq_s8_u8(v)));
            [sum(v[0]), sum(v[1])]
        }
        fn total(v: &[[u8; 32]]) -> i32 {
            let mut sums = vdupq_n_s32(0);
            for v in v {
                for half in Self::bytes(v) {
                    sums = vpadalq_s16(sums, vpaddlq_s8(vreinterpretq_s8_u8(half)));
                }
            }
            vaddvq_s32(sums)
        }
    }
}
