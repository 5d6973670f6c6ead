//! Decode with F32, F16 and BF16 weights: every row is read once, as it lies in memory, and multiplied in f32.

use crate::ggml_type::GgmlType;
use crate::kernels::attention::simd::Simd;
use crate::tensor::block::{BF16, Block, F16, F32};

/// The operands of a `dot_floats`.
#[derive(Clone, Copy)]
pub struct FloatRows<'a> {
    /// Whole rows of `row_bytes` bytes each.
    pub rows: &'a [u8],
    /// Bytes of a row.
    pub row_bytes: usize,
    /// (n_tokens, n_cols)
    pub x: &'a [f32],
    /// Elements of a row.
    pub n_cols: usize,
}

impl FloatRows<'_> {
    /// (n_tokens, n_rows), once all lengths agree.
    #[inline(always)]
    fn check(&self, element_bytes: usize, out: &[f32]) -> (usize, usize) {
        let (n_tokens, n_rows) = (self.x.len() / self.n_cols, self.rows.len() / self.row_bytes);
        assert!(self.row_bytes == self.n_cols * element_bytes && self.rows.len() == n_rows * self.row_bytes);
        assert!(self.x.len() == n_tokens * self.n_cols && out.len() == n_tokens * n_rows);
        (n_tokens, n_rows)
    }
}

/// A type of one float per element.
trait Element: Block {
    /// # Safety
    /// `V::L` elements lie at `p`; the caller has the features of `V`.
    unsafe fn load<V: Simd>(p: *const u8) -> V::F;
}

impl Element for F32 {
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::load(p.cast()) }
    }
}

impl Element for F16 {
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::load_f16(p) }
    }
}

impl Element for BF16 {
    #[inline(always)]
    unsafe fn load<V: Simd>(p: *const u8) -> V::F {
        // SAFETY: as the caller promises.
        unsafe { V::load_bf16(p) }
    }
}

/// The definition: sums of eight lanes in plain Rust.
#[inline(always)]
pub(crate) fn dot_plain(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
    #[inline(always)]
    fn all<E: Element>(d: FloatRows<'_>, out: &mut [f32]) {
        const LANES: usize = 8;
        let (_, n_rows) = d.check(E::BYTES, out);
        for (x, out) in d.x.chunks_exact(d.n_cols).zip(out.chunks_exact_mut(n_rows)) {
            for (row, out) in d.rows.chunks_exact(d.row_bytes).zip(out) {
                let mut sums = [0.0; LANES];
                for (x, w) in x.chunks(LANES).zip(row.chunks(LANES * E::BYTES)) {
                    for ((sum, x), w) in sums.iter_mut().zip(x).zip(w.chunks_exact(E::BYTES)) {
                        let mut one = [0.0];
                        E::decode(w, &mut one);
                        *sum += x * one[0];
                    }
                }
                *out = sums.iter().sum();
            }
        }
    }
    match ty {
        GgmlType::F32 => all::<F32>(d, out),
        GgmlType::F16 => all::<F16>(d, out),
        GgmlType::BF16 => all::<BF16>(d, out),
        other => panic!("no floats in {other}"),
    }
}

/// The same with vectors.
///
/// # Safety
/// The caller has the features of `V`.
#[inline(always)]
pub(crate) unsafe fn dot<V: Simd>(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
    // SAFETY: as the caller promises.
    unsafe {
        match ty {
            GgmlType::F32 => dot_elements::<V, F32>(d, out),
            GgmlType::F16 => dot_elements::<V, F16>(d, out),
            GgmlType::BF16 => dot_elements::<V, BF16>(d, out),
            other => panic!("no floats in {other}"),
        }
    }
}

/// # Safety
/// The caller has the features of `V`.
#[inline(always)]
unsafe fn dot_elements<V: Simd, E: Element>(d: FloatRows<'_>, out: &mut [f32]) {
    let (n_tokens, n_rows) = d.check(E::BYTES, out);
    for (r, row) in d.rows.chunks_exact(d.row_bytes).enumerate() {
        // The first pass over a row brings it into the cache for the others.
        let mut first = 0;
        while first < n_tokens {
            let x = &d.x[first * d.n_cols..];
            let mut put = |sums: &[f32]| {
                for (it, sum) in sums.iter().enumerate() {
                    out[(first + it) * n_rows + r] = *sum;
                }
                sums.len()
            };
            // SAFETY: the row has `n_cols` elements and `x` so many rows of as many; features as the caller promises.
            first += unsafe {
                match n_tokens - first {
                    1 => put(&dot_row::<V, E, 1, 8>(row, x, d.n_cols)),
                    2 | 3 => put(&dot_row::<V, E, 2, 4>(row, x, d.n_cols)),
                    _ => put(&dot_row::<V, E, 4, 2>(row, x, d.n_cols)),
                }
            };
        }
    }
}

/// One row with N tokens, in N * U sums: enough of them to hide the latency of an addition.
///
/// # Safety
/// - `row` holds `n_cols` elements, `x` N rows of as many floats.
/// - The caller has the features of `V`.
#[inline(always)]
unsafe fn dot_row<V: Simd, E: Element, const N: usize, const U: usize>(
    row: &[u8],
    x: &[f32],
    n_cols: usize,
) -> [f32; N] {
    let (w, x) = (row.as_ptr(), x.as_ptr());
    // SAFETY: columns stay below `n_cols`.
    unsafe {
        let mut acc = [[V::splat(0.0); U]; N];
        let mut at = 0;
        while at + U * V::L <= n_cols {
            for u in 0..U {
                let col = at + u * V::L;
                let w = E::load::<V>(w.add(col * E::BYTES));
                for (it, acc) in acc.iter_mut().enumerate() {
                    acc[u] = V::fma(w, V::load(x.add(it * n_cols + col)), acc[u]);
                }
            }
            at += U * V::L;
        }
        while at + V::L <= n_cols {
            let w = E::load::<V>(w.add(at * E::BYTES));
            for (it, acc) in acc.iter_mut().enumerate() {
                acc[0] = V::fma(w, V::load(x.add(it * n_cols + at)), acc[0]);
            }
            at += V::L;
        }
        let mut sums = [0.0; N];
        for (sum, acc) in sums.iter_mut().zip(acc) {
            let total = acc[1..].iter().fold(acc[0], |total, acc| V::add(total, *acc));
            *sum = V::sum_of(total);
        }
        for col in at..n_cols {
            let mut one = [0.0];
            E::decode(&row[col * E::BYTES..][..E::BYTES], &mut one);
            for (it, sum) in sums.iter_mut().enumerate() {
                *sum += one[0] * *x.add(it * n_cols + col);
            }
        }
        sums
    }
}
