//! Networks on NVIDIA GPUs: the kernels of `kernels::cuda` as a [`Device`], and who owns what there. `layers.rs` has the
//! language model's layers, `step.rs` a batch's way through them, `rows.rs` their rows of the cache, `tower.rs` the vision tower.

mod layers;
mod rows;
mod split;
mod step;
mod tower;

use std::ops::Range;

pub(super) use layers::{DeviceLayers, DeviceScratch};
use rows::GpuRows;
pub(super) use tower::DeviceTower;

use super::device::{
    Device, Finish, From, Heads, Linear, Norm, Pairs, Product, Projected, Sequence, Stack, Then, To, WindowEnds,
};
use super::ffn::Experts;
use super::mixer::DeltaNet;
use super::weights::Mat;
use super::{TextModel, VisionTower};
use crate::cache::CacheShape;
use crate::gguf::GgmlType;
use crate::kernels::cuda::{
    DeltaMem, DeltaRowsMem, DevMat, EpilogueMem, ExpertsMem, Gpu, Input, KvMem, KvPart, Mem, PairMem, QuantizedMem,
    Rotation, Sees, SeqTable, Sequences, StackMem, WindowMem,
};
use crate::{Error, Result};

/// A stream of a GPU, with the memory that operations need besides their operands.
pub(super) struct Cuda {
    gpu: Gpu,
    quantized: QuantizedMem,
    /// Partial results of attention.
    parts: Mem,
    /// (n_tokens, n_ff): the second product of a gated pair.
    up: Option<Mem>,
    /// Where layers have experts.
    pairs: Option<PairMem>,
    /// One i32: what went wrong.
    flags: Mem,
    /// The language model's: the sequences of the batch, and which of a cache's rows on devices are here.
    table: Option<SeqTable>,
    place: usize,
}

/// Keys and values of all sequences of a batch, in F32.
pub(super) struct FreshMem {
    keys: Mem,
    values: Mem,
}

/// What flags say of keys or values.
fn broken(what: &str) -> Error {
    Error::format(format!("keys or values {what}are not finite: the weights are broken"))
}

/// `n` rows of `width` floats from row `first` on.
fn part(mem: &Mem, first: usize, n: usize, width: usize) -> Mem {
    mem.floats(first * width, n * width)
}

impl FreshMem {
    /// As attention takes them, of sequences of `n_per_seq` rows and heads of `d` elements.
    fn kv(&self, n_per_seq: usize, d: usize) -> (KvMem, KvMem) {
        let stride = n_per_seq * d * size_of::<f32>();
        let kv = |mem: &Mem| KvMem { ty: GgmlType::F32.into(), mem: mem.clone(), stride };
        (kv(&self.keys), kv(&self.values))
    }
}

impl Cuda {
    /// # Panics
    /// When `rows` are not all of a batch: GPUs take it whole.
    fn sequences(rows: &Range<usize>, n_per_seq: usize) -> Sequences {
        assert!(rows.start == 0 && rows.end.is_multiple_of(n_per_seq), "{rows:?} in sequences of {n_per_seq}");
        Sequences { n_seq: rows.len() / n_per_seq, n_per_seq }
    }

    /// The batch's sequences as kernels find them, and where these caches have layer `il`, by `number`.
    ///
    /// # Panics
    /// When the table is of others.
    fn cached(
        &self,
        sequences: &[Sequence<'_>],
        number: impl Fn(&GpuRows, &CacheShape) -> usize,
    ) -> (&SeqTable, usize) {
        let table = self.table.as_ref().expect("a language model's");
        assert!(table.n_seq() == sequences.len(), "{} sequences in a table of {}", sequences.len(), table.n_seq());
        let cache = &*sequences[0].cache;
        (table, number(GpuRows::of(cache, self.place), cache.shape()))
    }
}

impl Device for Cuda {
    type Mat = DevMat;
    type Vec = Mem;
    type Rows = Mem;
    type Input = Mem;
    type Angles = Rotation;
    type Fresh = FreshMem;
    type Ids = Mem;
    type Home = Gpu;

    fn mat(home: &Gpu, mat: &Mat, what: &str) -> Result<DevMat> {
        DevMat::upload(home, mat.view(), what)
    }

    fn vec(home: &Gpu, vec: &[f32], what: &str) -> Result<Mem> {
        home.upload(vec, what)
    }

    fn norm(
        &self,
        norm: &Norm<Cuda>,
        eps: f32,
        n: usize,
        (x, of_x): From<'_, Mem>,
        (out, of_out): To<'_, Mem>,
    ) -> Result<()> {
        let (weight, width) = (&norm.weight, norm.weight.len() / size_of::<f32>());
        let (x, out) = (part(x, of_x, n, width), part(out, of_out, n, width));
        match &norm.bias {
            None => self.gpu.rms_norm(&x, weight, eps, &out, n),
            Some(bias) => self.gpu.layer_norm(&x, (weight, bias), eps, &out, n),
        }
    }

