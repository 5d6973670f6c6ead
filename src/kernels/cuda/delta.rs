//! Gated DeltaNet on a GPU: delta.cu.

use super::kernel::Kernel;
use super::memory::{Gpu, Mem};
use super::ops::{THREADS, args, blocks_for, int, want};
use super::table::{RawTable, SeqTable};
use crate::kernels::{CONV_KERNEL, DELTA_ALIGN, DeltaShape};
use crate::{Error, Result};

/// The small tensors of a layer, as [`DeltaWeights`](crate::kernels::DeltaWeights) has them.
pub struct DeltaMem<'a> {
    /// (CONV_KERNEL, n_channels)
    pub conv: &'a Mem,
    /// (n_head_v)
    pub a: &'a Mem,
    /// (n_head_v)
    pub dt_bias: &'a Mem,
    /// (d_v)
    pub norm: &'a Mem,
    /// What keeps the norm of outputs from dividing by zero.
    pub norm_eps: f32,
}

/// The projections of tokens, as [`DeltaRows`](crate::kernels::DeltaRows) has them; all but `z` are changed on the way.
pub struct DeltaRowsMem<'a> {
    /// (n, n_channels)
    pub qkv: &'a Mem,
    /// (n, n_value)
    pub z: &'a Mem,
    /// (n, n_head_v)
    pub beta: &'a Mem,
    /// (n, n_head_v)
    pub alpha: &'a Mem,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Unit {
    qkv: u64,
    beta: u64,
    alpha: u64,
    a: u64,
    dt_bias: u64,
    n_channels: i32,
    n_head_k: i32,
    n_head_v: i32,
    d_k: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Scan {
    qkv: u64,
    beta: u64,
    decay: u64,
    table: RawTable,
    n_state: u64,
    out: u64,
    layer: i32,
    n_channels: i32,
    n_head_k: i32,
    n_head_v: i32,
    d_k: i32,
    d_v: i32,
}

impl Gpu {
    /// See [`delta`](crate::kernels::delta()), for the rows of a batch: those of each sequence go on from its state, the
    /// [`DeltaShape::n_state`] floats of layer `layer`. Where a row is not finite, bit 1 of the i32 `broken` is set.
    ///
    /// # Errors
    /// Heads that are larger than the kernels can have; what the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn delta(
        &self,
        shape: &DeltaShape,
        weights: &DeltaMem<'_>,
        (table, layer): (&SeqTable, usize),
        rows: &DeltaRowsMem<'_>,
        (out, broken): (&Mem, &Mem),
    ) -> Result<()> {
        /// Columns of a block of the recurrence.
        const COLUMNS: usize = DELTA_ALIGN;
        let DeltaShape { n_head_k, n_head_v, d_k, d_v } = *shape;
        let (n_channels, n_value) = (shape.conv_dim(), shape.value_dim());
        let scan = match d_k {
            0..=128 => Kernel::DELTA_SCAN_128,
            129..=256 => Kernel::DELTA_SCAN_256,
            _ => return Err(Error::unsupported(format!("recurrent heads of `{d_k}` elements, expected up to 256"))),
        };
        assert!(d_k.is_multiple_of(DELTA_ALIGN) && d_v.is_multiple_of(DELTA_ALIGN), "heads are whole vectors");
        let DeltaMem { conv, a, dt_bias, norm, norm_eps } = *weights;
        let DeltaRowsMem { qkv, z, beta, alpha } = *rows;
        let (n, n_state) = (table.n_rows(), shape.n_state());
        table.check_states("delta", layer, n_state);
        want("delta", &[(conv, CONV_KERNEL * n_channels), (a, n_head_v), (dt_bias, n_head_v), (norm, d_v)]);
        want("delta", &[(qkv, n * n_channels), (z, n * n_value), (beta, n * n_head_v), (alpha, n * n_head_v)]);
        want("delta", &[(out, n * n_value), (broken, 1)]);
        let (seqs, n_state, n_seq) = (table.raw(), n_state as u64, int(table.n_seq())? as u32);
        let (conv, layer, channels) = (conv.at(), int(layer)?, int(n_channels)?);
        let (at, n_blocks) = (qkv.at(), blocks_for(n_channels)?);
        // SAFETY: lengths were checked above, and the caller sent the table before; so for all below.
        unsafe {
            let args = args![at, seqs, conv, n_state, layer, channels];
            self.launch(Kernel::DELTA_CONV, [n_blocks, n_seq, 1], THREADS, args)?;
        }
        let (beta, alpha) = (beta.at(), alpha.at());
        let unit = Unit {
            qkv: at,
            beta,
            alpha,
            a: a.at(),
            dt_bias: dt_bias.at(),
            n_channels: channels,
            n_head_k: int(n_head_k)?,
            n_head_v: int(n_head_v)?,
            d_k: int(d_k)?,
        };
        // SAFETY: see above.
        unsafe { self.launch(Kernel::DELTA_UNIT, [int(n)? as u32, 1, 1], THREADS, args![unit])? };
        let scanned = Scan {
            qkv: at,
            beta,
            decay: alpha,
            table: seqs,
            n_state,
            out: out.at(),
            layer,
            n_channels: channels,
            n_head_k: unit.n_head_k,
            n_head_v: unit.n_head_v,
            d_k: unit.d_k,
            d_v: int(d_v)?,
        };
        let grid = [unit.n_head_v as u32, (d_v / COLUMNS) as u32, n_seq];
        // SAFETY: see above.
        unsafe { self.launch(scan, grid, 128, args![scanned])? };
        let (out, z, norm, broken) = (out.at(), z.at(), norm.at(), broken.at());
        let (d_v, n_heads) = (scanned.d_v, (n * n_head_v) as u64);
        let grid = [blocks_for(n * n_head_v * 32)?, 1, 1];
        // SAFETY: see above.
        unsafe { self.launch(Kernel::DELTA_NORM, grid, THREADS, args![out, z, norm, broken, d_v, norm_eps, n_heads]) }
    }
}
