//! Prefill: tiles of weight rows become panels of small integers, once for a whole batch.
//!
//! A panel has one f32 scale per row and group of 32 to 256 columns, so that products of whole groups add up as integers.
//! For Q8_0, with groups of 32, the panel holds the weights themselves. Other formats are rounded to the 255 steps of their
//! group: the error of that is far below their own; `tests/it/kernels_matmul.rs` bounds it per format.

use super::codes::{CHUNK, Chunk, Codes, SUB};
use super::dot::{STEP, unpack_chunk, whole_chunk};
use super::lanes::{Lanes, inverse_of};
use super::ops::{Int8Isa, PackRows, QuantizeTile, Word};

/// The most rows that a tile of any instruction set has.
const MAX_ROWS: usize = 32;
/// The most tokens that a tile has.
const MAX_TOKENS: usize = 16;

/// Zero as weights are stored: 128 too large.
const ZERO: u8 = 128;

#[inline(always)]
pub fn pack<I: Int8Isa, F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
    let rows = I::LAYOUT.rows;
    let (n, n_chunks, n_groups) = (p.rows.len() / p.row_bytes, p.chunks.len(), CHUNK / F::GROUP);
    let steps = I::LAYOUT.steps();
    assert!(rows <= MAX_ROWS && n <= rows && p.rows.len() == n * p.row_bytes);
    assert!(words.len() == n_chunks * steps * rows && scales.len() == n_chunks * n_groups * rows);
    let mut integers = [[ZERO; CHUNK]; MAX_ROWS];
    scales.fill(0.0);
    let words = words.chunks_exact_mut(steps * rows);
    for (c, (words, scales)) in p.chunks.zip(words.zip(scales.chunks_exact_mut(n_groups * rows))) {
        for (r, row) in p.rows.chunks_exact(p.row_bytes).enumerate() {
            let of_groups = requantize::<I::Lanes, F>(unpack_chunk::<I::Lanes, F>(row, c), &mut integers[r]);
            for (g, scale) in of_groups.into_iter().take(n_groups).enumerate() {
                scales[g * rows + r] = scale;
            }
        }
        I::interleave(&integers[..rows], words);
    }
}

/// A chunk as integers, 128 too large, and the scales of its groups.
#[inline(always)]
fn requantize<L: Lanes, F: Codes>(mut chunk: Chunk<L>, out: &mut [u8; CHUNK]) -> [f32; CHUNK / 32] {
    let mut scales = [[0.0; 8]; 2];
    let exact = F::MAX_CODE == u8::MAX && F::GROUP == 32;
    if exact {
        for (a, scales) in chunk.a.into_iter().zip(&mut scales) {
            L::put_floats(a, scales);
        }
    } else {
        // The range is that of the possible codes, which a block nearly always uses up.
        let tops = L::range(chunk.a, chunk.b, F::MAX_CODE as f32, F::GROUP / SUB);
        for half in 0..2 {
            let inverse = L::inverse(tops[half]);
            L::put_floats(L::mul(tops[half], STEP), &mut scales[half]);
            let [a, b] = L::fixed_point(chunk.a[half], chunk.b[half], inverse, F::CENTERED);
            for (k, codes) in chunk.codes[4 * half..][..4].iter_mut().enumerate() {
                let second = 2 * k + !F::WIDE as usize;
                *codes = L::requantize(*codes, [a[2 * k], a[second]], [b[2 * k], b[second]]);
            }
        }
    }
    for (codes, out) in chunk.codes.into_iter().zip(out.as_chunks_mut::<32>().0) {
        L::put_bytes(codes, out);
    }
    let mut of_groups = [0.0; CHUNK / 32];
    for (g, scale) in of_groups.iter_mut().take(CHUNK / F::GROUP).enumerate() {
        *scale = scales.as_flattened()[g * (F::GROUP / SUB)];
    }
    of_groups
}

#[inline(always)]
pub fn quantize_tile<I: Int8Isa>(q: QuantizeTile<'_>) {
    match q.group {
        32 => quantize_groups::<I, 32>(q),
        64 => quantize_groups::<I, 64>(q),
        128 => quantize_groups::<I, 128>(q),
        256 => quantize_groups::<I, 256>(q),
        n => panic!("groups of `{n}` columns"),
    }
}

#[inline(always)]
fn quantize_groups<I: Int8Isa, const GROUP: usize>(q: QuantizeTile<'_>) {
    let QuantizeTile { x, n_cols, width, words, scales, sums, .. } = q;
    let (n, n_chunks, steps) = (x.len() / n_cols, n_cols.div_ceil(CHUNK), I::LAYOUT.steps());
    let n_groups = n_chunks * (CHUNK / GROUP);
    assert!(x.len() == n * n_cols && n <= width && width <= MAX_TOKENS && words.len() == n_chunks * steps * width);
    assert!(scales.len() == n_groups * width && sums.len() == scales.len());
    if n < width {
        scales.fill(0.0);
        sums.fill(0);
    }
    let excess = if I::LAYOUT.word == Word::Bytes { -(ZERO as i32) } else { 0 };
    let mut integers = [[0u8; CHUNK]; MAX_TOKENS];
    for c in 0..n_chunks {
        for (t, integers) in integers.iter_mut().enumerate().take(n) {
            let mut padded = [0.0; CHUNK];
            let x = &x[t * n_cols..][..n_cols][c * CHUNK..];
            let x = whole_chunk(&x[..std::cmp::min(x.len(), CHUNK)], &mut padded);
            let groups = x.as_chunks::<GROUP>().0.iter().zip(integers.as_chunks_mut::<GROUP>().0);
            for (g, (x, q)) in groups.enumerate() {
                let (x, q) = (x.as_chunks::<32>().0, q.as_chunks_mut::<32>().0);
                let top = f32::from_bits(I::Lanes::top(x));
                let inverse = inverse_of(top);
                for (x, q) in x.iter().zip(q.iter_mut()) {
                    I::Lanes::put_bytes(I::Lanes::quantize(x, inverse), q);
                }
                let at = (c * (CHUNK / GROUP) + g) * width + t;
                scales[at] = top * STEP;
                sums[at] = excess * I::Lanes::total(q);
            }
        }
        I::interleave_tokens(&integers[..width], &mut words[c * steps * width..][..steps * width]);
    }
}

/// Words (steps, rows) of rows of signed bytes.
#[inline(always)]
pub fn interleave_plain(word: Word, rows: &[[u8; CHUNK]], words: &mut [u32]) {
    let width = rows.len();
    for (t, row) in rows.iter().enumerate() {
        match word {
            Word::Bytes | Word::Signed => {
                for (step, q) in row.as_chunks::<4>().0.iter().enumerate() {
                    words[step * width + t] = u32::from_le_bytes(*q);
                }
            }
            Word::Octets => {
                for (step, q) in row.as_chunks::<4>().0.iter().enumerate() {
                    words[(step / 2 * width + t) * 2 + step % 2] = u32::from_le_bytes(*q);
                }
            }
            Word::Pairs => {
                for (step, q) in row.as_chunks::<2>().0.iter().enumerate() {
                    let [first, second] = q.map(|q| q as i8 as i16 as u16 as u32);
                    words[step * width + t] = first | second << 16;
                }
            }
        }
    }
}
