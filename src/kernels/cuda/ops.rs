//! The small operations: lengths are checked here, and the kernel is launched. Each names itself in its errors.

use super::kernel::Kernel;
use super::memory::{Args, Gpu, Mem};
use super::product::DevMat;
use crate::error::Context;
use crate::{Error, Result};

/// Threads of a block of the simple kernels.
pub(super) const THREADS: u32 = 256;

/// Blocks of `THREADS` threads for `n` threads in all.
///
/// # Errors
/// More than a grid can have.
pub(super) fn blocks_for(n: usize) -> Result<u32> {
    const MOST: usize = i32::MAX as usize;
    match n.div_ceil(THREADS as usize) {
        blocks if blocks <= MOST => Ok(blocks as u32),
        _ => Err(Error::limit(format!("`{n}` threads are more than a grid can have"))),
    }
}

/// A size as kernels take it.
///
/// # Errors
/// One that does not fit.
pub(super) fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::limit(format!("`{n}` is more than a kernel can count")))
}

/// # Panics
/// When a memory is shorter than what the operation says it reads or writes.
#[track_caller]
pub(super) fn want(op: &str, lengths: &[(&Mem, usize)]) {
    for (i, (mem, floats)) in lengths.iter().enumerate() {
        assert!(
            mem.len() >= floats * size_of::<f32>(),
            "{op}: operand {i} has {} bytes for {floats} floats",
            mem.len()
        );
    }
}

/// Arguments of a kernel, by address.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        $crate::kernels::cuda::memory::Args {
            at: &mut [$((&raw const $arg).cast_mut().cast::<std::ffi::c_void>()),*],
            sizes: &[$(size_of_val(&$arg)),*],
        }
    };
}
pub(super) use args;

impl Gpu {
    /// # Safety
    /// See `Driver::launch`.
    pub(super) unsafe fn launch(&self, kernel: Kernel, grid: [u32; 3], block: u32, args: Args<'_>) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        self.count_launch();
        // SAFETY: the caller's promise.
        unsafe { self.driver().launch(self.stream(), kernel, grid, block, args) }.at(|| kernel.name().to_string())
    }

    /// out = x / sqrt(mean(x²) + eps) * weight, row by row; x, out: (n_rows, n), weight: (n,).
    ///
    /// # Errors
    /// What the GPU says.
    pub fn rms_norm(&self, x: &Mem, weight: &Mem, eps: f32, out: &Mem, n_rows: usize) -> Result<()> {
        let n = weight.len() / size_of::<f32>();
        want("rms_norm", &[(x, n_rows * n), (out, n_rows * n)]);
        let (x, weight, out, n) = (x.at(), weight.at(), out.at(), int(n)?);
        // SAFETY: lengths were checked above.
        unsafe { self.launch(Kernel::RMS_NORM, [int(n_rows)? as u32, 1, 1], THREADS, args![x, weight, out, n, eps]) }
    }

    /// out = (x - mean) / sqrt(var + eps) * weight + bias, row by row; x, out: (n_rows, n), weight, bias: (n,).
    ///
    /// # Errors
    /// What the GPU says.
    pub fn layer_norm(&self, x: &Mem, (weight, bias): (&Mem, &Mem), eps: f32, out: &Mem, n_rows: usize) -> Result<()> {
        let n = weight.len() / size_of::<f32>();
        want("layer_norm", &[(x, n_rows * n), (out, n_rows * n), (bias, n)]);
        let (x, weight, bias, out, n) = (x.at(), weight.at(), bias.at(), out.at(), int(n)?);
        // SAFETY: lengths were checked above.
        unsafe {
            self.launch(Kernel::LAYER_NORM, [int(n_rows)? as u32, 1, 1], THREADS, args![x, weight, bias, out, n, eps])
        }
    }

