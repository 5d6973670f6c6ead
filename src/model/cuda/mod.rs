//! Networks on NVIDIA cards: the kernels of `kernels::cuda` as a [`Device`], and who owns what there. `layers.rs` has the
//! language model's layers, `step.rs` a batch's way through them, `rows.rs` their rows of the cache, `tower.rs` the vision tower.

mod layers;
mod rows;
mod split;
mod step;
mod tower;

use std::ops::Range;

pub(super) use layers::{DeviceLayers, DeviceScratch};
use rows::CardRows;
pub(super) use step::{DeviceBatch, DeviceOutput, MAX_TOP};
pub(super) use tower::DeviceTower;

use super::device::{Device, Finish, Heads, Linear, Norm, Product, Then};
use super::weights::Mat;
use super::{TextModel, VisionTower};
use crate::cache::KvCache;
use crate::kernels::cuda::{Card, DevMat, EpilogueMem, Input, KvMem, Mem, QuantizedMem, Rotation, Sequences};
use crate::{Error, Result};

/// A stream of a card, with the memory that operations need besides their operands.
pub(super) struct Cuda {
    card: Card,
    quantized: QuantizedMem,
    /// Partial results of attention.
    parts: Mem,
    /// (n_tokens, n_ff): the second product of a gated pair.
    up: Option<Mem>,
    /// One i32: what went wrong.
    flags: Mem,
    /// One i32: slots filled before the first row; and another one, before the first of the last rows.
    past: Mem,
    past_last: Mem,
    /// Which of the cache's rows on devices are here.
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

/// Some rows of `mem`, of `width` floats each.
fn part(mem: &Mem, rows: &Range<usize>, width: usize) -> Mem {
    mem.floats(rows.start * width, rows.len() * width)
}

impl Cuda {
    /// Keys and values of layer `il`.
    fn kv(&self, cache: &KvCache, il: usize) -> (KvMem, KvMem) {
        CardRows::of(cache, self.place).layer(il, cache.shape())
    }

    fn one_product(&self, input: &Input<'_>, rows: &Range<usize>, product: Product<'_, Cuda>) -> Result<()> {
        let Product { w, bias, then, out } = product;
        let epilogue = EpilogueMem {
            bias,
            add: then == Then::Add,
            quick_gelu: then == Then::QuickGelu,
            gelu_erf: then == Then::GeluErf,
        };
        input.product(w, epilogue, &part(out, rows, w.n_rows()))
    }
}

impl Device for Cuda {
    type Mat = DevMat;
    type Vec = Mem;
    type Rows = Mem;
    type Input = Mem;
    type Angles = Rotation;
    type Fresh = FreshMem;
    type Home = Card;

    fn mat(home: &Card, mat: &Mat, what: &str) -> Result<DevMat> {
        DevMat::upload(home, mat.view(), what)
    }

    fn vec(home: &Card, vec: &[f32], what: &str) -> Result<Mem> {
        home.upload(vec, what)
    }

    fn norm(&self, norm: &Norm<Cuda>, eps: f32, rows: Range<usize>, x: &Mem, out: &mut Mem) -> Result<()> {
        let (weight, width) = (&norm.weight, norm.weight.len() / size_of::<f32>());
        let (x, out) = (part(x, &rows, width), part(out, &rows, width));
        match &norm.bias {
            None => self.card.rms_norm(&x, weight, eps, &out, rows.len()),
            Some(bias) => self.card.layer_norm(&x, (weight, bias), eps, &out, rows.len()),
        }
    }

    fn product_of(&self, n: usize, input: &Mem, w: &DevMat, x: &mut Mem) -> Result<()> {
        Input::new(&self.card, input, &self.quantized, (n, w.n_cols())).product(w, EpilogueMem::default(), x)
    }

