//! The Walsh-Hadamard transform of a head of keys or values. It is orthonormal and its own inverse, so products of two transformed
//! vectors are those of the vectors; and every element of the result is a sum over all of a run, with signs, so that a channel that
//! is far larger than its neighbours is spread over all of them. A format with few bits, whose scale follows the largest element
//! of 32, then loses less on the others.

/// Elements that are transformed together, at most.
const MAX_RUN: usize = 128;

/// Elements of a head of `d` that are transformed together: the largest power of two that divides it, and at most 128.
pub fn hadamard_run(d: usize) -> usize {
    1 << d.trailing_zeros().min(MAX_RUN.trailing_zeros())
}

/// Transforms a head in place, run by run: sums and differences of elements 1, 2, 4, … apart, in this order, then a factor of
/// 1 / sqrt(run). In this order on every machine, so that the bits are the same. Inlines into its caller, to be compiled there with
/// the caller's instruction set.
#[inline(always)]
pub fn hadamard(head: &mut [f32]) {
    match hadamard_run(head.len()) {
        128 => head.as_chunks_mut::<128>().0.iter_mut().for_each(run),
        64 => head.as_chunks_mut::<64>().0.iter_mut().for_each(run),
        32 => head.as_chunks_mut::<32>().0.iter_mut().for_each(run),
        n => head.chunks_exact_mut(n).for_each(short_run),
    }
}

/// Elements of which a step within a vector knows the places.
const NEAR: usize = 16;

#[inline(always)]
fn run<const N: usize>(x: &mut [f32; N]) {
    const { assert!(N.is_multiple_of(NEAR)) };
    for x in x.as_chunks_mut::<NEAR>().0 {
        *x = near::<8>(&near::<4>(&near::<2>(&near::<1>(x))));
    }
    let mut apart = NEAR;
    while apart < N {
        step(x, apart);
        apart *= 2;
    }
    let factor = 1.0 / (N as f32).sqrt();
    x.iter_mut().for_each(|x| *x *= factor);
}

#[inline(always)]
fn short_run(x: &mut [f32]) {
    let mut apart = 1;
    while apart < x.len() {
        step(x, apart);
        apart *= 2;
    }
    let factor = 1.0 / (x.len() as f32).sqrt();
    x.iter_mut().for_each(|x| *x *= factor);
}

#[inline(always)]
fn step(x: &mut [f32], apart: usize) {
    for pair in x.chunks_exact_mut(2 * apart) {
        let (a, b) = pair.split_at_mut(apart);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// [`step`] over a few elements, as shuffles and sums of whole vectors.
#[inline(always)]
fn near<const APART: usize>(x: &[f32; NEAR]) -> [f32; NEAR] {
    let mut out = [0.0; NEAR];
    for (i, out) in out.iter_mut().enumerate() {
        let other = x[i ^ APART];
        *out = if i & APART == 0 { x[i] + other } else { other - x[i] };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    /// Element (i, j) of the matrix.
    fn sign(i: usize, j: usize) -> f64 {
        if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
    }

    #[test]
    fn runs_divide_heads() {
        let runs = [(1, 1), (3, 1), (36, 4), (48, 16), (64, 64), (80, 16), (96, 32), (128, 128), (192, 64), (256, 128)];
        runs.into_iter().for_each(|(d, run)| assert_eq!(hadamard_run(d), run, "{d}"));
        assert_eq!(hadamard_run(1024), MAX_RUN);
    }

    #[test]
    fn it_is_the_matrix_and_its_own_inverse() {
        let mut rng = Rng(1);
        for d in [1, 2, 3, 4, 8, 20, 32, 48, 64, 80, 96, 128, 192, 256, 1024] {
            let n = hadamard_run(d);
            let x = rng.vec(d);
            let mut got = x.clone();
            hadamard(&mut got);
            for (x, got) in x.chunks(n).zip(got.chunks(n)) {
                for (i, got) in got.iter().enumerate() {
                    let sum: f64 = x.iter().enumerate().map(|(j, x)| sign(i, j) * f64::from(*x)).sum();
                    let want = sum / (n as f64).sqrt();
                    assert!((f64::from(*got) - want).abs() < 2e-6, "{d}: {got}, expected {want}");
                }
            }
            let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            assert!((length(&got) / length(&x) - 1.0).abs() < 1e-6, "{d}");
            hadamard(&mut got);
            got.iter().zip(&x).for_each(|(got, x)| assert!((got - x).abs() < 2e-6, "{d}: {got}, expected {x}"));
        }
    }

    #[test]
    fn an_outlier_is_spread_evenly() {
        let mut x = vec![0.0; 128];
        x[77] = 50.0;
        hadamard(&mut x);
        assert!(x.iter().all(|x| x.abs() == x.abs().max(50.0 / 128f32.sqrt() - 1e-5) && x.abs() < 4.42));
    }
}