    /// gate = silu(gate) * up, over `n` floats.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn silu_mul(&self, gate: &Mem, up: &Mem, n: usize) -> Result<()> {
        self.elements(Kernel::SILU_MUL, gate, Some(up), n)
    }

    /// x += y, over `n` floats.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn add(&self, x: &Mem, y: &Mem, n: usize) -> Result<()> {
        self.elements(Kernel::ADD, x, Some(y), n)
    }

    /// x = x * sigmoid(1.702 x), over `n` floats.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn quick_gelu(&self, x: &Mem, n: usize) -> Result<()> {
        self.elements(Kernel::QUICK_GELU, x, None, n)
    }

    /// x = 0.5 x (1 + erf(x / sqrt(2))), over `n` floats.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn gelu_erf(&self, x: &Mem, n: usize) -> Result<()> {
        self.elements(Kernel::GELU_ERF, x, None, n)
    }

    fn elements(&self, kernel: Kernel, x: &Mem, y: Option<&Mem>, n: usize) -> Result<()> {
        want(kernel.name(), &[(x, n), (y.unwrap_or(x), n)]);
        let (grid, x, count) = ([blocks_for(n)?, 1, 1], x.at(), n as u64);
        match y.map(Mem::at) {
            // SAFETY: lengths were checked above.
            Some(y) => unsafe { self.launch(kernel, grid, THREADS, args![x, y, count]) },
            // SAFETY: lengths were checked above.
            None => unsafe { self.launch(kernel, grid, THREADS, args![x, count]) },
        }
    }

    /// Where `rows` (n_tokens, n_head, 2, d) hold a query and a gate for each head: the queries, to `to` (n_tokens, n_head, d).
    ///
    /// # Errors
    /// What the GPU says.
    pub fn take_queries(&self, rows: &Mem, (n_heads, d): (usize, usize), to: &Mem) -> Result<()> {
        self.query_and_gate(Kernel::TAKE_QUERIES, rows, (n_heads, d), to)
    }

    /// `x` (n_tokens, n_head, d) *= sigmoid(gate), with the gates of the same rows.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn gate_heads(&self, rows: &Mem, (n_heads, d): (usize, usize), x: &Mem) -> Result<()> {
        self.query_and_gate(Kernel::GATE_HEADS, rows, (n_heads, d), x)
    }

    fn query_and_gate(&self, kernel: Kernel, rows: &Mem, (n_heads, d): (usize, usize), x: &Mem) -> Result<()> {
        want(kernel.name(), &[(rows, 2 * n_heads * d), (x, n_heads * d)]);
        let grid = [blocks_for(n_heads * d)?, 1, 1];
        let (rows, x, d, count) = (rows.at(), x.at(), int(d)?, (n_heads * d) as u64);
        // SAFETY: lengths were checked above.
        unsafe { self.launch(kernel, grid, THREADS, args![rows, x, d, count]) }
    }

    /// Row `i` of `rows` (n, width) goes to row `to[i % n_per_seq]` of the sequence of `n_per_seq` rows of `out` that it
    /// belongs to. The caller checked that `to`, i32, stays within a sequence.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn reorder_rows(&self, rows: &Mem, (n, width): (usize, usize), to: (&Mem, usize), out: &Mem) -> Result<()> {
        let (to, n_per_seq) = to;
        want("reorder_rows", &[(rows, n * width), (to, n_per_seq), (out, n * width)]);
        assert!(n.is_multiple_of(n_per_seq), "{n} rows in sequences of {n_per_seq}");
        let (rows, to, out, grid) = (rows.at(), to.at(), out.at(), [int(n)? as u32, 1, 1]);
        let (width, n_per_seq) = (int(width)?, int(n_per_seq)?);
        // SAFETY: lengths were checked above.
        unsafe { self.launch(Kernel::REORDER_ROWS, grid, 128, args![rows, to, out, width, n_per_seq]) }
    }

    /// Adds to every row of `x` (n, width) what a square `table` (side * side, width) of learned positions has at the row's
    /// place on a grid of `h` x `w`, interpolated with aligned corners. `places`: (n_per_seq, 2) i32, row and column.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn add_positions(
        &self,
        x: &Mem,
        (n, width): (usize, usize),
        places: (&Mem, usize),
        (h, w): (usize, usize),
        (table, side): (&Mem, usize),
    ) -> Result<()> {
        let (places, n_per_seq) = places;
        want("add_positions", &[(x, n * width), (places, 2 * n_per_seq), (table, side * side * width)]);
        let (x, places, table, grid) = (x.at(), places.at(), table.at(), [int(n)? as u32, 1, 1]);
        let (width, n_per_seq, h, w, side) = (int(width)?, int(n_per_seq)?, int(h)?, int(w)?, int(side)?);
        // SAFETY: lengths were checked above; the kernel keeps to the table.
        unsafe { self.launch(Kernel::ADD_POSITIONS, grid, 128, args![x, places, table, width, n_per_seq, h, w, side]) }
    }

    /// Rows of `table` as floats: those that the `n` i32 of `tokens` name, which the caller checked, or the first `n`; out:
    /// (n, n_cols).
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn embed(&self, table: &DevMat, tokens: Option<&Mem>, n: usize, out: &Mem) -> Result<()> {
        want("embed", &[(out, n * table.n_cols()), (tokens.unwrap_or(out), n)]);
        assert!(tokens.is_some() || n <= table.n_rows(), "{n} of {} rows", table.n_rows());
        let (ids, w, out) = (tokens.map_or(0, Mem::at), table.mem().at(), out.at());
        let (n_cols, n_rows, row_bytes) = (int(table.n_cols())?, int(table.n_rows())?, table.row_bytes() as u64);
        let (kernel, grid) = (table.kernels().embed, [int(n)? as u32, 1, 1]);
        // SAFETY: lengths were checked above, `DevMat` has all of its rows, and the kernel stays within them.
        unsafe { self.launch(kernel, grid, 128, args![w, ids, out, n_cols, n_rows, row_bytes]) }
    }

    /// Writes the `k` largest of each row of `x` (n_rows, n) to `to`, largest first, of equal ones the lower index first.
    /// Where a row has fewer numbers that are not NaN, index -1; where one is NaN or positive infinity, bit 1 of the i32
    /// `flags` is set.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn top_k(&self, x: &Mem, (n_rows, n): (usize, usize), k: usize, to: &TopMem, flags: &Mem) -> Result<()> {
        let n_slices = top_slices(n);
        want("top_k", &[(x, n_rows * n), (&to.values, n_rows * k), (&to.ids, n_rows * k), (flags, 1)]);
        let parts = if n_slices > 1 { n_rows * n_slices * k } else { 0 };
        want("top_k", &[(&to.part_values, parts), (&to.part_ids, parts)]);
        let (x, flags, rows, n, k) = (x.at(), flags.at(), int(n_rows)? as u32, int(n)?, int(k)?);
        let (values, ids, no_names) = (to.values.at(), to.ids.at(), 0u64);
        if n_slices == 1 {
            // SAFETY: lengths were checked above.
            return unsafe {
                self.launch(Kernel::TOP_K, [1, rows, 1], THREADS, args![x, no_names, values, ids, flags, n, n, k])
            };
        }
        let (part_values, part_ids, slice) = (to.part_values.at(), to.part_ids.at(), TOP_SLICE as i32);
        let (grid, merged) = ([n_slices as u32, rows, 1], int(n_slices)? * k);
        // SAFETY: lengths were checked above.
        unsafe {
            self.launch(Kernel::TOP_K, grid, THREADS, args![x, no_names, part_values, part_ids, flags, n, slice, k])?;
        }
        // SAFETY: as above; the slices' numbers were written by the kernel before.
        unsafe {
            let args = args![part_values, part_ids, values, ids, flags, merged, merged, k];
            self.launch(Kernel::TOP_K, [1, rows, 1], THREADS, args)
        }
    }
}

