//! The CPU as a [`Device`]: weights stay where they are, packed, in their mapped file.

use std::ops::Range;

use super::device::{
    Device, Finish, From, Heads, Linear, Norm, Pairs, Product, Projected, Sequence, Stack, Then, To, WindowEnds,
};
use super::ffn::Experts;
use super::mixer::DeltaNet;
use super::weights::Mat;
use crate::Result;
use crate::gguf::GgmlType;
use crate::kernels::{
    self, Activations, AttentionPart, AttentionShape, CacheRows, DeltaRows, DeltaWeights, Epilogue, Gelu, Kernels,
    KvView, attention, attention_of, kv_write, matmul_with, rotate_rows,
};
use crate::position::RotaryTable;

/// The kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Host(pub &'static Kernels);

/// Keys and values of all sequences of a batch, (n_seq, n_head, n_per_seq, d) floats each.
#[derive(Default)]
pub(super) struct FreshRows {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl FreshRows {
    /// Makes room for `n` floats of each, where there is less.
    pub(super) fn grow(&mut self, n: usize) {
        for rows in [&mut self.k, &mut self.v] {
            rows.resize(rows.len().max(n), 0.0);
        }
    }
}

/// Where `n` rows of `width` columns lie.
fn span(first: usize, n: usize, width: usize) -> Range<usize> {
    first * width..(first + n) * width
}

/// The sequences of `n_per_seq` rows that `rows` belong to: of each its number, how many of its rows there are, the first of
/// them in the sequence and in `rows`.
fn sequences(rows: Range<usize>, n_per_seq: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (rows.start / n_per_seq..rows.end.div_ceil(n_per_seq)).map(move |seq| {
        let first = rows.start.max(seq * n_per_seq);
        let n = rows.end.min((seq + 1) * n_per_seq) - first;
        (seq, n, first - seq * n_per_seq, first - rows.start)
    })
}

/// Where cell `at` of `n` falls on a table of `side`, corners on corners: the entry before, the one behind, and how far between.
fn between(at: i32, n: usize, side: usize) -> (usize, usize, f32) {
    let x = if n > 1 { at as f32 * (side - 1) as f32 / (n - 1) as f32 } else { 0.0 };
    let before = (x as usize).min(side - 1);
    (before, (before + 1).min(side - 1), x - before as f32)
}

impl Device for Host {
    type Mat = Mat;
    type Vec = Vec<f32>;
    type Rows = Vec<f32>;
    type Input = [f32];
    type Angles = RotaryTable;
    type Fresh = FreshRows;
    type Ids = Vec<i32>;
    type Home = ();

    fn mat((): &(), mat: &Mat, _: &str) -> Result<Mat> {
        Ok(mat.clone())
    }

    fn vec((): &(), vec: &[f32], _: &str) -> Result<Vec<f32>> {
        Ok(vec.to_vec())
    }

    fn norm(
        &self,
        norm: &Norm<Host>,
        eps: f32,
        n: usize,
        (x, of_x): From<'_, Vec<f32>>,
        (out, of_out): To<'_, Vec<f32>>,
    ) -> Result<()> {
        let width = norm.weight.len();
        let (x, out) = (&x[span(of_x, n, width)], &mut out[span(of_out, n, width)]);
        kernels::for_rows(out, width, |it, out| {
            let x = &x[it * width..][..width];
            match &norm.bias {
                None => (self.0.rms_norm)(x, &norm.weight, eps, out),
                Some(bias) => (self.0.layer_norm)(x, &norm.weight, bias, eps, out),
            }
        });
        Ok(())
    }

    fn product_of(
        &self,
        n: usize,
        (input, first): From<'_, [f32]>,
        Linear { weight, bias }: &Linear<Host>,
        (x, of_x): To<'_, Vec<f32>>,
    ) -> Result<()> {
        let (w, epilogue) = (weight.view(), Epilogue { bias: bias.as_deref(), ..Epilogue::default() });
        matmul_with(self.0, w, &input[span(first, n, w.n_cols())], epilogue, &mut x[span(of_x, n, w.n_rows())]);
        Ok(())
    }

