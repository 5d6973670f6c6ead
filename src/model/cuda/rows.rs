//! The rows of the cache that are on cards.

use std::any::Any;
use std::ops::Range;

use crate::Result;
use crate::cache::{CacheShape, DeviceRows, KvCache, Part, Strided};
use crate::kernels::cuda::{Card, Copy2d, KvMem, Mem};

/// Rows of consecutive layers on one card, laid out as on the host.
pub(super) struct CardRows {
    card: Card,
    layers: Range<usize>,
    k: Mem,
    v: Mem,
}

impl CardRows {
    /// Memory for `layers` of a cache of `shape`.
    ///
    /// # Errors
    /// Memory that the card does not have, with the numbers.
    pub fn new(card: &Card, layers: &Range<usize>, shape: &CacheShape) -> Result<CardRows> {
        let what = format!("the cache of {} layers with {} slots", layers.len(), shape.n_ctx);
        let (k, v) = CacheShape { n_layer: layers.len(), ..*shape }.part_bytes()?;
        let (k, v) = (card.alloc(k, &what)?, card.alloc(v, &what)?);
        Ok(CardRows { card: card.clone(), layers: layers.clone(), k, v })
    }

    /// Those that were placed as number `i`.
    ///
    /// # Panics
    /// When there are none.
    pub fn of(cache: &KvCache, i: usize) -> &CardRows {
        cache.placed()[i].as_any().downcast_ref().expect("one kind of device at a time")
    }

    /// Whether these are the rows of `layers` on `card`.
    pub fn are(&self, card: &Card, layers: &Range<usize>) -> bool {
        self.card.is(card) && self.layers == *layers
    }

    /// Keys and values of layer `il`.
    ///
    /// # Panics
    /// When the layer is not among these.
    pub fn layer(&self, il: usize, shape: &CacheShape) -> (KvMem, KvMem) {
        assert!(self.layers.contains(&il), "layer {il} is not among {:?}", self.layers);
        let i = il - self.layers.start;
        let part = |mem: &Mem, ty| {
            let n_bytes = mem.len() / self.layers.len();
            KvMem { ty, mem: mem.part(i * n_bytes, n_bytes), stride: n_bytes / shape.n_head_kv }
        };
        (part(&self.k, shape.type_k), part(&self.v, shape.type_v))
    }

    fn part(&self, part: Part) -> &Mem {
        match part {
            Part::K => &self.k,
            Part::V => &self.v,
        }
    }
}

fn copy2d(Strided { at, pitch, width, rows }: Strided) -> Copy2d {
    Copy2d { at, pitch, width, rows }
}

impl DeviceRows for CardRows {
    fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    fn write(&self, part: Part, host: &[u8], rows: Strided) -> Result<()> {
        self.part(part).write_rows(host, copy2d(rows))
    }

    fn read(&self, part: Part, host: &mut [u8], rows: Strided) -> Result<()> {
        self.part(part).read_rows(host, copy2d(rows))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
