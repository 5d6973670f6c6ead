//! Products in plain Rust: the definition that other instruction sets are compared with.

use super::Int8Ops;
use super::matmul::codes::Codes;
use super::matmul::lanes::Plain;
use super::matmul::{Chunk, Int8Isa, Layout, Number, RowChunk, Tile, Word, int8_ops};

pub(super) struct Scalar;

const ROWS: usize = 8;

impl Int8Isa for Scalar {
    const LAYOUT: Layout = Layout { rows: ROWS, tokens: 4, int8: Word::Pairs, codes: false };
    const CODES: bool = true;
    type Lanes = Plain;
    type Chunks = Chunk<Plain>;
    type Acc = f32;

    #[inline(always)]
    fn chunks(row: Chunk<Plain>, _: Chunk<Plain>) -> Chunk<Plain> {
        row
    }

    #[inline(always)]
    fn zero() -> f32 {
        0.0
    }

    #[inline(always)]
    fn dot<F: Codes>(acc: &mut f32, chunk: &Chunk<Plain>, x: &RowChunk) {
        let codes = chunk.codes.as_flattened().as_chunks::<16>().0;
        let (a, b) = (chunk.a.as_flattened(), chunk.b.as_flattened());
        for (k, (codes, q)) in codes.iter().zip(x.q.as_chunks::<16>().0).enumerate() {
            let dot: i32 = codes.iter().zip(q).map(|(code, q)| *code as i32 * *q as i32).sum();
            *acc += a[k] * x.d[k] * dot as f32 + b[k] * x.s[k];
        }
    }

    #[inline(always)]
    fn sum(acc: f32) -> [f32; 2] {
        [acc, 0.0]
    }

    #[inline(always)]
    fn tile(t: Tile<'_>, out: &mut [f32]) {
        let n_chunks = t.check(&Self::LAYOUT, out);
        if let Number::Codes { affine, .. } = t.panel.number {
            return codes_tile(t, n_chunks, affine, out);
        }
        let (steps, groups) = (Self::LAYOUT.steps(t.panel.number), t.panel.groups());
        let group_steps = steps / groups;
        for (it, out) in out.chunks_mut(t.ldo).take(t.width).enumerate() {
            if t.fresh {
                out[..ROWS].fill(0.0);
            }
            for g in 0..n_chunks * groups {
                let at = (g / groups * t.width + it) * steps + g % groups * group_steps;
                let (x, w) = (&t.x[at..][..group_steps], &t.w[g * group_steps * ROWS..][..group_steps * ROWS]);
                if t.panel.number == Number::F32 {
                    let mut sums = [0.0; ROWS];
                    for (x, w) in x.iter().zip(w.as_chunks::<ROWS>().0) {
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum += f32::from_bits(*w) * f32::from_bits(*x);
                        }
                    }
                    (0..ROWS).for_each(|r| out[r] += sums[r]);
                    continue;
                }
                let mut sums = [0i32; ROWS];
                for (x, w) in x.iter().zip(w.as_chunks::<ROWS>().0) {
                    let (x0, x1) = pair(*x);
                    for (sum, w) in sums.iter_mut().zip(w) {
                        let (w0, w1) = pair(*w);
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

/// The products of codes as they are, see [`Word::Codes`].
fn codes_tile(t: Tile<'_>, n_chunks: usize, affine: bool, out: &mut [f32]) {
    let (layout, groups) = (Scalar::LAYOUT, t.panel.groups());
    let (steps, group_steps) = (layout.steps(t.panel.number), t.panel.group / 4);
    let (w_words, x_words) = (layout.w_words(t.panel), layout.x_words(t.panel));
    for (it, out) in out.chunks_mut(t.ldo).take(t.width).enumerate() {
        if t.fresh {
            out[..ROWS].fill(0.0);
        }
        for c in 0..n_chunks {
            let (x, sums) = t.x[(c * t.width + it) * x_words..][..x_words].split_at(steps);
            for (r, out) in out[..ROWS].iter_mut().enumerate() {
                let w = |i: usize| t.w[(c * w_words + i) * ROWS + r];
                let (mut high, mut low) = (0i32, 0i32);
                for k in 0..groups {
                    let mut sum = 0;
                    for i in k * group_steps..(k + 1) * group_steps {
                        let (codes, x) = (w(i).to_le_bytes(), x[i].to_le_bytes());
                        sum += codes.iter().zip(x).map(|(code, x)| *code as i32 * x as i8 as i32).sum::<i32>();
                    }
                    high += sum * pair(w(steps + k)).0;
                }
                for (k, sums) in sums.iter().enumerate() {
                    let ((a, b), (x, y)) = (pair(w(steps + groups + k)), pair(*sums));
                    low += a * x + b * y;
                }
                let unit = |i: usize| t.w_scales[(2 * c + i) * ROWS + r];
                let sum =
                    if affine { unit(0) * high as f32 + unit(1) * low as f32 } else { unit(0) * (high + low) as f32 };
                *out += sum * t.x_scales[c * t.width + it];
            }
        }
    }
}

fn pair(word: u32) -> (i32, i32) {
    (word as i16 as i32, (word >> 16) as i16 as i32)
}

int8_ops!(Scalar);

/// They need nothing, so nothing must be proven.
pub(super) const PLAIN: Int8Ops = INT8.for_any_cpu();
