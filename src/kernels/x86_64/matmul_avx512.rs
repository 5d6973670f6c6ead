//! Products with AVX-512, with and without VNNI.

use std::arch::x86_64::*;

use super::attention_avx512::Avx512 as V;
use super::matmul_avx2::{self, Avx2};
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
    type Acc = [__m256; 2];

    #[inline(always)]
    fn zero() -> Self::Acc {
        Avx2::zero()
    }

    #[inline(always)]
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk, centered: bool) {
        if !VNNI {
            return Avx2::dot(acc, chunk, x, centered);
        }
        // SAFETY: only code compiled for AVX-512 VNNI and VL, and so for AVX2, inlines this.
        unsafe {
            matmul_avx2::dot(acc, chunk, x, false, |codes, q| _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, q));
        }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> f32 {
        Avx2::sum(acc)
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
