//! Operands of a tile in the form that the register-blocked product reads: queries as rows of dwords, keys and values as
//! panels (`keys.rs`, `values.rs`). Unpacking a block costs about as much as ten rows of queries against it, once per tile.

use super::simd::Simd;
use crate::ggml_type::GgmlType;
use crate::tensor::block::{self, dequantize_blocks, dequantize_row};

/// Keys per block.
pub(super) const BLOCK: usize = 128;
/// Largest magnitude of a key or value in 16-bit fixed point.
pub(super) const V_LIMIT: i32 = 4096;
/// The fraction that stands for 1, as a 15-bit fraction.
pub(super) const ONE: f32 = 32767.0;
/// The fraction that brings the largest 16-bit integer to `V_LIMIT`.
pub(super) const LIMIT: f32 = V_LIMIT as f32;
/// Scales below this count as this: their inverses stay finite.
pub(super) const TINY: f32 = 1e-30;

/// What a dword of the key panels and query rows holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUnit {
    F32,
    /// Two 16-bit integers of keys that are stored as floats: elements i and i + L of each 2L.
    I16,
    /// Two 16-bit integers of keys that are stored as bytes or halves of them: elements 0 and 2, then 1 and 3 of each four.
    Codes,
    I8,
}

impl KeyUnit {
    /// How keys of `ty` are multiplied.
    pub(super) fn of<S: Simd>(ty: GgmlType, exact: bool) -> KeyUnit {
        match ty {
            GgmlType::F32 if exact => KeyUnit::F32,
            GgmlType::Q8_0 | GgmlType::Q4_0 if S::DOT_I8 => KeyUnit::I8,
            GgmlType::Q8_0 | GgmlType::Q4_0 => KeyUnit::Codes,
            _ => KeyUnit::I16,
        }
    }

    /// Whether it is 16-bit integers, with a scale per row.
    pub(super) fn is_pairs(self) -> bool {
        matches!(self, KeyUnit::I16 | KeyUnit::Codes)
    }

    /// Dwords per row of `d` elements: whole vectors.
    pub(super) fn row_dwords<S: Simd>(self, d: usize) -> usize {
        let per_dword = match self {
            KeyUnit::F32 => 1,
            KeyUnit::I16 | KeyUnit::Codes => 2,
            KeyUnit::I8 => 4,
        };
        d.next_multiple_of(per_dword * S::L) / per_dword
    }
}

/// What a dword of the value panel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueUnit {
    F32,
    I16,
}

impl ValueUnit {
    /// How values of `ty` are multiplied.
    pub(super) fn of(ty: GgmlType, exact: bool) -> ValueUnit {
        if ty == GgmlType::F32 && exact { ValueUnit::F32 } else { ValueUnit::I16 }
    }
}

/// Types that are unpacked straight from their bytes; every other block format is decoded to floats first.
const UNPACKED: [GgmlType; 5] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0];

/// Floats that a block of rows (BLOCK, d) of type `ty` takes as long as it is decoded.
pub(super) fn decoded_room(ty: GgmlType, d: usize) -> usize {
    if UNPACKED.contains(&ty) { 0 } else { BLOCK * d }
}

/// Decodes whole rows of any block format that a cache may hold. Inlines into its caller, to be compiled there with the
/// caller's instruction set.
#[inline(always)]
pub(super) fn decode(ty: GgmlType, bytes: &[u8], to: &mut [f32]) {
    match ty {
        GgmlType::Q4_1 => dequantize_blocks::<block::Q4_1>(bytes, to),
        GgmlType::Q5_0 => dequantize_blocks::<block::Q5_0>(bytes, to),
        GgmlType::Q5_1 => dequantize_blocks::<block::Q5_1>(bytes, to),
        GgmlType::IQ4_NL => dequantize_blocks::<block::IQ4_NL>(bytes, to),
        other => dequantize_row(other, bytes, to).expect("a cache type has a decoder"),
    }
}

/// Keys per panel.
pub(super) fn panel_width<S: Simd>() -> usize {
    if S::REGISTERS == 32 { 4 * S::L } else { 2 * S::L }
}

