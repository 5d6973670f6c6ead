//! One input of several matrix products, brought once into each form that they ask for.

use std::cell::Cell;
use std::ops::Range;

use super::MAX_DOT_TOKENS;
use super::codes::CHUNK;
use super::dot::{DotRows, RowChunk};
use super::float::FloatRows;
use super::ops::{Number, PackRows, Panel, QuantizeTile, Tile};
use crate::kernels::disjoint::{SharedMat, SharedSlice};
use crate::kernels::scratch::Carve;
use crate::kernels::{Kernels, scratch, threads};
use crate::tensor::MatView;

/// Weight rows per task: their sums for all tokens of the task stay in the second-level cache.
const TASK_ROWS: usize = 128;
/// Tokens per task. Each task unpacks its rows anew, so this many tokens share that work.
const TASK_TOKENS: usize = 512;
/// Steps per pass: a tile of rows then stays in the first-level cache while the tokens go by.
const PASS_STEPS: usize = 256;
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

/// The forms that products want. A thread keeps their memory for its next input.
#[derive(Default)]
struct Forms {
    rows: Vec<RowChunk>,
    rows_ready: bool,
    tiles: Vec<Tiles>,
}

/// Tiles of `layout.tokens` tokens one after another, the last one narrower.
struct Tiles {
    panel: Panel,
    words: Vec<u32>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    ready: bool,
}

