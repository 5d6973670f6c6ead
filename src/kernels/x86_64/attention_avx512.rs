//! Attention and cache writes with AVX-512, with and without VNNI: sixteen lanes.

use std::arch::x86_64::*;

use crate::gguf::GgmlType;
use crate::kernels::attention::simd::Simd;
use crate::kernels::attention::{AttentionOps, Partial, Tile, tile};
use crate::kernels::{kv_write, scratch};

// SAFETY (of every call below): the operations leave the room only with the tables of `avx512::detect` and
// `matmul_avx512::detect`, which have checked the features that they are compiled with.
pub const OPS: AttentionOps = AttentionOps {
    tile: |t, out| {
        scratch::with(tile::room::<Avx512<false>>(t, out.max.len()), |buffer| unsafe { tile_avx512(t, out, buffer) });
    },
    rotate: |head, cos, sin| unsafe { rotate_avx512(head, cos, sin) },
    encode: |ty, src, dst| unsafe { encode_avx512(ty, src, dst) },
};

/// The same with dot products of 8- and 16-bit integers.
pub const OPS_VNNI: AttentionOps = AttentionOps {
    tile: |t, out| {
        scratch::with(tile::room::<Avx512<true>>(t, out.max.len()), |buffer| unsafe { tile_vnni(t, out, buffer) });
    },
    ..OPS
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn tile_avx512(t: &Tile<'_>, out: Partial<'_>, buffer: &mut [f32]) {
    // SAFETY: this function has the features.
    unsafe { tile::tile::<Avx512<false>>(t, out, buffer) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn tile_vnni(t: &Tile<'_>, out: Partial<'_>, buffer: &mut [f32]) {
    // SAFETY: this function has the features.
    unsafe { tile::tile::<Avx512<true>>(t, out, buffer) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn rotate_avx512(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    kv_write::rotate(head, cos, sin);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn encode_avx512(ty: GgmlType, src: &[f32], dst: &mut [u8]) -> bool {
    // SAFETY: this function has the features.
    unsafe { kv_write::encode_vectors::<Avx512<false>>(ty, src, dst) }
}

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

// SAFETY (of every block): the caller has the features and, where there are pointers, vouches for L elements.
#[allow(clippy::needless_range_loop)]
impl<const VNNI: bool> Simd for Avx512<VNNI> {
    const L: usize = 16;
    const DOT_I8: bool = VNNI;
    type F = __m512;
    type I = __m512i;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u8, x: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())), 16)) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    unsafe fn scale_down(x: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(n, _mm512_set1_ps(-126.0)), x, n) }
    }
    #[inline(always)]
    unsafe fn max_of(a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn sum_of(a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn keep_first(a: __m512, n: usize) -> __m512 {
        unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), ((1u32 << n.min(16)) - 1) as __mmask16, a) }
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(p: *mut i32, x: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_low(p: *const u8) -> __m512i {
        unsafe {
            let x = _mm_and_si128(_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            _mm512_cvtepi8_epi32(_mm_sub_epi8(x, _mm_set1_epi8(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_high(p: *const u8) -> __m512i {
        unsafe {
            let x = _mm_and_si128(_mm_srli_epi16(_mm_loadu_si128(p.cast()), 4), _mm_set1_epi8(15));
            _mm512_cvtepi8_epi32(_mm_sub_epi8(x, _mm_set1_epi8(8)))
        }
    }
    #[inline(always)]
    unsafe fn to_i(a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    unsafe fn to_f(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn pair(low: __m512i, high: __m512i) -> __m512i {
        unsafe { _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32(high, 16)) }
    }
    #[inline(always)]
    unsafe fn shl16<const N: u32>(a: __m512i) -> __m512i {
        unsafe { _mm512_slli_epi16::<N>(a) }
    }
    #[inline(always)]
    unsafe fn mul_fraction(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mulhrs_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn dot_i16(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { if VNNI { dpwssd(acc, a, b) } else { _mm512_add_epi32(acc, _mm512_madd_epi16(a, b)) } }
    }
    #[inline(always)]
    unsafe fn dot_i8(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { if VNNI { _mm512_dpbusd_epi32(acc, a, b) } else { unreachable!("DOT_I8 is false") } }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize) {
        unsafe {
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