    fn add_input(
        &self,
        (n, width): (usize, usize),
        (input, first): From<'_, [f32]>,
        (x, of_x): To<'_, Vec<f32>>,
    ) -> Result<()> {
        let input = &input[span(first, n, width)];
        kernels::for_rows(&mut x[span(of_x, n, width)], width, |it, x| {
            x.iter_mut().zip(&input[it * width..]).for_each(|(x, y)| *x += y);
        });
        Ok(())
    }

    fn take_queries(&self, n: usize, (n_head, d): (usize, usize), rows: &Vec<f32>, out: &mut Vec<f32>) -> Result<()> {
        let heads = &rows[..2 * n * n_head * d];
        kernels::for_rows(&mut out[..n * n_head * d], d, |ih, out| out.copy_from_slice(&heads[2 * ih * d..][..d]));
        Ok(())
    }

    fn gate_heads(&self, n: usize, (n_head, d): (usize, usize), rows: &Vec<f32>, x: &mut Vec<f32>) -> Result<()> {
        let heads = &rows[..2 * n * n_head * d];
        kernels::for_rows(&mut x[..n * n_head * d], d, |ih, x| {
            (self.0.sigmoid_mul)(x, &heads[(2 * ih + 1) * d..][..d]);
        });
        Ok(())
    }

    fn arrange(
        &self,
        rows: Range<usize>,
        width: usize,
        x: &Vec<f32>,
        pairs: &Pairs<Host>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let Some(order) = &pairs.order else { unreachable!("rows have another order") };
        for (x, row) in x.chunks_exact(width).zip(rows) {
            let to = row / order.len() * order.len() + order[row % order.len()] as usize;
            out[span(to, 1, width)].copy_from_slice(x);
        }
        Ok(())
    }

    fn add_positions(
        &self,
        n: usize,
        pairs: &Pairs<Host>,
        (table, side): (&Vec<f32>, usize),
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let width = table.len() / (side * side);
        let entry = |y: usize, x: usize| &table[span(y * side + x, 1, width)];
        kernels::for_rows(&mut x[..n * width], width, |row, out| {
            let place = &pairs.places[row % pairs.n() * 2..][..2];
            let (y, x) = (between(place[0], pairs.grid.0, side), between(place[1], pairs.grid.1, side));
            let corners = [entry(y.0, x.0), entry(y.0, x.1), entry(y.1, x.0), entry(y.1, x.1)];
            for (i, out) in out.iter_mut().enumerate() {
                let above = corners[0][i] * (1.0 - x.2) + corners[1][i] * x.2;
                let below = corners[2][i] * (1.0 - x.2) + corners[3][i] * x.2;
                *out += above * (1.0 - y.2) + below * y.2;
            }
        });
        Ok(())
    }

