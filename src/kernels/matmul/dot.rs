//! Decode: a few tokens against weights as they lie in memory, one pass over them.

use super::codes::{CHUNK, Chunk, Codes, SUB};
use super::MAX_DOT_TOKENS;
use super::ops::Int8Isa;

/// 256 consecutive activations of a row, quantized per 32: activation `i` is about `d[i / 16] * q[i]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct RowChunk {
    pub q: [i8; CHUNK],
    /// One scale per 16 columns, of which two and two are equal.
    pub d: [f32; CHUNK / SUB],
    /// `d` times the sum of its 16 integers.
    pub s: [f32; CHUNK / SUB],
}

impl RowChunk {
    pub const ZERO: RowChunk = RowChunk { q: [0; CHUNK], d: [0.0; CHUNK / SUB], s: [0.0; CHUNK / SUB] };
}

/// The operands of a `dot_rows`.
#[derive(Clone, Copy)]
pub struct DotRows<'a> {
    /// Whole rows of `row_bytes` bytes each.
    pub rows: &'a [u8],
    pub row_bytes: usize,
    pub n_cols: usize,
    /// (n_tokens, ceil(n_cols / 256)), one to eight tokens.
    pub x: &'a [RowChunk],
}

/// Signed integers whose scale is their largest magnitude / 127; ties go to even. What is not finite makes the scale so.
#[inline(always)]
pub(super) fn quantize<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    // As integers, magnitudes order like numbers, infinity and NaN last.
    let mut top = 0;
    for x in x {
        top = std::cmp::max(top, x.to_bits() & 0x7fff_ffff);
    }
    let d = f32::from_bits(top) / 127.0;
    let inverse = inverse_of(f32::from_bits(top));
    for i in 0..N {
        q[i] = (x[i] * inverse + ROUND).to_bits() as i8;
    }
    d
}

/// 1.5 * 2^23: adding it rounds to the nearest even integer, which is then in the lowest bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// 127 / x, or 0 where that is not finite.
#[inline(always)]
pub(super) fn inverse_of(x: f32) -> f32 {
    let inverse = 127.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline(always)]
pub fn quantize_rows(x: &[f32], n_cols: usize, out: &mut [RowChunk]) {
    let per_row = n_cols.div_ceil(CHUNK);
    assert!(n_cols > 0 && x.len().is_multiple_of(n_cols) && out.len() == x.len() / n_cols * per_row);
    for (x, out) in x.chunks_exact(n_cols).zip(out.chunks_exact_mut(per_row)) {
        for (x, out) in x.chunks(CHUNK).zip(out) {
            let mut padded = [0.0; CHUNK];
            padded[..x.len()].copy_from_slice(x);
            for (k, x) in padded.as_chunks::<32>().0.iter().enumerate() {
                let q: &mut [i8; 32] = (&mut out.q[k * 32..][..32]).try_into().expect("32 columns");
                let d = quantize(x, q);
                for half in 0..2 {
                    let sum: i32 = q[half * SUB..][..SUB].iter().map(|q| *q as i32).sum();
                    out.d[2 * k + half] = d;
                    out.s[2 * k + half] = d * sum as f32;
                }
            }
        }
    }
}

#[inline(always)]
pub fn dot_rows<I: Int8Isa, F: Codes>(d: DotRows<'_>, out: &mut [f32]) {
    let n_chunks = d.n_cols.div_ceil(CHUNK);
    let (n_tokens, n_rows) = (d.x.len() / n_chunks, d.rows.len() / d.row_bytes);
    assert!(d.x.len() == n_tokens * n_chunks && d.rows.len() == n_rows * d.row_bytes);
    assert!(out.len() == n_tokens * n_rows);
    // One token, the common case, has its sums in registers.
    if n_tokens == 1 { dot_tokens::<I, F, 1>(d, 1, out) } else { dot_tokens::<I, F, MAX_DOT_TOKENS>(d, n_tokens, out) }
}

#[inline(always)]
fn dot_tokens<I: Int8Isa, F: Codes, const N: usize>(d: DotRows<'_>, n_tokens: usize, out: &mut [f32]) {
    let n_chunks = d.n_cols.div_ceil(CHUNK);
    let n_rows = d.rows.len() / d.row_bytes;
    let mut chunk = Chunk::ZERO;
    for (r, row) in d.rows.chunks_exact(d.row_bytes).enumerate() {
        let mut acc = [I::zero(); N];
        let acc = &mut acc[..n_tokens];
        for c in 0..n_chunks {
            unpack_chunk::<I, F>(row, c, &mut chunk);
            for (acc, x) in acc.iter_mut().zip(d.x.chunks_exact(n_chunks)) {
                I::dot(acc, &chunk, &x[c], F::CENTERED);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            out[t * n_rows + r] = I::sum(*acc);
        }
    }
}

/// Chunk `c` of a row in the common form; where the row ends inside it, the rest are zeros.
#[inline(always)]
pub(super) fn unpack_chunk<I: Int8Isa, F: Codes>(row: &[u8], c: usize, chunk: &mut Chunk) {
    const MAX_BYTES: usize = 8 * 34;
    let n_bytes = F::BYTES * (CHUNK / F::LEN);
    let rest = &row[c * n_bytes..];
    if let Some(src) = rest.get(..n_bytes) {
        F::unpack(src, chunk);
    } else {
        let mut padded = [0; MAX_BYTES];
        padded[..rest.len()].copy_from_slice(rest);
        F::unpack(&padded[..n_bytes], chunk);
    }
    if let Some(table) = F::TABLE {
        I::lookup(&mut chunk.codes, table);
    }
}
