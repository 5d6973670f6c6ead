//! Up to 64 tokens of one head at once.
//!
//! With G the sums of the log-decays up to each token, token `i` writes u_i = beta_i (v_i - e^{G_i} Sᵀ k_i - sum over j < i of
//! e^{G_i - G_j} (k_i·k_j) u_j): a triangular system whose right side takes one product with S. Its solution gives all
//! outputs, o_i = e^{G_i} Sᵀ q_i + sum over j <= i of e^{G_i - G_j} (q_i·k_j) u_j, and the next matrix,
//! e^{G_n} S + sum of k_j ⊗ e^{G_n - G_j} u_j. Decays only ever go forward, so no power is above 1.

use super::{DELTA_ALIGN, DELTA_CHUNK, DeltaOps, DeltaProduct, Keep};
use crate::kernels::scratch::Carve;

/// Tokens of the triangular system that are solved one after the other before a product takes them to those behind.
const SOLVED: usize = 6;
/// An exponent of which the power is 0.
const NEVER: f32 = -200.0;

/// The sizes of a head, and what it is computed with.
pub(super) struct Chunk<'a> {
    pub ops: &'a DeltaOps,
    pub d_k: usize,
    pub d_v: usize,
}

/// Working memory.
pub(super) struct Work<'a> {
    /// (DELTA_CHUNK, d_k), zeros behind the last token
    k: &'a mut [f32],
    q: &'a mut [f32],
    /// (d_k, tokens)
    kt: &'a mut [f32],
    /// (DELTA_CHUNK, tokens): products of keys with keys before them, and of queries with keys up to their own
    kk: &'a mut [f32],
    qk: &'a mut [f32],
    /// (DELTA_CHUNK, d_v)
    u: &'a mut [f32],
    /// (DELTA_CHUNK) each
    exponents: &'a mut [f32],
    powers: &'a mut [f32],
}

/// What a head does with tokens: rows of q, k and v are `ld` floats apart.
pub(super) struct Head<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub ld: usize,
    /// (tokens)
    pub beta: &'a [f32],
    /// (tokens), log-decays, at most 0
    pub g: &'a [f32],
}

impl Chunk<'_> {
    fn lengths(&self) -> [usize; 8] {
        let (c, k, v) = (DELTA_CHUNK, self.d_k, self.d_v);
        [c * k, c * k, k * c, c * c, c * c, c * v, c, c]
    }

    /// Floats of working memory.
    pub(super) fn room(&self) -> usize {
        Carve::room(&self.lengths())
    }

    /// Takes it.
    pub(super) fn work<'w>(&self, from: &mut Carve<'w>) -> Work<'w> {
        let [k, q, kt, kk, qk, u, exponents, powers] = self.lengths().map(|n| from.take(n));
        Work { k, q, kt, kk, qk, u, exponents, powers }
    }

    /// out(tokens, d_v), and `s` (d_k, d_v) with the tokens in it.
    pub(super) fn run(&self, work: &mut Work<'_>, head: &Head<'_>, s: &mut [f32], out: &mut [f32]) {
        let Chunk { ops, d_k, d_v } = *self;
        let n = head.beta.len();
        let cols = n.next_multiple_of(DELTA_ALIGN);
        let Work { k, q, kt, kk, qk, u, exponents, powers } = work;
        let (k, kt, exponents) = (&mut k[..cols * d_k], &mut kt[..d_k * cols], &mut exponents[..cols]);
        for (to, from) in [(&mut *k, head.k), (&mut **q, head.q)] {
            for (to, from) in to.chunks_exact_mut(d_k).zip(from.chunks(head.ld)).take(n) {
                to.copy_from_slice(&from[..d_k]);
            }
        }
        k[n * d_k..].fill(0.0);
        (ops.transpose)(k, (cols, d_k), kt);

        // Products of keys and queries with the keys that they see, block by block, so that few of the others are computed.
        for first in (0..n).step_by(DELTA_ALIGN) {
            let n_rows = DELTA_ALIGN.min(n - first);
            for (a, to) in [(&*k, &mut *kk), (&**q, &mut *qk)] {
                let (a, n_cols) = (&a[first * d_k..], first + DELTA_ALIGN);
                let p = DeltaProduct { a, lda: d_k, b: kt, ldb: cols, n_rows, n_steps: d_k, n_cols, ldo: cols };
                (ops.product)(&p, Keep::Nothing, &mut to[first * cols..]);
            }
        }
        // The sums are differences later, so they need more digits than floats have.
        let mut sums = [0f64; DELTA_CHUNK];
        let mut sum = 0.0;
        for (to, g) in sums.iter_mut().zip(head.g) {
            sum += f64::from(*g) * std::f64::consts::LOG2_E;
            *to = sum;
        }
        for i in 0..n {
            let seen = (i + 1).next_multiple_of(DELTA_ALIGN);
            let exponents = &mut exponents[..seen];
            exponents[i..].fill(NEVER);
            exponents[..i].iter_mut().zip(&sums).for_each(|(e, before)| *e = (sums[i] - before) as f32);
            (ops.decay)(&mut kk[i * cols..][..seen], -head.beta[i], exponents);
            exponents[i] = 0.0;
            (ops.decay)(&mut qk[i * cols..][..seen], 1.0, exponents);
            powers[i] = sums[i].exp2() as f32;
        }
        let powers = &powers[..n];

        // The right side, then the system, in which what a token writes stands before those that it is taken from.
        let u = &mut u[..n * d_v];
        let with_state =
            |a| DeltaProduct { a, lda: d_k, b: s, ldb: d_v, n_rows: n, n_steps: d_k, n_cols: d_v, ldo: d_v };
        (ops.product)(&with_state(k), Keep::Nothing, u);
        (ops.product)(&with_state(q), Keep::Nothing, out);
        for (i, (u, v)) in u.chunks_exact_mut(d_v).zip(head.v.chunks(head.ld)).enumerate() {
            (ops.blend)(u, -head.beta[i] * powers[i], &v[..d_v], head.beta[i]);
        }
        for first in (0..n).step_by(SOLVED) {
            let n_rows = SOLVED.min(n - first);
            let (before, rows) = u.split_at_mut(first * d_v);
            let a = &kk[first * cols..];
            let p = DeltaProduct { a, lda: cols, b: before, ldb: d_v, n_rows, n_steps: first, n_cols: d_v, ldo: d_v };
            (ops.product)(&p, Keep::All(1.0), rows);
            for i in 1..n_rows {
                let (done, row) = rows.split_at_mut(i * d_v);
                for (j, done) in done.chunks_exact(d_v).enumerate() {
                    (ops.blend)(&mut row[..d_v], 1.0, done, kk[(first + i) * cols + first + j]);
                }
            }
        }
        for first in (0..n).step_by(DELTA_ALIGN) {
            let n_rows = DELTA_ALIGN.min(n - first);
            let a = &qk[first * cols..];
            let n_steps = first + n_rows;
            let p = DeltaProduct { a, lda: cols, b: u, ldb: d_v, n_rows, n_steps, n_cols: d_v, ldo: d_v };
            (ops.product)(&p, Keep::Rows(&powers[first..first + n_rows]), &mut out[first * d_v..]);
        }

        let last = sums[n - 1];
        for (row, sum) in u.chunks_exact_mut(d_v).zip(&sums) {
            let factor = (last - sum).exp2() as f32;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        let p = DeltaProduct { a: kt, lda: cols, b: u, ldb: d_v, n_rows: d_k, n_steps: n, n_cols: d_v, ldo: d_v };
        (ops.product)(&p, Keep::All(powers[n - 1]), s);
    }
}
