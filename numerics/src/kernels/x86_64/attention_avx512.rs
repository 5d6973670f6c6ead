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
pub(super) struct Avx512<const VNNI: bool>;

#[allow(clippy::needless_range_loop)]
impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const L: usize = 16;
    const REGISTERS: usize = 32;
    const DOT_I8: bool = VNNI;
    type F = __m512;
    type I = __m512i;
    type B = __m256i;

    vector_fns! { unsafe;
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
        fn store(p: *mut f32, x: __m512) { _mm512_storeu_ps(p, x) }
        fn load_f16(p: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        fn store_f16(p: *mut u8, x: __m512) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
        fn load_f16_apart(p: *const u8, stride: usize) -> __m512 {
            let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let at = _mm512_mullo_epi32(lane, _mm512_set1_epi32(stride as i32));
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_i32gather_epi32::<1>(at, p.cast())))
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
        fn store_sums(a: [__m512; 4], p: *mut f32) {
            // Of four lanes each: two vectors' sums of two, then all four vectors' sums.
            let low = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
            let high = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
            let (low, high) = (_mm512_castps_pd(low), _mm512_castps_pd(high));
            let four = _mm512_add_ps(
                _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)),
            );
            let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(four)));
            let two = _mm256_add_ps(_mm512_castps512_ps256(four), upper);
            _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two)));
        }
        fn keep_first(a: __m512, n: usize) -> __m512 {
            _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), ((1u32 << n.min(16)) - 1) as __mmask16, a)
        }
        fn zero_i() -> __m512i { _mm512_setzero_si512() }
        fn splat_i(x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn load_i(p: *const i32) -> __m512i { _mm512_loadu_si512(p.cast()) }
        fn store_i(p: *mut i32, x: __m512i) { _mm512_storeu_si512(p.cast(), x) }
        fn to_i(a: __m512) -> __m512i { _mm512_cvtps_epi32(a) }
        fn to_f(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn as_f(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn pair(low: __m512i, high: __m512i) -> __m512i {
            _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32(high, 16))
        }
        fn max16(a: __m512i, p: *const u8) -> __m512i {
            _mm512_max_epu16(a, _mm512_and_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi16(i16::MAX)))
        }
        fn wide<const N: u32>(a: __m512i) -> [__m512i; 2] {
            let left = |a, by: u32| _mm512_sll_epi16(a, _mm_cvtsi32_si128(by as i32));
            let right = |a, by: u32| _mm512_sra_epi16(a, _mm_cvtsi32_si128(by as i32));
            let first = if N < 8 { right(left(a, 8), 8 - N) } else { left(a, N) };
            [first, left(right(a, 8), N)]
        }
        fn mul_fraction(a: __m512i, b: __m512i) -> __m512i { _mm512_mulhrs_epi16(a, b) }
        fn load_bytes(p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
        fn load_halves(p: *const u8) -> __m256i {
            // A code is 8 less than its nibble: the same bits with the top one changed.
            let x = _mm_loadu_si128(p.cast());
            let x = _mm256_set_m128i(x, _mm_slli_epi16::<4>(x));
            _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi8(-16)), _mm256_set1_epi8(-128))
        }
        fn weave(a: __m256i, b: __m256i, fraction: __m512i, to: *mut i32) {
            // Quarter `q` gets four bytes of each from 4 q and from 16 + 4 q on; then every byte its place.
            let x = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            let order = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
            let x = _mm512_permutexvar_epi32(order, x);
            let bytes = _mm_setr_epi8(-1, 0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7);
            for half in 0..2 {
                let bytes = _mm512_broadcast_i32x4(_mm_add_epi8(bytes, _mm_set1_epi16(half << 11)));
                let pairs = _mm512_shuffle_epi8(x, bytes);
                _mm512_storeu_si512(to.add(16 * half as usize).cast(), _mm512_mulhrs_epi16(pairs, fraction));
            }
        }
        fn dot_i16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            if VNNI { dpwssd(acc, a, b) } else { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) }
        }
        fn dot_i8(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            if VNNI { _mm512_dpbusd_epi32(acc, a, b) } else { unreachable!("DOT_I8 is false") }
        }
        fn columns(rows: *const u8, stride: usize) -> [__m512i; 4] {
            // Four bytes of four rows in each quarter of a vector, then 4 by 4 within quarters.
            let mut r = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let row = |quarter: usize| _mm_loadu_si128(rows.add((4 * quarter + i) * stride).cast());
                let x = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(row(0)), row(1));
                r[i] = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, row(2)), row(3));
            }
            let (a, b) = (_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpacklo_epi32(r[2], r[3]));
            let (c, d) = (_mm512_unpackhi_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[2], r[3]));
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
        fn add8(a: __m512i, b: u8) -> __m512i { _mm512_add_epi8(a, _mm512_set1_epi8(b as i8)) }
        fn nibbles(a: __m512i) -> [__m512i; 2] {
            let mask = _mm512_set1_epi8(15);
            [_mm512_and_si512(a, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(a), mask)]
        }
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
