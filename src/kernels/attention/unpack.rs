//! Operands of a tile in the form that the register-blocked product reads: queries as rows of dwords, keys and values as
//! panels. Unpacking a block costs about as much as ten rows of queries against it, once per tile.

use super::Tile;
use super::simd::Simd;
use crate::gguf::GgmlType;
use crate::kernels::scratch::Carve;

/// Keys per block.
pub const BLOCK: usize = 128;
/// Largest magnitude of a key or value in 16-bit fixed point.
pub const V_LIMIT: i32 = 4096;
/// Bytes and nibbles are shifted to this range before they are multiplied by a fraction of 1.
const SHIFT: u32 = 5;
const SHIFT_Q4: u32 = 9;
/// The fraction that stands for 1, as a 15-bit fraction.
const ONE: f32 = 32767.0;
/// Scales below this count as this: their inverses stay finite.
const TINY: f32 = 1e-30;

/// What a dword of the key panels and query rows holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUnit {
    F32,
    I16,
    I8,
}

impl KeyUnit {
    /// How keys of `ty` are multiplied.
    pub fn of<S: Simd>(ty: GgmlType) -> KeyUnit {
        match ty {
            GgmlType::F32 => KeyUnit::F32,
            GgmlType::Q8_0 | GgmlType::Q4_0 if S::DOT_I8 => KeyUnit::I8,
            _ => KeyUnit::I16,
        }
    }

    /// Dwords per row of `d` elements: whole vectors.
    pub fn row_dwords<S: Simd>(self, d: usize) -> usize {
        let per_dword = match self {
            KeyUnit::F32 => 1,
            KeyUnit::I16 => 2,
            KeyUnit::I8 => 4,
        };
        d.next_multiple_of(per_dword * S::L) / per_dword
    }
}

/// What a dword of the value panel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueUnit {
    F32,
    I16,
}

impl ValueUnit {
    pub fn of(ty: GgmlType) -> ValueUnit {
        if ty == GgmlType::F32 { ValueUnit::F32 } else { ValueUnit::I16 }
    }
}

/// Keys per panel.
pub fn panel_width<S: Simd>() -> usize {
    if S::L == 16 { 64 } else { 2 * S::L }
}

/// Rows of queries (rows, d) as dwords: f32; or pairs of 16-bit integers (i, i + L) of each 2L, with a scale per row; or
/// bytes, with a scale and -128 times their sum per 32. Scales and sums lie in rows of d / 32.
#[inline(always)]
pub fn queries<S: Simd>(unit: KeyUnit, from: &[f32], d: usize, q: &mut [f32], scales: &mut [f32], sums: &mut [f32]) {
    let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
    let rows = from.chunks_exact(d).zip(q.chunks_exact_mut(dk));
    let extras = scales.chunks_exact_mut(n_block).zip(sums.chunks_exact_mut(n_block));
    for ((row, q), (scales, sums)) in rows.zip(extras) {
        q.fill(0.0);
        match unit {
            KeyUnit::F32 => q[..d].copy_from_slice(row),
            KeyUnit::I16 => {
                let limit = (i32::MAX / V_LIMIT / d.next_multiple_of(2 * S::L) as i32 - 1).min(32767) as f32;
                let (inverse, scale) = fit(largest(row), limit);
                scales[0] = scale;
                let q: &mut [[i16; 2]] = bytemuck::cast_slice_mut(q);
                for (group, x) in q.chunks_exact_mut(S::L).zip(row.chunks(2 * S::L)) {
                    for (i, x) in x.iter().enumerate() {
                        group[i % S::L][i / S::L] = (x * inverse).round_ties_even() as i16;
                    }
                }
            }
            KeyUnit::I8 => {
                let q: &mut [[i8; 32]] = &mut bytemuck::cast_slice_mut(q)[..n_block];
                for (block, x) in row.chunks_exact(32).enumerate() {
                    let (inverse, scale) = fit(largest(x), 127.0);
                    scales[block] = scale;
                    for (code, x) in q[block].iter_mut().zip(x) {
                        *code = (x * inverse).round_ties_even() as i8;
                    }
                    let sum: i32 = q[block].iter().map(|code| i32::from(*code)).sum();
                    sums[block] = f32::from_bits((-128 * sum) as u32);
                }
            }
        }
    }
}

