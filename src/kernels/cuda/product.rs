//! Products with packed weights: up to 8 tokens read them straight, more go through tensor cores.

use std::cell::Cell;

use super::experts::{Grouped, StackMem};
use super::kernel::{Kernel, TypeKernels, of_type};
use super::memory::{Gpu, Mem};
use super::ops::{THREADS, args, blocks_for, int, want};
use crate::gguf::GgmlType;
use crate::tensor::MatView;
use crate::{Error, Result};

/// Tokens that read packed weights directly.
pub(super) const FEW: usize = 8;
/// Threads of a block in matvec.cu: a warp per row.
const MATVEC_THREADS: u32 = 128;

/// A matrix of packed rows in memory of a GPU.
#[derive(Clone)]
pub struct DevMat {
    mem: Mem,
    ty: GgmlType,
    kernels: &'static TypeKernels,
    n_cols: usize,
    n_rows: usize,
    row_bytes: usize,
}

impl DevMat {
    /// A copy of `mat`, which `what` names in errors.
    ///
    /// # Errors
    /// A type without kernels; memory that the GPU does not have.
    pub fn upload(gpu: &Gpu, mat: MatView<'_>, what: &str) -> Result<DevMat> {
        let Some(kernels) = of_type(mat.ty()) else {
            return Err(Error::unsupported(format!("{what}: type `{}` has no kernels for GPUs", mat.ty())));
        };
        let mem = gpu.upload(mat.data(), what)?;
        Ok(DevMat {
            mem,
            ty: mat.ty(),
            kernels,
            n_cols: mat.n_cols(),
            n_rows: mat.n_rows(),
            row_bytes: mat.row_bytes(),
        })
    }

    /// The element type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Whether activations meet it as floats.
    pub(super) fn is_float(&self) -> bool {
        self.ty.block_len() == 1
    }

    /// Elements per row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Whether `other` is the same memory.
    pub fn is(&self, other: &DevMat) -> bool {
        self.mem.gpu().is(other.mem.gpu()) && self.mem.id() == other.mem.id()
    }

    /// Bytes in all.
    pub fn n_bytes(&self) -> usize {
        self.mem.len()
    }

    pub(super) fn kernels(&self) -> &'static TypeKernels {
        self.kernels
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(super) fn mem(&self) -> &Mem {
        &self.mem
    }
}

/// Room for activations as signed bytes with scales.
#[derive(Clone)]
pub struct QuantizedMem {
    q: Mem,
    d: Mem,
    s: Mem,
}

impl QuantizedMem {
    /// For up to `n` activations.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub fn new(gpu: &Gpu, n: usize) -> Result<QuantizedMem> {
        let what = "quantized activations";
        let n = n.next_multiple_of(32);
        Ok(QuantizedMem { q: gpu.alloc(n, what)?, d: gpu.alloc(n / 8, what)?, s: gpu.alloc(n / 4, what)? })
    }

    /// Bytes for up to `n` activations.
    pub fn n_bytes(n: usize) -> usize {
        n.next_multiple_of(32) * 11 / 8
    }
}

/// Activations (n_tokens, n_cols) that one or more matrices multiply; they are quantized once, for the first that needs it.
pub struct Input<'a> {
    gpu: &'a Gpu,
    x: &'a Mem,
    quantized: &'a QuantizedMem,
    done: Cell<bool>,
    n_tokens: usize,
    n_cols: usize,
}

/// What happens to a product before it is stored: the bias (n_rows,) is added, then one of the functions is applied, then
/// the result is stored or added to what is there.
#[derive(Clone, Copy, Default)]
pub struct EpilogueMem<'a> {
    /// (n_rows), added.
    pub bias: Option<&'a Mem>,
    /// Adds to what is there.
    pub add: bool,
    /// x sigmoid(1.702 x) is applied.
    pub quick_gelu: bool,
    /// Exact GELU is applied.
    pub gelu_erf: bool,
    /// GELU by way of tanh is applied.
    pub gelu_tanh: bool,
}

/// `Product` of product.cuh.
#[repr(C)]
struct RawProduct {
    w: u64,
    row_bytes: u64,
    x: u64,
    q: u64,
    d: u64,
    s: u64,
    bias: u64,
    out: u64,
    n_rows: i32,
    n_cols: i32,
    n_tokens: i32,
    flags: i32,
    order: u64,
    tiles: u64,
    step: u64,
    per_row: i32,
    padding: i32,
}

/// Tokens that a block of tensor cores takes: as in matmul_float.cu and matmul_int8.cu.
pub(super) fn tile_tokens(is_float: bool) -> usize {
    if is_float { 64 } else { 128 }
}

/// Rows that a block of matvec.cu computes, and one of tensor cores.
fn block_rows(is_few: bool, is_float: bool) -> usize {
    match (is_few, is_float) {
        (true, _) => MATVEC_THREADS as usize / 32,
        (false, true) => 128,
        (false, false) => 64,
    }
}