/// Numbers of a row that one block of pick.cu looks at.
const TOP_SLICE: usize = 4096;

fn top_slices(n: usize) -> usize {
    n.div_ceil(TOP_SLICE).max(1)
}

/// Where [`Gpu::top_k`] puts what it finds, and room for what it finds on the way.
#[derive(Clone)]
pub struct TopMem {
    /// (n_rows, k): the largest of each row, the largest first.
    pub values: Mem,
    /// (n_rows, k) i32: their columns, -1 where there is no number.
    pub ids: Mem,
    part_values: Mem,
    part_ids: Mem,
}

impl TopMem {
    /// The `k` largest of each of `n_rows` rows of `n` go to `values` and `ids`.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub fn new(gpu: &Gpu, (n_rows, n): (usize, usize), k: usize, values: Mem, ids: Mem) -> Result<TopMem> {
        let part = n_rows * top_slices(n) * k * size_of::<f32>();
        let [part_values, part_ids] = gpu.alloc_parts([part, part], "the largest logits")?;
        Ok(TopMem { values, ids, part_values, part_ids })
    }

    /// Bytes of what [`TopMem::new`] reserves.
    pub fn n_bytes(n_rows: usize, n: usize, k: usize) -> usize {
        2 * n_rows * top_slices(n) * k * size_of::<f32>()
    }
}