/// The largest magnitude; NaN when anything is not finite.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |max, x| max.max(x.abs())) + x.iter().map(|x| x * 0.0).sum::<f32>()
}

/// What brings a largest magnitude to `limit`, and its inverse.
#[inline(always)]
fn fit(largest: f32, limit: f32) -> (f32, f32) {
    if largest < TINY { (0.0, 1.0) } else { (limit / largest, largest / limit) }
}

/// A block of keys: panels of `panel_width` keys (two vectors of them for bytes), each (dk, width) dwords.
pub struct Keys<'a> {
    pub unit: KeyUnit,
    dk: usize,
    d: usize,
    /// (BLOCK / width, dk, width)
    pub panels: &'a mut [f32],
    /// What a product is worth: (BLOCK), or (d / 32, BLOCK) for bytes.
    pub scales: &'a mut [f32],
    /// The scales of quantized keys, (d / 32, BLOCK); and as fractions of the key's largest.
    block_scales: &'a mut [f32],
    fractions: &'a mut [f32],
    /// L keys as rows of dwords
    rows: &'a mut [f32],
}

impl<'a> Keys<'a> {
    /// Floats that `new` takes.
    pub fn room<S: Simd>(unit: KeyUnit, d: usize) -> usize {
        let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
        Carve::room(&[BLOCK * dk, BLOCK * n_block, BLOCK * n_block, BLOCK * n_block, S::L * dk])
    }