impl<'a> Input<'a> {
    /// # Panics
    /// When `x` is shorter than that.
    pub fn new(gpu: &'a Gpu, x: &'a Mem, quantized: &'a QuantizedMem, (n_tokens, n_cols): (usize, usize)) -> Input<'a> {
        want("product", &[(x, n_tokens * n_cols)]);
        Input { gpu, x, quantized, done: Cell::new(false), n_tokens, n_cols }
    }

    fn quantize(&self) -> Result<()> {
        if self.done.replace(true) {
            return Ok(());
        }
        let QuantizedMem { q, d, s } = self.quantized;
        let n_groups = self.n_tokens * self.n_cols / 32;
        assert!(q.len() >= n_groups * 32, "room for {} activations of {}", q.len(), n_groups * 32);
        let grid = [blocks_for(n_groups * 32)?, 1, 1];
        let (x, q, d, s, n_groups) = (self.x.at(), q.at(), d.at(), s.at(), n_groups as u64);
        // SAFETY: `x` was checked when this was made, the rest above; d and s were made for as many.
        unsafe { self.gpu.launch(Kernel::QUANTIZE_ROWS, grid, THREADS, args![x, q, d, s, n_groups]) }
    }

    /// out (n_tokens, n_rows) = epilogue(input · wᵀ).
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn product(&self, w: &DevMat, epilogue: EpilogueMem<'_>, out: &Mem) -> Result<()> {
        let n_tokens = self.n_tokens;
        assert_eq!(w.n_cols, self.n_cols, "columns of weights and activations");
        want("product", &[(out, n_tokens * w.n_rows), (epilogue.bias.unwrap_or(out), w.n_rows)]);
        let flag = |yes: bool, bit: i32| if yes { bit } else { 0 };
        let raw = RawProduct {
            bias: epilogue.bias.map_or(0, Mem::at),
            n_tokens: int(n_tokens)?,
            flags: flag(epilogue.add, 1)
                | flag(epilogue.quick_gelu, 2)
                | flag(epilogue.gelu_erf, 4)
                | flag(epilogue.gelu_tanh, 8),
            ..self.raw(w, w.n_rows, out)?
        };
        let is_few = n_tokens <= FEW;
        let n_tiles = if is_few { 1 } else { n_tokens.div_ceil(tile_tokens(w.is_float())) };
        // SAFETY: every length was checked above or when its owner was made.
        unsafe { self.launch(w, raw, (is_few, n_tokens == 1), n_tiles) }
    }

    /// Rows of the input.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Row `i` of out (pairs, n_rows) is the product of one of the matrices stacked in `w` with row `i / per_row` of the input; tiles
    /// on the GPU say which.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub(super) fn product_of_groups(&self, w: StackMem<'_>, of: &Grouped<'_>, out: &Mem) -> Result<()> {
        let (n_pairs, StackMem { mat, first, step, n_rows }) = (self.n_tokens * of.per_row, w);
        assert_eq!(mat.n_cols, self.n_cols, "columns of weights and activations");
        want("experts", &[(out, n_pairs * n_rows), (of.order, n_pairs), (of.tiles, 3 * of.n_tiles)]);
        let raw = self.raw(mat, n_rows, out)?;
        let raw = RawProduct {
            w: raw.w + (first * mat.row_bytes) as u64,
            order: of.order.at(),
            tiles: of.tiles.at(),
            step: (step * mat.row_bytes) as u64,
            per_row: int(of.per_row)?,
            ..raw
        };
        // SAFETY: as above; tiles name pairs and matrices that there are.
        unsafe { self.launch(mat, raw, (of.is_few, of.is_one), of.n_tiles) }
    }

    /// A product with `n_rows` rows of `w` of no tokens, for which the input is in the form that `w` wants.
    fn raw(&self, w: &DevMat, n_rows: usize, out: &Mem) -> Result<RawProduct> {
        if !w.is_float() {
            self.quantize()?;
        }
        let QuantizedMem { q, d, s } = self.quantized;
        Ok(RawProduct {
            w: w.mem.at(),
            row_bytes: w.row_bytes as u64,
            x: self.x.at(),
            q: q.at(),
            d: d.at(),
            s: s.at(),
            bias: 0,
            out: out.at(),
            n_rows: int(n_rows)?,
            n_cols: int(w.n_cols)?,
            n_tokens: 0,
            flags: 0,
            order: 0,
            tiles: 0,
            step: 0,
            per_row: 1,
            padding: 0,
        })
    }

    /// # Safety
    /// All that `raw` names is there.
    unsafe fn launch(&self, w: &DevMat, raw: RawProduct, (few, one): (bool, bool), n_tiles: usize) -> Result<()> {
        let (kernel, block) = match (few, one) {
            (_, true) => (w.kernels.matvec_1, MATVEC_THREADS),
            (true, false) => (w.kernels.matvec_8, MATVEC_THREADS),
            (false, false) => (w.kernels.matmul, THREADS),
        };
        let n_blocks = (raw.n_rows as usize).div_ceil(block_rows(few, w.is_float()));
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch(kernel, [int(n_blocks)? as u32, int(n_tiles)? as u32, 1], block, args![raw]) }
    }
}
