//! Arithmetic over the elements of a sub-block in forms that vectorize on any machine: one operation over an array at a
//! time, independent partial sums, no branches, rounding without a library call.
#![forbid(unsafe_code)]

/// Rounds to the nearest integer, ties to even; for magnitudes up to 2^22. A vector instruction everywhere, unlike
/// `f32::round`.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: above it, an f32 has no room for a fraction.
    (x + MAGIC) - MAGIC
}

/// `f(i)` for every `i` below N.
#[inline(always)]
pub(super) fn map<const N: usize>(f: impl Fn(usize) -> f32) -> [f32; N] {
    let mut out = [0.0; N];
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(i);
    }
    out
}

/// Rounds to the nearest integer, ties to even; for magnitudes up to 2^51.
#[inline(always)]
pub(super) fn round_f64(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    (x + MAGIC) - MAGIC
}

/// The sum of `a[i] * b[i]`; N is a multiple of 8.
#[inline(never)]
pub(super) fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f64 {
    dot_here(a, b)
}

/// The same, to be compiled with the caller's instruction set.
#[inline(always)]
pub(super) fn dot_here<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f64 {
    const { assert!(N.is_multiple_of(8)) };
    let mut acc = [0.0; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for lane in 0..8 {
            acc[lane] += a[lane] * b[lane];
        }
    }
    total(acc)
}

/// The largest magnitude, in partial maxima.
#[inline(always)]
pub(crate) fn largest(x: &[f32; 32]) -> f32 {
    let mut lanes = [0f32; 16];
    for part in x.as_chunks::<16>().0 {
        for i in 0..16 {
            lanes[i] = if part[i].abs() > lanes[i] { part[i].abs() } else { lanes[i] };
        }
    }
    lanes.iter().fold(0.0, |max, x| if *x > max { *x } else { max })
}

/// The sum of `a[i]`; N is a multiple of 8.
#[inline(never)]
pub(super) fn sum<const N: usize>(a: &[f32; N]) -> f64 {
    const { assert!(N.is_multiple_of(8)) };
    let mut acc = [0.0; 8];
    for a in a.as_chunks::<8>().0 {
        for lane in 0..8 {
            acc[lane] += a[lane];
        }
    }
    total(acc)
}

#[inline(always)]
fn total(acc: [f32; 8]) -> f64 {
    // In this order every step is one vector instruction.
    let four: [f32; 4] = map(|i| acc[i] + acc[i + 4]);
    ((four[0] + four[2]) + (four[1] + four[3])) as f64
}
