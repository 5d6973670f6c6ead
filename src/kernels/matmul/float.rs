//! Float weights: unpack a few rows, use them for the whole batch, move on.

use rayon::prelude::*;

use crate::kernels::disjoint::SharedMat;
use crate::kernels::{Kernels, Nt, scratch};
use crate::tensor::MatView;

/// Weight rows per task: unpacked to f32 they stay in the second-level cache.
const TILE_ROWS: usize = 16;
/// Columns per pass, so that a group of activation rows stays in the first-level cache.
const TILE_COLS: usize = 2048;

/// out(n_tokens, w.n_rows) = x(n_tokens, w.n_cols) · wᵀ.
///
/// # Panics
/// When the lengths disagree.
pub fn matmul(kernels: &Kernels, w: MatView<'_>, x: &[f32], out: &mut [f32]) {
    let (n_cols, n_rows) = (w.n_cols(), w.n_rows());
    let n_tokens = x.len() / n_cols;
    assert!(x.len() == n_tokens * n_cols && out.len() == n_tokens * n_rows, "matmul operands disagree");
    let out = &SharedMat::new(out, n_rows);
    (0..n_rows.div_ceil(TILE_ROWS)).into_par_iter().for_each(|task| {
        let first = task * TILE_ROWS;
        let rows = TILE_ROWS.min(n_rows - first);
        let packed = w.rows(first..first + rows).data();
        scratch::with(rows * n_cols + n_tokens * rows, |buffer| {
            let (unpacked, tile) = buffer.split_at_mut(rows * n_cols);
            (kernels.dequantize)(w.ty(), packed, unpacked);
            for k0 in (0..n_cols).step_by(TILE_COLS) {
                let k = TILE_COLS.min(n_cols - k0);
                let a = Nt {
                    x: &x[k0..],
                    ldx: n_cols,
                    w: &unpacked[k0..],
                    ldw: n_cols,
                    m: n_tokens,
                    n: rows,
                    k,
                    ldo: rows,
                    accumulate: k0 > 0,
                };
                (kernels.gemm_nt)(a, tile);
            }
            for (it, values) in tile.chunks_exact(rows).enumerate() {
                // SAFETY: tasks own disjoint rows of the weights, which are disjoint columns here.
                unsafe { out.write(it, first, values) };
            }
        });
    });
}
