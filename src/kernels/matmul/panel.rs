//! Prefill: tiles of weight rows become panels of small integers, once for a whole batch.
//!
//! A panel has one f32 scale per row and group of 32 to 256 columns, so that products of whole groups add up as integers.
//! For Q8_0, with groups of 32, the panel holds the weights themselves. Other formats are rounded to the 255 steps of their
//! group: the error of that is far below their own, and `docs/performance.md` has it per format.

use super::codes::{CHUNK, Chunk, Codes, SUB};
use super::dot::{ROUND, inverse_of, quantize, unpack_chunk};
use super::ops::{Int8Isa, PackRows, QuantizeTile, Word};

/// The most rows that a tile of any instruction set has.
pub(super) const MAX_ROWS: usize = 32;

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
    let mut chunk = Chunk::ZERO;
    scales.fill(0.0);
    let words = words.chunks_exact_mut(steps * rows);
    for (c, (words, scales)) in p.chunks.zip(words.zip(scales.chunks_exact_mut(n_groups * rows))) {
        for (r, row) in p.rows.chunks_exact(p.row_bytes).enumerate() {
            unpack_chunk::<I, F>(row, c, &mut chunk);
            for (g, codes) in integers[r].chunks_exact_mut(F::GROUP).enumerate() {
                scales[g * rows + r] = requantize::<F>(&chunk, g, codes);
            }
        }
        I::interleave(&integers[..rows], words);
    }
}

/// Group `g` of a chunk as integers from 1 to 255, 128 too large, and the scale that they have in common.
#[inline(always)]
fn requantize<F: Codes>(chunk: &Chunk, g: usize, out: &mut [u8]) -> f32 {
    let first = g * F::GROUP / SUB;
    if F::MAX_CODE == u8::MAX && F::GROUP == 32 {
        out.copy_from_slice(&chunk.codes[first * SUB..][..F::GROUP]);
        return chunk.a[first];
    }
    // The range is that of the possible codes, which a block nearly always uses up.
    // Magnitudes are compared as integers, so that what is not finite comes out on top and shows in the scale.
    let mut top = 0;
    for k in first..first + F::GROUP / SUB {
        let (low, high) = (chunk.b[k], chunk.a[k] * F::MAX_CODE as f32 + chunk.b[k]);
        top = top.max(low.to_bits() & 0x7fff_ffff).max(high.to_bits() & 0x7fff_ffff);
    }
    let top = f32::from_bits(top);
    let inverse = inverse_of(top);
    for (k, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
        let (a, b) = (chunk.a[first + k] * inverse, chunk.b[first + k] * inverse);
        let codes: &[u8; SUB] = chunk.codes[(first + k) * SUB..][..SUB].try_into().expect("16 codes");
        for i in 0..SUB {
            out[i] = (a * codes[i] as f32 + b + (ROUND + ZERO as f32)).to_bits() as u8;
        }
    }
    top / 127.0
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
    assert!(x.len() == n * n_cols && n <= width && words.len() == n_chunks * steps * width);
    assert!(scales.len() == n_groups * width && sums.len() == scales.len());
    let excess = if I::LAYOUT.word == Word::Bytes { -(ZERO as i32) } else { 0 };
    for t in 0..width {
        for c in 0..n_chunks {
            let mut padded = [0.0; CHUNK];
            if t < n {
                let row = &x[t * n_cols..][..n_cols];
                let rest = &row[c * CHUNK..std::cmp::min(n_cols, (c + 1) * CHUNK)];
                padded[..rest.len()].copy_from_slice(rest);
            }
            let mut integers = [0; CHUNK];
            let groups = padded.as_chunks::<GROUP>().0.iter().zip(integers.as_chunks_mut::<GROUP>().0);
            for (g, (x, q)) in groups.enumerate() {
                let at = (c * (CHUNK / GROUP) + g) * width + t;
                scales[at] = quantize(x, q);
                sums[at] = excess * q.iter().map(|q| *q as i32).sum::<i32>();
            }
            let words = &mut words[c * steps * width..][..steps * width];
            match I::LAYOUT.word {
                Word::Bytes => {
                    for (step, q) in integers.as_chunks::<4>().0.iter().enumerate() {
                        words[step * width + t] = u32::from_le_bytes(q.map(|q| q as u8));
                    }
                }
                Word::Pairs => {
                    for (step, q) in integers.as_chunks::<2>().0.iter().enumerate() {
                        words[step * width + t] = q[0] as i16 as u16 as u32 | (q[1] as i16 as u16 as u32) << 16;
                    }
                }
            }
        }
    }
}