    fn product_of(
        &self,
        n: usize,
        (input, first): From<'_, Mem>,
        Linear { weight: w, bias }: &Linear<Cuda>,
        (x, of_x): To<'_, Mem>,
    ) -> Result<()> {
        let input = part(input, first, n, w.n_cols());
        let input = Input::new(&self.gpu, &input, &self.quantized, (n, w.n_cols()));
        let epilogue = EpilogueMem { bias: bias.as_ref(), ..EpilogueMem::default() };
        input.product(w, epilogue, &part(x, of_x, n, w.n_rows()))
    }

    fn add_input(
        &self,
        (n, width): (usize, usize),
        (input, first): From<'_, Mem>,
        (x, of_x): To<'_, Mem>,
    ) -> Result<()> {
        self.gpu.add(&part(x, of_x, n, width), &part(input, first, n, width), n * width)
    }

    fn take_queries(&self, n: usize, (n_head, d): (usize, usize), rows: &Mem, out: &mut Mem) -> Result<()> {
        self.gpu.take_queries(rows, (n * n_head, d), out)
    }

    fn gate_heads(&self, n: usize, (n_head, d): (usize, usize), rows: &Mem, x: &mut Mem) -> Result<()> {
        self.gpu.gate_heads(rows, (n * n_head, d), x)
    }

    fn arrange(&self, rows: Range<usize>, width: usize, x: &Mem, pairs: &Pairs<Cuda>, out: &mut Mem) -> Result<()> {
        let Some(order) = &pairs.order else { unreachable!("rows have another order") };
        assert!(rows.start == 0, "GPUs take a batch whole");
        self.gpu.reorder_rows(x, (rows.len(), width), (order, pairs.n()), out)
    }

    fn add_positions(&self, n: usize, pairs: &Pairs<Cuda>, (table, side): (&Mem, usize), x: &mut Mem) -> Result<()> {
        let width = table.len() / size_of::<f32>() / (side * side);
        self.gpu.add_positions(x, (n, width), (&pairs.places, pairs.n()), pairs.grid, (table, side))
    }

