//! The rows of layers that live on cards. The cache keeps room for them on the host as well, which takes no memory until
//! [`KvCache::pull`] brings rows over: to be written to a take, looked at, or moved.

use std::ops::Range;

use super::{CacheShape, KvCache};
use crate::Result;
use crate::kernels::cuda::{Card, Copy2d, KvMem, Mem};

/// Rows of consecutive layers on one card, laid out as on the host.
pub struct CardRows {
    card: Card,
    layers: Range<usize>,
    k: Mem,
    v: Mem,
}

/// All layers that are on cards.
pub(super) struct OnCards {
    rows: Vec<CardRows>,
    /// Leading slots that hold on the cards what they should.
    pub n_card: usize,
    /// Leading slots of these layers that do so on the host.
    pub n_host: usize,
}

impl CardRows {
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
}

impl KvCache {
    /// Gives the layers of `places` their rows on cards, where they have none yet, and brings over what the host holds and
    /// the cards do not.
    ///
    /// # Errors
    /// Memory that a card does not have, with the numbers.
    ///
    /// # Panics
    /// When they have rows on other cards.
    pub fn place(&mut self, places: &[(Card, Range<usize>)]) -> Result<()> {
        if self.on_cards.is_none() && !places.is_empty() {
            let n_rows = |layers: &Range<usize>| layers.len() * self.shape.n_head_kv * self.shape.n_ctx;
            let make = |(card, layers): &(Card, Range<usize>)| -> Result<CardRows> {
                let what = format!("the cache of {} layers with {} slots", layers.len(), self.shape.n_ctx);
                let (k, v) = (n_rows(layers) * self.row_k, n_rows(layers) * self.row_v);
                let (k, v) = (card.alloc(k, &what)?, card.alloc(v, &what)?);
                Ok(CardRows { card: card.clone(), layers: layers.clone(), k, v })
            };
            let rows = places.iter().map(make).collect::<Result<_>>()?;
            self.on_cards = Some(OnCards { rows, n_card: 0, n_host: self.len });
        }
        let Some(on_cards) = &mut self.on_cards else { return Ok(()) };
        let same =
            |(rows, (card, layers)): (&CardRows, &(Card, Range<usize>))| rows.card.is(card) && rows.layers == *layers;
        let all_same = on_cards.rows.len() == places.len() && on_cards.rows.iter().zip(places).all(same);
        assert!(all_same, "a cache serves one model");
        let missing = on_cards.n_card..self.len;
        if !missing.is_empty() {
            assert_eq!(on_cards.n_host, self.len, "rows are on the host or on the cards");
            for rows in &on_cards.rows {
                for (mem, host, row) in [(&rows.k, &self.k, self.row_k), (&rows.v, &self.v, self.row_v)] {
                    let (copy, at) = copy_of(&self.shape, rows, row, &missing);
                    mem.write_rows(&host[at..][..mem.len()], copy)?;
                }
            }
            on_cards.n_card = self.len;
        }
        Ok(())
    }

    /// The rows on each card.
    pub fn card_rows(&self) -> &[CardRows] {
        self.on_cards.as_ref().map_or(&[], |on_cards| &on_cards.rows)
    }

    /// As [`KvCache::advance`], after layers on cards wrote their rows there and all others theirs here.
    ///
    /// # Panics
    /// When there are fewer free, or cards hold less than the slots before.
    pub fn advance_on_cards(&mut self, n: usize) {
        assert!(n <= self.free());
        let on_cards = self.on_cards.as_mut().expect("layers are on cards");
        assert_eq!(on_cards.n_card, self.len, "rows are missing on the cards");
        self.len += n;
        on_cards.n_card = self.len;
    }

    /// Brings rows of all filled slots to the host.
    ///
    /// # Errors
    /// What a card says.
    pub(super) fn pull_from_cards(&mut self) -> Result<()> {
        let Some(on_cards) = &mut self.on_cards else { return Ok(()) };
        let missing = on_cards.n_host..self.len;
        if !missing.is_empty() {
            for rows in &on_cards.rows {
                for (mem, host, row) in [(&rows.k, &mut self.k, self.row_k), (&rows.v, &mut self.v, self.row_v)] {
                    let (copy, at) = copy_of(&self.shape, rows, row, &missing);
                    mem.read_rows(&mut host[at..][..mem.len()], copy)?;
                }
            }
            on_cards.n_host = self.len;
        }
        Ok(())
    }
}

/// Slots `slots` of all heads of all layers of a card, and where on the host these layers begin; rows have `row` bytes.
fn copy_of(shape: &CacheShape, rows: &CardRows, row: usize, slots: &Range<usize>) -> (Copy2d, usize) {
    let pitch = shape.n_ctx * row;
    let copy =
        Copy2d { at: slots.start * row, pitch, width: slots.len() * row, rows: rows.layers.len() * shape.n_head_kv };
    (copy, rows.layers.start * shape.n_head_kv * pitch)
}
