//! The definition of a tile: decode, multiply, exponentiate, add, one key after the other.

use super::{AttentionOps, AttentionTile, Partial};
use crate::ggml_type::GgmlType;
use crate::kernels::{kv_write, scratch};
use crate::tensor::{dequantize_row, hadamard};

/// The operations for any machine.
pub(crate) const OPS: AttentionOps =
    AttentionOps { features: "", tile, rotate: kv_write::rotate, hadamard, encode: kv_write::encode };

/// Keys per step.
const BLOCK: usize = 32;

fn tile(t: &AttentionTile<'_>, out: Partial<'_>) {
    t.check(&out);
    let (d, rows) = (t.d, out.max.len());
    out.sums.fill(0.0);
    out.sum.fill(0.0);
    out.max.fill(f32::NEG_INFINITY);
    scratch::with(2 * BLOCK * d + BLOCK, |buffer| {
        let (keys, rest) = buffer.split_at_mut(BLOCK * d);
        let (values, scores) = rest.split_at_mut(BLOCK * d);
        for j0 in (0..t.n_keys).step_by(BLOCK) {
            let n = BLOCK.min(t.n_keys - j0);
            decode(t.type_k, &t.k[j0 * t.row_k()..][..n * t.row_k()], &mut keys[..n * d]);
            decode(t.type_v, &t.v[j0 * t.row_v()..][..n * t.row_v()], &mut values[..n * d]);
            for r in 0..rows {
                let seen = t.seen(r).saturating_sub(j0).min(n);
                let q = &t.q[r * d..][..d];
                for (score, key) in scores[..seen].iter_mut().zip(keys.chunks_exact(d)) {
                    *score = dot(q, key);
                }
                let max = scores[..seen].iter().fold(out.max[r], |max, s| max.max(*s));
                let sums = &mut out.sums[r * d..][..d];
                if max > out.max[r] {
                    let factor = (out.max[r] - max).exp2();
                    out.max[r] = max;
                    out.sum[r] *= factor;
                    sums.iter_mut().for_each(|s| *s *= factor);
                }
                for (score, value) in scores[..seen].iter().zip(values.chunks_exact(d)) {
                    let p = (score - max).exp2();
                    out.sum[r] += p;
                    sums.iter_mut().zip(value).for_each(|(s, v)| *s += p * v);
                }
            }
        }
    });
}

fn decode(ty: GgmlType, from: &[u8], to: &mut [f32]) {
    dequantize_row(ty, from, to).expect("a cache type has a decoder");
}

/// In eight partial sums, which a compiler can keep in vectors.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (x, y) in x.iter().zip(y) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum::<f32>()
}
