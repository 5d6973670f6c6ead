//! Vectors of 32 bytes in AVX2 registers, for every table of this machine.

use std::arch::x86_64::*;

use crate::kernels::matmul::lanes::Lanes;
use crate::kernels::vector_fns::vector_fns;

/// AVX2 with F16C.
pub(super) struct Ymm;

impl Lanes for Ymm {
    type Bytes = __m256i;
    type Floats = __m256;

    vector_fns! { safe;
        fn bytes(src: &[u8; 32]) -> __m256i { _mm256_loadu_si256(src.as_ptr().cast()) }
        fn put_bytes(v: __m256i, dst: &mut [u8; 32]) { _mm256_storeu_si256(dst.as_mut_ptr().cast(), v) }
        fn halves(src: &[u8; 16]) -> __m256i {
            let both = _mm_loadu_si128(src.as_ptr().cast());
            Self::and(_mm256_set_m128i(_mm_srli_epi16::<4>(both), both), 15)
        }
        fn bits(word: u32, value: u8) -> __m256i {
            let byte_of = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(word as i32), byte_of);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
            Self::and(set, value)
        }
        fn and(v: __m256i, mask: u8) -> __m256i { _mm256_and_si256(v, _mm256_set1_epi8(mask as i8)) }
        fn or(v: __m256i, w: __m256i) -> __m256i { _mm256_or_si256(v, w) }
        fn xor(v: __m256i, mask: u8) -> __m256i { _mm256_xor_si256(v, _mm256_set1_epi8(mask as i8)) }
        fn shift_and(v: __m256i, from: i32, to: i32, mask: u8) -> __m256i {
            let right = _mm256_srl_epi16(v, _mm_cvtsi32_si128((from - to).max(0)));
            Self::and(_mm256_sll_epi16(right, _mm_cvtsi32_si128((to - from).max(0))), mask)
        }
        fn lookup(v: __m256i, table: &[u8; 16]) -> __m256i {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), v)
        }
        fn put_floats(v: __m256, dst: &mut [f32; 8]) { _mm256_storeu_ps(dst.as_mut_ptr(), v) }
        fn f16(bits: u16) -> f32 { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32))) }
        fn floats(src: &[f32; 8]) -> __m256 { _mm256_loadu_ps(src.as_ptr()) }
        fn f16s(bits: [u16; 8]) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast())) }
        fn from_u8(src: [u8; 8]) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(src))))
        }
        fn from_i8(src: [i8; 8]) -> __m256 {
            let src = i64::from_le_bytes(src.map(|v| v as u8));
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(src)))
        }
        fn mul(v: __m256, by: f32) -> __m256 { _mm256_mul_ps(v, _mm256_set1_ps(by)) }
        fn twice(v: __m256) -> [__m256; 2] {
            [
                _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
                _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7)),
            ]
        }
        fn range(a: [__m256; 2], b: [__m256; 2], max: f32, n: usize) -> [__m256; 2] {
            let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
            let mut tops = [_mm256_setzero_si256(); 2];
            for half in 0..2 {
                // A multiply and an add: the definition has no fused ones.
                let last = _mm256_add_ps(_mm256_mul_ps(a[half], _mm256_set1_ps(max)), b[half]);
                let top = _mm256_max_epi32(magnitude(b[half]), magnitude(last));
                let mut top = _mm256_max_epi32(top, _mm256_shuffle_epi32::<0b10_11_00_01>(top));
                if n >= 4 {
                    top = _mm256_max_epi32(top, _mm256_shuffle_epi32::<0b01_00_11_10>(top));
                }
                if n >= 8 {
                    top = _mm256_max_epi32(top, _mm256_permute2x128_si256::<0x01>(top, top));
                }
                tops[half] = top;
            }
            if n == 16 {
                tops = [_mm256_max_epi32(tops[0], tops[1]); 2];
            }
            [_mm256_castsi256_ps(tops[0]), _mm256_castsi256_ps(tops[1])]
        }
        fn inverse(v: __m256) -> __m256 {
            let inverse = _mm256_div_ps(_mm256_set1_ps(127.0), v);
            let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), inverse);
            let finite = _mm256_cmp_ps::<_CMP_LE_OQ>(magnitude, _mm256_set1_ps(f32::MAX));
            _mm256_and_ps(inverse, finite)
        }
        fn fixed_point(a: __m256, b: __m256, scale: __m256, centered: bool) -> [[u32; 8]; 2] {
            let fixed = |v| {
                let v = _mm256_mul_ps(_mm256_mul_ps(v, scale), _mm256_set1_ps(256.0));
                let fixed = _mm256_cvtps_epi32(v);
                _mm256_blend_epi16::<0b1010_1010>(fixed, _mm256_slli_epi32::<16>(fixed))
            };
            let a = fixed(a);
            let b =
                if centered { _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16::<7>(a)) } else { fixed(b) };
            let b = _mm256_add_epi16(b, _mm256_set1_epi16(0x8080u16 as i16));
            let mut out = [[0; 8]; 2];
            _mm256_storeu_si256(out[0].as_mut_ptr().cast(), a);
            _mm256_storeu_si256(out[1].as_mut_ptr().cast(), b);
            // Broadcasts from memory cost nothing next to shuffles of a register, which a compiler that sees through the
            // array would make of them.
            *std::hint::black_box(&out)
        }
        fn requantize(codes: __m256i, a: [u32; 2], b: [u32; 2]) -> __m256i {
            let half = |codes, a: u32, b: u32| {
                let product = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(codes), _mm256_set1_epi32(a as i32));
                _mm256_srli_epi16::<8>(_mm256_add_epi16(product, _mm256_set1_epi32(b as i32)))
            };
            let low = half(_mm256_castsi256_si128(codes), a[0], b[0]);
            let high = half(_mm256_extracti128_si256::<1>(codes), a[1], b[1]);
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high))
        }
        fn top(x: &[[f32; 32]]) -> u32 {
            let mut tops = [_mm256_setzero_si256(); 2];
            for x in x {
                for i in 0..4 {
                    let v = _mm256_loadu_si256(x.as_ptr().add(8 * i).cast());
                    tops[i % 2] = _mm256_max_epi32(tops[i % 2], _mm256_and_si256(v, _mm256_set1_epi32(0x7fff_ffff)));
                }
            }
            let top = _mm256_max_epi32(tops[0], tops[1]);
            let top = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256::<1>(top));
            let top = _mm_max_epi32(top, _mm_shuffle_epi32::<0b01_00_11_10>(top));
            _mm_cvtsi128_si32(_mm_max_epi32(top, _mm_shuffle_epi32::<0b10_11_00_01>(top))) as u32
        }
        fn quantize(x: &[f32; 32], inverse: f32) -> __m256i {
            // Conversion rounds to even, unless somebody changed the rounding mode of the whole process.
            let part = |i: usize| {
                let v = _mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(8 * i)), _mm256_set1_ps(inverse));
                _mm256_cvtps_epi32(v)
            };
            let (first, second) = (_mm256_packs_epi32(part(0), part(1)), _mm256_packs_epi32(part(2), part(3)));
            let packed = _mm256_packs_epi16(first, second);
            _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
        fn sums(v: __m256i) -> [i32; 2] {
            // Sums of bytes without signs, 128 too large each.
            let sums = _mm256_sad_epu8(Self::xor(v, 0x80), _mm256_setzero_si256());
            let sums = _mm256_add_epi64(sums, _mm256_unpackhi_epi64(sums, sums));
            let (low, high) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            [_mm_cvtsi128_si32(low) - 16 * 128, _mm_cvtsi128_si32(high) - 16 * 128]
        }
        fn total(v: &[[u8; 32]]) -> i32 {
            let mut sums = _mm256_setzero_si256();
            for v in v {
                let v = Self::xor(Self::bytes(v), 0x80);
                sums = _mm256_add_epi64(sums, _mm256_sad_epu8(v, _mm256_setzero_si256()));
            }
            let sums = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sum = _mm_cvtsi128_si32(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums)));
            sum - 128 * 32 * v.len() as i32
        }
    }
}