    pub fn new<S: Simd>(unit: KeyUnit, d: usize, from: &mut Carve<'a>) -> Keys<'a> {
        let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
        Keys {
            unit,
            dk,
            d,
            panels: from.take(BLOCK * dk),
            scales: from.take(if unit == KeyUnit::I8 { BLOCK * n_block } else { BLOCK }),
            block_scales: from.take(BLOCK * n_block),
            fractions: from.take(BLOCK * n_block),
            rows: from.take(S::L * dk),
        }
    }

    /// Unpacks keys `j0..j0 + n`; the rest of the last panel becomes zero.
    ///
    /// # Safety
    /// The CPU has the features of `S`; the tile's key bytes hold those keys, which `Tile::check` asserted.
    #[inline(always)]
    pub unsafe fn unpack<S: Simd>(&mut self, t: &Tile<'_>, j0: usize, n: usize) {
        let row_bytes = t.row_k();
        let bytes = &t.k[j0 * row_bytes..][..n * row_bytes];
        let width = if self.unit == KeyUnit::I8 { 2 * S::L } else { panel_width::<S>() };
        let padded = n.next_multiple_of(width);
        // SAFETY: `bytes` holds `n` rows; all other extents are this struct's, made for BLOCK keys.
        unsafe {
            if matches!(t.type_k, GgmlType::Q8_0 | GgmlType::Q4_0) {
                let to = if self.unit == KeyUnit::I8 { &mut *self.scales } else { &mut *self.block_scales };
                gather_scales::<S>(bytes, row_bytes, n, padded, to);
                if self.unit == KeyUnit::I16 {
                    self.key_fractions::<S>(t.type_k, padded);
                }
            }
            for j in (0..padded).step_by(S::L) {
                for i in 0..S::L {
                    let row = self.rows[i * self.dk..].as_mut_ptr().cast::<i32>();
                    if j + i >= n {
                        self.rows[i * self.dk..][..self.dk].fill(0.0);
                        if self.unit != KeyUnit::I8 {
                            self.scales[j + i] = 0.0;
                        }
                        continue;
                    }
                    let src = &bytes[(j + i) * row_bytes..][..row_bytes];
                    match self.unit {
                        KeyUnit::F32 => copy_floats::<S>(src, row, self.d),
                        KeyUnit::I8 => byte_row::<S>(t.type_k, src, row),
                        KeyUnit::I16 if matches!(t.type_k, GgmlType::Q8_0 | GgmlType::Q4_0) => {
                            let fractions = self.fractions[j + i..].as_ptr().cast::<i32>();
                            quantized_row::<S>(t.type_k, src, fractions, row, self.d);
                        }
                        KeyUnit::I16 => self.scales[j + i] = float_row::<S>(t.type_k, src, row, self.d),
                    }
                }
                let panel = self.panels.as_mut_ptr().cast::<i32>().add(j / width * width * self.dk + j % width);
                for c in (0..self.dk).step_by(S::L) {
                    S::transpose(self.rows.as_ptr().cast::<i32>().add(c), self.dk, panel.add(c * width), width);
                }
            }
        }
    }

    /// Block scales as fractions of the largest of their key, twice 16 bits each, and the scale of each key.
    ///
    /// # Safety
    /// The CPU has the features of `S`; `n` is a whole number of vectors up to BLOCK.
    #[inline(always)]
    unsafe fn key_fractions<S: Simd>(&mut self, ty: GgmlType, n: usize) {
        let n_block = self.block_scales.len() / BLOCK;
        let (from, to) = (self.block_scales.as_ptr(), self.fractions.as_mut_ptr().cast::<i32>());
        // SAFETY: rows of BLOCK scales.
        unsafe {
            for j in (0..n).step_by(S::L) {
                let mut top = S::splat(TINY);
                for b in 0..n_block {
                    top = S::max(top, S::abs(S::load(from.add(b * BLOCK + j))));
                }
                let inverse = S::div(S::splat(ONE), top);
                for b in 0..n_block {
                    let m = S::to_i(S::mul(S::load(from.add(b * BLOCK + j)), inverse));
                    S::store_i(to.add(b * BLOCK + j), S::pair(m, m));
                }
                S::store(self.scales.as_mut_ptr().add(j), S::mul(top, S::splat(unit_of(ty))));
            }
        }
    }
}

/// What 1 in fixed point is worth, per unit of the largest scale.
fn unit_of(ty: GgmlType) -> f32 {
    let shift = if ty == GgmlType::Q4_0 { SHIFT_Q4 } else { SHIFT };
    32768.0 / ONE / (1u32 << shift) as f32
}

/// A block of values: (BLOCK, dv) floats, or (BLOCK / 2, dv) pairs of 16-bit integers: keys i and i + L of each 2L.
pub struct Values<'a> {
    pub unit: ValueUnit,
    dv: usize,
    d: usize,
    pub panel: &'a mut [f32],
    /// What 1 is worth in each column, (dv).
    pub scales: &'a mut [f32],
    /// (d / 32, BLOCK)
    block_scales: &'a mut [f32],
}

impl<'a> Values<'a> {
    /// Floats that `new` takes.
    pub fn room(dv: usize, d: usize) -> usize {
        Carve::room(&[BLOCK * dv, dv, BLOCK * d.div_ceil(32)])
    }

