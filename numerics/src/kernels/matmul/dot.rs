//! Decode: a few tokens against weights as they lie in memory, one pass over them. A chunk is unpacked once and multiplied with
//! all tokens; each gets what it gets alone, since nothing that is added up depends on the others.

use super::MAX_DOT_TOKENS;
use super::codes::{CHUNK, Chunk, Codes, SUB};
use super::lanes::{Lanes, inverse_of};
use super::ops::Int8Isa;
use crate::kernels::prefetch;

/// How far ahead weights are asked for, in bytes: unpacking keeps the CPU from running ahead by itself.
const AHEAD: usize = 4096;

/// 256 consecutive activations of a row, quantized per 32: activation `i` is about `d[i / 16] * q[i]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct RowChunk {
    /// The integers, one per column.
    pub q: [i8; CHUNK],
    /// One scale per 16 columns, of which two and two are equal.
    pub d: [f32; CHUNK / SUB],
    /// `d` times the sum of its 16 integers.
    pub s: [f32; CHUNK / SUB],
}

impl RowChunk {
    /// Activations that are all 0.
    pub const ZERO: RowChunk = RowChunk { q: [0; CHUNK], d: [0.0; CHUNK / SUB], s: [0.0; CHUNK / SUB] };
}

/// The operands of a `dot_rows`.
#[derive(Clone, Copy)]
pub struct DotRows<'a> {
    /// Whole rows of `row_bytes` bytes each.
    pub rows: &'a [u8],
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Elements of a row.
    pub n_cols: usize,
    /// (n_tokens, ceil(n_cols / 256)), one to eight tokens.
    pub x: &'a [RowChunk],
}

#[inline(always)]
pub(crate) fn quantize_rows<I: Int8Isa>(x: &[f32], n_cols: usize, out: &mut [RowChunk]) {
    let per_row = n_cols.div_ceil(CHUNK);
    assert!(n_cols > 0 && x.len().is_multiple_of(n_cols) && out.len() == x.len() / n_cols * per_row);
    for (x, out) in x.chunks_exact(n_cols).zip(out.chunks_exact_mut(per_row)) {
        for (x, out) in x.chunks(CHUNK).zip(out) {
            let mut padded = [0.0; CHUNK];
            let x = whole_chunk(x, &mut padded);
            for (k, (x, q)) in x.as_chunks::<32>().0.iter().zip(out.q.as_chunks_mut::<32>().0).enumerate() {
                let top = f32::from_bits(I::Lanes::top(std::slice::from_ref(x)));
                let integers = I::Lanes::quantize(x, inverse_of(top));
                I::Lanes::put_bytes(integers, bytemuck::cast_mut(q));
                let d = top * STEP;
                for (half, sum) in I::Lanes::sums(integers).into_iter().enumerate() {
                    out.d[2 * k + half] = d;
                    out.s[2 * k + half] = d * sum as f32;
                }
            }
        }
    }
}

/// Scales are the largest magnitude, which becomes 127, times this; ties of the integers go to even. What is not finite
/// makes the scale so.
pub(super) const STEP: f32 = 1.0 / 127.0;

/// `x`, or where it is shorter than a chunk, `x` with the zeros of `padded` behind it.
#[inline(always)]
pub(super) fn whole_chunk<'a, T: Copy, const N: usize>(x: &'a [T], padded: &'a mut [T; N]) -> &'a [T; N] {
    match x.try_into() {
        Ok(x) => x,
        Err(_) => {
            padded[..x.len()].copy_from_slice(x);
            padded
        }
    }
}

#[inline(always)]
pub(crate) fn dot_rows<I: Int8Isa, F: Codes>(d: DotRows<'_>, out: &mut [f32]) {
    let n_chunks = d.n_cols.div_ceil(CHUNK);
    let (n_tokens, n_rows) = (d.x.len() / n_chunks, d.rows.len() / d.row_bytes);
    assert!(d.x.len() == n_tokens * n_chunks && d.rows.len() == n_rows * d.row_bytes);
    assert!(n_tokens <= MAX_DOT_TOKENS && out.len() == n_tokens * n_rows);
    // One token, the common case, has its sums in registers.
    if n_tokens == 1 { dot_tokens::<I, F, 1>(d, 1, out) } else { dot_tokens::<I, F, MAX_DOT_TOKENS>(d, n_tokens, out) }
}

#[inline(always)]
fn dot_tokens<I: Int8Isa, F: Codes, const N: usize>(d: DotRows<'_>, n_tokens: usize, out: &mut [f32]) {
    let n_chunks = d.n_cols.div_ceil(CHUNK);
    let (n_rows, n_bytes) = (d.rows.len() / d.row_bytes, F::BYTES * (CHUNK / F::LEN));
    // Chunks of several rows take turns, memory is asked for as it lies: whole rows ahead.
    let ahead = AHEAD + (I::ROWS - 1) * d.row_bytes;
    for (first, rows) in d.rows.chunks(I::ROWS * d.row_bytes).enumerate().map(|(i, rows)| (i * I::ROWS, rows)) {
        // A last row that is alone stands for both.
        let last = &rows[rows.len() - d.row_bytes..];
        let mut acc = [I::zero(); N];
        let acc = &mut acc[..n_tokens];
        for c in 0..n_chunks {
            prefetch::read(rows.as_ptr().wrapping_add(c * I::ROWS * n_bytes + ahead), I::ROWS * n_bytes);
            let first = unpack_chunk::<I::Lanes, F>(&rows[..d.row_bytes], c);
            let second = if I::ROWS == 1 { first } else { unpack_chunk::<I::Lanes, F>(last, c) };
            let chunks = I::chunks(first, second);
            for (acc, x) in acc.iter_mut().zip(d.x.chunks_exact(n_chunks)) {
                I::dot::<F>(acc, &chunks, &x[c]);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            let sums = &mut out[t * n_rows + first..(t + 1) * n_rows];
            sums.iter_mut().zip(I::sum(*acc)).take(I::ROWS).for_each(|(to, sum)| *to = sum);
        }
    }
}

/// Chunk `c` of a row in the common form, with its real codes; where the row ends inside it, the rest are zeros.
#[inline(always)]
pub(super) fn unpack_chunk<L: Lanes, F: Codes>(row: &[u8], c: usize) -> Chunk<L> {
    const MAX_BYTES: usize = 8 * 34;
    let n_bytes = F::BYTES * (CHUNK / F::LEN);
    let rest = &row[c * n_bytes..];
    let mut padded;
    // Unpacked in one place, so that what it does and what is done with it meet in the optimizer.
    let src = match rest.get(..n_bytes) {
        Some(whole) => whole,
        None => {
            padded = [0; MAX_BYTES];
            padded[..rest.len()].copy_from_slice(rest);
            &padded[..n_bytes]
        }
    };
    let mut chunk = F::unpack(src);
    if let Some(table) = F::TABLE {
        for codes in &mut chunk.codes {
            *codes = L::lookup(*codes, table);
        }
    }
    chunk
}
