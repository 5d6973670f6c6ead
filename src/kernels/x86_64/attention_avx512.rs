//! Attention and cache writes with AVX-512, with and without VNNI: sixteen lanes.

use std::arch::x86_64::*;

use crate::kernels::attention::simd::{Simd, attention_ops};
use crate::kernels::vector_fns::vector_fns;

attention_ops!(plain: Avx512<false>, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
attention_ops!(vnni: Avx512<true>, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

/// acc + the sum of both products of 16-bit pairs. Not the intrinsic: the compiler takes that apart into a product and a
/// sum where it believes latency to matter, and the register block then takes twice the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers only, and the instruction belongs to the features of this function.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Vectors of 512 bits; VNNI says whether there are integer dot products.
#[derive(Clone, Copy)]
pub struct Avx512<const VNNI: bool>;

#[allow(clippy::needless_range_loop)]
impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const L: usize = 16;
    const REGISTERS: usize = 32;
    const DOT_I8: bool = VNNI;
    type F = __m512;
    type I = __m512i;

    vector_fns! { unsafe;
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        fn store(p: *mut f32, x: __m512) { _mm512_storeu_ps(p, x) }
        fn load_f16(p: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        fn store_f16(p: *mut u8, x: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
        fn load_bf16(p: *const u8) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())), 16))
        }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
        fn round(a: __m512) -> __m512 { _mm512_roundscale_ps::<0>(a) }
        fn scale_down(x: __m512, n: __m512) -> __m512 {
            _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(n, _mm512_set1_ps(-126.0)), x, n)
        }
        fn max_of(a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
        fn sum_of(a: __m512) -> f32 { _mm512_reduce_add_ps(a) }
        fn keep_first(a: __m512, n: usize) -> __m512 {
            _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), ((1u32 << n.min(16)) - 1) as __mmask16, a)
        }
        fn zero_i() -> __m512i { _mm512_setzero_si512() }
        fn splat_i(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn load_i(p: *const i32) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn store_i(p: *mut i32, x: __m512i) { _mm512_storeu_si512(p.cast(), x) }
        fn load_i8(p: *const u8) -> __m512i { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
        fn load_low(p: *const u8) -> __m512i {
            let x = _mm_and_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            _mm512_cvtepi8_epi32(_mm_sub_epi8(x, _mm_set1_epi8(8)))
        }
        fn load_high(p: *const u8) -> __m512i {
            let x = _mm_and_si128(_mm_srli_epi16(_mm_loadu_si128(p.cast()), 4), _mm_set1_epi8(15));
            _mm512_cvtepi8_epi32(_mm_sub_epi8(x, _mm_set1_epi8(8)))
        }
        fn to_i(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn to_f(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn as_f(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn pair(low: __m512i, high: __m512i) -> __m512i {
            _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32(high, 16))
        }
        fn shl16<const N: u32>(a: __m512i) -> __m512i { _mm512_slli_epi16::<N>(a) }
        fn mul_fraction(a: __m512i, b: __m512i) -> __m512i { _mm512_mulhrs_epi16(a, b) }
        fn dot_i16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            if VNNI { dpwssd(acc, a, b) } else { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
        }
        fn dot_i8(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            if VNNI { _mm512_dpbusd_epi32(acc, a, b) } else { unreachable!("DOT_I8 is false") }
        }
        fn prefetch(p: *const u8) { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize) {
            let mut r = [_mm512_setzero_ps(); 16];
            for i in 0..16 {
                r[i] = _mm512_loadu_ps(src.add(i * lds).cast());
            }
            // Pairs of rows, then of pairs, within each quarter of a vector: r[4h + i] has column i (of each quarter) of
            // rows 4h..4h + 4.
            let mut s = r;
            for i in 0..8 {
                s[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for h in 0..4 {
                for i in 0..2 {
                    let (a, b) = (s[4 * h + i], s[4 * h + i + 2]);
                    r[4 * h + 2 * i] = _mm512_shuffle_ps::<0x44>(a, b);
                    r[4 * h + 2 * i + 1] = _mm512_shuffle_ps::<0xee>(a, b);
                }
            }
            // Then quarters: of rows 0..8 and 8..16, and of all.
            for i in 0..4 {
                let (a, b) =
                    (_mm512_shuffle_f32x4::<0x88>(r[i], r[4 + i]), _mm512_shuffle_f32x4::<0x88>(r[8 + i], r[12 + i]));
                let (c, d) =
                    (_mm512_shuffle_f32x4::<0xdd>(r[i], r[4 + i]), _mm512_shuffle_f32x4::<0xdd>(r[8 + i], r[12 + i]));
                _mm512_storeu_ps(dst.add(i * ldd).cast(), _mm512_shuffle_f32x4::<0x88>(a, b));
                _mm512_storeu_ps(dst.add((8 + i) * ldd).cast(), _mm512_shuffle_f32x4::<0xdd>(a, b));
                _mm512_storeu_ps(dst.add((4 + i) * ldd).cast(), _mm512_shuffle_f32x4::<0x88>(c, d));
                _mm512_storeu_ps(dst.add((12 + i) * ldd).cast(), _mm512_shuffle_f32x4::<0xdd>(c, d));
            }
        }
    }
}
