//! Attention and cache writes with AVX2, FMA and F16C: eight lanes.

use std::arch::x86_64::*;

use crate::kernels::attention::simd::Simd;
use crate::kernels::attention::{AttentionOps, Partial, Tile, tile};
use crate::kernels::{kv_write, scratch};

// SAFETY (of every call below): the operations leave the room only with the table of `avx2::detect`, which has checked the
// features that they are compiled with.
pub const OPS: AttentionOps = AttentionOps {
    tile: |t, out| {
        scratch::with(tile::room::<Avx2>(t, out.max.len()), |buffer| unsafe { tile_avx2(t, out, buffer) });
    },
    rotate: |head, cos, sin| unsafe { rotate_avx2(head, cos, sin) },
    encode: |ty, src, dst| unsafe { encode_avx2(ty, src, dst) },
};

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_avx2(t: &Tile<'_>, out: Partial<'_>, buffer: &mut [f32]) {
    // SAFETY: this function has the features.
    unsafe { tile::tile::<Avx2>(t, out, buffer) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rotate_avx2(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    kv_write::rotate(head, cos, sin);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn encode_avx2(ty: crate::gguf::GgmlType, src: &[f32], dst: &mut [u8]) -> bool {
    // SAFETY: this function has the features.
    unsafe { kv_write::encode_vectors::<Avx2>(ty, src, dst) }
}

/// Vectors of 256 bits.
#[derive(Clone, Copy)]
pub struct Avx2;

// SAFETY (of every block): the caller has the features and, where there are pointers, vouches for L elements.
#[allow(clippy::needless_range_loop)]
impl Simd for Avx2 {
    const L: usize = 8;
    const DOT_I8: bool = false;
    type F = __m256;
    type I = __m256i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, x: __m256) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())), 16)) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_down(x: __m256, n: __m256) -> __m256 {
        unsafe {
            let fits = _mm256_cmp_ps::<_CMP_GE_OQ>(n, _mm256_set1_ps(-126.0));
            let power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
            _mm256_and_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(power)), fits)
        }
    }
    #[inline(always)]
    unsafe fn max_of(a: __m256) -> f32 {
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }
    #[inline(always)]
    unsafe fn sum_of(a: __m256) -> f32 {
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }
    #[inline(always)]
    unsafe fn keep_first(a: __m256, n: usize) -> __m256 {
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), a, _mm256_castsi256_ps(keep))
        }
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, x: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_low(p: *const u8) -> __m256i {
        unsafe {
            let x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            _mm256_sub_epi32(_mm256_and_si256(x, _mm256_set1_epi32(15)), _mm256_set1_epi32(8))
        }
    }
    #[inline(always)]
    unsafe fn load_high(p: *const u8) -> __m256i {
        unsafe {
            let x = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            _mm256_sub_epi32(_mm256_srli_epi32(x, 4), _mm256_set1_epi32(8))
        }
    }
    #[inline(always)]
    unsafe fn to_i(a: __m256) -> __m256i {
        unsafe { _mm256_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn to_f(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    unsafe fn pair(low: __m256i, high: __m256i) -> __m256i {
        unsafe { _mm256_blend_epi16::<0xaa>(low, _mm256_slli_epi32(high, 16)) }
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: __m256i) -> __m256i {
        unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    unsafe fn mul_fraction(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mulhrs_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn dot_i16(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn dot_i8(_: __m256i, _: __m256i, _: __m256i) -> __m256i {
        unreachable!("DOT_I8 is false")
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize) {
        unsafe {
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
