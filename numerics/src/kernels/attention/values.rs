//! A block of values as a panel.

use super::AttentionTile;
use super::simd::Simd;
use super::unpack::{
    BF16, BLOCK, Codes, F16, F32, Float, LIMIT, Q4, Q8, TINY, V_LIMIT, ValueUnit, copy_floats, decode, decoded_room,
    float_tail, gather_scales, tops_of_columns,
};
use crate::ggml_type::GgmlType;
use crate::kernels::scratch::Carve;

/// A block of values: (BLOCK, dv) floats, or (BLOCK / 2, dv) pairs of 16-bit integers: keys i and i + L of each 2L.
pub(crate) struct Values<'a> {
    pub(super) unit: ValueUnit,
    dv: usize,
    d: usize,
    pub panel: &'a mut [f32],
    /// What 1 is worth in each column, (dv).
    pub scales: &'a mut [f32],
    /// The scales of quantized values, (d / 32, BLOCK); as pairs of fractions of the largest of the block,
    /// (BLOCK / 2, d / 32)
    block_scales: &'a mut [f32],
    fractions: &'a mut [f32],
    /// (BLOCK, d), for types that are decoded first
    decoded: &'a mut [f32],
}

impl<'a> Values<'a> {
    /// Floats that `new` takes.
    pub(super) fn room(ty: GgmlType, dv: usize, d: usize) -> usize {
        let n_block = d.div_ceil(32);
        Carve::room(&[BLOCK * dv, dv, BLOCK * n_block, BLOCK / 2 * n_block, decoded_room(ty, d)])
    }

    pub(super) fn new(unit: ValueUnit, ty: GgmlType, dv: usize, d: usize, from: &mut Carve<'a>) -> Values<'a> {
        let n_block = d.div_ceil(32);
        Values {
            unit,
            dv,
            d,
            panel: from.take(BLOCK * dv),
            scales: from.take(dv),
            block_scales: from.take(BLOCK * n_block),
            fractions: from.take(BLOCK / 2 * n_block),
            decoded: from.take(decoded_room(ty, d)),
        }
    }

    /// Unpacks values `j0..j0 + n`; rows up to the next whole pair of vectors, and columns up to dv, become zero.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(crate) unsafe fn unpack<S: Simd>(&mut self, t: &AttentionTile<'_>, j0: usize, n: usize) {
        let row_bytes = t.row_v();
        let bytes = &t.v[j0 * row_bytes..][..n * row_bytes];
        assert!(n <= BLOCK && self.panel.len() >= BLOCK * self.dv && self.d <= self.dv && self.scales.len() == self.dv);
        // SAFETY: `bytes` holds `n` rows, as every function below expects.
        unsafe {
            match (self.unit, t.type_v) {
                (ValueUnit::F32, _) => self.floats::<S>(bytes, n),
                (ValueUnit::I16, GgmlType::Q8_0) => self.codes::<S, Q8>(bytes, n),
                (ValueUnit::I16, GgmlType::Q4_0) => self.codes::<S, Q4>(bytes, n),
                (ValueUnit::I16, GgmlType::F16) => self.scaled::<S, F16>(bytes, n),
                (ValueUnit::I16, GgmlType::BF16) => self.scaled::<S, BF16>(bytes, n),
                (ValueUnit::I16, GgmlType::F32) => self.scaled::<S, F32>(bytes, n),
                (ValueUnit::I16, ty) => {
                    let room = std::mem::take(&mut self.decoded);
                    decode(ty, bytes, &mut room[..n * self.d]);
                    self.scaled::<S, F32>(bytemuck::cast_slice(&room[..n * self.d]), n);
                    self.decoded = room;
                }
            }
        }
    }

    /// # Safety
    /// The CPU has the features of `S`; `bytes` holds `n` rows of the type that the name says.
    #[inline(always)]
    unsafe fn floats<S: Simd>(&mut self, bytes: &[u8], n: usize) {
        let (d, dv, row_bytes) = (self.d, self.dv, bytes.len() / n);
        for j in 0..n {
            let row = self.panel[j * dv..][..dv].as_mut_ptr().cast();
            // SAFETY: the caller's promise; dv is d rounded up to whole vectors, or more.
            unsafe {
                let src = bytes.as_ptr().add(j * row_bytes);
                copy_floats::<S>(src, row, d);
            }
            self.panel[j * dv..][d..dv].fill(0.0);
        }
        self.panel[n * dv..n.next_multiple_of(2 * S::L) * dv].fill(0.0);
    }

