//! One input of several matrix products, brought once into each form that they ask for.

use std::cell::Cell;
use std::ops::Range;

use super::MAX_DOT_TOKENS;
use super::codes::CHUNK;
use super::dot::{DotRows, RowChunk};
use super::float::FloatRows;
use super::ops::{PackRows, Panel, QuantizeTile, Soon, Tile, panel_group};
use crate::kernels::disjoint::{SharedMat, SharedSlice};
use crate::kernels::scratch::Carve;
use crate::kernels::{Kernels, prefetch, scratch, threads};
use crate::tensor::MatView;

/// Weight rows per task: their sums for all tokens of the task stay in the second-level cache.
const TASK_ROWS: usize = 128;
/// Tokens per task. Each task unpacks its rows anew, so this many tokens share that work.
const TASK_TOKENS: usize = 768;
/// Words of a row of weights per pass: a tile of rows then stays in the first-level cache while the tokens go by.
const PASS_WORDS: usize = 256;
/// Words of activations that stay in the second-level cache while tasks come and go.
const NEAR_WORDS: usize = 1 << 18;
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

/// One of two matrices that [`Activations::matmul_gated`] multiplies, with its bias.
pub(super) type Gated<'a> = (MatView<'a>, Option<&'a [f32]>);

/// Matrices of one shape in one place, those of the experts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Stacked<'a> {
    /// All of their rows.
    pub mat: MatView<'a>,
    /// The first row of the first one.
    pub first: usize,
    /// Rows from one to the next.
    pub step: usize,
    /// Rows of each.
    pub n_rows: usize,
}

impl<'a> Stacked<'a> {
    /// A matrix alone.
    fn alone(mat: MatView<'a>) -> Stacked<'a> {
        Stacked { mat, first: 0, step: 0, n_rows: mat.n_rows() }
    }

    /// The one of number `i`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn of(&self, i: usize) -> MatView<'a> {
        let first = self.first + i * self.step;
        self.mat.rows(first..first + self.n_rows)
    }
}

/// Tokens that meet one of stacked matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGroup {
    /// The number of the matrix.
    pub matrix: usize,
    /// Which of the tokens.
    pub tokens: Range<usize>,
}

/// What becomes of the sums of a product before they reach the output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One number per weight row, added.
    pub bias: Option<&'a [f32]>,
    /// Applied then.
    pub gelu: Option<Gelu>,
    /// Add to the output instead of replacing it.
    pub add: bool,
}

/// The activation functions of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// See [`Kernels::quick_gelu`].
    Quick,
    /// See [`Kernels::gelu_tanh`].
    Tanh,
}

impl Epilogue<'_> {
    /// Onto the output, with nothing else.
    pub const ADD: Epilogue<'static> = Epilogue { bias: None, gelu: None, add: true };
}

/// Where in the output the sums of some rows and a token belong.
struct Place<'a> {
    out: &'a SharedMat<'a>,
    row: usize,
    col: usize,
}

