//! Products with AVX-512, with and without VNNI.

use std::arch::x86_64::*;

use super::attention_avx512::Avx512 as V;
use super::matmul_avx2;
use super::ymm::Ymm;
use crate::gguf::GgmlType;
use crate::kernels::matmul::tile::{self, Bytes, Floats, Integers, Pairs};
use crate::kernels::matmul::tile_codes::{self, Narrow};
use crate::kernels::matmul::{Chunk, FloatRows, Int8Isa, Layout, Number, RowChunk, Tile, Word, float, int8_ops};
use crate::kernels::vector_fns::vector_fns;

/// AVX-512; VNNI says whether there are integer dot products.
pub(super) struct Avx512<const VNNI: bool>;

/// Tokens of which two vectors of rows fill 24 of the 32 registers.
const TOKENS: usize = 12;

impl<const VNNI: bool> Int8Isa for Avx512<VNNI> {
    const LAYOUT: Layout =
        Layout { rows: 32, tokens: 2 * TOKENS, int8: if VNNI { Word::Bytes } else { Word::Pairs }, codes: !VNNI };
    type Lanes = Ymm;
    type Acc = __m512;

    #[inline(always)]
    fn zero() -> __m512 {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn dot(acc: &mut __m512, chunk: &Chunk<Ymm>, x: &RowChunk, centered: bool) {
        // SAFETY: only code compiled for AVX-512, and for VNNI where it says so, inlines this.
        unsafe {
            if VNNI {
                return dot(acc, chunk, x, false, |codes, q| _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, q));
            }
            dot(acc, chunk, x, centered, |codes, q| {
                let pairs = if centered {
                    // Magnitudes are at most 128 and 127: two products stay within 16 bits.
                    let w = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
                    let q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(w), _mm512_setzero_si512(), q);
                    _mm512_maddubs_epi16(_mm512_abs_epi8(w), q)
                } else {
                    // Codes are at most 63.
                    _mm512_maddubs_epi16(codes, q)
                };
                _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))
            });
        }
    }

    #[inline(always)]
    fn sum(acc: __m512) -> f32 {
        // SAFETY: only code compiled for AVX-512, and so for AVX2, inlines this.
        unsafe {
            let (low, high) = (_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps::<1>(acc));
            matmul_avx2::sum(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    fn transpose(rows: &[u32], len: usize, out: &mut [u32]) {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { tile::transpose::<V<VNNI>>(rows, len, out) }
    }

    #[inline(always)]
    fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { float::dot::<V<VNNI>>(ty, d, out) }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n = t.check(&Self::LAYOUT, out);
        // SAFETY: checked for these products; only code compiled for AVX-512, and for VNNI where it says so, inlines this.
        unsafe {
            match t.panel.number {
                Number::F32 => tile::tile::<V<VNNI>, Floats, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Codes { .. } if !VNNI => {
                    tile_codes::tile::<V<VNNI>, { TOKENS / 2 }, { TOKENS / 4 }>(t, n, out);
                }
                Number::Int8 if VNNI => tile::tile::<V<VNNI>, Integers<Bytes>, TOKENS, { TOKENS / 2 }>(t, n, out),
                _ => tile::tile::<V<VNNI>, Integers<Pairs>, TOKENS, { TOKENS / 2 }>(t, n, out),
            }
        }
    }
}

/// acc += chunk · x, with `products` for the sums of four neighbouring products of 64 columns. The two vectors of AVX2's
/// `dot` lie side by side here, and what is added to a lane comes in the same order: results are the same, bit for bit.
///
/// # Safety
/// - The caller is compiled for AVX-512 and what `products` needs.
#[inline(always)]
unsafe fn dot(
    acc: &mut __m512,
    chunk: &Chunk<Ymm>,
    x: &RowChunk,
    centered: bool,
    products: impl Fn(__m512i, __m512i) -> __m512i,
) {
    // SAFETY: all offsets stay inside the fixed sizes of `RowChunk`; the caller is compiled for AVX-512.
    unsafe {
        let floats = |[low, high]: [__m256; 2]| _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
        let a = _mm512_mul_ps(floats(chunk.a), _mm512_loadu_ps(x.d.as_ptr()));
        let (zero, s) = (_mm256_setzero_ps(), _mm512_loadu_ps(x.s.as_ptr()));
        for half in 0..2 {
            if !centered {
                // Zeros where it is not yet their turn; a mask would be a shuffle between the additions.
                let b = floats(if half == 0 { [chunk.b[0], zero] } else { [zero, chunk.b[1]] });
                *acc = _mm512_fmadd_ps(b, s, *acc);
            }
            for k in 2 * half..2 * half + 2 {
                let codes = _mm512_castsi256_si512(chunk.codes[2 * k]);
                let codes = _mm512_inserti64x4::<1>(codes, chunk.codes[2 * k + 1]);
                let sums = _mm512_cvtepi32_ps(products(codes, _mm512_loadu_si512(x.q.as_ptr().add(64 * k).cast())));
                // Four lanes belong to each of four scales.
                let n = _mm512_set1_epi32(4 * k as i32);
                let lanes = _mm512_add_epi32(n, _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
                *acc = _mm512_fmadd_ps(_mm512_permutexvar_ps(lanes, a), sums, *acc);
            }
        }
    }
}

impl<const VNNI: bool> Narrow for V<VNNI> {
    vector_fns! { unsafe;
        fn products(w: __m512i, x: __m512i) -> __m512i { _mm512_maddubs_epi16(w, x) }
        fn add16(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi16(a, b) }
    }
}

pub(super) mod plain {
    use super::*;

    int8_ops!(Avx512<false>, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
}

pub(super) mod vnni {
    use super::*;

    int8_ops!(Avx512<true>, "avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
}
