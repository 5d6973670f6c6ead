//! One input of several matrix products, quantized once in each form that they ask for.

use std::cell::Cell;

use rayon::prelude::*;

use super::codes::CHUNK;
use super::dot::{DotRows, RowChunk};
use super::ops::{PackRows, QuantizeTile, Tile, panel_group};
use super::{MAX_DOT_TOKENS, float};
use crate::kernels::disjoint::SharedMat;
use crate::kernels::{Kernels, scratch, threads};
use crate::tensor::MatView;

/// Weight rows per panel: with [`BLOCK_CHUNKS`] the panel stays in the second-level cache.
const PANEL_ROWS: usize = 128;
/// Chunks of columns per pass: a tile of tokens stays in the first-level cache while the panel goes by.
const BLOCK_CHUNKS: usize = 8;
/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 64 << 10;

/// The activations x(n_tokens, n_cols) that one or more weight matrices are multiplied with.
pub struct Activations<'a> {
    kernels: &'a Kernels,
    x: &'a [f32],
    n_cols: usize,
    n_tokens: usize,
    forms: Box<Forms>,
}

/// The quantized forms. A thread keeps their memory for its next input.
#[derive(Default)]
struct Forms {
    rows: Vec<RowChunk>,
    rows_ready: bool,
    /// For groups of 32, 64, 128 and 256 columns.
    tiles: [Tiles; 4],
}

/// Tiles of `layout.tokens` tokens one after another, the last one narrower.
#[derive(Default)]
struct Tiles {
    words: Vec<u32>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    ready: bool,
}

thread_local! {
    static KEPT: Cell<Option<Box<Forms>>> = const { Cell::new(None) };
}