    pub fn new(unit: ValueUnit, dv: usize, d: usize, from: &mut Carve<'a>) -> Values<'a> {
        let panel = from.take(BLOCK * dv);
        Values { unit, dv, d, panel, scales: from.take(dv), block_scales: from.take(BLOCK * d.div_ceil(32)) }
    }

    /// Unpacks values `j0..j0 + n`; rows up to the next whole pair of vectors, and columns up to dv, become zero.
    ///
    /// # Safety
    /// As [`Keys::unpack`].
    #[inline(always)]
    pub unsafe fn unpack<S: Simd>(&mut self, t: &Tile<'_>, j0: usize, n: usize) {
        let row_bytes = t.row_v();
        let bytes = &t.v[j0 * row_bytes..][..n * row_bytes];
        let padded = n.next_multiple_of(2 * S::L);
        // SAFETY: `bytes` holds `n` rows; all other extents are this struct's, made for BLOCK keys.
        unsafe {
            match (self.unit, t.type_v) {
                (ValueUnit::F32, _) => {
                    for j in 0..padded {
                        let row = self.panel[j * self.dv..][..self.dv].as_mut_ptr().cast();
                        match bytes.get(j * row_bytes..(j + 1) * row_bytes) {
                            Some(src) => copy_floats::<S>(src, row, self.d),
                            None => self.panel[j * self.dv..][..self.dv].fill(0.0),
                        }
                        self.panel[j * self.dv..][self.d..self.dv].fill(0.0);
                    }
                }
                (ValueUnit::I16, GgmlType::Q8_0 | GgmlType::Q4_0) => {
                    gather_scales::<S>(bytes, row_bytes, n, padded, self.block_scales);
                    self.quantized::<S>(t.type_v, bytes, row_bytes, n);
                }
                (ValueUnit::I16, ty) => {
                    for c in (0..self.dv).step_by(S::L) {
                        self.float_column::<S>(ty, bytes, row_bytes, n, c);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As `unpack`.
    #[inline(always)]
    unsafe fn quantized<S: Simd>(&mut self, ty: GgmlType, bytes: &[u8], row_bytes: usize, n: usize) {
        let padded = n.next_multiple_of(2 * S::L);
        let block_bytes = ty.block_bytes();
        for block in 0..self.d / 32 {
            // SAFETY: rows of BLOCK scales, of which `gather_scales` filled `padded`; rows of bytes below `n`; columns of
            // the panel below dv.
            unsafe {
                let scales = self.block_scales.as_mut_ptr().add(block * BLOCK);
                let mut top = S::splat(TINY);
                for j in (0..padded).step_by(S::L) {
                    top = S::max(top, S::abs(S::load(scales.add(j))));
                }
                let top = S::max_of(top);
                self.scales[block * 32..][..32].fill(top * unit_of(ty));
                let inverse = S::splat(ONE / top);
                for g in (0..padded).step_by(2 * S::L) {
                    let low = S::to_i(S::mul(S::load(scales.add(g)), inverse));
                    let high = S::to_i(S::mul(S::load(scales.add(g + S::L)), inverse));
                    let mut fractions = [0i32; 16];
                    S::store_i(fractions.as_mut_ptr(), S::pair(low, high));
                    for i in 0..S::L {
                        let to = self.panel.as_mut_ptr().cast::<i32>().add((g / 2 + i) * self.dv + block * 32);
                        // Beyond the last row the fraction is zero, whatever the elements.
                        let (a, b) = ((g + i).min(n - 1), (g + i + S::L).min(n - 1));
                        let a = bytes.as_ptr().add(a * row_bytes + block * block_bytes);
                        let b = bytes.as_ptr().add(b * row_bytes + block * block_bytes);
                        let fraction = S::splat_i(fractions[i]);
                        for e in (0..32).step_by(S::L) {
                            let x = S::pair(elements::<S>(ty, a, e), elements::<S>(ty, b, e));
                            S::store_i(to.add(e), S::mul_fraction(shift::<S>(ty, x), fraction));
                        }
                    }
                }
            }
        }
        self.scales[self.d..].fill(0.0);
    }

    /// L columns of half-precision values.
    ///
    /// # Safety
    /// As `unpack`.
    #[inline(always)]
    unsafe fn float_column<S: Simd>(&mut self, ty: GgmlType, bytes: &[u8], row_bytes: usize, n: usize, c: usize) {
        // SAFETY: rows below `n`; `halves` does not read beyond the d elements of a row.
        unsafe {
            let mut top = S::splat(TINY);
            for j in 0..n {
                top = S::max(top, S::abs(halves::<S>(ty, &bytes[j * row_bytes..][..row_bytes], c)));
            }
            let limit = S::splat((V_LIMIT - 1) as f32);
            let inverse = S::div(limit, top);
            S::store(self.scales.as_mut_ptr().add(c), S::div(top, limit));
            for g in (0..n).step_by(2 * S::L) {
                for i in g..g + S::L {
                    let mut both = [S::zero_i(); 2];
                    for (x, j) in both.iter_mut().zip([i, i + S::L]) {
                        if j < n {
                            let row = &bytes[j * row_bytes..][..row_bytes];
                            *x = S::to_i(S::mul(halves::<S>(ty, row, c), inverse));
                        }
                    }
                    let to = self.panel.as_mut_ptr().cast::<i32>().add((i - g / 2) * self.dv + c);
                    S::store_i(to, S::pair(both[0], both[1]));
                }
            }
        }
    }
}

/// Copies `d` f32, then zeros up to whole vectors.
///
/// # Safety
/// The CPU has the features of `S`; `row` has room for `d` rounded up to whole vectors.
#[inline(always)]
unsafe fn copy_floats<S: Simd>(src: &[u8], row: *mut i32, d: usize) {
    assert!(src.len() == 4 * d);
    let whole = d / S::L * S::L;
    // SAFETY: `src` holds `d` floats; byte loads have no alignment.
    unsafe {
        for c in (0..whole).step_by(S::L) {
            S::store(row.add(c).cast(), S::load(src.as_ptr().add(4 * c).cast()));
        }
        for c in whole..d.next_multiple_of(S::L) {
            *row.add(c) = if c < d { src.as_ptr().add(4 * c).cast::<i32>().read_unaligned() } else { 0 };
        }
    }
}

/// `L` elements of a row of F16 or BF16 from element `c` on; zero beyond the row.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn halves<S: Simd>(ty: GgmlType, row: &[u8], c: usize) -> S::F {
    let mut rest = [0u8; 32];
    let from = if 2 * (c + S::L) <= row.len() {
        &row[2 * c..]
    } else {
        let src = &row[row.len().min(2 * c)..];
        rest[..src.len()].copy_from_slice(src);
        &rest
    };
    assert!(from.len() >= 2 * S::L);
    // SAFETY: checked just above.
    unsafe { if ty == GgmlType::F16 { S::load_f16(from.as_ptr()) } else { S::load_bf16(from.as_ptr()) } }
}

/// A row of F16 or BF16 as pairs of 16-bit integers; returns what 1 is worth.
///
/// # Safety
/// The CPU has the features of `S`; `row` has room for d / 2 dwords rounded up to whole vectors.
#[inline(always)]
unsafe fn float_row<S: Simd>(ty: GgmlType, src: &[u8], row: *mut i32, d: usize) -> f32 {
    // SAFETY: the caller's promise; `halves` checks its reads.
    unsafe {
        let mut top = S::splat(0.0);
        for c in (0..d).step_by(S::L) {
            top = S::max(top, S::abs(halves::<S>(ty, src, c)));
        }
        let (inverse, scale) = fit(S::max_of(top), (V_LIMIT - 1) as f32);
        let inverse = S::splat(inverse);
        for c in (0..d).step_by(2 * S::L) {
            let low = S::to_i(S::mul(halves::<S>(ty, src, c), inverse));
            let high = S::to_i(S::mul(halves::<S>(ty, src, c + S::L), inverse));
            S::store_i(row.add(c / 2), S::pair(low, high));
        }
        scale
    }
}

/// A row of Q8_0 or Q4_0 as pairs of 16-bit integers, given the fraction of each block (at distance BLOCK).
///
/// # Safety
/// As [`float_row`]; `fractions` has one entry per block.
#[inline(always)]
unsafe fn quantized_row<S: Simd>(ty: GgmlType, src: &[u8], fractions: *const i32, row: *mut i32, d: usize) {
    let block_bytes = ty.block_bytes();
    assert!(src.len() == d / 32 * block_bytes);
    // SAFETY: the caller's promise; `src` holds d / 32 blocks.
    unsafe {
        for block in 0..d / 32 {
            let fraction = S::splat_i(*fractions.add(block * BLOCK));
            let from = src.as_ptr().add(block * block_bytes);
            for e in (0..32).step_by(2 * S::L) {
                let x = S::pair(elements::<S>(ty, from, e), elements::<S>(ty, from, e + S::L));
                S::store_i(row.add((block * 32 + e) / 2), S::mul_fraction(shift::<S>(ty, x), fraction));
            }
        }
        for c in (d / 2..d.next_multiple_of(2 * S::L) / 2).step_by(S::L) {
            S::store_i(row.add(c), S::zero_i());
        }
    }
}

/// A row of Q8_0 or Q4_0 as bytes, 128 more than their codes.
///
/// # Safety
/// As [`float_row`], for d / 4 dwords.
#[inline(always)]
unsafe fn byte_row<S: Simd>(ty: GgmlType, src: &[u8], row: *mut i32) {
    let block_bytes = ty.block_bytes();
    // SAFETY: whole blocks of `src`; eight dwords a block.
    unsafe {
        for (b, block) in src.chunks_exact(block_bytes).enumerate() {
            let to = std::slice::from_raw_parts_mut(row.add(8 * b).cast::<u8>(), 32);
            match ty {
                GgmlType::Q8_0 => {
                    for (to, code) in to.iter_mut().zip(&block[2..34]) {
                        *to = code ^ 128;
                    }
                }
                _ => {
                    for i in 0..16 {
                        to[i] = (block[2 + i] & 15) + 120;
                        to[16 + i] = (block[2 + i] >> 4) + 120;
                    }
                }
            }
        }
    }
}

/// `L` codes of a block from element `e` on.
///
/// # Safety
/// The CPU has the features of `S`; `block` points at a whole block of `ty`, e + L is at most 32.
#[inline(always)]
unsafe fn elements<S: Simd>(ty: GgmlType, block: *const u8, e: usize) -> S::I {
    // SAFETY: the codes follow the two bytes of the scale; see the files of the formats.
    unsafe {
        match ty {
            GgmlType::Q8_0 => S::load_i8(block.add(2 + e)),
            _ if e < 16 => S::load_low(block.add(2 + e)),
            _ => S::load_high(block.add(2 + e - 16)),
        }
    }
}

/// Codes at the upper end of their range.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
unsafe fn shift<S: Simd>(ty: GgmlType, x: S::I) -> S::I {
    // SAFETY: registers only.
    unsafe { if ty == GgmlType::Q4_0 { S::shl16::<SHIFT_Q4>(x) } else { S::shl16::<SHIFT>(x) } }
}

/// The f16 scales of the blocks of `n` rows as f32, (blocks, BLOCK); zero from `n` to `padded`.
///
/// # Safety
/// The CPU has the features of `S`; `padded` is a whole number of vectors, at least `n` and at most BLOCK.
#[inline(always)]
unsafe fn gather_scales<S: Simd>(bytes: &[u8], row_bytes: usize, n: usize, padded: usize, to: &mut [f32]) {
    let n_block = to.len() / BLOCK;
    let block_bytes = row_bytes / n_block;
    assert!(bytes.len() == n * row_bytes && n <= padded && padded <= BLOCK);
    for block in 0..n_block {
        let mut halves = [0u16; BLOCK];
        for (half, row) in halves.iter_mut().zip(bytes.chunks_exact(row_bytes)) {
            *half = u16::from_le_bytes([row[block * block_bytes], row[block * block_bytes + 1]]);
        }
        // SAFETY: both arrays have BLOCK elements from here on.
        unsafe {
            for j in (0..padded).step_by(S::L) {
                let x = S::load_f16(halves.as_ptr().add(j).cast());
                S::store(to.as_mut_ptr().add(block * BLOCK + j), x);
            }
        }
    }
}