    fn products<const N: usize>(&self, rows: Range<usize>, x: &Mem, products: [Product<'_, Cuda>; N]) -> Result<()> {
        let Some(first) = products.first() else { return Ok(()) };
        let n_cols = first.w.n_cols();
        let x = part(x, &rows, n_cols);
        let input = Input::new(&self.card, &x, &self.quantized, (rows.len(), n_cols));
        products.into_iter().try_for_each(|product| self.one_product(&input, &rows, product))
    }

    fn logits(&self, rows: Range<usize>, x: &Mem, w: &DevMat, out: &mut Mem) -> Result<()> {
        self.product_of(rows.len(), &part(x, &rows, w.n_cols()), w, out)
    }

    fn gated(
        &self,
        rows: Range<usize>,
        x: &Mem,
        (gate, up): (&Linear<Cuda>, &Linear<Cuda>),
        out: &mut Mem,
    ) -> Result<()> {
        let mut of_up = self.up.clone().expect("reserved where there are gated pairs");
        self.products(
            rows.clone(),
            x,
            [Product::of(gate, Then::Store, out), Product::of(up, Then::Store, &mut of_up)],
        )?;
        let n_ff = gate.weight.n_rows();
        self.card.silu_mul(&part(out, &rows, n_ff), &part(&of_up, &rows, n_ff), rows.len() * n_ff)
    }

    fn finish(
        &self,
        rows: Range<usize>,
        heads: (usize, usize),
        Finish { bias, angles }: Finish<'_, Cuda>,
        x: &mut Mem,
    ) -> Result<()> {
        let Some(Rotation { table, n_turning, .. }) = angles else { unreachable!("queries turn") };
        let rotation =
            Rotation { table: part(table, &rows, 2 * n_turning), n_tokens: rows.len(), n_turning: *n_turning };
        self.card.rotate_rows(&part(x, &rows, heads.0 * heads.1), bias, &rotation, rows.len(), heads)
    }

    fn store(
        &self,
        n: usize,
        heads: (usize, usize),
        k: (&Mem, Finish<'_, Cuda>),
        v: (&Mem, Finish<'_, Cuda>),
        (cache, il): (&mut KvCache, usize),
    ) -> Result<()> {
        let (keys, values) = self.kv(cache, il);
        let seqs = Sequences { n_seq: 1, n_per_seq: n, past: &self.past, n_past: cache.len() };
        for ((rows, Finish { bias, angles }), to) in [(k, &keys), (v, &values)] {
            self.card.kv_write(rows, (bias, angles), seqs, heads, to, &self.flags)?;
        }
        Ok(())
    }

    fn attend(
        &self,
        rows: Range<usize>,
        Heads { n_head, n_head_kv, d, .. }: Heads,
        q: &Mem,
        (cache, il): (&KvCache, usize),
        out: &mut Mem,
    ) -> Result<()> {
        let (keys, values) = self.kv(cache, il);
        let past = if rows.start == 0 { &self.past } else { &self.past_last };
        let seqs = Sequences { n_seq: 1, n_per_seq: rows.len(), past, n_past: cache.len() + rows.start };
        let (q, out) = (part(q, &rows, n_head * d), part(out, &rows, n_head * d));
        self.card.attention(&q, (&keys, &values), seqs, (n_head, n_head_kv, d), true, &out, &self.parts)
    }

    fn attend_within(
        &self,
        (n_seq, n_per_seq): (usize, usize),
        Heads { n_head, n_head_kv, d, .. }: Heads,
        [(q, of_q), (k, of_k), (v, of_v)]: [(&mut Mem, Finish<'_, Cuda>); 3],
        fresh: &mut FreshMem,
        out: &mut Mem,
    ) -> Result<()> {
        let n = n_seq * n_per_seq;
        let stride = n_per_seq * d * size_of::<f32>();
        let kv = |mem: &Mem| KvMem { ty: crate::gguf::GgmlType::F32, mem: mem.clone(), stride };
        let (keys, values) = (kv(&fresh.keys), kv(&fresh.values));
        let seqs = Sequences { n_seq, n_per_seq, past: &self.past, n_past: 0 };
        if let Some(rotation) = of_q.angles {
            self.card.rotate_rows(q, of_q.bias, rotation, n, (n_head, d))?;
        }
        for (rows, Finish { bias, angles }, to) in [(k, of_k, &keys), (v, of_v, &values)] {
            self.card.kv_write(rows, (bias, angles), seqs, (n_head_kv, d), to, &self.flags)?;
        }
        self.card.attention(q, (&keys, &values), seqs, (n_head, n_head_kv, d), false, out, &self.parts)
    }

    fn read(&self, x: &Mem, start: usize, n: usize) -> Result<Vec<f32>> {
        let mut out = vec![0f32; n];
        x.floats(start, n).read(&mut out)?;
        Ok(out)
    }
}

impl TextModel {
    /// Moves the last `n` layers to `cards`; beyond the number of layers also the output matrix, as llama.cpp counts, and the
    /// embedding.
    ///
    /// # Errors
    /// Memory that a card does not have, with the numbers.
    pub fn offload(&mut self, cards: &[Card], n: usize) -> Result<()> {
        self.devices = None;
        if n > 0 && !cards.is_empty() {
            let ends = (n > self.layers.len()).then_some((&self.token_embd, &self.head));
            self.devices = Some(DeviceLayers::load(cards, &self.layers, n.min(self.layers.len()), ends)?);
        }
        Ok(())
    }

    /// Which layers are on which card, by name, and whether the output matrix is there, too.
    pub fn on_cards(&self) -> Vec<(String, Range<usize>, bool)> {
        self.devices.as_ref().map_or(Vec::new(), DeviceLayers::names)
    }
}

impl VisionTower {
    /// Moves the tower to `card`.
    ///
    /// # Errors
    /// Memory that the card does not have, with the numbers.
    pub fn offload(&mut self, card: &Card) -> Result<()> {
        self.device = Some(DeviceTower::load(card, &self.tower)?);
        Ok(())
    }
}
