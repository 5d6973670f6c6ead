//! Attention and cache writes with AVX2, FMA and F16C, with and without AVX-VNNI: eight lanes.

use std::arch::x86_64::*;

use crate::kernels::attention::simd::{Simd, attention_ops};
use crate::kernels::vector_fns::vector_fns;

attention_ops!(plain: Avx2<false>, "avx2,fma,f16c");
attention_ops!(vnni: Avx2<true>, "avxvnni,avx2,fma,f16c");

/// acc + the sum of both products of 16-bit pairs. Not the intrinsic: the compiler takes that apart into a product and a
/// sum where it believes latency to matter.
#[inline]
#[target_feature(enable = "avxvnni,avx2")]
fn dpwssd(mut acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: registers only, and the instruction belongs to the features of this function.
    unsafe {
        std::arch::asm!(
            "{{vex}} vpdpwssd {acc}, {a}, {b}",
            acc = inout(ymm_reg) acc,
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Vectors of 256 bits; VNNI says whether there are integer dot products.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

#[allow(clippy::needless_range_loop)]
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const L: usize = 8;
    const REGISTERS: usize = 16;
    const DOT_I8: bool = VNNI;
    type F = __m256;
    type I = __m256i;
    type B = __m256i;

    vector_fns! { unsafe;
        fn splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn load(p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
        fn store(p: *mut f32, x: __m256) { _mm256_storeu_ps(p, x) }
        fn load_f16(p: *const u8) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        fn store_f16(p: *mut u8, x: __m256) {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
        fn load_bf16(p: *const u8) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16))
        }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn abs(a: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        fn round(a: __m256) -> __m256 { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        fn scale_down(x: __m256, n: __m256) -> __m256 {
            let fits = _mm256_cmp_ps::<_CMP_GE_OQ>(n, _mm256_set1_ps(-126.0));
            let power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
            _mm256_and_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(power)), fits)
        }
        fn max_of(a: __m256) -> f32 {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
        fn sum_of(a: __m256) -> f32 {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
        fn store_sums(a: [__m256; 4], p: *mut f32) {
            // Of four lanes each: all four vectors' sums.
            let four = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
            _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four)));
        }
        fn keep_first(a: __m256, n: usize) -> __m256 {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), a, _mm256_castsi256_ps(keep))
        }
        fn zero_i() -> __m256i { _mm256_setzero_si256() }
        fn splat_i(x: i32) -> __m256i { _mm256_set1_epi32(x) }
        fn load_i(p: *const i32) -> __m256i { _mm256_loadu_si256(p.cast()) }
        fn store_i(p: *mut i32, x: __m256i) { _mm256_storeu_si256(p.cast(), x) }
        fn to_i(a: __m256) -> __m256i { _mm256_cvtps_epi32(a) }
        fn to_f(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn as_f(a: __m256i) -> __m256 { _mm256_castsi256_ps(a) }
        fn pair(low: __m256i, high: __m256i) -> __m256i {
            _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32(high, 16))
        }
        fn max16(a: __m256i, p: *const u8) -> __m256i {
            _mm256_max_epu16(a, _mm256_and_si256(_mm256_loadu_si256(p.cast()), _mm256_set1_epi16(i16::MAX)))
        }
        fn wide<const N: u32>(a: __m256i) -> [__m256i; 2] {
            let left = |a, by: u32| _mm256_sll_epi16(a, _mm_cvtsi32_si128(by as i32));
            let right = |a, by: u32| _mm256_sra_epi16(a, _mm_cvtsi32_si128(by as i32));
            let first = if N < 8 { right(left(a, 8), 8 - N) } else { left(a, N) };
            [first, left(right(a, 8), N)]
        }
        fn mul_fraction(a: __m256i, b: __m256i) -> __m256i { _mm256_mulhrs_epi16(a, b) }
        fn load_bytes(p: *const u8) -> __m256i { _mm256_loadu_si256(p.cast()) }
        fn load_halves(p: *const u8) -> __m256i {
            // A code is 8 less than its nibble: the same bits with the top one changed.
            let x = _mm_loadu_si128(p.cast());
            let x = _mm256_set_m128i(x, _mm_slli_epi16::<4>(x));
            _mm256_xor_si256(_mm256_and_si256(x, _mm256_set1_epi8(-16)), _mm256_set1_epi8(-128))
        }
        fn weave(a: __m256i, b: __m256i, fraction: __m256i, to: *mut i32) {
            let bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7));
            let halves = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
            for half in 0..2 {
                // Each half of the vector gets four bytes of each, twice; then every byte its place.
                let x = halves[half];
                let x = _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7));
                let to = to.add(16 * half);
                let low = _mm256_shuffle_epi8(x, bytes);
                let high = _mm256_shuffle_epi8(x, _mm256_add_epi8(bytes, _mm256_set1_epi16(8 << 8)));
                _mm256_storeu_si256(to.cast(), _mm256_mulhrs_epi16(low, fraction));
                _mm256_storeu_si256(to.add(8).cast(), _mm256_mulhrs_epi16(high, fraction));
            }
        }
        fn dot_i16(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
            if VNNI { dpwssd(acc, a, b) } else { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
        }
        fn dot_i8(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
            if VNNI { _mm256_dpbusd_avx_epi32(acc, a, b) } else { unreachable!("DOT_I8 is false") }
        }
        fn columns(rows: *const u8, stride: usize) -> [__m256i; 4] {
            // Four bytes of four rows in each half of a vector, then 4 by 4 within halves.
            let mut r = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let row = |half: usize| _mm_loadu_si128(rows.add((4 * half + i) * stride).cast());
                r[i] = _mm256_set_m128i(row(1), row(0));
            }
            let (a, b) = (_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpacklo_epi32(r[2], r[3]));
            let (c, d) = (_mm256_unpackhi_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[2], r[3]));
            [
                _mm256_unpacklo_epi64(a, b),
                _mm256_unpackhi_epi64(a, b),
                _mm256_unpacklo_epi64(c, d),
                _mm256_unpackhi_epi64(c, d),
            ]
        }
        fn add8(a: __m256i, b: u8) -> __m256i { _mm256_add_epi8(a, _mm256_set1_epi8(b as i8)) }
        fn nibbles(a: __m256i) -> [__m256i; 2] {
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(a, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(a), mask)]
        }
        fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize) {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(src.add(i * lds).cast());
            }
            // Pairs of rows, then of pairs, within each half of a vector; then the halves.
            let mut s = r;
            for i in 0..4 {
                s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for h in 0..2 {
                for i in 0..2 {
                    let (a, b) = (s[4 * h + i], s[4 * h + i + 2]);
                    r[4 * h + 2 * i] = _mm256_shuffle_ps::<0x44>(a, b);
                    r[4 * h + 2 * i + 1] = _mm256_shuffle_ps::<0xee>(a, b);
                }
            }
            for i in 0..4 {
                _mm256_storeu_ps(dst.add(i * ldd).cast(), _mm256_permute2f128_ps::<0x20>(r[i], r[4 + i]));
                _mm256_storeu_ps(dst.add((4 + i) * ldd).cast(), _mm256_permute2f128_ps::<0x31>(r[i], r[4 + i]));
            }
        }
    }
}
