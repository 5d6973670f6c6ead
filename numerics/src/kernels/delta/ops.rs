//! The operations of Gated DeltaNet that differ between instruction sets.

use super::DELTA_ALIGN;

/// What the four taps of a convolution meet, and the taps: equal lengths.
pub(super) type FourRows<'a> = [&'a [f32]; 4];

/// The operations of Gated DeltaNet, per instruction set. All widths are multiples of [`DELTA_ALIGN`].
#[derive(Clone, Copy)]
pub struct DeltaOps {
    /// See [`Kernels::features`](crate::kernels::Kernels::features).
    pub features: &'static str,
    /// x = silu(sum of taps\[t\] * inputs\[t\]).
    pub conv: fn(FourRows<'_>, FourRows<'_>, &mut [f32]),
    /// x = x * length / sqrt(sum of x² + 1e-6).
    pub unit: fn(&mut [f32], f32),
    /// One token of one head: out(d_v) and the head's matrix (d_k, d_v) after it.
    pub step: fn(&DeltaStep<'_>, &mut [f32], &mut [f32]),
    /// out = [out * what is kept +] a · b.
    pub product: fn(&DeltaProduct<'_>, Keep<'_>, &mut [f32]),
    /// out(cols, rows) = the transpose of x(rows, cols), given rows and cols.
    pub transpose: fn(&[f32], (usize, usize), &mut [f32]),
    /// row = row * factor * 2^exponents; exponents are at most 0, and below -126 the power is 0.
    pub decay: fn(&mut [f32], f32, &[f32]),
    /// y = y * kept + x * factor, given y, kept, x, factor.
    pub blend: fn(&mut [f32], f32, &[f32], f32),
}

/// One token of one head.
#[derive(Debug, Clone, Copy)]
pub struct DeltaStep<'a> {
    /// (d_k), of length 1 / sqrt(d_k)
    pub q: &'a [f32],
    /// (d_k), of unit length
    pub k: &'a [f32],
    /// (d_v)
    pub v: &'a [f32],
    /// How much of what the matrix says of `k` is replaced, 0 to 1.
    pub beta: f32,
    /// The matrix is multiplied by e^g; at most 0.
    pub g: f32,
}

impl DeltaStep<'_> {
    /// # Panics
    /// When lengths disagree.
    #[inline(always)]
    pub(super) fn check(&self, state: &[f32], out: &[f32]) {
        let (d_k, d_v) = (self.k.len(), self.v.len());
        assert!(self.q.len() == d_k && out.len() == d_v && state.len() == d_k * d_v && d_v.is_multiple_of(DELTA_ALIGN));
    }
}

/// a(n_rows, n_steps) · b(n_steps, n_cols), rows of both at distances of their own.
#[derive(Debug, Clone, Copy)]
pub struct DeltaProduct<'a> {
    /// (n_rows, n_steps), rows `lda` apart.
    pub a: &'a [f32],
    /// Elements from row to row of `a`.
    pub lda: usize,
    /// (n_steps, n_cols), rows `ldb` apart.
    pub b: &'a [f32],
    /// Elements from row to row of `b`.
    pub ldb: usize,
    /// Rows of `a` and of the output.
    pub n_rows: usize,
    /// Columns of `a`, rows of `b`.
    pub n_steps: usize,
    /// Columns of `b` and of the output.
    pub n_cols: usize,
    /// Elements from row to row of the output.
    pub ldo: usize,
}

/// What is kept of the output before a product is added.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// Nothing: the product replaces it.
    Nothing,
    /// All of it, times a factor.
    All(f32),
    /// Each row, times a factor of its own.
    Rows(&'a [f32]),
}

impl Keep<'_> {
    /// The factor of row `i`.
    #[inline(always)]
    pub(super) fn of(&self, i: usize) -> f32 {
        match self {
            Keep::Nothing => 0.0,
            Keep::All(factor) => *factor,
            Keep::Rows(factors) => factors[i],
        }
    }
}

