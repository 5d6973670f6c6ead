//! Integer products with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::matmul_avx2;
use super::ymm::Ymm;
use crate::kernels::matmul::{CHUNK, Chunk, Int8Isa, Layout, RowChunk, Tile, Word, int8_ops};

/// AVX-512 with VNNI: 24 accumulators of 16 rows each.
pub struct Avx512Vnni;

const ROWS: usize = 32;

impl Int8Isa for Avx512Vnni {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 12, token_step: 4, word: Word::Bytes };
    type Lanes = Ymm;
    type Acc = [__m256; 2];

    #[inline(always)]
    fn zero() -> Self::Acc {
        // SAFETY: only code compiled for AVX-512 inlines this.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Ymm>, x: &RowChunk, _centered: bool) {
        // SAFETY: only code compiled for AVX-512 VNNI and VL, and so for AVX2, inlines this.
        unsafe {
            matmul_avx2::dot(acc, chunk, x, false, |codes, q| _mm256_dpbusd_epi32(_mm256_setzero_si256(), codes, q));
        }
    }

    #[inline(always)]
    fn sum(acc: Self::Acc) -> f32 {
        // SAFETY: only code compiled for AVX-512, and so for AVX2, inlines this.
        unsafe { matmul_avx2::sum(_mm256_add_ps(acc[0], acc[1])) }
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]) {
        assert!(rows.len() == ROWS && words.len() == CHUNK / 4 * ROWS);
        // SAFETY: lengths as checked; only code compiled for AVX-512 inlines this.
        unsafe {
            for half in 0..2 {
                for k in (0..CHUNK).step_by(64) {
                    for (i, words_of_rows) in transpose(&rows[half * 16..][..16], k).into_iter().enumerate() {
                        let at = (k / 4 + i) * ROWS + half * 16;
                        _mm512_storeu_si512(words.as_mut_ptr().add(at).cast(), words_of_rows);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn interleave_tokens(tokens: &[[u8; CHUNK]], words: &mut [u32]) {
        let width = tokens.len();
        assert!(width.is_multiple_of(4) && words.len() == CHUNK / 4 * width);
        // SAFETY: groups of four tokens, of four words each, lie inside as checked; only code compiled for AVX-512
        // inlines this.
        unsafe {
            for (group, rows) in tokens.as_chunks::<4>().0.iter().enumerate() {
                for k in (0..CHUNK).step_by(16) {
                    let row = |t: usize| _mm_loadu_si128(rows[t].as_ptr().add(k).cast());
                    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                    let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
                    let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
                    let steps = [
                        _mm_unpacklo_epi64(ab, cd),
                        _mm_unpackhi_epi64(ab, cd),
                        _mm_unpacklo_epi64(ab_high, cd_high),
                        _mm_unpackhi_epi64(ab_high, cd_high),
                    ];
                    for (i, step) in steps.into_iter().enumerate() {
                        let at = (k / 4 + i) * width + group * 4;
                        _mm_storeu_si128(words.as_mut_ptr().add(at).cast(), step);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_groups = t.check(&Self::LAYOUT, out);
        // SAFETY: `check` has compared all lengths for `width` tokens, and each arm has that width; only code compiled
        // for AVX-512 VNNI inlines this.
        unsafe {
            match t.width {
                12 if t.group_steps <= 32 => tile_fine::<12>(t, n_groups, out),
                4 => tile::<4>(t, n_groups, out),
                8 => tile::<8>(t, n_groups, out),
                12 => tile::<12>(t, n_groups, out),
                n => panic!("a tile of `{n}` tokens"),
            }
        }
    }
}

/// 64 bytes, from column `k` on, of each of sixteen rows: vector `i` of the result holds word `i` of every row.
///
/// # Safety
/// - `rows` are sixteen and `k + 64 <= CHUNK`.
/// - The caller is compiled for AVX-512.
#[inline(always)]
unsafe fn transpose(rows: &[[u8; CHUNK]], k: usize) -> [__m512i; 16] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut v = [_mm512_setzero_si512(); 16];
        for (v, row) in v.iter_mut().zip(rows) {
            *v = _mm512_loadu_si512(row.as_ptr().add(k).cast());
        }
        // Within each quarter of a vector: words, then pairs of words, of four rows.
        let mut t = v;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
        }
        for i in 0..4 {
            v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        // v[4 i + j] holds, in quarter q, word 4 q + j of rows 4 i .. 4 i + 4: now the quarters change places.
        for j in 0..4 {
            let low01 = _mm512_shuffle_i32x4::<0x88>(v[j], v[4 + j]); // quarters 0 and 2 of both
            let high01 = _mm512_shuffle_i32x4::<0xdd>(v[j], v[4 + j]); // quarters 1 and 3
            let low23 = _mm512_shuffle_i32x4::<0x88>(v[8 + j], v[12 + j]);
            let high23 = _mm512_shuffle_i32x4::<0xdd>(v[8 + j], v[12 + j]);
            t[j] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            t[8 + j] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
            t[4 + j] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            t[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
        }
        t
    }
}

/// out(N, 32) += x · wᵀ, with 2 N accumulators.
///
/// # Safety
/// - `t.check` has passed, with `n_groups` for its result, and `t.width` is N.
/// - The caller is compiled for AVX-512 VNNI.
#[inline(always)]
unsafe fn tile<const N: usize>(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
    let (mut w, mut x) = (t.w.as_ptr(), t.x.as_ptr());
    // SAFETY: `w` and `x` advance by ROWS and N words per step, `group_steps` times per group, which `check` has compared
    // with their lengths, like those of the scales and of `out`.
    unsafe {
        for g in 0..n_groups {
            let mut acc = [[_mm512_setzero_si512(); 2]; N];
            for (it, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_set1_epi32(*t.x_sums.as_ptr().add(g * N + it)); 2];
            }
            for _ in 0..t.group_steps {
                let w0 = _mm512_loadu_si512(w.cast());
                let w1 = _mm512_loadu_si512(w.add(16).cast());
                for (it, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*x.add(it) as i32);
                    acc[0] = _mm512_dpbusd_epi32(acc[0], w0, x);
                    acc[1] = _mm512_dpbusd_epi32(acc[1], w1, x);
                }
                w = w.add(ROWS);
                x = x.add(N);
            }
            let s0 = _mm512_loadu_ps(t.w_scales.as_ptr().add(g * ROWS));
            let s1 = _mm512_loadu_ps(t.w_scales.as_ptr().add(g * ROWS + 16));
            for (it, acc) in acc.iter().enumerate() {
                let scale = _mm512_set1_ps(*t.x_scales.as_ptr().add(g * N + it));
                for (half, s) in [s0, s1].into_iter().enumerate() {
                    let at = out.as_mut_ptr().add(it * ROWS + half * 16);
                    let sum =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[half]), _mm512_mul_ps(s, scale), _mm512_loadu_ps(at));
                    _mm512_storeu_ps(at, sum);
                }
            }
        }
    }
}

/// The same for small groups: half of the rows at a time, so that the f32 sums stay in registers.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn tile_fine<const N: usize>(t: Tile<'_>, n_groups: usize, out: &mut [f32]) {
    // SAFETY: as in `tile`.
    unsafe {
        for half in 0..2 {
            let (mut w, mut x) = (t.w.as_ptr().add(16 * half), t.x.as_ptr());
            let mut sums = [_mm512_setzero_ps(); N];
            for (it, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(out.as_ptr().add(it * ROWS + half * 16));
            }
            for g in 0..n_groups {
                let mut acc = [_mm512_setzero_si512(); N];
                for (it, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_set1_epi32(*t.x_sums.as_ptr().add(g * N + it));
                }
                for _ in 0..t.group_steps {
                    let words = _mm512_loadu_si512(w.cast());
                    for (it, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_dpbusd_epi32(*acc, words, _mm512_set1_epi32(*x.add(it) as i32));
                    }
                    w = w.add(ROWS);
                    x = x.add(N);
                }
                let s = _mm512_loadu_ps(t.w_scales.as_ptr().add(g * ROWS + half * 16));
                for (it, acc) in acc.iter().enumerate() {
                    let scale = _mm512_mul_ps(s, _mm512_set1_ps(*t.x_scales.as_ptr().add(g * N + it)));
                    sums[it] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(*acc), scale, sums[it]);
                }
            }
            for (it, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(it * ROWS + half * 16), sum);
            }
        }
    }
}

int8_ops!(Avx512Vnni, "avx512vnni,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c");
