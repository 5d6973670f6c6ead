//! The vector operations that attention is written in: one implementation per instruction set.

/// Vectors of `L` 32-bit lanes: floats, integers, or pairs of 16-bit integers.
///
/// # Safety
/// Every function needs the CPU features of its implementation; a table that passed its CPU check has them. Functions
/// that take pointers read or write `L` elements there unless they say otherwise; pointers need no alignment beyond that
/// of their type.
pub(crate) trait Simd: Copy {
    /// Lanes.
    const L: usize;
    /// Vector registers, which a register block has to get by with.
    const REGISTERS: usize;
    /// Whether `dot_i8` is one instruction.
    const DOT_I8: bool;
    /// How much larger than what they stand for the bytes of the first operand of `dot_i8` are: 128 where they have no
    /// sign, else 0.
    const EXCESS: u8 = 128;
    type F: Copy;
    type I: Copy;
    /// 32 bytes.
    type B: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// `L` half-precision numbers.
    unsafe fn load_f16(p: *const u8) -> Self::F;
    /// To `L` half-precision numbers, to nearest, ties to even.
    unsafe fn store_f16(p: *mut u8, x: Self::F);
    /// `L` half-precision numbers that lie `stride` bytes apart, each with two bytes behind it.
    #[inline(always)]
    unsafe fn load_f16_apart(p: *const u8, stride: usize) -> Self::F {
        let mut halves = [[0u8; 2]; 16];
        // SAFETY: the caller's promise.
        unsafe {
            for (i, half) in halves.iter_mut().enumerate().take(Self::L) {
                *half = p.add(i * stride).cast::<[u8; 2]>().read();
            }
            Self::load_f16(halves.as_ptr().cast())
        }
    }
    /// `L` bfloat16 numbers.
    unsafe fn load_bf16(p: *const u8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// x * 2^n for an integral n, or 0 where n is below -126; n is at most 0.
    unsafe fn scale_down(x: Self::F, n: Self::F) -> Self::F;
    unsafe fn max_of(a: Self::F) -> f32;
    unsafe fn sum_of(a: Self::F) -> f32;
    /// The sums of four vectors, to `p`.
    unsafe fn store_sums(a: [Self::F; 4], p: *mut f32);
    /// Lanes from `n` on become -inf.
    unsafe fn keep_first(a: Self::F, n: usize) -> Self::F;

    unsafe fn zero_i() -> Self::I;
    unsafe fn splat_i(x: i32) -> Self::I;
    unsafe fn load_i(p: *const i32) -> Self::I;
    unsafe fn store_i(p: *mut i32, x: Self::I);
    /// To the nearest integer, ties to even.
    unsafe fn to_i(a: Self::F) -> Self::I;
    unsafe fn to_f(a: Self::I) -> Self::F;
    unsafe fn as_f(a: Self::I) -> Self::F;
    /// Pairs of 16 bits: the low halves of `low` and of `high`.
    unsafe fn pair(low: Self::I, high: Self::I) -> Self::I;
    /// The larger of each of the unsigned 16-bit integers of `a` and of as many at `p` without their top bits.
    unsafe fn max16(a: Self::I, p: *const u8) -> Self::I;
    /// Of each pair of signed bytes the first as 16-bit integers times 2^N, and the second.
    unsafe fn wide<const N: u32>(a: Self::I) -> [Self::I; 2];
    /// a * b / 2^15 of 16-bit integers, rounded.
    unsafe fn mul_fraction(a: Self::I, b: Self::I) -> Self::I;
    /// 32 bytes at `p`.
    unsafe fn load_bytes(p: *const u8) -> Self::B;
    /// 16 times the low halves of 16 bytes at `p`, each less 8, as signed bytes; then the high halves.
    unsafe fn load_halves(p: *const u8) -> Self::B;
    /// 32 pairs of 16 bits: 256 times the signed bytes of `a` and of `b`, each times `fraction` / 2^15, rounded.
    unsafe fn weave(a: Self::B, b: Self::B, fraction: Self::I, to: *mut i32);
    /// acc + the sum of both products of the 16-bit pairs.
    unsafe fn dot_i16(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    /// acc + the sum of the four products of bytes of `a`, unsigned if there is an `EXCESS`, with signed bytes of `b`, where
    /// `DOT_I8` says that this is there.
    #[inline(always)]
    unsafe fn dot_i8(_acc: Self::I, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("DOT_I8 is false")
    }
    /// Dword `i`, of the four at the start of each of `L` rows that lie `stride` bytes apart.
    unsafe fn columns(rows: *const u8, stride: usize) -> [Self::I; 4];
    /// Each byte plus `b`, modulo 256.
    unsafe fn add8(a: Self::I, b: u8) -> Self::I;
    /// The low and the high half of each byte.
    unsafe fn nibbles(a: Self::I) -> [Self::I; 2];

    /// `dst[i][j] = src[j][i]` for L x L elements in rows of `lds` and `ldd`.
    unsafe fn transpose(src: *const i32, lds: usize, dst: *mut i32, ldd: usize);

    /// 2^x for x <= 0, within 4 ulp; 0 below -126.
    #[inline(always)]
    unsafe fn exp2(x: Self::F) -> Self::F {
        // ln(2)^k / k!: on [-0.5, 0.5] what is left out is below 2e-7.
        const C: [f32; 7] =
            [1.0, std::f32::consts::LN_2, 0.240_226_5, 0.055_504_11, 0.009_618_129, 0.001_333_355_8, 0.000_154_035_3];
        // SAFETY: registers only; the caller has the features.
        unsafe {
            let x = Self::max(x, Self::splat(-150.0));
            let n = Self::round(x);
            let f = Self::fma(n, Self::splat(-1.0), x);
            let mut p = Self::splat(C[6]);
            p = Self::fma(p, f, Self::splat(C[5]));
            p = Self::fma(p, f, Self::splat(C[4]));
            p = Self::fma(p, f, Self::splat(C[3]));
            p = Self::fma(p, f, Self::splat(C[2]));
            p = Self::fma(p, f, Self::splat(C[1]));
            p = Self::fma(p, f, Self::splat(C[0]));
            Self::scale_down(p, n)
        }
    }
}

/// Builds the unproven [`AttentionOps`](super::AttentionOps) of a [`Simd`]: `attention_ops!(module: Simd, "features")` gives
/// `module::OPS`.
macro_rules! attention_ops {
    ($module:ident: $simd:ty, $features:literal) => {
        pub(super) mod $module {
            use super::*;
            use $crate::kernels::attention::keys::Keys;
            use $crate::kernels::attention::values::Values;
            use $crate::kernels::attention::{AttentionOps, AttentionTile, Partial, stored, tile};
            use $crate::kernels::isa::Unproven;
            use $crate::kernels::vector_fns::detected;
            use $crate::kernels::{kv_write, scratch};
            use $crate::tensor::CacheType;

            #[target_feature(enable = $features)]
            fn run_tile(t: &AttentionTile<'_>, out: Partial<'_>, buffer: &mut [f32]) {
                // SAFETY: this function has the features, and so have the pieces.
                unsafe { tile::tile::<$simd>(t, out, buffer, &PIECES) }
            }

            const PIECES: tile::Pieces = tile::Pieces {
                keys,
                values,
                steps: [step::<1>, step::<2>, step::<3>, step::<4>, step::<5>, step::<6>],
                stored: [stored::<1>, stored::<2>, stored::<3>, stored::<4>, stored::<5>, stored::<6>],
            };

            #[target_feature(enable = $features)]
            #[inline(never)]
            fn keys(keys: &mut Keys<'_>, t: &AttentionTile<'_>, j0: usize, n: usize) {
                // SAFETY: this function has the features.
                unsafe { keys.unpack::<$simd>(t, j0, n) }
            }

            #[target_feature(enable = $features)]
            #[inline(never)]
            fn values(values: &mut Values<'_>, t: &AttentionTile<'_>, j0: usize, n: usize) {
                // SAFETY: this function has the features.
                unsafe { values.unpack::<$simd>(t, j0, n) }
            }

            #[target_feature(enable = $features)]
            #[inline(never)]
            fn step<const MR: usize>(step: &tile::Step<'_>, rows: tile::Rows<'_>, seen: &[usize]) {
                // SAFETY: this function has the features.
                unsafe { step.run::<$simd, MR>(rows, seen) }
            }

            #[target_feature(enable = $features)]
            #[inline(never)]
            fn stored<const MR: usize>(step: &stored::Step<'_>, rows: stored::Rows<'_>) {
                // SAFETY: this function has the features.
                unsafe { step.run::<$simd, MR>(rows) }
            }

            #[target_feature(enable = $features)]
            fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
                kv_write::rotate(head, cos, sin);
            }

            #[target_feature(enable = $features)]
            fn hadamard(head: &mut [f32]) {
                $crate::tensor::hadamard(head);
            }

            #[target_feature(enable = $features)]
            fn encode(ty: CacheType, head: &mut [f32], dst: &mut [u8]) -> bool {
                // SAFETY: this function has the features.
                unsafe { kv_write::encode_vectors::<$simd>(ty, head, dst) }
            }

            pub(crate) const OPS: Unproven<AttentionOps> = Unproven::new(AttentionOps {
                features: $features,
                tile: |t, out| {
                    scratch::with(tile::room::<$simd>(t, out.max.len()), |buffer| detected!(run_tile(t, out, buffer)));
                },
                rotate: |head, cos, sin| detected!(rotate(head, cos, sin)),
                hadamard: |head| detected!(hadamard(head)),
                encode: |ty, head, dst| detected!(encode(ty, head, dst)),
            });
        }
    };
}
pub(in crate::kernels) use attention_ops;