impl DeltaProduct<'_> {
    /// # Panics
    /// When rows leave their memory.
    #[inline(always)]
    pub(super) fn check(&self, keep: Keep<'_>, out: &[f32]) {
        let DeltaProduct { n_rows, n_steps, n_cols, .. } = *self;
        let fits = |len: usize, rows: usize, ld: usize, cols: usize| {
            ld >= cols && (rows == 0 || len >= (rows - 1) * ld + cols)
        };
        assert!(fits(self.a.len(), n_rows, self.lda, n_steps) && fits(self.b.len(), n_steps, self.ldb, n_cols));
        assert!(fits(out.len(), n_rows, self.ldo, n_cols) && n_cols.is_multiple_of(DELTA_ALIGN));
        assert!(!matches!(keep, Keep::Rows(factors) if factors.len() != n_rows));
    }
}

/// Builds the unproven [`DeltaOps`] of a [`Simd`](crate::kernels::attention::simd::Simd): `delta_ops!(Simd, "features")` gives `DELTA`.
macro_rules! delta_ops {
    ($simd:ty, $features:literal) => {
        mod delta_compiled {
            use super::*;
            use $crate::kernels::delta::{DeltaProduct, DeltaStep, Keep, rows, vector};

            #[target_feature(enable = $features)]
            pub(super) fn conv(taps: [&[f32]; 4], inputs: [&[f32]; 4], x: &mut [f32]) {
                rows::conv::<$simd>(taps, inputs, x)
            }
            #[target_feature(enable = $features)]
            pub(super) fn unit(x: &mut [f32], length: f32) {
                rows::unit::<$simd>(x, length)
            }
            #[target_feature(enable = $features)]
            pub(super) fn step(step: &DeltaStep<'_>, state: &mut [f32], out: &mut [f32]) {
                // SAFETY: this function has the features, as have those below.
                unsafe { vector::step::<$simd>(step, state, out) }
            }
            #[target_feature(enable = $features)]
            pub(super) fn product(p: &DeltaProduct<'_>, keep: Keep<'_>, out: &mut [f32]) {
                // SAFETY: as above.
                unsafe { vector::product::<$simd>(p, keep, out) }
            }
            #[target_feature(enable = $features)]
            pub(super) fn transpose(x: &[f32], sizes: (usize, usize), out: &mut [f32]) {
                // SAFETY: as above.
                unsafe { vector::transpose::<$simd>(x, sizes, out) }
            }
            #[target_feature(enable = $features)]
            pub(super) fn decay(row: &mut [f32], factor: f32, exponents: &[f32]) {
                // SAFETY: as above.
                unsafe { vector::decay::<$simd>(row, factor, exponents) }
            }
            #[target_feature(enable = $features)]
            pub(super) fn blend(y: &mut [f32], kept: f32, x: &[f32], factor: f32) {
                rows::blend::<$simd>(y, kept, x, factor)
            }
        }

        const DELTA: $crate::kernels::isa::Unproven<$crate::kernels::DeltaOps> = {
            use $crate::kernels::vector_fns::detected;
            $crate::kernels::isa::Unproven::new($crate::kernels::DeltaOps {
                features: $features,
                conv: |taps, inputs, x| detected!(delta_compiled::conv(taps, inputs, x)),
                unit: |x, length| detected!(delta_compiled::unit(x, length)),
                step: |step, state, out| detected!(delta_compiled::step(step, state, out)),
                product: |p, keep, out| detected!(delta_compiled::product(p, keep, out)),
                transpose: |x, sizes, out| detected!(delta_compiled::transpose(x, sizes, out)),
                decay: |row, factor, exponents| detected!(delta_compiled::decay(row, factor, exponents)),
                blend: |y, kept, x, factor| detected!(delta_compiled::blend(y, kept, x, factor)),
            })
        };
    };
}
pub(in crate::kernels) use delta_ops;