impl<'a> Activations<'a> {
    /// Takes x(n_tokens, n_cols); nothing is quantized yet.
    ///
    /// # Panics
    /// When `x` is not a whole number of rows.
    pub fn new(kernels: &'a Kernels, x: &'a [f32], n_cols: usize) -> Activations<'a> {
        let n_tokens = x.len() / n_cols;
        assert!(x.len() == n_tokens * n_cols, "`{}` activations are not rows of `{n_cols}`", x.len());
        let mut forms = KEPT.take().unwrap_or_default();
        forms.rows_ready = false;
        forms.tiles.iter_mut().for_each(|t| t.ready = false);
        Activations { kernels, x, n_cols, n_tokens, forms }
    }

    /// out(n_tokens, w.n_rows) = x · wᵀ, for weights of any type with a decoder.
    ///
    /// # Panics
    /// When the lengths disagree.
    pub fn matmul(&mut self, w: MatView<'_>, out: &mut [f32]) {
        assert!(w.n_cols() == self.n_cols && out.len() == self.n_tokens * w.n_rows(), "matmul operands disagree");
        if out.is_empty() {
            return;
        }
        match panel_group(w.ty()) {
            None => float::matmul(self.kernels, w, self.x, out),
            Some(_) if self.n_tokens <= MAX_DOT_TOKENS => self.matmul_dot(w, out),
            Some(group) => self.matmul_panels(w, group, out),
        }
    }

    fn n_chunks(&self) -> usize {
        self.n_cols.div_ceil(CHUNK)
    }

    fn matmul_dot(&mut self, w: MatView<'_>, out: &mut [f32]) {
        let ops = &self.kernels.int8;
        let n_chunks = self.n_chunks();
        let Forms { rows, rows_ready, .. } = &mut *self.forms;
        if !*rows_ready {
            rows.resize(self.n_tokens * n_chunks, RowChunk::ZERO);
            (ops.quantize_rows)(self.x, self.n_cols, rows);
            *rows_ready = true;
        }
        let (x, n_rows) = (&rows[..], w.n_rows());
        // A few tasks per thread even out what else the machine does; small matrices are not worth a task each.
        let tasks = (threads::TASKS_PER_THREAD * threads::count()).min(w.data().len() / TASK_BYTES).max(1);
        let per_task = n_rows.div_ceil(tasks);
        let out = &SharedMat::new(out, n_rows);
        let run = |task: usize| {
            let first = task * per_task;
            let n = per_task.min(n_rows - first);
            let rows = w.rows(first..first + n).data();
            scratch::with(n * self.n_tokens, |sums| {
                (ops.dot_rows)(w.ty(), DotRows { rows, row_bytes: w.row_bytes(), n_cols: self.n_cols, x }, sums);
                for (it, sums) in sums.chunks_exact(n).enumerate() {
                    // SAFETY: tasks own disjoint rows of the weights, which are disjoint columns here.
                    unsafe { out.write(it, first, sums) };
                }
            });
        };
        threads::for_each(n_rows.div_ceil(per_task), run);
    }

    fn matmul_panels(&mut self, w: MatView<'_>, group: usize, out: &mut [f32]) {
        self.quantize_tiles(group);
        let tiles = &self.forms.tiles[form(group)];
        let (ops, layout) = (&self.kernels.int8, self.kernels.int8.layout);
        let (n_rows, n_chunks, n_tokens) = (w.n_rows(), self.n_chunks(), self.n_tokens);
        let (steps, groups) = (layout.steps(), CHUNK / group);
        // One task unpacks its rows for all tokens; where rows are too few for the threads, tokens are split as well.
        let row_tasks = n_rows.div_ceil(PANEL_ROWS);
        let n_tiles = n_tokens.div_ceil(layout.tokens);
        let token_tasks = (3 * threads::count()).div_ceil(row_tasks).min(n_tiles.div_ceil(8));
        let tiles_per_task = n_tiles.div_ceil(token_tasks);
        let out = &SharedMat::new(out, n_rows);
        (0..row_tasks * token_tasks).into_par_iter().for_each(|task| {
            let first_row = task / token_tasks * PANEL_ROWS;
            let rows = PANEL_ROWS.min(n_rows - first_row);
            let first_tile = task % token_tasks * tiles_per_task;
            let last_tile = n_tiles.min(first_tile + tiles_per_task);
            let subtiles = rows.div_ceil(layout.rows);
            let (words_len, scales_len) = (BLOCK_CHUNKS * steps * layout.rows, BLOCK_CHUNKS * groups * layout.rows);
            let sums_len = layout.tokens * layout.rows;
            scratch::with_aligned(subtiles * (words_len + scales_len) + sums_len, |buffer| {
                let (words, buffer) = buffer.split_at_mut(subtiles * words_len);
                let words: &mut [u32] = bytemuck::cast_slice_mut(words);
                let (sums, w_scales) = buffer.split_at_mut(sums_len);
                for c0 in (0..n_chunks).step_by(BLOCK_CHUNKS) {
                    let chunks = c0..n_chunks.min(c0 + BLOCK_CHUNKS);
                    let (n_words, n_scales) = (chunks.len() * steps * layout.rows, chunks.len() * groups * layout.rows);
                    let subtile_rows = |s: usize| {
                        let first = s * layout.rows;
                        first_row + first..first_row + rows.min(first + layout.rows)
                    };
                    for s in 0..subtiles {
                        let p = PackRows {
                            rows: w.rows(subtile_rows(s)).data(),
                            row_bytes: w.row_bytes(),
                            chunks: chunks.clone(),
                        };
                        let words = &mut words[s * words_len..][..n_words];
                        (ops.pack)(w.ty(), p, words, &mut w_scales[s * scales_len..][..n_scales]);
                    }
                    for tile in first_tile..last_tile {
                        let first_token = tile * layout.tokens;
                        let n = layout.tokens.min(n_tokens - first_token);
                        let width = n.next_multiple_of(layout.token_step);
                        let words_at = first_token * n_chunks * steps + c0 * steps * width;
                        let scales_at = first_token * n_chunks * groups + c0 * groups * width;
                        let n_x_scales = chunks.len() * groups * width;
                        for s in 0..subtiles {
                            let sums = &mut sums[..width * layout.rows];
                            sums.fill(0.0);
                            let rows = subtile_rows(s);
                            (0..n).for_each(|it| out.prefetch(first_token + it, rows.start, rows.len()));
                            let operands = Tile {
                                w: &words[s * words_len..][..n_words],
                                w_scales: &w_scales[s * scales_len..][..n_scales],
                                x: &tiles.words[words_at..][..chunks.len() * steps * width],
                                x_scales: &tiles.scales[scales_at..][..n_x_scales],
                                x_sums: &tiles.sums[scales_at..][..n_x_scales],
                                width,
                                group_steps: steps / groups,
                            };
                            (ops.tile)(operands, sums);
                            for (it, sums) in sums.chunks_exact(layout.rows).take(n).enumerate() {
                                let (it, sums) = (first_token + it, &sums[..rows.len()]);
                                // SAFETY: tasks own disjoint rectangles of weight rows and tokens.
                                unsafe {
                                    if c0 == 0 {
                                        out.write(it, rows.start, sums);
                                    } else {
                                        out.add(it, rows.start, sums);
                                    }
                                }
                            }
                        }
                    }
                }
            });
        });
    }

    fn quantize_tiles(&mut self, group: usize) {
        let (ops, layout) = (&self.kernels.int8, self.kernels.int8.layout);
        let (n_chunks, n_cols) = (self.n_chunks(), self.n_cols);
        let form = &mut self.forms.tiles[form(group)];
        if std::mem::replace(&mut form.ready, true) {
            return;
        }
        let (words_per_token, scales_per_token) = (n_chunks * layout.steps(), n_chunks * (CHUNK / group));
        let padded = self.n_tokens.next_multiple_of(layout.token_step);
        form.words.resize(padded * words_per_token, 0);
        form.scales.resize(padded * scales_per_token, 0.0);
        form.sums.resize(padded * scales_per_token, 0);
        let x = self.x.par_chunks(layout.tokens * n_cols);
        let words = form.words.par_chunks_mut(layout.tokens * words_per_token);
        let scales = form.scales.par_chunks_mut(layout.tokens * scales_per_token);
        let sums = form.sums.par_chunks_mut(layout.tokens * scales_per_token);
        x.zip(words).zip(scales.zip(sums)).for_each(|((x, words), (scales, sums))| {
            let width = words.len() / words_per_token;
            (ops.quantize_tile)(QuantizeTile { x, n_cols, width, group, words, scales, sums });
        });
    }
}

impl Drop for Activations<'_> {
    fn drop(&mut self) {
        KEPT.set(Some(std::mem::take(&mut self.forms)));
    }
}

/// Where the form for groups of `group` columns is kept.
fn form(group: usize) -> usize {
    debug_assert!(matches!(group, 32 | 64 | 128 | 256));
    (group / 32).ilog2() as usize
}