    /// # Safety
    /// As `floats`.
    #[inline(always)]
    unsafe fn codes<S: Simd, C: Codes>(&mut self, bytes: &[u8], n: usize) {
        let (dv, n_block, padded) = (self.dv, self.d / 32, n.next_multiple_of(2 * S::L));
        let row_bytes = n_block * C::BYTES;
        // SAFETY: the caller's promise; rows of BLOCK scales, of which `gather_scales` fills `padded`; fractions of half as
        // many pairs of rows; d columns of the panel.
        unsafe {
            gather_scales::<S, C>(bytes.as_ptr(), (n, padded, n_block), self.block_scales);
            let fractions = self.fractions.as_mut_ptr().cast::<i32>();
            for block in 0..n_block {
                let scales = self.block_scales.as_ptr().add(block * BLOCK);
                let mut top = S::splat(TINY);
                for j in (0..padded).step_by(S::L) {
                    top = S::max(top, S::abs(S::load(scales.add(j))));
                }
                let top = S::max_of(top);
                self.scales[block * 32..][..32].fill(top * C::LARGE);
                let inverse = S::splat(LIMIT / top);
                for g in (0..padded).step_by(2 * S::L) {
                    let low = S::to_i(S::mul(S::load(scales.add(g)), inverse));
                    let high = S::to_i(S::mul(S::load(scales.add(g + S::L)), inverse));
                    S::store_i(fractions.add(block * (BLOCK / 2) + g / 2), S::pair(low, high));
                }
            }
            for g in (0..padded).step_by(2 * S::L) {
                for i in 0..S::L {
                    // Beyond the last row the fraction is zero, whatever the codes.
                    let a = bytes.as_ptr().add((g + i).min(n - 1) * row_bytes);
                    let b = bytes.as_ptr().add((g + i + S::L).min(n - 1) * row_bytes);
                    let to = self.panel.as_mut_ptr().cast::<i32>().add((g / 2 + i) * dv);
                    for block in 0..n_block {
                        let fraction = S::splat_i(*fractions.add(block * (BLOCK / 2) + g / 2 + i));
                        let (a, b) = (C::large::<S>(a.add(block * C::BYTES)), C::large::<S>(b.add(block * C::BYTES)));
                        S::weave(a, b, fraction, to.add(block * 32));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `floats`.
    #[inline(always)]
    unsafe fn scaled<S: Simd, T: Float>(&mut self, bytes: &[u8], n: usize) {
        let (d, dv, row_bytes) = (self.d, self.dv, bytes.len() / n);
        let whole = d / S::L * S::L;
        let rows = bytes.as_ptr();
        // SAFETY: the caller's promise; dv columns of the panel and of the scales.
        unsafe {
            let scales = self.scales.as_mut_ptr();
            for c in (0..dv).step_by(S::L) {
                S::store(scales.add(c), S::splat(TINY));
            }
            // What is left for one row after the other.
            let mut first = 0;
            while T::BYTES == 2 && first + 2 * S::L <= whole {
                let [low, high] = tops_of_columns::<S, T>((0..n).map(|j| rows.add(j * row_bytes + T::BYTES * first)));
                S::store(scales.add(first), S::max(S::load(scales.add(first)), low));
                S::store(scales.add(first + S::L), S::max(S::load(scales.add(first + S::L)), high));
                first += 2 * S::L;
            }
            for j in 0..n {
                let row = rows.add(j * row_bytes);
                for c in (first..whole).step_by(S::L) {
                    let x = S::abs(T::load::<S>(row.add(T::BYTES * c)));
                    S::store(scales.add(c), S::max(S::load(scales.add(c)), x));
                }
                if whole < d {
                    let x = S::abs(float_tail::<S, T>(row, whole, d));
                    S::store(scales.add(whole), S::max(S::load(scales.add(whole)), x));
                }
            }
            let limit = S::splat((V_LIMIT - 1) as f32);
            let panel = self.panel.as_mut_ptr().cast::<i32>();
            for c in (0..dv).step_by(S::L) {
                let top = S::load(scales.add(c));
                S::store(scales.add(c), S::div(top, limit));
                let inverse = S::div(limit, top);
                for g in (0..n).step_by(2 * S::L) {
                    for i in g..g + S::L {
                        let mut both = [S::zero_i(); 2];
                        for (x, j) in both.iter_mut().zip([i, i + S::L]) {
                            if j < n {
                                let row = rows.add(j * row_bytes);
                                let v = if c < whole {
                                    T::load::<S>(row.add(T::BYTES * c))
                                } else {
                                    float_tail::<S, T>(row, c, d)
                                };
                                *x = S::to_i(S::mul(v, inverse));
                            }
                        }
                        S::store_i(panel.add((i - g / 2) * dv + c), S::pair(both[0], both[1]));
                    }
                }
            }
        }
    }
}