impl Place<'_> {
    fn put(&self, sums: &[f32], add: bool) {
        // SAFETY: `run` hands out one place per token and weight row, and its tasks own disjoint rectangles of them.
        unsafe {
            if add {
                self.out.add(self.row, self.col, sums);
            } else {
                self.out.write(self.row, self.col, sums);
            }
        }
    }
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
    /// See [`Panel::input`].
    panel: Panel,
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
        self.matmul_with(w, Epilogue::default(), out);
    }

    /// The same with a [`Epilogue`], which costs less than one over the whole of `out` afterwards.
    ///
    /// # Panics
    /// When the lengths disagree.
    pub fn matmul_with(&mut self, w: MatView<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let all = 0..self.n_tokens;
        self.matmul_of_groups(Stacked::alone(w), &[TokenGroup { matrix: 0, tokens: all }], epilogue, out);
    }

    /// The same where each group of tokens has a matrix of its own.
    ///
    /// # Panics
    /// When the lengths disagree; when there are several groups and one of them is of more than [`MAX_DOT_TOKENS`].
    pub fn matmul_of_groups(&mut self, w: Stacked<'_>, groups: &[TokenGroup], epilogue: Epilogue<'_>, out: &mut [f32]) {
        let (n_rows, n_cols) = (w.n_rows, w.mat.n_cols());
        assert!(n_cols == self.n_cols && out.len() == self.n_tokens * n_rows, "matmul operands disagree");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == n_rows), "one bias per row");
        let kernels = self.kernels;
        self.run(&[w], groups, out, |row, [sums, _], out| {
            if let Some(bias) = epilogue.bias {
                sums.iter_mut().zip(&bias[row..]).for_each(|(sum, bias)| *sum += bias);
            }
            match epilogue.gelu {
                Some(Gelu::Quick) => (kernels.quick_gelu)(sums),
                Some(Gelu::Tanh) => (kernels.gelu_tanh)(sums),
                None => (),
            }
            out.put(sums, epilogue.add);
        });
    }

    /// out(n_tokens, n_rows) = silu(x · gateᵀ + bias) * (x · upᵀ + bias), where each may have a bias.
    ///
    /// # Panics
    /// When the lengths disagree.
    pub fn matmul_gated(&mut self, gate: Gated<'_>, up: Gated<'_>, out: &mut [f32]) {
        let group = TokenGroup { matrix: 0, tokens: 0..self.n_tokens };
        let [gate, up] = [gate, up].map(|(mat, bias)| (Stacked::alone(mat), bias));
        self.matmul_gated_of_groups(gate, up, &[group], out);
    }

    /// The same where each group of tokens has matrices of its own.
    ///
    /// # Panics
    /// As [`Activations::matmul_of_groups`].
    pub fn matmul_gated_of_groups(
        &mut self,
        (gate, of_gate): (Stacked<'_>, Option<&[f32]>),
        (up, of_up): (Stacked<'_>, Option<&[f32]>),
        groups: &[TokenGroup],
        out: &mut [f32],
    ) {
        let n_cols = [gate.mat.n_cols(), up.mat.n_cols()];
        assert!(n_cols == [self.n_cols; 2], "matmul operands disagree");
        assert!(gate.n_rows == up.n_rows && out.len() == self.n_tokens * up.n_rows, "matmul operands disagree");
        assert!([of_gate, of_up].iter().flatten().all(|bias| bias.len() == up.n_rows), "one bias per row");
        let kernels = self.kernels;
        self.run(&[gate, up], groups, out, |row, [up, gate], out| {
            for (sums, bias) in [(&mut *gate, of_gate), (&mut *up, of_up)] {
                if let Some(bias) = bias {
                    sums.iter_mut().zip(&bias[row..]).for_each(|(sum, bias)| *sum += bias);
                }
            }
            (kernels.silu_mul)(gate, up);
            out.put(gate, false);
        });
    }

    /// Multiplies with one matrix, or with two of the same shape, and calls `epilogue(row, sums, out)` with the sums of some
    /// rows, from `row` on, and one token: those of the last matrix first. Tokens of other groups are left out.
    fn run(
        &mut self,
        stacks: &[Stacked<'_>],
        groups: &[TokenGroup],
        out: &mut [f32],
        epilogue: impl Fn(usize, [&mut [f32]; 2], Place<'_>) + Sync,
    ) {
        if out.is_empty() || groups.is_empty() {
            return;
        }
        if groups.iter().all(|group| group.tokens.len() <= MAX_DOT_TOKENS) {
            if stacks.iter().any(|w| panel_group(w.mat.ty()).is_some()) {
                self.quantize_rows();
            }
            self.run_dot(stacks, groups, out, epilogue);
        } else {
            let [TokenGroup { matrix, tokens }] = groups else { panic!("{} groups, of many tokens", groups.len()) };
            assert!(*tokens == (0..self.n_tokens), "{tokens:?} of {} tokens", self.n_tokens);
            // No more than two.
            let mut matrices = [stacks[0].of(*matrix); 2];
            let mut forms = [0; 2];
            for (i, stack) in stacks.iter().enumerate() {
                matrices[i] = stack.of(*matrix);
                forms[i] = self.quantize_tiles(self.panel(matrices[i]));
            }
            self.run_panels(&matrices[..stacks.len()], &forms[..stacks.len()], out, epilogue);
        }
    }

    fn panel(&self, w: MatView<'_>) -> Panel {
        self.kernels.int8.layout.panel(w.ty()).expect("the loader accepts only types with a decoder")
    }

    fn n_chunks(&self) -> usize {
        self.n_cols.div_ceil(CHUNK)
    }

    /// `groups`, none of them empty, are of few tokens each.
    fn run_dot(
        &self,
        stacks: &[Stacked<'_>],
        groups: &[TokenGroup],
        out: &mut [f32],
        epilogue: impl Fn(usize, [&mut [f32]; 2], Place<'_>) + Sync,
    ) {
        let (ops, n_chunks) = (&self.kernels.int8, self.n_chunks());
        let (n_rows, n_cols) = (stacks[0].n_rows, self.n_cols);
        // A few tasks per thread even out what else the machine does; small matrices are not worth a task each.
        let bytes: usize = groups.len() * stacks.iter().map(|w| w.n_rows * w.mat.row_bytes()).sum::<usize>();
        let tasks = (threads::TASKS_PER_THREAD * threads::count()).min(bytes / TASK_BYTES).max(1);
        let per_task = n_rows.div_ceil(tasks.div_ceil(groups.len()));
        let per_group = n_rows.div_ceil(per_task);
        let out = &SharedMat::new(out, n_rows);
        threads::for_each(groups.len() * per_group, |task| {
            let TokenGroup { matrix, tokens } = &groups[task / per_group];
            let (n_tokens, first) = (tokens.len(), task % per_group * per_task);
            let n = per_task.min(n_rows - first);
            scratch::with(stacks.len() * n * n_tokens, |sums| {
                for (w, sums) in stacks.iter().rev().zip(sums.chunks_exact_mut(n * n_tokens)) {
                    let w = w.of(*matrix);
                    let (rows, row_bytes) = (w.rows(first..first + n).data(), w.row_bytes());
                    match panel_group(w.ty()) {
                        Some(_) => {
                            let x = &self.forms.rows[tokens.start * n_chunks..tokens.end * n_chunks];
                            (ops.dot_rows)(w.ty(), DotRows { rows, row_bytes, n_cols, x }, sums);
                        }
                        None => {
                            let x = &self.x[tokens.start * n_cols..tokens.end * n_cols];
                            (ops.dot_floats)(w.ty(), FloatRows { rows, row_bytes, n_cols, x }, sums);
                        }
                    }
                }
                let (last, other) = sums.split_at_mut(n * n_tokens);
                for (it, last) in last.chunks_exact_mut(n).enumerate() {
                    let other = other.chunks_exact_mut(n).nth(it).unwrap_or_default();
                    epilogue(first, [last, other], Place { out, row: tokens.start + it, col: first });
                }
            });
        });
    }

    fn run_panels(
        &self,
        matrices: &[MatView<'_>],
        forms: &[usize],
        out: &mut [f32],
        epilogue: impl Fn(usize, [&mut [f32]; 2], Place<'_>) + Sync,
    ) {
        let layout = self.kernels.int8.layout;
        let (n_rows, n_tokens) = (matrices[0].n_rows(), self.n_tokens);
        // One task unpacks its rows for many tokens; where rows are too few for the threads, tokens are split further.
        let most_rows = TASK_ROWS / matrices.len();
        let row_tasks = n_rows.div_ceil(most_rows);
        let n_tiles = n_tokens.div_ceil(layout.tokens);
        let splits = (3 * threads::count()).div_ceil(row_tasks).min(n_tiles.div_ceil(4));
        let tiles_per_task = n_tiles.div_ceil(splits.max(n_tokens.div_ceil(TASK_TOKENS)));
        let token_tasks = n_tiles.div_ceil(tiles_per_task);
        let out = &SharedMat::new(out, n_rows);
        threads::for_each(row_tasks * token_tasks, |task| {
            let first = task / token_tasks * most_rows;
            let rows = first..n_rows.min(first + most_rows);
            let first = task % token_tasks * tiles_per_task * layout.tokens;
            let tokens = first..n_tokens.min(first + tiles_per_task * layout.tokens);
            let ldo = rows.len().next_multiple_of(layout.rows);
            let lengths = [tokens.len() * ldo, (matrices.len() - 1) * tokens.len() * ldo];
            let buffers = [PASS_WORDS * layout.rows; 2];
            scratch::with(Carve::room(&lengths) + Carve::room(&buffers), |buffer| {
                let mut carve = Carve::new(buffer);
                let [sums, others] = lengths.map(|n| carve.take(n));
                let [words, scales] = buffers.map(|n| carve.take(n));
                for (i, (w, form)) in matrices.iter().zip(forms).enumerate() {
                    let (w, x) = (w.rows(rows.clone()), &self.forms.tiles[*form]);
                    let buffers = (&mut words[..], &mut scales[..]);
                    if let Some(next) = matrices.get(i + 1) {
                        let soon = (next.rows(rows.clone()), None);
                        self.products(w, (x, tokens.clone()), buffers, (others, ldo), soon);
                    } else {
                        // Threads take turns, more or less: this one's next task is probably as many further as there are.
                        let next = (task + threads::count()) / token_tasks * most_rows;
                        let next = next.min(n_rows)..n_rows.min(next + most_rows);
                        let soon = (matrices[0].rows(next), Some((out, rows.start)));
                        self.products(w, (x, tokens.clone()), buffers, (sums, ldo), soon);
                    }
                }
                // Whole rows of the task at a time: the output is wide, and each of its rows a page of its own.
                for (i, sums) in sums.chunks_exact_mut(ldo).enumerate() {
                    let other = others.get_mut(i * ldo..i * ldo + rows.len()).unwrap_or_default();
                    let place = Place { out, row: tokens.start + i, col: rows.start };
                    epilogue(rows.start, [&mut sums[..rows.len()], other], place);
                }
            });
        });
    }

    /// The products of all rows of `w` with the tokens of whole tiles, in rows of `ldo` in `sums`. `buffers` are for the
    /// words and the scales of a tile of rows. Soon wanted are the rows `next`, and the output, if that is where sums go.
    fn products(
        &self,
        w: MatView<'_>,
        (x, tokens): (&Tiles, Range<usize>),
        (words, scales): (&mut [f32], &mut [f32]),
        (sums, ldo): (&mut [f32], usize),
        (next, out): (MatView<'_>, Option<(&SharedMat<'_>, usize)>),
    ) {
        let (ops, layout, panel) = (&self.kernels.int8, self.kernels.int8.layout, self.panel(w));
        let (n_chunks, w_words, x_words) = (self.n_chunks(), layout.w_words(panel), layout.x_words(panel));
        let n_passes = n_chunks.div_ceil(PASS_WORDS / w_words);
        let n_tiles = tokens.len().div_ceil(layout.tokens);
        // Rows by rows within a pass; passes are of about equal length.
        let row_tiles = w.n_rows().div_ceil(layout.rows);
        let part = |i: usize| {
            let (pass, first) = (i / row_tiles, i % row_tiles * layout.rows);
            let chunks = pass * n_chunks / n_passes..(pass + 1) * n_chunks / n_passes;
            (pass, first..w.n_rows().min(first + layout.rows), chunks)
        };
        for i in 0..n_passes * row_tiles {
            let (pass, rows, chunks) = part(i);
            let words = &mut bytemuck::cast_slice_mut(words)[..chunks.len() * w_words * layout.rows];
            let scales = &mut scales[..chunks.len() * panel.w_scales() * layout.rows];
            let data = w.rows(rows.clone()).data();
            (ops.pack)(
                w.ty(),
                PackRows { rows: data, row_bytes: w.row_bytes(), chunks: chunks.clone(), panel },
                words,
                scales,
            );
            for (tile, first) in tokens.clone().step_by(layout.tokens).enumerate() {
                // The memory of the next rows, and of the output, is far away: each tile asks for its share.
                let (soon, rows_soon, chunks_soon) = if i + 1 < n_passes * row_tiles {
                    let (_, rows, chunks) = part(i + 1);
                    (w, rows, chunks)
                } else {
                    (next, 0..next.n_rows().min(layout.rows), part(0).2)
                };
                for r in tile * rows_soon.len() / n_tiles..(tile + 1) * rows_soon.len() / n_tiles {
                    let at = |chunk: usize| chunk * soon.row_bytes() / n_chunks;
                    let bytes = at(chunks_soon.start)..at(chunks_soon.end);
                    prefetch::later(soon.row(rows_soon.start + r)[bytes.clone()].as_ptr(), bytes.len());
                }
                let width = layout.tokens.min(self.n_tokens - first);
                let of_chunks = |per_chunk: usize| {
                    let at = (first * n_chunks + chunks.start * width) * per_chunk;
                    at..at + chunks.len() * width * per_chunk
                };
                let soon_out = match out {
                    Some((out, col)) if pass + 1 == n_passes => {
                        Soon { at: out.address(first, col + rows.start).cast(), ld: out.n_cols(), len: rows.len() }
                    }
                    _ => Soon::NONE,
                };
                // The next pass over these tokens wants other columns: each tile of rows asks for its share of them.
                let soon_x = if x.words.len() > NEAR_WORDS {
                    let (_, _, chunks) = part((pass + 1) % n_passes * row_tiles);
                    let len = chunks.len() * x_words / row_tiles;
                    let at = (first * n_chunks + chunks.start * width) * x_words + i % row_tiles * len * width;
                    Soon { at: x.words[at..].as_ptr(), ld: len, len }
                } else {
                    Soon::NONE
                };
                let operands = Tile {
                    panel,
                    w: words,
                    w_scales: scales,
                    x: &x.words[of_chunks(x_words)],
                    x_scales: &x.scales[of_chunks(panel.x_scales())],
                    x_sums: &x.sums[of_chunks(panel.x_scales())],
                    width,
                    ldo,
                    fresh: pass == 0,
                    soon: [soon_out, soon_x],
                };
                (ops.tile)(operands, &mut sums[(first - tokens.start) * ldo + rows.start..]);
            }
        }
    }

    /// Brings the activations into the form of `dot_rows`, unless they are in it.
    fn quantize_rows(&mut self) {
        let n_chunks = self.n_chunks();
        let Forms { rows, rows_ready, .. } = &mut *self.forms;
        if !std::mem::replace(rows_ready, true) {
            rows.resize(self.n_tokens * n_chunks, RowChunk::ZERO);
            (self.kernels.int8.quantize_rows)(self.x, self.n_cols, rows);
        }
    }

    /// Brings the activations into the form of `panel`, unless they are in it; which of the forms that is.
    fn quantize_tiles(&mut self, panel: Panel) -> usize {
        let (ops, layout) = (&self.kernels.int8, self.kernels.int8.layout);
        let (n_chunks, n_cols, panel) = (self.n_chunks(), self.n_cols, panel.input());
        let tiles = &mut self.forms.tiles;
        let index = tiles.iter().position(|t| t.panel == panel).unwrap_or_else(|| {
            tiles.push(Tiles { panel, words: Vec::new(), scales: Vec::new(), sums: Vec::new(), ready: false });
            tiles.len() - 1
        });
        let form = &mut tiles[index];
        if std::mem::replace(&mut form.ready, true) {
            return index;
        }
        let (words_per_token, scales_per_token) = (n_chunks * layout.x_words(panel), n_chunks * panel.x_scales());
        form.words.resize(self.n_tokens * words_per_token, 0);
        form.scales.resize(self.n_tokens * scales_per_token, 0.0);
        form.sums.resize(self.n_tokens * scales_per_token, 0);
        let (words, scales, sums) =
            (SharedSlice::new(&mut form.words), SharedSlice::new(&mut form.scales), SharedSlice::new(&mut form.sums));
        threads::for_each(self.n_tokens.div_ceil(layout.tokens), |tile| {
            let first = tile * layout.tokens;
            let tokens = first..self.n_tokens.min(first + layout.tokens);
            let of_tokens = |per_token: usize| tokens.start * per_token..tokens.end * per_token;
            // SAFETY: tasks have their own tokens.
            let (words, scales, sums) = unsafe {
                let per_token = of_tokens(scales_per_token);
                (words.get(of_tokens(words_per_token)), scales.get(per_token.clone()), sums.get(per_token))
            };
            (ops.quantize_tile)(QuantizeTile { x: &self.x[of_tokens(n_cols)], n_cols, panel, words, scales, sums });
        });
        index
    }
}

impl Drop for Activations<'_> {
    fn drop(&mut self) {
        KEPT.set(Some(std::mem::take(&mut self.forms)));
    }
}
