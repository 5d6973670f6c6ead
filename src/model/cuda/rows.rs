//! The rows of the cache that are on GPUs.

use std::any::Any;
use std::ops::Range;

use crate::Result;
use crate::cache::{CachePart, CacheShape, DeviceRows, KvCache, Recurrent, Strided};
use crate::kernels::cuda::{CachedSeq, Copy2d, Gpu, KvMem, Mem};

/// Rows of consecutive layers on one GPU, laid out as on the host.
pub(super) struct GpuRows {
    gpu: Gpu,
    layers: Range<usize>,
    k: Mem,
    v: Mem,
    /// (recurrent layers, n_state) floats
    states: Mem,
}

impl GpuRows {
    /// Memory for `layers` of a cache of `shape`.
    ///
    /// # Errors
    /// Memory that the GPU does not have, with the numbers.
    pub(super) fn new(gpu: &Gpu, layers: &Range<usize>, shape: &CacheShape) -> Result<GpuRows> {
        let what = format!("the cache of {} layers with {} slots", layers.len(), shape.n_ctx);
        let part = shape.of_layers(layers);
        let (k, v) = part.part_bytes()?;
        // Also where there are none: no part of a GPU's memory is empty.
        let [k, v, states] = [k, v, part.state_bytes()?].map(|n| gpu.alloc(n.max(1), &what));
        Ok(GpuRows { gpu: gpu.clone(), layers: layers.clone(), k: k?, v: v?, states: states? })
    }

    /// Those that were placed as number `i`.
    ///
    /// # Panics
    /// When there are none.
    pub(super) fn of(cache: &KvCache, i: usize) -> &GpuRows {
        cache.placed()[i].as_any().downcast_ref().expect("one kind of device at a time")
    }

    /// Whether these are the rows of `layers` on `gpu`.
    pub(super) fn are(&self, gpu: &Gpu, layers: &Range<usize>) -> bool {
        self.gpu.is(gpu) && self.layers == *layers
    }

    /// What rows `rows` of a batch, behind `n_past` filled slots, have here.
    pub(super) fn of_rows(&self, rows: Range<usize>, n_past: usize, shape: &CacheShape) -> CachedSeq {
        let n_heads = (self.row_layer(self.layers.end, shape) * shape.n_head_kv).max(1);
        let kv = |mem: &Mem, ty| KvMem { ty, mem: mem.clone(), stride: mem.len() / n_heads };
        let (k, v) = (kv(&self.k, shape.type_k), kv(&self.v, shape.type_v));
        CachedSeq { rows, n_past, k, v, states: self.states.clone() }
    }

    /// Which of the layers with keys and values that are here layer `il` is.
    ///
    /// # Panics
    /// When it lies before these.
    pub(super) fn row_layer(&self, il: usize, shape: &CacheShape) -> usize {
        shape.row_layer(il) - shape.row_layer(self.layers.start)
    }

    /// Which of the recurrent layers that are here layer `il` is.
    ///
    /// # Panics
    /// When it lies before these.
    pub(super) fn state_layer(&self, il: usize, recurrent: &Recurrent) -> usize {
        recurrent.layers.before(il) - recurrent.layers.before(self.layers.start)
    }

    fn part(&self, part: CachePart) -> &Mem {
        match part {
            CachePart::K => &self.k,
            CachePart::V => &self.v,
        }
    }
}

fn copy2d(Strided { at, pitch, width, rows }: Strided) -> Copy2d {
    Copy2d { at, pitch, width, rows }
}

/// So many floats, one behind the other.
fn all(n: usize) -> Copy2d {
    Copy2d { at: 0, pitch: n * size_of::<f32>(), width: n * size_of::<f32>(), rows: 1 }
}

impl DeviceRows for GpuRows {
    fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    fn write(&self, part: CachePart, host: &[u8], rows: Strided) -> Result<()> {
        if rows.rows == 0 { Ok(()) } else { self.part(part).write_rows(host, copy2d(rows)) }
    }

    fn read(&self, part: CachePart, host: &mut [u8], rows: Strided) -> Result<()> {
        if rows.rows == 0 { Ok(()) } else { self.part(part).read_rows(host, copy2d(rows)) }
    }

    fn write_states(&self, host: &[f32]) -> Result<()> {
        // None of these layers may be recurrent, or all of them.
        if host.is_empty() {
            return Ok(());
        }
        self.states.write_rows(bytemuck::cast_slice(host), all(host.len()))
    }

    fn read_states(&self, host: &mut [f32]) -> Result<()> {
        let n = host.len();
        if n == 0 {
            return Ok(());
        }
        self.states.read_rows(bytemuck::cast_slice_mut(host), all(n))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