    fn products<const N: usize>(
        &self,
        n: usize,
        (x, first): From<'_, Mem>,
        products: [Product<'_, Cuda>; N],
    ) -> Result<()> {
        let Some(Product { w, .. }) = products.first() else { return Ok(()) };
        let n_cols = w.n_cols();
        let x = part(x, first, n, n_cols);
        let input = Input::new(&self.gpu, &x, &self.quantized, (n, n_cols));
        for Product { w, bias, then, out: (out, first) } in products {
            let epilogue = EpilogueMem {
                bias,
                add: then == Then::Add,
                quick_gelu: then == Then::QuickGelu,
                gelu_erf: then == Then::GeluErf,
                gelu_tanh: then == Then::GeluTanh,
            };
            input.product(w, epilogue, &part(out, first, n, w.n_rows()))?;
        }
        Ok(())
    }

    fn gated(
        &self,
        n: usize,
        x: From<'_, Mem>,
        (gate, up): (&Linear<Cuda>, &Linear<Cuda>),
        out: &mut Mem,
    ) -> Result<()> {
        let mut of_up = self.up.clone().expect("reserved where there are gated pairs");
        let products = [Product::of(gate, Then::Store, (&mut *out, 0)), Product::of(up, Then::Store, (&mut of_up, 0))];
        self.products(n, x, products)?;
        self.gpu.silu_mul(out, &of_up, n * gate.weight.n_rows())
    }

    fn experts(
        &self,
        n: usize,
        (x, first): From<'_, Mem>,
        scores: &Mem,
        Experts { shape, gate, up, down, .. }: &Experts<Cuda>,
        (out, of_out): To<'_, Mem>,
    ) -> Result<()> {
        let width = down.n_rows;
        let [gate, up, down] = [gate, up, down].map(|Stack { mat, first, step, n_rows }| StackMem {
            mat,
            first: *first,
            step: *step,
            n_rows: *n_rows,
        });
        let experts = ExpertsMem { n: shape.n, n_used: shape.n_used, gate, up, down };
        let (x, out) = (part(x, first, n, width), part(out, of_out, n, width));
        let pairs = self.pairs.as_ref().expect("reserved where there are experts");
        self.gpu.experts(&experts, n, (scores, &x, &out), (pairs, &self.quantized))
    }

    fn gate_rows(&self, n: usize, width: usize, gate: &Mem, x: &mut Mem) -> Result<()> {
        self.gpu.gate_rows(x, gate, (n, width))
    }

    fn finish(
        &self,
        n: usize,
        heads: (usize, usize),
        Finish { bias, angles }: Finish<'_, Cuda>,
        angle: usize,
        x: &mut Mem,
    ) -> Result<()> {
        let Some(Rotation { table, n_turning, n_pair, .. }) = angles else { unreachable!("queries turn") };
        let table = part(table, angle, n, 2 * n_turning);
        let rotation = Rotation { table, n_tokens: n, n_turning: *n_turning, n_pair: *n_pair };
        self.gpu.rotate_rows(x, bias, &rotation, n, heads)
    }

    fn store(
        &self,
        heads: (usize, usize),
        k: (&Mem, Finish<'_, Cuda>),
        v: (&Mem, Finish<'_, Cuda>),
        (sequences, il): (&mut [Sequence<'_>], usize),
    ) -> Result<()> {
        let of = self.cached(sequences, |rows, shape| rows.row_layer(il, shape));
        debug_assert_eq!((of.0.heads().1, of.0.heads().2), heads);
        for ((rows, Finish { bias, angles }), part) in [(k, KvPart::Keys), (v, KvPart::Values)] {
            self.gpu.kv_write_cached(rows, (bias, angles), of, part, &self.flags)?;
        }
        Ok(())
    }

    fn attend(
        &self,
        rows: Range<usize>,
        Heads { n_head, n_head_kv, d, .. }: Heads,
        q: &Mem,
        (sequences, il): (&[Sequence<'_>], usize),
        out: &mut Mem,
    ) -> Result<()> {
        let of = self.cached(sequences, |rows, shape| rows.row_layer(il, shape));
        debug_assert_eq!((of.0.heads(), of.0.n_rows()), ((n_head, n_head_kv, d), rows.end));
        self.gpu.attention_cached(q, of, rows.start, out, &self.parts)
    }

    fn recur(
        &self,
        (net, norm_eps): (&DeltaNet<Cuda>, f32),
        Projected { qkv, z, beta, alpha }: Projected<'_, Mem>,
        (sequences, il): (&mut [Sequence<'_>], usize),
        out: &mut Mem,
    ) -> Result<()> {
        let recurrent = sequences[0].cache.shape().recurrent.expect("a cache of this model");
        let of = self.cached(sequences, |rows, _| rows.state_layer(il, &recurrent));
        let DeltaNet { conv, a, dt: dt_bias, norm, .. } = net;
        let weights = DeltaMem { conv, a, dt_bias, norm, norm_eps };
        let rows = DeltaRowsMem { qkv, z, beta, alpha };
        self.gpu.delta(&recurrent.state, &weights, of, &rows, (out, &self.flags))
    }

    fn store_within(
        &self,
        rows: Range<usize>,
        n_per_seq: usize,
        heads: (usize, usize),
        (k, of_k): (&mut Mem, Finish<'_, Cuda>),
        (v, of_v): (&mut Mem, Finish<'_, Cuda>),
        fresh: &mut FreshMem,
    ) -> Result<()> {
        let (keys, values) = fresh.kv(n_per_seq, heads.1);
        let seqs = Cuda::sequences(&rows, n_per_seq);
        for (rows, Finish { bias, angles }, to) in [(k, of_k, &keys), (v, of_v, &values)] {
            self.gpu.kv_write(rows, (bias, angles), seqs, heads, to, &self.flags)?;
        }
        Ok(())
    }

    fn attend_within(
        &self,
        rows: Range<usize>,
        (n_per_seq, windows): (usize, Option<&WindowEnds<Cuda>>),
        Heads { n_head, n_head_kv, d, .. }: Heads,
        (q, Finish { bias, angles }): (&mut Mem, Finish<'_, Cuda>),
        fresh: &FreshMem,
        out: &mut Mem,
    ) -> Result<()> {
        let (keys, values) = fresh.kv(n_per_seq, d);
        let seqs = Cuda::sequences(&rows, n_per_seq);
        let sees = windows.map_or(Sees::All, |WindowEnds { ends, n, longest }| {
            Sees::Windows(WindowMem { ends, n: *n, longest: *longest })
        });
        if let Some(rotation) = angles {
            self.gpu.rotate_rows(q, bias, rotation, rows.len(), (n_head, d))?;
        }
        self.gpu.attention(q, (&keys, &values), seqs, (n_head, n_head_kv, d), sees, out, &self.parts)
    }

    fn read(&self, x: &Mem, start: usize, n: usize) -> Result<Vec<f32>> {
        let mut out = vec![0f32; n];
        x.floats(start, n).read(&mut out)?;
        Ok(out)
    }
}

impl TextModel {
    /// Moves the last `n` layers to `gpus`; beyond the number of layers also the output matrix, as llama.cpp counts, and the
    /// embedding.
    ///
    /// # Errors
    /// Memory that a GPU does not have, with the numbers; a type without kernels.
    pub fn offload(&mut self, gpus: &[Gpu], n: usize) -> Result<()> {
        self.devices = None;
        if n > 0 && !gpus.is_empty() {
            let ends = (n > self.layers.len()).then_some((&self.token_embd, &self.head));
            self.devices = Some(DeviceLayers::load(gpus, &self.layers, n.min(self.layers.len()), ends)?);
        }
        Ok(())
    }

    /// Which layers are on which GPU, by name, and whether the output matrix is there, too.
    pub fn on_gpus(&self) -> Vec<(String, Range<usize>, bool)> {
        self.devices.as_ref().map_or(Vec::new(), DeviceLayers::names)
    }
}

impl VisionTower {
    /// Moves the tower to `gpu`.
    ///
    /// # Errors
    /// Memory that the GPU does not have, with the numbers.
    pub fn offload(&mut self, gpu: &Gpu) -> Result<()> {
        self.device = Some(DeviceTower::load(gpu, &self.tower)?);
        Ok(())
    }
}
