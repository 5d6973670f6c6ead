//! The KV cache: where keys (rotated) and values wait until they are needed again, and the states of layers that have neither.
//! In: fresh key and value rows of a batch, from `model`. Out: the [`KvView`] that attention reads.
//! Start reading at [`KvCache`]. Memory is reserved once and committed by the system as it fills.
//! On purpose absent here: positions (keys arrive with theirs rotated in), sampling, threads.
#![forbid(unsafe_code)]

mod elsewhere;
mod looks;
mod recurrent;
pub mod skip;
mod slots;

pub use elsewhere::{DeviceRows, Strided};
pub use looks::Looks;
pub use recurrent::{LayerSet, MAX_KEPT, Recurrent};
pub use slots::Slots;

use std::ops::Range;

use memmap2::MmapMut;

use crate::gguf::FileCopy;
use crate::kernels::{CacheRows, KvView};
pub use crate::tensor::{CACHE_TYPES, CacheType};
use crate::{Error, Result};

/// A type that a cache can hold, by its name in any case.
///
/// # Errors
/// `BadInput` for any other name, with those that are known.
pub fn cache_type(name: &str) -> Result<CacheType> {
    CacheType::from_name(name).ok_or_else(|| unknown(&format!("`{name}`")))
}

fn unknown(what: &str) -> Error {
    let known = CACHE_TYPES.map(|ty| ty.name().to_lowercase()).join(", ");
    Error::bad_input(format!("cache type {what} is not one of {known}, or one of them with `h` behind it"))
}

/// Sizes and types of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers, with rows or without.
    pub n_layer: usize,
    /// Heads of keys and values in a layer with rows.
    pub n_head_kv: usize,
    /// Elements per head.
    pub d: usize,
    /// Slots.
    pub n_ctx: usize,
    /// Type of stored keys.
    pub type_k: CacheType,
    /// Type of stored values.
    pub type_v: CacheType,
    /// Layers without rows, where there are any.
    pub recurrent: Option<Recurrent>,
}

impl CacheShape {
    /// Layers that have rows.
    pub fn n_row_layers(&self) -> usize {
        self.n_layer - self.recurrent.map_or(0, |recurrent| recurrent.layers.before(self.n_layer))
    }

    /// How many of the layers before `il` have rows.
    pub fn row_layer(&self, il: usize) -> usize {
        il - self.recurrent.map_or(0, |recurrent| recurrent.layers.before(il))
    }

    /// The same for these layers alone.
    pub fn of_layers(&self, layers: &Range<usize>) -> CacheShape {
        let recurrent = self.recurrent.map(|Recurrent { layers: all, state }| Recurrent {
            layers: LayerSet::of(layers.clone().map(|il| all.contains(il))),
            state,
        });
        CacheShape { n_layer: layers.len(), recurrent, ..*self }
    }

    /// Bytes of a row of one head, checked.
    fn row_bytes(&self, ty: CacheType, what: &str) -> Result<usize> {
        if !ty.is_known() {
            return Err(unknown(&format!("{what} `{ty}`")));
        }
        ty.row_bytes(self.d).filter(|n| *n > 0).ok_or_else(|| {
            Error::bad_input(format!(
                "cache type {what} `{ty}` needs a head dimension that is a multiple of {}, not `{}`",
                ty.block_len(),
                self.d
            ))
        })
    }

    /// Bytes of the whole cache: rows, states, and copies of these that are kept.
    ///
    /// # Errors
    /// Types that a cache cannot hold, or a size that overflows.
    pub fn n_bytes(&self) -> Result<usize> {
        let (k, v) = self.part_bytes()?;
        let states = self.state_bytes()?.checked_mul(1 + MAX_KEPT);
        states.and_then(|states| k.checked_add(v)?.checked_add(states)).ok_or_else(|| self.overflow())
    }

    /// Bytes of the states of all recurrent layers.
    ///
    /// # Errors
    /// A size that overflows.
    pub fn state_bytes(&self) -> Result<usize> {
        let floats = self.recurrent.map_or(Some(0), |recurrent| recurrent.n_floats());
        floats.and_then(|n| n.checked_mul(size_of::<f32>())).ok_or_else(|| self.overflow())
    }

    /// Bytes of all keys, and of all values.
    ///
    /// # Errors
    /// As [`CacheShape::n_bytes`].
    pub fn part_bytes(&self) -> Result<(usize, usize)> {
        let sizes = [self.n_head_kv, self.n_ctx, self.n_row_layers()];
        let all = |row: usize| sizes.iter().try_fold(row, |n, f| n.checked_mul(*f)).ok_or_else(|| self.overflow());
        Ok((all(self.row_bytes(self.type_k, "K")?)?, all(self.row_bytes(self.type_v, "V")?)?))
    }

