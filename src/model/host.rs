//! The CPU as a [`Device`]: weights stay where they are, packed, in their mapped file.

use std::ops::Range;

use super::device::{Device, Finish, From, Heads, Linear, Norm, Product, Then, To};
use super::weights::Mat;
use crate::Result;
use crate::cache::KvCache;
use crate::gguf::GgmlType;
use crate::kernels::{
    self, Activations, AttentionShape, CacheRows, Epilogue, Kernels, KvView, attention, kv_write, matmul, rotate_rows,
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
    pub fn grow(&mut self, n: usize) {
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

impl Device for Host {
    type Mat = Mat;
    type Vec = Vec<f32>;
    type Rows = Vec<f32>;
    type Input = [f32];
    type Angles = RotaryTable;
    type Fresh = FreshRows;
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
        w: &Mat,
        (x, of_x): To<'_, Vec<f32>>,
    ) -> Result<()> {
        let w = w.view();
        matmul(self.0, w, &input[span(first, n, w.n_cols())], &mut x[span(of_x, n, w.n_rows())]);
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
            let epilogue = Epilogue { bias, quick_gelu: then == Then::QuickGelu, add: then == Then::Add };
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
        let (gate, up) = (gate.weight.view(), up.weight.view());
        let x = Activations::new(self.0, &x[span(first, n, gate.n_cols())], gate.n_cols());
        { x }.matmul_gated(gate, up, &mut out[..n * gate.n_rows()]);
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
        n: usize,
        heads: (usize, usize),
        k: (&Vec<f32>, Finish<'_, Host>),
        v: (&Vec<f32>, Finish<'_, Host>),
        (cache, il): (&mut KvCache, usize),
    ) -> Result<()> {
        let (k_rows, v_rows) = cache.rows_mut(il);
        for ((rows, Finish { bias, angles }), to) in [(k, k_rows), (v, v_rows)] {
            kv_write(self.0, &rows[..n * heads.0 * heads.1], bias.map(Vec::as_slice), angles, heads, to)?;
        }
        Ok(())
    }

    fn attend(
        &self,
        rows: Range<usize>,
        Heads { n_head, n_head_kv, d, exact }: Heads,
        q: &Vec<f32>,
        (cache, il): (&KvCache, usize),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let shape = AttentionShape { n_head, n_head_kv, d, n_past: cache.len() + rows.start, causal: true, exact };
        let n = rows.len() * n_head * d;
        attention(self.0, shape, cache.view(il), &q[..n], &mut out[..n]);
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
                kv_write(self.0, rows, bias, None, heads, CacheRows { ty: GgmlType::F32, data, stride, slot })?;
            }
        }
        Ok(())
    }

    fn attend_within(
        &self,
        rows: Range<usize>,
        n_per_seq: usize,
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
            let kv = KvView {
                type_k: GgmlType::F32,
                type_v: GgmlType::F32,
                k: bytemuck::cast_slice(&fresh.k[memory.clone()]),
                v: bytemuck::cast_slice(&fresh.v[memory]),
                stride_k: stride,
                stride_v: stride,
            };
            // All see all, also those that are not in this part.
            let shape = AttentionShape { n_head, n_head_kv, d, n_past: n_per_seq - n, causal: false, exact };
            attention(self.0, shape, kv, q, &mut out[part]);
        }
        Ok(())
    }

    fn read(&self, x: &Vec<f32>, start: usize, n: usize) -> Result<Vec<f32>> {
        Ok(x[start..start + n].to_vec())
    }
}
