//! Products with AVX2, and with AVX-VNNI where the CPU has it.

use std::arch::x86_64::*;

use super::attention_avx2::Avx2 as V;
use super::ymm::Ymm;
use super::{attention_avx2, avx2};
use crate::ggml_type::GgmlType;
use crate::kernels::Kernels;
use crate::kernels::isa::Unproven;
use crate::kernels::matmul::codes::Codes;
use crate::kernels::matmul::tile::{self, Bytes, Floats, Integers, Pairs};
use crate::kernels::matmul::tile_codes::{self, Narrow};
use crate::kernels::matmul::{Chunk, FloatRows, Int8Isa, Layout, Number, RowChunk, Tile, Word, float, int8_ops};
use crate::kernels::vector_fns::vector_fns;

/// AVX2: panels of codes as they are for `vpmaddubsw`, or of 16-bit pairs for `vpmaddwd` where codes are too large for it:
/// with signs moved from one operand to the other for each product, bytes would take as many instructions. Decode with
/// `vpmaddubsw` on codes that cannot saturate it.
pub(super) struct Avx2;

/// AVX2 with the VEX forms of the VNNI instructions.
pub(super) struct AvxVnni;

/// Tokens of which two vectors of rows fill twelve of the sixteen registers.
const TOKENS: usize = 6;

impl Int8Isa for Avx2 {
    const LAYOUT: Layout = Layout { rows: 16, tokens: 2 * TOKENS, int8: Word::Pairs, codes: true };
    type Lanes = Ymm;
    type Chunks = Chunk<Ymm>;
    type Acc = [__m256; 2];

    #[inline(always)]
    fn chunks(row: Chunk<Ymm>, _: Chunk<Ymm>) -> Chunk<Ymm> {
        row
    }

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    fn dot<F: Codes>(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk) {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe {
            dot(acc, chunk, x, F::CENTERED, |codes, q| {
                let pairs = if F::CENTERED {
                    // Magnitudes are at most 128 and 127: two products stay within 16 bits.
                    let w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w))
                } else {
                    // Codes are at most 63.
                    _mm256_maddubs_epi16(codes, q)
                };
                _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
            });
        }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> [f32; 2] {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe { [sum(_mm256_add_ps(acc[0], acc[1])), 0.0] }
    }

    #[inline(always)]
    fn transpose(rows: &[u32], len: usize, out: &mut [u32]) {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe { tile::transpose::<V<false>>(rows, len, out) }
    }

    #[inline(always)]
    fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
        // SAFETY: only code compiled for AVX2, FMA and F16C inlines this.
        unsafe { float::dot::<V<false>>(ty, d, out) }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n = t.check(&Self::LAYOUT, out);
        // SAFETY: checked for these products; only code compiled for AVX2 and FMA inlines this.
        unsafe {
            match t.panel.number {
                Number::F32 => tile::tile::<V<false>, Floats, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Codes { .. } => tile_codes::tile::<V<false>, { TOKENS / 2 }, 1>(t, n, out),
                _ => tile::tile::<V<false>, Integers<Pairs>, TOKENS, { TOKENS / 2 }>(t, n, out),
            }
        }
    }
}

impl Int8Isa for AvxVnni {
    const LAYOUT: Layout = Layout { int8: Word::Bytes, codes: false, ..Avx2::LAYOUT };
    type Lanes = Ymm;
    type Chunks = Chunk<Ymm>;
    type Acc = [__m256; 2];

    #[inline(always)]
    fn chunks(row: Chunk<Ymm>, _: Chunk<Ymm>) -> Chunk<Ymm> {
        row
    }

    #[inline(always)]
    fn zero() -> Self::Acc {
        Avx2::zero()
    }

    #[inline(always)]
    fn dot<F: Codes>(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk) {
        // SAFETY: only code compiled for AVX-VNNI inlines this.
        unsafe { dot(acc, chunk, x, false, |codes, q| _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes, q)) }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> [f32; 2] {
        Avx2::sum(acc)
    }

    #[inline(always)]
    fn transpose(rows: &[u32], len: usize, out: &mut [u32]) {
        Avx2::transpose(rows, len, out);
    }

    #[inline(always)]
    fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
        Avx2::dot_floats(ty, d, out);
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n = t.check(&Self::LAYOUT, out);
        // SAFETY: checked for these products; only code compiled for AVX-VNNI, AVX2 and FMA inlines this.
        unsafe {
            match t.panel.number {
                Number::F32 => tile::tile::<V<true>, Floats, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Int16 => tile::tile::<V<true>, Integers<Pairs>, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Int8 => tile::tile::<V<true>, Integers<Bytes>, TOKENS, { TOKENS / 2 }>(t, n, out),
                Number::Codes { .. } => unreachable!("not in this layout"),
            }
        }
    }
}

/// Sums of 16 bits. Not the intrinsic: of several, the compiler makes a tree, for which there are too few registers.
#[inline]
#[target_feature(enable = "avx2")]
fn add16(mut a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: registers only, and the instruction belongs to the features of this function.
    unsafe {
        std::arch::asm!(
            "vpaddw {a}, {a}, {b}",
            a = inout(ymm_reg) a,
            b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    a
}

impl Narrow for V<false> {
    vector_fns! { unsafe;
        fn products(w: __m256i, x: __m256i) -> __m256i { _mm256_maddubs_epi16(w, x) }
        fn add16(a: __m256i, b: __m256i) -> __m256i { add16(a, b) }
    }
}

/// acc += chunk · x, with `products` for the sums of four neighbouring products of 32 columns.
///
/// # Safety
/// - The caller is compiled for AVX2 and what `products` needs.
#[inline(always)]
pub(super) unsafe fn dot(
    acc: &mut [__m256; 2],
    chunk: &Chunk<Ymm>,
    x: &RowChunk,
    centered: bool,
    products: impl Fn(__m256i, __m256i) -> __m256i,
) {
    // SAFETY: all offsets stay inside the fixed sizes of `RowChunk`; the caller is compiled for AVX2.
    unsafe {
        for half in 0..2 {
            let a = _mm256_mul_ps(chunk.a[half], _mm256_loadu_ps(x.d.as_ptr().add(half * 8)));
            if !centered {
                acc[half] = _mm256_fmadd_ps(chunk.b[half], _mm256_loadu_ps(x.s.as_ptr().add(half * 8)), acc[half]);
            }
            for k in 0..4 {
                let q = _mm256_loadu_si256(x.q.as_ptr().add(half * 128 + k * 32).cast());
                let sums = _mm256_cvtepi32_ps(products(chunk.codes[half * 4 + k], q));
                // Four lanes belong to each of two scales.
                let first = 2 * k as i32;
                let second = first + 1;
                let lanes = _mm256_setr_epi32(first, first, first, first, second, second, second, second);
                acc[k % 2] = _mm256_fmadd_ps(_mm256_permutevar8x32_ps(a, lanes), sums, acc[k % 2]);
            }
        }
    }
}

/// # Safety
/// - The caller is compiled for AVX2.
#[inline(always)]
pub(super) unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller is compiled for AVX2.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

pub(super) mod plain {
    use super::*;

    int8_ops!(Avx2, "avx2,fma,f16c");
}

/// The AVX2 table with AVX-VNNI products.
pub(super) mod vnni {
    use super::*;

    int8_ops!(AvxVnni, "avxvnni,avx2,fma,f16c");

    pub(crate) const UNPROVEN: Unproven<Kernels> =
        avx2::UNPROVEN.named("avxvnni").with_int8(INT8).with_attention(attention_avx2::vnni::OPS);
}
