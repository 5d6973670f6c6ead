//! Integer products with AVX2, and with AVX-VNNI where the CPU has it.

use std::arch::x86_64::*;

use super::avx2;
use super::ymm::Ymm;
use crate::kernels::Kernels;
use crate::kernels::matmul::{CHUNK, Chunk, Int8Isa, Layout, RowChunk, Tile, Word, int8_ops};

/// AVX2: panels of 16-bit pairs for `vpmaddwd`, which cannot overflow; decode with `vpmaddubsw` on codes that cannot
/// saturate it.
pub struct Avx2;

/// AVX2 with the VEX forms of the VNNI instructions.
pub struct AvxVnni;

const ROWS: usize = 16;

impl Int8Isa for Avx2 {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 6, token_step: 2, word: Word::Pairs };
    type Lanes = Ymm;
    type Acc = [__m256; 2];

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk, centered: bool) {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe {
            dot(acc, chunk, x, centered, |codes, q| {
                let pairs = if centered {
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
    fn sum(acc: Self::Acc) -> f32 {
        // SAFETY: only code compiled for AVX2 inlines this.
        unsafe { sum(_mm256_add_ps(acc[0], acc[1])) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]) {
        assert!(rows.len() == ROWS && words.len() == CHUNK / 2 * ROWS);
        // SAFETY: lengths as checked; only code compiled for AVX2 inlines this.
        unsafe {
            let ones = _mm256_set1_epi8(-128);
            // Bytes 0 and 1 (2 and 3) of a word into the upper halves of its 16-bit numbers, from where a shift brings
            // them down with their signs.
            let first = _mm256_set1_epi32(0x0180_0080u32 as i32);
            let first = _mm256_or_si256(first, offsets());
            let second = _mm256_set1_epi32(0x0380_0280u32 as i32);
            let second = _mm256_or_si256(second, offsets());
            for half in 0..2 {
                for k in (0..CHUNK).step_by(32) {
                    let quads = transpose(&rows[half * 8..][..8], k);
                    for (i, quad) in quads.into_iter().enumerate() {
                        let quad = _mm256_xor_si256(quad, ones);
                        for (j, order) in [first, second].into_iter().enumerate() {
                            let pairs = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(quad, order));
                            let at = (k / 2 + 2 * i + j) * ROWS + half * 8;
                            _mm256_storeu_si256(words.as_mut_ptr().add(at).cast(), pairs);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_groups = t.check(&Self::LAYOUT, out);
        // SAFETY: `check` has compared all lengths for `width` tokens, and each arm has that width; only code compiled
        // for AVX2 inlines this.
        unsafe {
            let madd = |acc, w, x| _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
            match t.width {
                2 => tile::<2>(t, n_groups, out, madd),
                4 => tile::<4>(t, n_groups, out, madd),
                6 => tile::<6>(t, n_groups, out, madd),
                n => panic!("a tile of `{n}` tokens"),
            }
        }
    }
}

impl Int8Isa for AvxVnni {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 6, token_step: 2, word: Word::Bytes };
    type Lanes = Ymm;
    type Acc = [__m256; 2];

    #[inline(always)]
    fn zero() -> Self::Acc {
        Avx2::zero()
    }

    #[inline(always)]
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk, _centered: bool) {
        // SAFETY: only code compiled for AVX-VNNI inlines this.
        unsafe { dot(acc, chunk, x, false, |codes, q| _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes, q)) }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> f32 {
        Avx2::sum(acc)
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]) {
        assert!(rows.len() == ROWS && words.len() == CHUNK / 4 * ROWS);
        // SAFETY: lengths as checked; only code compiled for AVX2 inlines this.
        unsafe {
            for half in 0..2 {
                for k in (0..CHUNK).step_by(32) {
                    for (i, quad) in transpose(&rows[half * 8..][..8], k).into_iter().enumerate() {
                        let at = (k / 4 + i) * ROWS + half * 8;
                        _mm256_storeu_si256(words.as_mut_ptr().add(at).cast(), quad);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_groups = t.check(&Self::LAYOUT, out);
        // SAFETY: `check` has compared all lengths for `width` tokens, and each arm has that width; only code compiled
        // for AVX-VNNI inlines this.
        unsafe {
            let dpbusd = |acc, w, x| _mm256_dpbusd_avx_epi32(acc, w, x);
            match t.width {
                2 => tile::<2>(t, n_groups, out, dpbusd),
                4 => tile::<4>(t, n_groups, out, dpbusd),
                6 => tile::<6>(t, n_groups, out, dpbusd),
                n => panic!("a tile of `{n}` tokens"),
            }
        }
    }
}

/// acc += chunk · x, with `products` for the sums of four neighbouring products of 32 columns.
///
/// # Safety
/// - The caller is compiled for AVX2 and what `products` needs.
#[inline(always)]
pub unsafe fn dot(
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
pub unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller is compiled for AVX2.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The word offsets of a byte shuffle within 16 bytes, in its places 1 and 3 of each word.
///
/// # Safety
/// - The caller is compiled for AVX2.
#[inline(always)]
unsafe fn offsets() -> __m256i {
    // SAFETY: the caller is compiled for AVX2.
    unsafe { _mm256_setr_epi32(0, 0x0400_0400, 0x0800_0800, 0x0c00_0c00, 0, 0x0400_0400, 0x0800_0800, 0x0c00_0c00) }
}

/// 32 bytes, from column `k` on, of each of eight rows: vector `i` of the result holds word `i` of every row.
///
/// # Safety
/// - `rows` are eight and `k + 32 <= CHUNK`.
/// - The caller is compiled for AVX2.
#[inline(always)]
unsafe fn transpose(rows: &[[u8; CHUNK]], k: usize) -> [__m256i; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut v = [_mm256_setzero_si256(); 8];
        for (v, row) in v.iter_mut().zip(rows) {
            *v = _mm256_loadu_si256(row.as_ptr().add(k).cast());
        }
        let mut t = v;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..2 {
            u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for i in 0..4 {
            v[i] = _mm256_permute2x128_si256::<0x20>(u[i], u[i + 4]);
            v[i + 4] = _mm256_permute2x128_si256::<0x31>(u[i], u[i + 4]);
        }
        v
    }
}

/// out(N, 16) += x · wᵀ, with 2 N accumulators. `step` adds the products of a word of eight rows with one of a token.
///
/// # Safety
/// - `t.check` has passed, with `n_groups` for its result, and `t.width` is N.
/// - The caller is compiled for AVX2 and what `step` needs.
#[inline(always)]
unsafe fn tile<const N: usize>(
    t: Tile<'_>,
    n_groups: usize,
    out: &mut [f32],
    step: impl Fn(__m256i, __m256i, __m256i) -> __m256i,
) {
    let (mut w, mut x) = (t.w.as_ptr(), t.x.as_ptr());
    // SAFETY: `w` and `x` advance by ROWS and N words per step, `group_steps` times per group, which `check` has compared
    // with their lengths, like those of the scales and of `out`.
    unsafe {
        for g in 0..n_groups {
            let mut acc = [[_mm256_setzero_si256(); 2]; N];
            for (it, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm256_set1_epi32(*t.x_sums.as_ptr().add(g * N + it)); 2];
            }
            for _ in 0..t.group_steps {
                let w0 = _mm256_loadu_si256(w.cast());
                let w1 = _mm256_loadu_si256(w.add(8).cast());
                for (it, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(*x.add(it) as i32);
                    acc[0] = step(acc[0], w0, x);
                    acc[1] = step(acc[1], w1, x);
                }
                w = w.add(ROWS);
                x = x.add(N);
            }
            let s0 = _mm256_loadu_ps(t.w_scales.as_ptr().add(g * ROWS));
            let s1 = _mm256_loadu_ps(t.w_scales.as_ptr().add(g * ROWS + 8));
            for (it, acc) in acc.iter().enumerate() {
                let scale = _mm256_set1_ps(*t.x_scales.as_ptr().add(g * N + it));
                for (half, s) in [s0, s1].into_iter().enumerate() {
                    let at = out.as_mut_ptr().add(it * ROWS + half * 8);
                    let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[half]), _mm256_mul_ps(s, scale));
                    _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), sum));
                }
            }
        }
    }
}

int8_ops!(Avx2, "avx2,fma,f16c");

/// The AVX2 table with AVX-VNNI products.
pub mod vnni {
    use super::*;

    int8_ops!(AvxVnni, "avxvnni,avx2,fma,f16c");

    pub static TABLE: Kernels = Kernels { name: "avxvnni", int8: INT8, ..avx2::TABLE };
}