    fn products<const N: usize>(
        &self,
        n: usize,
        (x, first): From<'_, Vec<f32>>,
        products: [Product<'_, Host>; N],
    ) -> Result<()> {
        let Some(Product { w, .. }) = products.first() else { return Ok(()) };
        let n_cols = w.view().n_cols();
        let mut input = Activations::new(self.0, &x[span(first, n, n_cols)], n_cols);
        for Product { w, bias, then, out: (out, first) } in products {
            let (w, bias) = (w.view(), bias.map(Vec::as_slice));
            let out = &mut out[span(first, n, w.n_rows())];
            let gelu = match then {
                Then::QuickGelu => Some(Gelu::Quick),
                Then::GeluTanh => Some(Gelu::Tanh),
                Then::Store | Then::Add | Then::GeluErf => None,
            };
            let epilogue = Epilogue { bias, gelu, add: then == Then::Add };
            input.matmul_with(w, epilogue, out);
            if then == Then::GeluErf {
                kernels::for_rows(out, w.n_rows(), |_, row| kernels::gelu_erf(row));
            }
        }
        Ok(())
    }

    fn gated(
        &self,
        n: usize,
        (x, first): From<'_, Vec<f32>>,
        (gate, up): (&Linear<Host>, &Linear<Host>),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let [gate, up] = [gate, up].map(|linear| (linear.weight.view(), linear.bias.as_deref()));
        let (n_cols, n_rows) = (gate.0.n_cols(), gate.0.n_rows());
        let mut x = Activations::new(self.0, &x[span(first, n, n_cols)], n_cols);
        x.matmul_gated(gate, up, &mut out[..n * n_rows]);
        Ok(())
    }

    fn experts(
        &self,
        n: usize,
        (x, first): From<'_, Vec<f32>>,
        scores: &Vec<f32>,
        Experts { shape, gate, up, down, .. }: &Experts<Host>,
        (out, of_out): To<'_, Vec<f32>>,
    ) -> Result<()> {
        let width = down.n_rows;
        let [gate, up, down] = [gate, up, down].map(|Stack { mat, first, step, n_rows }| kernels::Stacked {
            mat: mat.view(),
            first: *first,
            step: *step,
            n_rows: *n_rows,
        });
        let experts = kernels::Experts { n: shape.n, n_used: shape.n_used, gate, up, down };
        let out = &mut out[span(of_out, n, width)];
        kernels::experts(self.0, experts, &scores[..n * shape.n], &x[span(first, n, width)], out);
        Ok(())
    }

    fn gate_rows(&self, n: usize, width: usize, gate: &Vec<f32>, x: &mut Vec<f32>) -> Result<()> {
        kernels::for_rows(&mut x[..n * width], width, |it, x| {
            let weight = 1.0 / (1.0 + (-gate[it]).exp());
            x.iter_mut().for_each(|x| *x *= weight);
        });
        Ok(())
    }

    fn finish(
        &self,
        n: usize,
        heads: (usize, usize),
        Finish { bias, angles }: Finish<'_, Host>,
        angle: usize,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let (x, angles) = (&mut x[..n * heads.0 * heads.1], angles.map(|angles| (angles, angle)));
        rotate_rows(self.0, x, bias.map(Vec::as_slice), angles, heads);
        Ok(())
    }

    fn store(
        &self,
        heads: (usize, usize),
        (k, of_k): (&Vec<f32>, Finish<'_, Host>),
        (v, of_v): (&Vec<f32>, Finish<'_, Host>),
        (sequences, il): (&mut [Sequence<'_>], usize),
    ) -> Result<()> {
        for Sequence { rows: Range { start, end }, cache, .. } in sequences {
            let part = span(*start, *end - *start, heads.0 * heads.1);
            let (k_rows, v_rows) = cache.rows_mut(il);
            for (rows, Finish { bias, angles }, to) in [(k, &of_k, k_rows), (v, &of_v, v_rows)] {
                let angles = angles.map(|angles| (angles, *start));
                kv_write(self.0, &rows[part.clone()], bias.map(Vec::as_slice), angles, heads, to)?;
            }
        }
        Ok(())
    }

    fn attend(
        &self,
        rows: Range<usize>,
        Heads { n_head, n_head_kv, d, exact }: Heads,
        q: &Vec<f32>,
        (sequences, il): (&[Sequence<'_>], usize),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let parts = sequences.iter().map(|Sequence { rows: own, cache, .. }| {
            // Rows of its own, of those that count.
            let (start, end) = (own.start.max(rows.start), own.end.max(rows.start));
            let n_past = cache.len() + start - own.start;
            let shape = AttentionShape { n_head, n_head_kv, d, n_past, causal: true, exact };
            AttentionPart { shape, kv: cache.view(il), rows: start - rows.start..end - rows.start }
        });
        let part = span(0, rows.len(), n_head * d);
        attention_of(self.0, parts, &q[part.clone()], &mut out[part]);
        Ok(())
    }

    fn recur(
        &self,
        (net, norm_eps): (&DeltaNet<Host>, f32),
        Projected { qkv, z, beta, alpha }: Projected<'_, Vec<f32>>,
        (sequences, il): (&mut [Sequence<'_>], usize),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let DeltaNet { conv, a, dt: dt_bias, norm, .. } = net;
        for Sequence { rows: Range { start, end }, cache, .. } in sequences {
            let (shape, state) = cache.state_mut(il).expect("a cache of this model");
            let part = |width: usize| span(*start, *end - *start, width);
            let (channels, values, heads) = (part(shape.conv_dim()), part(shape.value_dim()), part(shape.n_head_v));
            let rows = DeltaRows {
                qkv: &mut qkv[channels],
                z: &z[values.clone()],
                beta: &beta[heads.clone()],
                alpha: &alpha[heads],
            };
            let weights = DeltaWeights { conv, a, dt_bias, norm, norm_eps };
            kernels::delta(self.0, &shape, weights, state, rows, &mut out[values])?;
        }
        Ok(())
    }

    fn store_within(
        &self,
        rows: Range<usize>,
        n_per_seq: usize,
        heads: (usize, usize),
        (k, of_k): (&mut Vec<f32>, Finish<'_, Host>),
        (v, of_v): (&mut Vec<f32>, Finish<'_, Host>),
        fresh: &mut FreshRows,
    ) -> Result<()> {
        let (width, stride) = (heads.0 * heads.1, n_per_seq * heads.1 * size_of::<f32>());
        for (seq, n, slot, at) in sequences(rows, n_per_seq) {
            let (part, memory) = (span(at, n, width), span(seq * n_per_seq, n_per_seq, width));
            // Rows are turned by their place in the sequence.
            for (rows, finish, to) in
                [(&mut k[part.clone()], &of_k, &mut fresh.k), (&mut v[part.clone()], &of_v, &mut fresh.v)]
            {
                let mut bias = finish.bias.map(Vec::as_slice);
                if let Some(angles) = finish.angles {
                    rotate_rows(self.0, rows, bias.take(), Some((angles, slot)), heads);
                }
                let data = bytemuck::cast_slice_mut(&mut to[memory.clone()]);
                kv_write(self.0, rows, bias, None, heads, CacheRows { ty: GgmlType::F32.into(), data, stride, slot })?;
            }
        }
        Ok(())
    }

    fn attend_within(
        &self,
        rows: Range<usize>,
        (n_per_seq, windows): (usize, Option<&WindowEnds<Host>>),
        Heads { n_head, n_head_kv, d, exact }: Heads,
        (q, Finish { bias, angles }): (&mut Vec<f32>, Finish<'_, Host>),
        fresh: &FreshRows,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (width, width_kv, stride) = (n_head * d, n_head_kv * d, n_per_seq * d * size_of::<f32>());
        for (seq, n, slot, at) in sequences(rows, n_per_seq) {
            let (part, memory) = (span(at, n, width), span(seq * n_per_seq, n_per_seq, width_kv));
            let q = &mut q[part.clone()];
            rotate_rows(self.0, q, bias.map(Vec::as_slice), angles.map(|angles| (angles, slot)), (n_head, d));
            let (k, v): (&[u8], &[u8]) =
                (bytemuck::cast_slice(&fresh.k[memory.clone()]), bytemuck::cast_slice(&fresh.v[memory]));
            let out = &mut out[part];
            let whole = [n_per_seq as i32];
            let mut begin = 0;
            for end in windows.map_or(&whole[..], |windows| &windows.ends) {
                let end = *end as usize;
                // Those of the window that are in this part; they see also the others.
                let seen = begin.max(slot)..end.min(slot + n);
                if !seen.is_empty() {
                    let at = begin * d * size_of::<f32>();
                    let kv = KvView {
                        type_k: GgmlType::F32.into(),
                        type_v: GgmlType::F32.into(),
                        k: &k[at..],
                        v: &v[at..],
                        stride_k: stride,
                        stride_v: stride,
                    };
                    let n_past = end - begin - seen.len();
                    let shape = AttentionShape { n_head, n_head_kv, d, n_past, causal: false, exact };
                    let rows = span(seen.start - slot, seen.len(), width);
                    attention(self.0, shape, kv, &q[rows.clone()], &mut out[rows]);
                }
                begin = end;
            }
        }
        Ok(())
    }

    fn read(&self, x: &Vec<f32>, start: usize, n: usize) -> Result<Vec<f32>> {
        Ok(x[start..start + n].to_vec())
    }
}
