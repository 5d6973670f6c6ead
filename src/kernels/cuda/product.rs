//! Products with packed weights: up to 8 tokens read them straight, more go through tensor cores.

use std::cell::Cell;

use super::kernel::{Kernel, TypeKernels, of_type};
use super::memory::{Gpu, Mem};
use super::ops::{THREADS, args, blocks_for, int, want};
use crate::gguf::GgmlType;
use crate::tensor::MatView;
use crate::{Error, Result};

/// Tokens that read packed weights directly.
const FEW: usize = 8;
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
        let is_float = w.ty.block_len() == 1;
        if !is_float {
            self.quantize()?;
        }
        let QuantizedMem { q, d, s } = self.quantized;
        let flag = |yes: bool, bit: i32| if yes { bit } else { 0 };
        let raw = RawProduct {
            w: w.mem.at(),
            row_bytes: w.row_bytes as u64,
            x: self.x.at(),
            q: q.at(),
            d: d.at(),
            s: s.at(),
            bias: epilogue.bias.map_or(0, Mem::at),
            out: out.at(),
            n_rows: int(w.n_rows)?,
            n_cols: int(w.n_cols)?,
            n_tokens: int(n_tokens)?,
            flags: flag(epilogue.add, 1)
                | flag(epilogue.quick_gelu, 2)
                | flag(epilogue.gelu_erf, 4)
                | flag(epilogue.gelu_tanh, 8),
        };
        let kernels = w.kernels;
        let (kernel, grid, block) = if n_tokens <= FEW {
            let rows_per_block = MATVEC_THREADS as usize / 32;
            let kernel = if n_tokens == 1 { kernels.matvec_1 } else { kernels.matvec_8 };
            (kernel, [w.n_rows.div_ceil(rows_per_block), 1, 1], MATVEC_THREADS)
        } else {
            // As in matmul_float.cu and matmul_int8.cu.
            let (rows, tokens) = if is_float { (128, 64) } else { (64, 128) };
            (kernels.matmul, [w.n_rows.div_ceil(rows), n_tokens.div_ceil(tokens), 1], THREADS)
        };
        let grid = [int(grid[0])? as u32, int(grid[1])? as u32, 1];
        // SAFETY: every length was checked above or when its owner was made.
        unsafe { self.gpu.launch(kernel, grid, block, args![raw]) }
    }
}
