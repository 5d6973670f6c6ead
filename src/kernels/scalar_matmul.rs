//! Integer products in plain Rust: the definition that other instruction sets are compared with.

use super::matmul::lanes::Plain;
use super::matmul::{CHUNK, Chunk, Int8Isa, Layout, RowChunk, Tile, Word, int8_ops};

pub struct Scalar;

const ROWS: usize = 8;

impl Int8Isa for Scalar {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 4, token_step: 1, word: Word::Pairs };
    type Lanes = Plain;
    type Acc = f32;

    #[inline(always)]
    fn zero() -> f32 {
        0.0
    }

    #[inline(always)]
    fn dot(acc: &mut f32, chunk: &Chunk<Plain>, x: &RowChunk, _centered: bool) {
        let codes = chunk.codes.as_flattened().as_chunks::<16>().0;
        let (a, b) = (chunk.a.as_flattened(), chunk.b.as_flattened());
        for (k, (codes, q)) in codes.iter().zip(x.q.as_chunks::<16>().0).enumerate() {
            let dot: i32 = codes.iter().zip(q).map(|(code, q)| *code as i32 * *q as i32).sum();
            *acc += a[k] * x.d[k] * dot as f32 + b[k] * x.s[k];
        }
    }

    #[inline(always)]
    fn sum(acc: f32) -> f32 {
        acc
    }

    #[inline(always)]
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]) {
        interleave_pairs(rows, words);
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_groups = t.check(&Self::LAYOUT, out);
        for g in 0..n_groups {
            for (it, out) in out.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                let mut sums = [0i32; ROWS];
                for step in g * t.group_steps..(g + 1) * t.group_steps {
                    let (x0, x1) = pair(t.x[step * t.width + it]);
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let (w0, w1) = pair(t.w[step * ROWS + r]);
                        *sum += w0 * x0 + w1 * x1;
                    }
                }
                for r in 0..ROWS {
                    out[r] += t.w_scales[g * ROWS + r] * t.x_scales[g * t.width + it] * sums[r] as f32;
                }
            }
        }
    }
}

/// Words of pairs from rows of bytes that are 128 too large.
#[inline(always)]
pub fn interleave_pairs(rows: &[[u8; CHUNK]], words: &mut [u32]) {
    for (step, words) in words.chunks_exact_mut(rows.len()).enumerate() {
        for (word, row) in words.iter_mut().zip(rows) {
            let [w0, w1] = [row[2 * step], row[2 * step + 1]].map(|w| (w as i16 - 128) as u16 as u32);
            *word = w0 | w1 << 16;
        }
    }
}

fn pair(word: u32) -> (i32, i32) {
    (word as i16 as i32, (word >> 16) as i16 as i32)
}

int8_ops!(Scalar);