/// Rows of queries (rows, d) as dwords: f32; or pairs of 16-bit integers as `unit` says, with a scale per row; or bytes, with
/// a scale and -`EXCESS` times their sum per 32. Scales and sums lie in rows of d / 32.
#[inline(always)]
pub(super) fn queries<S: Simd>(
    unit: KeyUnit,
    from: &[f32],
    d: usize,
    q: &mut [f32],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    let (n_block, dk) = (d.div_ceil(32), unit.row_dwords::<S>(d));
    let rows = from.chunks_exact(d).zip(q.chunks_exact_mut(dk));
    let extras = scales.chunks_exact_mut(n_block).zip(sums.chunks_exact_mut(n_block));
    for ((row, q), (scales, sums)) in rows.zip(extras) {
        q.fill(0.0);
        match unit {
            KeyUnit::F32 => q[..d].copy_from_slice(row),
            KeyUnit::I16 | KeyUnit::Codes => {
                let limit = (i32::MAX / V_LIMIT / d.next_multiple_of(2 * S::L) as i32 - 1).min(32767) as f32;
                let (inverse, scale) = fit(largest(row), limit);
                scales[0] = scale;
                let q: &mut [[i16; 2]] = bytemuck::cast_slice_mut(q);
                let apart = if unit == KeyUnit::Codes { 2 } else { S::L };
                for (group, x) in q.chunks_exact_mut(apart).zip(row.chunks(2 * apart)) {
                    for (i, x) in x.iter().enumerate() {
                        group[i % apart][i / apart] = (x * inverse).round_ties_even() as i16;
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
                    sums[block] = f32::from_bits((-i32::from(S::EXCESS) * sum) as u32);
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
pub(super) fn fit(largest: f32, limit: f32) -> (f32, f32) {
    if largest < TINY { (0.0, 1.0) } else { (limit / largest, largest / limit) }
}

/// A float type.
///
/// # Safety
/// As [`Simd`].
pub(super) trait Float {
    const BYTES: usize;
    /// `L` elements at `p`.
    unsafe fn load<S: Simd>(p: *const u8) -> S::F;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl Float for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load(p.cast()) }
    }
}

impl Float for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p) }
    }
}

impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p) }
    }
}

/// The largest magnitudes in each of 2L columns of rows of a type of two bytes, as `[L, L]`; the order of such numbers is that of
/// their bits.
///
/// # Safety
/// The CPU has the features of `S`; each of `rows` has 2L elements.
#[inline(always)]
pub(super) unsafe fn tops_of_columns<S: Simd, T: Float>(rows: impl Iterator<Item = *const u8>) -> [S::F; 2] {
    assert!(T::BYTES == 2);
    let mut bits = [0i32; 16];
    // SAFETY: the caller's promise; `bits` holds a vector, the most lanes there are.
    unsafe {
        let mut top = S::zero_i();
        for row in rows {
            top = S::max16(top, row);
        }
        S::store_i(bits.as_mut_ptr(), top);
        let bits = bits.as_ptr().cast::<u8>();
        [T::load::<S>(bits), T::load::<S>(bits.add(2 * S::L))]
    }
}

/// `L` elements of a row of `d` from element `c` on, of which some are beyond the row and become zero.
///
/// # Safety
/// The CPU has the features of `S`; the row at `row` has `d` elements.
#[inline(always)]
pub(super) unsafe fn float_tail<S: Simd, T: Float>(row: *const u8, c: usize, d: usize) -> S::F {
    let mut rest = [0u8; 64];
    let n = d.saturating_sub(c).min(S::L);
    // SAFETY: the caller's promise; `rest` holds 16 elements, the most lanes there are.
    unsafe {
        std::ptr::copy_nonoverlapping(row.wrapping_add(T::BYTES * c), rest.as_mut_ptr(), T::BYTES * n);
        T::load::<S>(rest.as_ptr())
    }
}

/// A quantized type with a scale, f16, before the codes of 32 elements.
///
/// # Safety
/// As [`Simd`]; pointers to a block have the whole block behind them.
pub(super) trait Codes {
    /// Bytes per block.
    const BYTES: usize;
    /// What 1 in fixed point is worth, per unit of the largest scale, after `wide` and a fraction of `ONE`.
    const UNIT: f32;
    /// The same after `large` and a fraction of `LIMIT`.
    const LARGE: f32;
    /// Codes as 16-bit integers, brought to `V_LIMIT`: of each four the first and the third, and the others.
    unsafe fn wide<S: Simd>(codes: S::I) -> [S::I; 2];
    /// 32 codes as bytes, as large as they can be.
    unsafe fn large<S: Simd>(block: *const u8) -> S::B;
    /// Of blocks that lie `stride` bytes apart in `L` rows, four codes of each as bytes, `excess` more than they are: a vector
    /// per four.
    unsafe fn columns<S: Simd>(block: *const u8, stride: usize, excess: u8) -> [S::I; 8];
}