/// Cosines and sines of the turning pairs of each token: (n_tokens, 2, n_turning). Pairs are (i, i + n_pair).
#[derive(Clone)]
pub struct Rotation {
    /// The cosines and sines.
    pub table: Mem,
    /// Tokens.
    pub n_tokens: usize,
    /// Pairs of a head that turn, the first ones.
    pub n_turning: usize,
    /// Pairs of a head.
    pub n_pair: usize,
}

impl Rotation {
    /// That of the rows from number `first` on.
    pub(super) fn from(&self, first: usize) -> Rotation {
        let (n, width) = (self.n_tokens - first, 2 * self.n_turning);
        Rotation { table: self.table.floats(first * width, n * width), n_tokens: n, ..*self }
    }
}

/// [`Rotation`] as kernels take it; without one, no pair turns.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawRotation {
    table: u64,
    n_table: i32,
    n_turning: i32,
    n_pair: i32,
    padding: i32,
}

impl RawRotation {
    /// # Panics
    /// When the table is too short, or more pairs turn than a head of `d` has.
    pub(super) fn new(rotation: Option<&Rotation>, d: usize) -> Result<RawRotation> {
        let Some(rotation) = rotation else {
            let n_pair = int(d / 2)?;
            return Ok(RawRotation { table: 0, n_table: 1, n_turning: 0, n_pair, padding: 0 });
        };
        want("rotation", &[(&rotation.table, 2 * rotation.n_tokens * rotation.n_turning)]);
        let Rotation { n_turning, n_pair, .. } = *rotation;
        assert!(n_turning <= n_pair && n_pair <= d / 2 && rotation.n_tokens > 0, "a rotation of heads of {d}");
        Ok(RawRotation {
            table: rotation.table.at(),
            n_table: int(rotation.n_tokens)?,
            n_turning: int(n_turning)?,
            n_pair: int(n_pair)?,
            padding: 0,
        })
    }
}

impl Gpu {
    /// Adds `bias` (n_head * d,) to and rotates every head of `rows` (n_tokens, n_head * d); token `it` turns by row
    /// `it % rotation.n_tokens`.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn rotate_rows(
        &self,
        rows: &Mem,
        bias: Option<&Mem>,
        rotation: &Rotation,
        n_tokens: usize,
        (n_head, d): (usize, usize),
    ) -> Result<()> {
        want("rotate_rows", &[(rows, n_tokens * n_head * d), (bias.unwrap_or(rows), n_head * d)]);
        let rotation = RawRotation::new(Some(rotation), d)?;
        let n_pairs = n_tokens * n_head * (d / 2);
        let grid = [blocks_for(n_pairs)?, 1, 1];
        let (rows, bias, n_head, d, n_pairs) =
            (rows.at(), bias.map_or(0, Mem::at), int(n_head)?, int(d)?, n_pairs as u64);
        // SAFETY: lengths were checked above.
        unsafe { self.launch(Kernel::ROTATE_ROWS, grid, THREADS, args![rows, bias, rotation, n_head, d, n_pairs]) }
    }
}
