//! Products with AVX-512, with and without VNNI.

use std::arch::x86_64::*;

use super::attention_avx512::Avx512 as V;
use super::matmul_avx2;
use super::ymm::Ymm;
use crate::ggml_type::GgmlType;
use crate::kernels::matmul::codes::Codes;
use crate::kernels::matmul::tile::{self, Bytes, Floats, Integers, Pairs};
use crate::kernels::matmul::tile_codes::{self, Narrow};
use crate::kernels::matmul::{CHUNK, Chunk, FloatRows, Int8Isa, Layout, Number, RowChunk, Tile, Word, float, int8_ops};
use crate::kernels::vector_fns::vector_fns;

/// AVX-512; VNNI says whether there are integer dot products.
pub(super) struct Avx512<const VNNI: bool>;

/// Tokens of which two vectors of rows fill 24 of the 32 registers.
const TOKENS: usize = 12;

impl<const VNNI: bool> Int8Isa for Avx512<VNNI> {
    const LAYOUT: Layout =
        Layout { rows: 32, tokens: 2 * TOKENS, int8: if VNNI { Word::Bytes } else { Word::Pairs }, codes: !VNNI };
    type Lanes = Ymm;
    const ROWS: usize = 2;
    type Chunks = TwoRows;
    type Acc = [__m512; 2];

    #[inline(always)]
    fn chunks(first: Chunk<Ymm>, second: Chunk<Ymm>) -> TwoRows {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { TwoRows::new(first, second) }
    }

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { [_mm512_setzero_ps(); 2] }
    }

    #[inline(always)]
    fn dot<F: Codes>(acc: &mut Self::Acc, chunk: &TwoRows, x: &RowChunk) {
        // SAFETY: only code compiled for AVX-512, and for VNNI where it says so, inlines this.
        unsafe {
            if VNNI {
                return dot(acc, chunk, x, false, |codes, q| _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, q));
            }
            dot(acc, chunk, x, F::CENTERED, |codes, q| {
                let pairs = if F::CENTERED {
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
    fn sum(acc: Self::Acc) -> [f32; 2] {
        // SAFETY: only code compiled for AVX-512, and so for AVX2, inlines this.
        unsafe {
            let both = _mm512_add_ps(acc[0], acc[1]);
            let (first, second) = (_mm512_castps512_ps256(both), _mm512_extractf32x8_ps::<1>(both));
            [matmul_avx2::sum(first), matmul_avx2::sum(second)]
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

/// Chunks of two rows side by side, each in half of a vector.
pub(super) struct TwoRows {
    codes: [__m512i; CHUNK / 32],
    a: [__m512; 2],
    b: [__m512; 2],
}

impl TwoRows {
    /// # Safety
    /// - The caller is compiled for AVX-512.
    #[inline(always)]
    unsafe fn new(first: Chunk<Ymm>, second: Chunk<Ymm>) -> TwoRows {
        // SAFETY: the caller is compiled for AVX-512.
        unsafe {
            let mut both = TwoRows {
                codes: [_mm512_setzero_si512(); CHUNK / 32],
                a: [_mm512_setzero_ps(); 2],
                b: [_mm512_setzero_ps(); 2],
            };
            for (codes, (first, second)) in both.codes.iter_mut().zip(first.codes.into_iter().zip(second.codes)) {
                *codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
            }
            for half in 0..2 {
                both.a[half] = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(first.a[half]), second.a[half]);
                both.b[half] = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(first.b[half]), second.b[half]);
            }
            both
        }
    }
}

/// acc += chunk · x, with `products` for the sums of four neighbouring products of 32 columns: what AVX2's `dot` does with a row,
/// in the same order, and so with the same sums, bit for bit.
///
/// # Safety
/// - The caller is compiled for AVX-512 and what `products` needs.
#[inline(always)]
unsafe fn dot(
    acc: &mut [__m512; 2],
    chunk: &TwoRows,
    x: &RowChunk,
    centered: bool,
    products: impl Fn(__m512i, __m512i) -> __m512i,
) {
    // SAFETY: all offsets stay inside the fixed sizes of `RowChunk`; the caller is compiled for AVX-512.
    unsafe {
        for half in 0..2 {
            let d = _mm512_broadcast_f32x8(_mm256_loadu_ps(x.d.as_ptr().add(half * 8)));
            let a = _mm512_mul_ps(chunk.a[half], d);
            if !centered {
                let s = _mm512_broadcast_f32x8(_mm256_loadu_ps(x.s.as_ptr().add(half * 8)));
                acc[half] = _mm512_fmadd_ps(chunk.b[half], s, acc[half]);
            }
            for k in 0..4 {
                let q = _mm256_loadu_si256(x.q.as_ptr().add(half * 128 + k * 32).cast());
                let sums = products(chunk.codes[half * 4 + k], _mm512_broadcast_i64x4(q));
                // Four lanes of each row belong to each of two scales.
                let n = _mm512_set1_epi32(2 * k as i32);
                let lanes = _mm512_add_epi32(n, _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 8, 8, 8, 8, 9, 9, 9, 9));
                let scales = _mm512_permutexvar_ps(lanes, a);
                acc[k % 2] = _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(sums), acc[k % 2]);
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