pub(super) struct Q8;
pub(super) struct Q4;

// SAFETY (of both implementations): the codes follow the two bytes of the scale, 32 bytes or 16; see `tensor::block`.
impl Codes for Q8 {
    const BYTES: usize = 34;
    const UNIT: f32 = 32768.0 / ONE / 32.0;
    const LARGE: f32 = 128.0 / LIMIT;
    #[inline(always)]
    unsafe fn wide<S: Simd>(codes: S::I) -> [S::I; 2] {
        // SAFETY: the caller's promises.
        unsafe { S::wide::<5>(codes) }
    }
    #[inline(always)]
    unsafe fn large<S: Simd>(block: *const u8) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { S::load_bytes(block.add(2)) }
    }
    #[inline(always)]
    unsafe fn columns<S: Simd>(block: *const u8, stride: usize, excess: u8) -> [S::I; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (S::columns(block.add(2), stride), S::columns(block.add(18), stride));
            let mut codes = [a, b, c, d, e, f, g, h];
            for x in &mut codes {
                *x = S::add8(*x, excess);
            }
            codes
        }
    }
}

impl Codes for Q4 {
    const BYTES: usize = 18;
    const UNIT: f32 = 32768.0 / ONE / 512.0;
    const LARGE: f32 = 8.0 / LIMIT;
    #[inline(always)]
    unsafe fn wide<S: Simd>(codes: S::I) -> [S::I; 2] {
        // SAFETY: the caller's promises.
        unsafe { S::wide::<9>(codes) }
    }
    #[inline(always)]
    unsafe fn large<S: Simd>(block: *const u8) -> S::B {
        // SAFETY: the caller's promises.
        unsafe { S::load_halves(block.add(2)) }
    }
    #[inline(always)]
    unsafe fn columns<S: Simd>(block: *const u8, stride: usize, excess: u8) -> [S::I; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let mut codes = [S::zero_i(); 8];
            for (i, pairs) in S::columns(block.add(2), stride).into_iter().enumerate() {
                let [low, high] = S::nibbles(pairs);
                // A code is 8 less than its nibble.
                let less = excess.wrapping_sub(8);
                (codes[i], codes[4 + i]) = (S::add8(low, less), S::add8(high, less));
            }
            codes
        }
    }
}

/// The f16 scales of the blocks of `n` rows as f32, (blocks, BLOCK); zero from `n` to `padded`.
///
/// # Safety
/// The CPU has the features of `S`; `padded` is a whole number of vectors, at least `n` and at most BLOCK; there are `n`
/// rows of `n_block` blocks at `rows`.
#[inline(always)]
pub(super) unsafe fn gather_scales<S: Simd, C: Codes>(
    rows: *const u8,
    (n, padded, n_block): (usize, usize, usize),
    to: &mut [f32],
) {
    assert!(n <= padded && padded <= BLOCK && to.len() >= n_block * BLOCK);
    let row_bytes = n_block * C::BYTES;
    for j in (0..padded).step_by(S::L) {
        for block in 0..n_block {
            let to = to[block * BLOCK + j..][..S::L].as_mut_ptr();
            // SAFETY: the caller's promise, and the lengths checked above. Codes lie behind a scale.
            unsafe {
                let first = rows.wrapping_add(j * row_bytes + block * C::BYTES);
                if j + S::L <= n {
                    S::store(to, S::load_f16_apart(first, row_bytes));
                } else {
                    let mut halves = [[0u8; 2]; 16];
                    for (i, half) in halves.iter_mut().enumerate().take(n.saturating_sub(j)) {
                        *half = first.add(i * row_bytes).cast::<[u8; 2]>().read();
                    }
                    S::store(to, S::load_f16(halves.as_ptr().cast()));
                }
            }
        }
    }
}

/// Copies `d` f32, then zeros up to whole vectors.
///
/// # Safety
/// The CPU has the features of `S`; `src` holds `d` floats, `row` has room for `d` rounded up to whole vectors.
#[inline(always)]
pub(super) unsafe fn copy_floats<S: Simd>(src: *const u8, row: *mut i32, d: usize) {
    let whole = d / S::L * S::L;
    // SAFETY: the caller's promise; loads need no alignment.
    unsafe {
        for c in (0..whole).step_by(S::L) {
            S::store(row.add(c).cast(), S::load(src.add(4 * c).cast()));
        }
        for c in whole..d.next_multiple_of(S::L) {
            *row.add(c) = if c < d { src.add(4 * c).cast::<i32>().read_unaligned() } else { 0 };
        }
    }
}
