//! The CPU as a [`Device`]: weights stay where they are, packed, in their mapped file.

use std::ops::Range;

use super::device::{Device, Finish, Heads, Linear, Norm, Product, Then};
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

/// Keys and values of one sequence at a time, (n_per_seq, n_head * d) floats each, head after head.
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

/// Where some rows of a matrix of `width` columns lie.
fn span(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
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

    fn norm(&self, norm: &Norm<Host>, eps: f32, rows: Range<usize>, x: &Vec<f32>, out: &mut Vec<f32>) -> Result<()> {
        let width = norm.weight.len();
        let (x, out) = (&x[span(&rows, width)], &mut out[span(&rows, width)]);
        kernels::for_rows(out, width, |it, out| {
            let x = &x[it * width..][..width];
            match &norm.bias {
                None => (self.0.rms_norm)(x, &norm.weight, eps, out),
                Some(bias) => (self.0.layer_norm)(x, &norm.weight, bias, eps, out),
            }
        });
        Ok(())
    }

    fn product_of(&self, n: usize, input: &[f32], w: &Mat, x: &mut Vec<f32>) -> Result<()> {
        let w = w.view();
        matmul(self.0, w, &input[..n * w.n_cols()], &mut x[..n * w.n_rows()]);
        Ok(())
    }

    fn products<const N: usize>(
        &self,
        rows: Range<usize>,
        x: &Vec<f32>,
        products: [Product<'_, Host>; N],
    ) -> Result<()> {
        let Some(first) = products.first() else { return Ok(()) };
        let n_cols = first.w.view().n_cols();
        let mut input = Activations::new(self.0, &x[span(&rows, n_cols)], n_cols);
        for Product { w, bias, then, out } in products {
            let (w, bias) = (w.view(), bias.map(Vec::as_slice));
            let out = &mut out[span(&rows, w.n_rows())];
            let epilogue = Epilogue { bias, quick_gelu: then == Then::QuickGelu, add: then == Then::Add };
            input.matmul_with(w, epilogue, out);
            if then == Then::GeluErf {
                kernels::for_rows(out, w.n_rows(), |_, row| kernels::gelu_erf(row));
            }
        }
        Ok(())
    }

    fn logits(&self, rows: Range<usize>, x: &Vec<f32>, w: &Mat, out: &mut Vec<f32>) -> Result<()> {
        let w = w.view();
        matmul(self.0, w, &x[span(&rows, w.n_cols())], &mut out[..rows.len() * w.n_rows()]);
        Ok(())
    }

    fn gated(
        &self,
        rows: Range<usize>,
        x: &Vec<f32>,
        (gate, up): (&Linear<Host>, &Linear<Host>),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (gate, up) = (gate.weight.view(), up.weight.view());
        let out = &mut out[span(&rows, gate.n_rows())];
        Activations::new(self.0, &x[span(&rows, gate.n_cols())], gate.n_cols()).matmul_gated(gate, up, out);
        Ok(())
    }

    fn finish(
        &self,
        rows: Range<usize>,
        heads: (usize, usize),
        Finish { bias, angles }: Finish<'_, Host>,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let x = &mut x[span(&rows, heads.0 * heads.1)];
        rotate_rows(self.0, x, bias.map(Vec::as_slice), angles.map(|angles| (angles, rows.start)), heads);
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
        let of_q = span(&rows, n_head * d);
        attention(self.0, shape, cache.view(il), &q[of_q.clone()], &mut out[of_q]);
        Ok(())
    }

    fn attend_within(
        &self,
        (n_seq, n_per_seq): (usize, usize),
        Heads { n_head, n_head_kv, d, exact }: Heads,
        [(q, of_q), (k, of_k), (v, of_v)]: [(&mut Vec<f32>, Finish<'_, Host>); 3],
        fresh: &mut FreshRows,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (width, width_kv, stride) = (n_head * d, n_head_kv * d, n_per_seq * d * size_of::<f32>());
        let shape = AttentionShape { n_head, n_head_kv, d, n_past: 0, causal: false, exact };
        for seq in 0..n_seq {
            let rows = seq * n_per_seq..(seq + 1) * n_per_seq;
            let (of_rows, of_kv) = (span(&rows, width), span(&rows, width_kv));
            let q = &mut q[of_rows.clone()];
            rotate_rows(self.0, q, of_q.bias.map(Vec::as_slice), of_q.angles.map(|angles| (angles, 0)), (n_head, d));
            for (rows, finish, to) in
                [(&k[of_kv.clone()], &of_k, &mut fresh.k), (&v[of_kv.clone()], &of_v, &mut fresh.v)]
            {
                let data = bytemuck::cast_slice_mut(&mut to[..n_per_seq * width_kv]);
                let to = CacheRows { ty: GgmlType::F32, data, stride, slot: 0 };
                kv_write(self.0, rows, finish.bias.map(Vec::as_slice), finish.angles, (n_head_kv, d), to)?;
            }
            let kv = KvView {
                type_k: GgmlType::F32,
                type_v: GgmlType::F32,
                k: bytemuck::cast_slice(&fresh.k),
                v: bytemuck::cast_slice(&fresh.v),
                stride_k: stride,
                stride_v: stride,
            };
            attention(self.0, shape, kv, q, &mut out[of_rows]);
        }
        Ok(())
    }

    fn read(&self, x: &Vec<f32>, start: usize, n: usize) -> Result<Vec<f32>> {
        Ok(x[start..start + n].to_vec())
    }
}
