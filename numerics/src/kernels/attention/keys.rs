//! A block of keys as panels.

use super::AttentionTile;
use super::simd::Simd;
use super::unpack::{
    BF16, BLOCK, Codes, F16, F32, Float, KeyUnit, ONE, Q4, Q8, TINY, V_LIMIT, copy_floats, decode, decoded_room, fit,
    float_tail, gather_scales, panel_width, tops_of_columns,
};
use crate::ggml_type::GgmlType;
use crate::kernels::scratch::Carve;

/// A block of keys: panels of `panel_width` keys (two vectors of them for bytes), each (dk, width) dwords.
pub(crate) struct Keys<'a> {
    pub(super) unit: KeyUnit,
    dk: usize,
    d: usize,
    /// (BLOCK / width, dk, width)
    pub panels: &'a mut [f32],
    /// What a product is worth: (BLOCK), or (d / 32, BLOCK) for bytes.
    pub scales: &'a mut [f32],
    /// The scales of quantized keys, (d / 32, BLOCK); and as fractions of the key's largest.
    block_scales: &'a mut [f32],
    fractions: &'a mut [f32],
    /// L keys as rows of dwords, or as they are stored
    rows: &'a mut [f32],
    /// (BLOCK, d), for types that are decoded first
    decoded: &'a mut [f32],
}

/// Turns one stored key into a row of dwords.
///
/// # Safety
/// The CPU has the features of `S`; `src` points at a whole row, `row` has room for dk dwords; key `j` is below BLOCK.
trait Convert<S: Simd> {
    unsafe fn convert(keys: &mut Keys<'_>, src: *const u8, row: *mut i32, j: usize);
}

impl<'a> Keys<'a> {
    /// Floats that `new` takes.
    pub(super) fn room<S: Simd>(unit: KeyUnit, ty: GgmlType, d: usize) -> usize {
        let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
        let (scales, rows) = (BLOCK * n_block, S::L * stored(dk, n_block));
        Carve::room(&[BLOCK * dk, scales, scales, scales, rows, decoded_room(ty, d)])
    }