    fn overflow(&self) -> Error {
        Error::limit(format!("a cache of `{}` slots overflows", self.n_ctx))
    }
}

/// What forgetting could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Recurrent layers, whose states still know of what was forgotten.
    pub n_recurrent: usize,
}

/// Keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePart {
    /// Keys.
    K,
    /// Values.
    V,
}

/// Keys and values of every layer, head-major within a layer: row (layer, head, slot) of `d` elements.
pub struct KvCache {
    shape: CacheShape,
    row_k: usize,
    row_v: usize,
    /// Filled slots.
    len: usize,
    k: FileCopy,
    v: FileCopy,
    /// Of recurrent layers.
    states: Option<recurrent::States>,
    /// Layers whose rows are on devices.
    elsewhere: Option<elsewhere::Elsewhere>,
    /// Where tokens look, where somebody asks.
    looks: Option<Box<Looks>>,
}

impl KvCache {
    /// Reserves the memory; the system commits it page by page as slots fill.
    ///
    /// # Errors
    /// Types that a cache cannot hold, sizes beyond the address space, a system that refuses.
    pub fn new(shape: CacheShape) -> Result<KvCache> {
        let n_bytes = shape.n_bytes()?;
        let (k, v) = shape.part_bytes()?;
        let map = |bytes: usize| {
            let memory = MmapMut::map_anon(bytes.max(1)).map_err(|err| {
                Error::limit(format!("cannot reserve `{n_bytes}` bytes for a cache of {} slots: {err}", shape.n_ctx))
            })?;
            // Attention runs through it in many places at once. A system without large pages refuses; small ones do, too.
            #[cfg(target_os = "linux")]
            let _ = memory.advise(memmap2::Advice::HugePage);
            Ok::<_, Error>(FileCopy::from(memory))
        };
        KvCache::over(shape, 0, map(k)?, map(v)?)
    }

    /// A cache over memory that holds the keys and values of `len` slots already: what [`KvCache::runs`] names, at the
    /// places that it names. States come with [`KvCache::set_states`].
    ///
    /// # Errors
    /// A shape that a cache cannot have, memory or a length that does not fit it.
    pub fn from_memory(shape: CacheShape, len: usize, k: FileCopy, v: FileCopy) -> Result<KvCache> {
        let n_bytes = shape.n_bytes()?;
        let parts = shape.part_bytes()?;
        if (k.len(), v.len()) != parts || len > shape.n_ctx {
            return Err(Error::mismatch(format!("memory of {} bytes is no cache of `{n_bytes}`", k.len() + v.len())));
        }
        KvCache::over(shape, len, k, v)
    }

    fn over(shape: CacheShape, len: usize, k: FileCopy, v: FileCopy) -> Result<KvCache> {
        let (row_k, row_v) = (shape.row_bytes(shape.type_k, "K")?, shape.row_bytes(shape.type_v, "V")?);
        let states = shape.recurrent.map(recurrent::States::new).transpose()?;
        Ok(KvCache { shape, row_k, row_v, len, k, v, states, elsewhere: None, looks: None })
    }

    /// Checks that the file behind it, if there is one, was not cut or rewritten (see [`FileCopy::check_unchanged`]).
    ///
    /// # Errors
    /// `Io` naming the file and what differs.
    pub fn check_unchanged(&self) -> Result<()> {
        self.k.check_unchanged()?;
        self.v.check_unchanged()
    }

    /// A copy that shares no memory with any file.
    ///
    /// # Errors
    /// See [`KvCache::new`].
    pub fn to_memory(&self) -> Result<KvCache> {
        let mut copy = KvCache::new(self.shape)?;
        // Slots that hold nothing are not touched, so they take no memory.
        for (part, at, bytes) in self.runs(0..self.len) {
            let to = if part == CachePart::K { &mut copy.k } else { &mut copy.v };
            to[at..at + bytes.len()].copy_from_slice(bytes);
        }
        copy.len = self.len;
        copy.set_states(self.states()?)?;
        Ok(copy)
    }

    /// The stored rows of slots `slots`: first all of K, then all of V, layer by layer and head by head, each with its
    /// place in bytes from the start of K or V.
    ///
    /// # Panics
    /// When the slots leave the cache, or are on devices only (see [`KvCache::pull`]).
    pub fn runs(&self, slots: Range<usize>) -> impl Iterator<Item = (CachePart, usize, &[u8])> {
        assert!(slots.end <= self.shape.n_ctx);
        assert!(self.elsewhere.as_ref().is_none_or(|e| slots.end <= e.n_host), "rows are on devices: pull first");
        let n = self.shape.n_row_layers() * self.shape.n_head_kv;
        [(CachePart::K, &self.k, self.row_k), (CachePart::V, &self.v, self.row_v)].into_iter().flat_map(
            move |(part, memory, row)| {
                let stride = self.shape.n_ctx * row;
                let (start, len) = (slots.start * row, slots.len() * row);
                (0..n).map(move |i| (part, i * stride + start, &memory[i * stride + start..][..len]))
            },
        )
    }

