//! The inner loop of products of rows with panels, for any vector instruction set: what attention and Gated DeltaNet share.

// Loops over a register block run over several arrays at once, and have to be unrolled.
#![allow(clippy::needless_range_loop)]

use super::simd::Simd;

/// Something small to do at each step of a product, like asking for memory that is wanted next.
pub(in crate::kernels) trait Between {
    fn step(&mut self);
}

/// Nothing.
impl Between for () {
    #[inline(always)]
    fn step(&mut self) {}
}

/// What a dword of a panel is.
///
/// # Safety
/// As [`Simd`].
pub(in crate::kernels) trait Unit<S: Simd> {
    type Acc: Copy;
    /// Whether panels have scales.
    const SCALED: bool;
    unsafe fn zero() -> Self::Acc;
    unsafe fn mac(acc: Self::Acc, a: S::I, b: S::I) -> Self::Acc;
    unsafe fn to_f(acc: Self::Acc) -> S::F;
}

/// An f32.
pub(in crate::kernels) struct InF32;
/// Two 16-bit integers.
pub(in crate::kernels) struct InI16;

impl<S: Simd> Unit<S> for InF32 {
    type Acc = S::F;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn zero() -> S::F {
        // SAFETY: the caller has the features of `S`.
        unsafe { S::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn mac(acc: S::F, a: S::I, b: S::I) -> S::F {
        // SAFETY: the caller has the features of `S`.
        unsafe { S::fma(S::as_f(a), S::as_f(b), acc) }
    }
    #[inline(always)]
    unsafe fn to_f(acc: S::F) -> S::F {
        acc
    }
}

impl<S: Simd> Unit<S> for InI16 {
    type Acc = S::I;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn zero() -> S::I {
        // SAFETY: the caller has the features of `S`.
        unsafe { S::zero_i() }
    }
    #[inline(always)]
    unsafe fn mac(acc: S::I, a: S::I, b: S::I) -> S::I {
        // SAFETY: the caller has the features of `S`.
        unsafe { S::dot_i16(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn to_f(acc: S::I) -> S::F {
        // SAFETY: the caller has the features of `S`.
        unsafe { S::to_f(acc) }
    }
}

/// The register-blocked product: sum over `steps` dwords of x(MR, steps), each broadcast, with w(steps, NV vectors). `between`
/// has a turn at each of the steps.
///
/// # Safety
/// The CPU has the features of `S`; x holds MR rows of `steps` dwords at distance `ldx`, w holds `steps` rows of NV
/// vectors at distance `ldw`.
#[inline(always)]
pub(in crate::kernels) unsafe fn product<S: Simd, U: Unit<S>, const MR: usize, const NV: usize>(
    x: *const i32,
    ldx: usize,
    w: *const i32,
    ldw: usize,
    steps: usize,
    between: &mut impl Between,
) -> [[U::Acc; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[U::zero(); NV]; MR];
        for t in 0..steps {
            between.step();
            let mut vectors = [S::zero_i(); NV];
            for v in 0..NV {
                vectors[v] = S::load_i(w.add(t * ldw + v * S::L));
            }
            for r in 0..MR {
                let a = S::splat_i(*x.add(r * ldx + t));
                for v in 0..NV {
                    acc[r][v] = U::mac(acc[r][v], a, vectors[v]);
                }
            }
        }
        acc
    }
}