/// What happens to the sums of a token: `before(token, row, n_rows)` they are final and `after(token, row, sums)`.
struct Finish<B, A> {
    before: B,
    after: A,
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
        let panel = Panel::of(w.ty()).expect("the loader accepts only types with a decoder");
        if self.n_tokens <= MAX_DOT_TOKENS {
            self.matmul_dot(w, panel, out);
        } else {
            self.matmul_panels(w, panel, out);
        }
    }

    fn n_chunks(&self) -> usize {
        self.n_cols.div_ceil(CHUNK)
    }

    fn matmul_dot(&mut self, w: MatView<'_>, panel: Panel, out: &mut [f32]) {
        let ops = &self.kernels.int8;
        let n_chunks = self.n_chunks();
        let Forms { rows: x, rows_ready, .. } = &mut *self.forms;
        if panel.number == Number::Int8 && !*rows_ready {
            x.resize(self.n_tokens * n_chunks, RowChunk::ZERO);
            (ops.quantize_rows)(self.x, self.n_cols, x);
            *rows_ready = true;
        }
        let (x, n_rows) = (&x[..], w.n_rows());
        // A few tasks per thread even out what else the machine does; small matrices are not worth a task each.
        let tasks = (threads::TASKS_PER_THREAD * threads::count()).min(w.data().len() / TASK_BYTES).max(1);
        let per_task = n_rows.div_ceil(tasks);
        let out = &SharedMat::new(out, n_rows);
        let run = |task: usize| {
            let first = task * per_task;
            let n = per_task.min(n_rows - first);
            let rows = w.rows(first..first + n).data();
            let (row_bytes, n_cols) = (w.row_bytes(), self.n_cols);
            scratch::with(n * self.n_tokens, |sums| {
                match panel.number {
                    Number::Int8 => (ops.dot_rows)(w.ty(), DotRows { rows, row_bytes, n_cols, x }, sums),
                    _ => (ops.dot_floats)(w.ty(), FloatRows { rows, row_bytes, n_cols, x: self.x }, sums),
                }
                for (it, sums) in sums.chunks_exact(n).enumerate() {
                    // SAFETY: tasks own disjoint rows of the weights, which are disjoint columns here.
                    unsafe { out.write(it, first, sums) };
                }
            });
        };
        threads::for_each(n_rows.div_ceil(per_task), run);
    }

    fn matmul_panels(&mut self, w: MatView<'_>, panel: Panel, out: &mut [f32]) {
        let form = self.quantize_tiles(panel);
        let x = &self.forms.tiles[form];
        let layout = self.kernels.int8.layout;
        let (n_rows, n_tokens) = (w.n_rows(), self.n_tokens);
        // One task unpacks its rows for many tokens; where rows are too few for the threads, tokens are split further.
        let row_tasks = n_rows.div_ceil(TASK_ROWS);
        let n_tiles = n_tokens.div_ceil(layout.tokens);
        let splits = (3 * threads::count()).div_ceil(row_tasks).min(n_tiles.div_ceil(4));
        let tiles_per_task = n_tiles.div_ceil(splits.max(n_tokens.div_ceil(TASK_TOKENS)));
        let token_tasks = n_tiles.div_ceil(tiles_per_task);
        let out = &SharedMat::new(out, n_rows);
        threads::for_each(row_tasks * token_tasks, |task| {
            let first = task / token_tasks * TASK_ROWS;
            let rows = first..n_rows.min(first + TASK_ROWS);
            let first = task % token_tasks * tiles_per_task * layout.tokens;
            let tokens = first..n_tokens.min(first + tiles_per_task * layout.tokens);
            let ldo = rows.len().next_multiple_of(layout.rows);
            let (words_len, scales_len) = (PASS_STEPS * layout.rows, PASS_STEPS * layout.rows);
            let lengths = [tokens.len() * ldo, words_len, scales_len];
            scratch::with(Carve::room(&lengths), |buffer| {
                let mut carve = Carve::new(buffer);
                let [sums, words, scales] = lengths.map(|n| carve.take(n));
                let finish = Finish {
                    before: |it, row, n| out.prefetch(it, rows.start + row, n),
                    // SAFETY: tasks own disjoint rectangles of weight rows and tokens.
                    after: |it, row, sums: &mut [f32]| unsafe { out.write(it, rows.start + row, sums) },
                };
                self.products(w.rows(rows.clone()), x, tokens, (words, scales), (sums, ldo), finish);
            });
        });
    }

    /// The products of all rows of `w` with the tokens of whole tiles, in rows of `ldo` in `sums`. `buffers` are for the
    /// words and the scales of a tile of rows.
    fn products(
        &self,
        w: MatView<'_>,
        x: &Tiles,
        tokens: Range<usize>,
        (words, scales): (&mut [f32], &mut [f32]),
        (sums, ldo): (&mut [f32], usize),
        finish: Finish<impl Fn(usize, usize, usize), impl Fn(usize, usize, &mut [f32])>,
    ) {
        let (ops, layout, panel) = (&self.kernels.int8, self.kernels.int8.layout, x.panel);
        let (n_chunks, steps) = (self.n_chunks(), layout.steps(panel.number));
        for c0 in (0..n_chunks).step_by(PASS_STEPS / steps) {
            let chunks = c0..n_chunks.min(c0 + PASS_STEPS / steps);
            let words = &mut bytemuck::cast_slice_mut(words)[..chunks.len() * steps * layout.rows];
            let scales = &mut scales[..chunks.len() * panel.groups() * layout.rows];
            for r0 in (0..w.n_rows()).step_by(layout.rows) {
                let n_rows = layout.rows.min(w.n_rows() - r0);
                let p =
                    PackRows { rows: w.rows(r0..r0 + n_rows).data(), row_bytes: w.row_bytes(), chunks: chunks.clone() };
                (ops.pack)(w.ty(), p, words, scales);
                for first in tokens.clone().step_by(layout.tokens) {
                    let width = layout.tokens.min(self.n_tokens - first);
                    let of_chunks = |per_chunk: usize| {
                        let at = (first * n_chunks + c0 * width) * per_chunk;
                        at..at + chunks.len() * width * per_chunk
                    };
                    let tile = Tile {
                        panel,
                        w: words,
                        w_scales: scales,
                        x: &x.words[of_chunks(steps)],
                        x_scales: &x.scales[of_chunks(panel.groups())],
                        x_sums: &x.sums[of_chunks(panel.groups())],
                        width,
                        ldo,
                    };
                    let sums = &mut sums[(first - tokens.start) * ldo + r0..];
                    if chunks.start == 0 {
                        sums.chunks_mut(ldo).take(width).for_each(|sums| sums[..layout.rows].fill(0.0));
                    }
                    if chunks.end < n_chunks {
                        (ops.tile)(tile, sums);
                    } else {
                        (0..width).for_each(|it| (finish.before)(first + it, r0, n_rows));
                        (ops.tile)(tile, sums);
                        for (it, sums) in sums.chunks_mut(ldo).take(width).enumerate() {
                            (finish.after)(first + it, r0, &mut sums[..n_rows]);
                        }
                    }
                }
            }
        }
    }

    /// Brings the activations into the form of `panel`, unless they are in it; which of the forms that is.
    fn quantize_tiles(&mut self, panel: Panel) -> usize {
        let (ops, layout) = (&self.kernels.int8, self.kernels.int8.layout);
        let (n_chunks, n_cols) = (self.n_chunks(), self.n_cols);
        let tiles = &mut self.forms.tiles;
        let index = tiles.iter().position(|t| t.panel == panel).unwrap_or_else(|| {
            tiles.push(Tiles { panel, words: Vec::new(), scales: Vec::new(), sums: Vec::new(), ready: false });
            tiles.len() - 1
        });
        let form = &mut tiles[index];
        if std::mem::replace(&mut form.ready, true) {
            return index;
        }
        let (words_per_token, scales_per_token) = (n_chunks * layout.steps(panel.number), n_chunks * panel.groups());
        form.words.resize(self.n_tokens * words_per_token, 0);
        form.scales.resize(self.n_tokens * scales_per_token, 0.0);
        form.sums.resize(self.n_tokens * scales_per_token, 0);
        let (words, scales) = (&SharedSlice::new(&mut form.words), &SharedSlice::new(&mut form.scales));
        let sums = &SharedSlice::new(&mut form.sums);
        threads::for_each(self.n_tokens.div_ceil(layout.tokens), |tile| {
            let first = tile * layout.tokens;
            let tokens = first..self.n_tokens.min(first + layout.tokens);
            let of = |per_token: usize| tokens.start * per_token..tokens.end * per_token;
            // SAFETY: tiles are of different tokens.
            let (words, scales, sums) = unsafe {
                (words.get(of(words_per_token)), scales.get(of(scales_per_token)), sums.get(of(scales_per_token)))
            };
            (ops.quantize_tile)(QuantizeTile { x: &self.x[of(n_cols)], n_cols, panel, words, scales, sums });
        });
        index
    }
}

impl Drop for Activations<'_> {
    fn drop(&mut self) {
        KEPT.set(Some(std::mem::take(&mut self.forms)));
    }
}