    pub(super) fn new<S: Simd>(unit: KeyUnit, ty: GgmlType, d: usize, from: &mut Carve<'a>) -> Keys<'a> {
        let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
        Keys {
            unit,
            dk,
            d,
            panels: from.take(BLOCK * dk),
            scales: from.take(BLOCK * n_block),
            block_scales: from.take(BLOCK * n_block),
            fractions: from.take(BLOCK * n_block),
            rows: from.take(S::L * stored(dk, n_block)),
            decoded: from.take(decoded_room(ty, d)),
        }
    }

    /// Unpacks keys `j0..j0 + n`; the rest of the last panel becomes zero.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    #[inline(always)]
    pub(crate) unsafe fn unpack<S: Simd>(&mut self, t: &AttentionTile<'_>, j0: usize, n: usize) {
        let row_bytes = t.row_k();
        let bytes = &t.k[j0 * row_bytes..][..n * row_bytes];
        // SAFETY: `bytes` holds `n` rows, as every function below expects.
        unsafe {
            match (self.unit, t.type_k) {
                (KeyUnit::F32, _) => self.rows::<S, Floats>(bytes, n),
                (KeyUnit::I8, GgmlType::Q8_0) => self.bytes::<S, Q8>(bytes, n),
                (KeyUnit::I8, _) => self.bytes::<S, Q4>(bytes, n),
                (KeyUnit::Codes, GgmlType::Q8_0) => self.codes::<S, Q8>(bytes, n),
                (KeyUnit::Codes, _) => self.codes::<S, Q4>(bytes, n),
                (KeyUnit::I16, GgmlType::F16) => self.rows::<S, Scaled<F16>>(bytes, n),
                (KeyUnit::I16, GgmlType::BF16) => self.rows::<S, Scaled<BF16>>(bytes, n),
                (KeyUnit::I16, GgmlType::F32) => self.rows::<S, Scaled<F32>>(bytes, n),
                (KeyUnit::I16, ty) => {
                    let room = std::mem::take(&mut self.decoded);
                    decode(ty, bytes, &mut room[..n * self.d]);
                    self.rows::<S, Scaled<F32>>(bytemuck::cast_slice(&room[..n * self.d]), n);
                    self.decoded = room;
                }
            }
        }
    }

    /// Keys per panel.
    pub(super) fn width<S: Simd>(&self) -> usize {
        if self.unit == KeyUnit::I8 { 2 * S::L } else { panel_width::<S>() }
    }

    /// # Safety
    /// The CPU has the features of `S`; `bytes` holds `n` rows of bytes of type `C`.
    #[inline(always)]
    unsafe fn bytes<S: Simd, C: Codes>(&mut self, bytes: &[u8], n: usize) {
        let sizes = (n, n.next_multiple_of(self.width::<S>()), self.d / 32);
        // SAFETY: the caller's promise.
        unsafe {
            gather_scales::<S, C>(bytes.as_ptr(), sizes, self.scales);
            self.panels_of_codes::<S, C, false>(bytes, n);
        }
    }

    /// Lays out rows of codes as panels, L at a time: as bytes, or WIDE, as 16-bit integers that are `fractions` of what they
    /// are.
    ///
    /// # Safety
    /// As `bytes`.
    #[inline(always)]
    unsafe fn panels_of_codes<S: Simd, C: Codes, const WIDE: bool>(&mut self, bytes: &[u8], n: usize) {
        let (width, dk, row_bytes, n_block) = (self.width::<S>(), self.dk, bytes.len() / n, self.d / 32);
        let (steps, excess) = if WIDE { (16, 0) } else { (8, S::EXCESS) };
        assert!(n <= BLOCK && self.panels.len() >= BLOCK * dk && dk >= steps * n_block);
        assert!(row_bytes == n_block * C::BYTES && self.fractions.len() >= n_block * BLOCK);
        for j in (0..n.next_multiple_of(width)).step_by(S::L) {
            let live = &bytes[(j * row_bytes).min(bytes.len())..((j + S::L) * row_bytes).min(bytes.len())];
            // Where keys are missing, whatever is there will do: their scales, or fractions, are zero.
            let whole: &mut [u8] = bytemuck::cast_slice_mut(self.rows);
            let src = if live.len() == S::L * row_bytes {
                live.as_ptr()
            } else {
                whole[..live.len()].copy_from_slice(live);
                whole[..S::L * row_bytes].as_ptr()
            };
            // SAFETY: the caller's promise; there are L rows at `src`, and the panel has `steps` rows of `width` per block, and
            // fractions lie in rows of BLOCK.
            unsafe {
                let panel = self.panels.as_mut_ptr().cast::<i32>().add(j / width * width * dk + j % width);
                for block in 0..n_block {
                    let fraction = S::load_i(self.fractions.as_ptr().cast::<i32>().add(block * BLOCK + j));
                    let codes = C::columns::<S>(src.add(block * C::BYTES), row_bytes, excess);
                    for (t, codes) in codes.into_iter().enumerate() {
                        let to = panel.add(steps * (block * width + t * width / 8));
                        if WIDE {
                            let [a, b] = C::wide::<S>(codes);
                            S::store_i(to, S::mul_fraction(a, fraction));
                            S::store_i(to.add(width), S::mul_fraction(b, fraction));
                        } else {
                            S::store_i(to, codes);
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `bytes`.
    #[inline(always)]
    unsafe fn codes<S: Simd, C: Codes>(&mut self, bytes: &[u8], n: usize) {
        let (padded, n_block) = (n.next_multiple_of(self.width::<S>()), self.d / 32);
        // SAFETY: the caller's promise; scales and fractions lie in rows of BLOCK.
        unsafe {
            gather_scales::<S, C>(bytes.as_ptr(), (n, padded, n_block), self.block_scales);
            let (from, to) = (self.block_scales.as_ptr(), self.fractions.as_mut_ptr().cast::<i32>());
            for j in (0..padded).step_by(S::L) {
                let mut top = S::splat(TINY);
                for b in 0..n_block {
                    top = S::max(top, S::abs(S::load(from.add(b * BLOCK + j))));
                }
                let inverse = S::div(S::splat(ONE), top);
                for b in 0..n_block {
                    let m = S::to_i(S::mul(S::load(from.add(b * BLOCK + j)), inverse));
                    S::store_i(to.add(b * BLOCK + j), S::pair(m, m));
                }
                S::store(self.scales.as_mut_ptr().add(j), S::mul(top, S::splat(C::UNIT)));
            }
            self.panels_of_codes::<S, C, true>(bytes, n);
        }
    }

    /// Converts rows, L at a time, and lays them out as panels.
    ///
    /// # Safety
    /// As `bytes`.
    #[inline(always)]
    unsafe fn rows<S: Simd, T: Convert<S>>(&mut self, bytes: &[u8], n: usize) {
        let (width, dk, row_bytes) = (self.width::<S>(), self.dk, bytes.len() / n);
        assert!(n <= BLOCK && self.panels.len() >= BLOCK * dk && self.rows.len() >= S::L * dk);
        // SAFETY: the caller's promise, and the lengths checked above.
        unsafe {
            for j in (0..n.next_multiple_of(width)).step_by(S::L) {
                let rows = self.rows.as_mut_ptr().cast::<i32>();
                let live = n.saturating_sub(j).min(S::L);
                for i in 0..live {
                    let src = bytes.as_ptr().add((j + i) * row_bytes);
                    T::convert(self, src, rows.add(i * dk), j + i);
                }
                // Missing keys have the product 0, and a scale that does not matter but is a number.
                self.rows[live * dk..S::L * dk].fill(0.0);
                if self.unit == KeyUnit::I16 {
                    self.scales[j + live..j + S::L].fill(0.0);
                }
                let panel = self.panels.as_mut_ptr().cast::<i32>().add(j / width * width * dk + j % width);
                for c in (0..dk).step_by(S::L) {
                    S::transpose(rows.add(c), dk, panel.add(c * width), width);
                }
            }
        }
    }
}

/// Dwords that hold a row of keys, unpacked or as it is stored.
fn stored(dk: usize, n_block: usize) -> usize {
    dk.max((n_block * Q8::BYTES).div_ceil(size_of::<f32>()))
}

struct Floats;
struct Scaled<T>(std::marker::PhantomData<T>);

impl<S: Simd> Convert<S> for Floats {
    #[inline(always)]
    unsafe fn convert(keys: &mut Keys<'_>, src: *const u8, row: *mut i32, _: usize) {
        // SAFETY: the caller's promise on `src` and `row`.
        unsafe { copy_floats::<S>(src, row, keys.d) }
    }
}

/// Pairs of 16-bit integers, scaled by the largest element of the key.
impl<S: Simd, T: Float> Convert<S> for Scaled<T> {
    #[inline(always)]
    unsafe fn convert(keys: &mut Keys<'_>, src: *const u8, row: *mut i32, j: usize) {
        let d = keys.d;
        let whole = d / (2 * S::L) * (2 * S::L);
        // SAFETY: the caller's promise on `src` and `row`.
        unsafe {
            let mut top = S::splat(0.0);
            if T::BYTES == 2 {
                let [a, b] = tops_of_columns::<S, T>((0..whole).step_by(2 * S::L).map(|c| src.add(T::BYTES * c)));
                top = S::max(a, b);
            } else {
                for c in (0..whole).step_by(S::L) {
                    top = S::max(top, S::abs(T::load::<S>(src.add(T::BYTES * c))));
                }
            }
            let (mut low, mut high) = (S::splat(0.0), S::splat(0.0));
            if whole < d {
                low = float_tail::<S, T>(src, whole, d);
                high = float_tail::<S, T>(src, whole + S::L, d);
                top = S::max(top, S::max(S::abs(low), S::abs(high)));
            }
            let (inverse, scale) = fit(S::max_of(top), (V_LIMIT - 1) as f32);
            let inverse = S::splat(inverse);
            for c in (0..whole).step_by(2 * S::L) {
                let low = S::to_i(S::mul(T::load::<S>(src.add(T::BYTES * c)), inverse));
                let high = S::to_i(S::mul(T::load::<S>(src.add(T::BYTES * (c + S::L))), inverse));
                S::store_i(row.add(c / 2), S::pair(low, high));
            }
            if whole < d {
                let (low, high) = (S::to_i(S::mul(low, inverse)), S::to_i(S::mul(high, inverse)));
                S::store_i(row.add(whole / 2), S::pair(low, high));
            }
            keys.scales[j] = scale;
        }
    }
}