    /// Its sizes and types.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Filled slots.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots still free.
    pub fn free(&self) -> usize {
        self.shape.n_ctx - self.len
    }

    /// Forgets all slots from `len` on; what is before stays as it is. Recurrent layers can do that only where a copy of their
    /// states was kept, and at the beginning: see [`KvCache::place_before`].
    ///
    /// # Errors
    /// A place that recurrent layers cannot go back to; the cache is then as before.
    ///
    /// # Panics
    /// When `len` slots were never filled.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        assert!(len <= self.len, "a cache of {} slots cannot be cut to {len}", self.len);
        if let Some(states) = &mut self.states {
            states.restore(len, self.len)?;
        }
        self.len = len;
        if let Some(elsewhere) = &mut self.elsewhere {
            (elsewhere.n_device, elsewhere.n_host) = (elsewhere.n_device.min(len), elsewhere.n_host.min(len));
        }
        Ok(())
    }

    /// Forgets the slots `slots`, wherever they are: the others move forward, so that the filled slots stay without gaps. Their
    /// keys keep the positions that they were rotated with. Costs a copy of everything behind the first (14000 tokens of a 2B
    /// model in F16: 40 ms), so it is done rarely and in big steps. Recurrent layers forget nothing by it: whatever their states
    /// took in from these slots stays there, and the result says in how many layers that is so.
    ///
    /// # Errors
    /// What a device says, where rows are on one.
    ///
    /// # Panics
    /// When some of the slots were never filled.
    pub fn forget(&mut self, slots: impl Into<Slots>) -> Result<Forgotten> {
        let slots = slots.into();
        let n_recurrent = self.shape.n_layer - self.shape.n_row_layers();
        let (Some(first), Some(last)) = (slots.runs().first(), slots.runs().last()) else {
            return Ok(Forgotten { n_recurrent });
        };
        assert!(last.end <= self.len, "slots up to {} of {} are forgotten", last.end, self.len);
        self.pull()?;
        let (n_ctx, len) = (self.shape.n_ctx, self.len);
        for (memory, row) in [(&mut self.k, self.row_k), (&mut self.v, self.row_v)] {
            for head in memory.chunks_exact_mut(n_ctx * row) {
                let mut to = first.start;
                for run in slots.between(len) {
                    head.copy_within(run.start * row..run.end * row, to * row);
                    to += run.len();
                }
            }
        }
        self.len -= slots.len();
        if let Some(states) = &mut self.states {
            states.forget(&slots);
        }
        if let Some(elsewhere) = &mut self.elsewhere {
            // What moved goes to the devices again before they are next used.
            (elsewhere.n_device, elsewhere.n_host) = (first.start, self.len);
        }
        Ok(Forgotten { n_recurrent })
    }

    /// Where the next rows of layer `il` go: (keys, values). It is none of the recurrent ones.
    pub fn rows_mut(&mut self, il: usize) -> (CacheRows<'_>, CacheRows<'_>) {
        let (stride_k, stride_v) = (self.shape.n_ctx * self.row_k, self.shape.n_ctx * self.row_v);
        let (n, il) = (self.shape.n_head_kv, self.shape.row_layer(il));
        let k = &mut self.k[il * n * stride_k..][..n * stride_k];
        let v = &mut self.v[il * n * stride_v..][..n * stride_v];
        let slot = self.len;
        (
            CacheRows { ty: self.shape.type_k, data: k, stride: stride_k, slot },
            CacheRows { ty: self.shape.type_v, data: v, stride: stride_v, slot },
        )
    }

    /// What attention in layer `il` reads.
    pub fn view(&self, il: usize) -> KvView<'_> {
        self.view_of(self.shape.row_layer(il))
    }

    /// The same for number `il` of the layers with rows.
    fn view_of(&self, il: usize) -> KvView<'_> {
        let (stride_k, stride_v) = (self.shape.n_ctx * self.row_k, self.shape.n_ctx * self.row_v);
        let n = self.shape.n_head_kv;
        KvView {
            type_k: self.shape.type_k,
            type_v: self.shape.type_v,
            k: &self.k[il * n * stride_k..][..n * stride_k],
            v: &self.v[il * n * stride_v..][..n * stride_v],
            stride_k,
            stride_v,
        }
    }

    /// Keys of layer `il`, head `ih`, slots `0..n`, decoded and transformed back where they are transformed: (n, d).
    ///
    /// # Errors
    /// None for a cache made by [`KvCache::new`].
    pub fn keys_f32(&self, il: usize, ih: usize, n: usize) -> Result<Vec<f32>> {
        let view = self.view(il);
        let mut out = vec![0.0; n * self.shape.d];
        view.type_k.decode(&view.k[ih * view.stride_k..][..n * self.row_k], self.shape.d, &mut out)?;
        Ok(out)
    }

    /// Values of slot `slot` in the first layer that has rows, decoded likewise: (n_head_kv, d) in `out`.
    ///
    /// # Errors
    /// None for a cache made by [`KvCache::new`].
    ///
    /// # Panics
    /// When the slot was never filled, no layer has rows, or `out` is of another size.
    pub fn first_values(&self, slot: usize, out: &mut [f32]) -> Result<()> {
        assert!(slot < self.len, "slot {slot} of {}", self.len);
        let (view, d) = (self.view_of(0), self.shape.d);
        assert_eq!(out.len(), self.shape.n_head_kv * d);
        out.chunks_exact_mut(d).enumerate().try_for_each(|(ih, out)| {
            let row = &view.v[ih * view.stride_v + slot * self.row_v..][..self.row_v];
            view.type_v.decode(row, d, out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;

    const SHAPE: CacheShape = CacheShape {
        n_layer: 2,
        n_head_kv: 3,
        d: 48,
        n_ctx: 10,
        type_k: CacheType { ty: GgmlType::F16, hadamard: false },
        type_v: CacheType { ty: GgmlType::F32, hadamard: false },
        recurrent: None,
    };

    #[test]
    fn sizes_and_refusals() {
        assert_eq!(SHAPE.n_bytes().unwrap(), 2 * 3 * 10 * 48 * 6);
        let err = |shape: CacheShape| KvCache::new(shape).err().expect("refused").to_string();
        assert!(err(CacheShape { type_k: GgmlType::Q8_0.into(), ..SHAPE }).contains("multiple of 32"));
        assert!(err(CacheShape { type_v: GgmlType::Q4_K.into(), ..SHAPE }).contains("`Q4_K`"));
        assert!(err(CacheShape { n_ctx: usize::MAX / 2, ..SHAPE }).contains("overflows"));
        assert!(err(CacheShape { n_ctx: 1 << 44, ..SHAPE }).contains("slots"));
    }

    #[test]
    fn what_is_behind_forgotten_slots_moves_forward() {
        for (type_k, type_v, d) in [(GgmlType::F32, GgmlType::F16, 48), (GgmlType::Q8_0, GgmlType::Q4_0, 64)] {
            let mut cache =
                KvCache::new(CacheShape { type_k: type_k.into(), type_v: type_v.into(), d, ..SHAPE }).unwrap();
            // Every byte of a row says which slot it is, and every run which layer and head.
            for memory in [&mut cache.k, &mut cache.v] {
                let row = memory.len() / (SHAPE.n_layer * SHAPE.n_head_kv * SHAPE.n_ctx);
                for (i, bytes) in memory.chunks_exact_mut(row).enumerate() {
                    bytes.fill(i as u8);
                }
            }
            cache.advance_here(9);
            cache.forget(2..5).unwrap();
            assert_eq!(cache.len(), 6);
            for (i, (_, _, bytes)) in cache.runs(0..6).enumerate() {
                let first = i % (SHAPE.n_layer * SHAPE.n_head_kv) * SHAPE.n_ctx;
                let rows: Vec<u8> = bytes.chunks_exact(bytes.len() / 6).map(|row| row[0] - first as u8).collect();
                assert_eq!(rows, [0, 1, 5, 6, 7, 8], "{type_k}, run {i}");
            }
            cache.forget(3..3).unwrap();
            cache.forget([1, 2, 4].into_iter().collect::<Slots>()).unwrap();
            for (i, (_, _, bytes)) in cache.runs(0..3).enumerate() {
                let first = i % (SHAPE.n_layer * SHAPE.n_head_kv) * SHAPE.n_ctx;
                let rows: Vec<u8> = bytes.chunks_exact(bytes.len() / 3).map(|row| row[0] - first as u8).collect();
                assert_eq!(rows, [0, 6, 8], "{type_k}, run {i}");
            }
            cache.forget(0..3).unwrap();
            assert!(cache.is_empty());
        }
    }

    #[test]
    fn truncation_is_a_length() {
        let mut cache = KvCache::new(SHAPE).unwrap();
        cache.advance_here(7);
        cache.truncate(3).unwrap();
        assert_eq!((cache.len(), cache.free()), (3, 7));
    }
}
