//! The small operations: lengths are checked here, and the kernel is launched. Each names itself in its errors.

use std::ffi::c_void;

use super::memory::{Card, Mem};
use super::product::{DevMat, names};
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
        &mut [$((&raw const $arg).cast_mut().cast::<std::ffi::c_void>()),*]
    };
}
pub(super) use args;

impl Card {
    /// # Safety
    /// See `Driver::launch`.
    pub(super) unsafe fn launch(&self, name: &str, grid: [u32; 3], block: u32, args: &mut [*mut c_void]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.driver().launch(name, grid, block, args) }.at(|| name.to_string())
    }

    /// out = x / sqrt(mean(x²) + eps) * weight, row by row; x, out: (n_rows, n), weight: (n,).
    ///
    /// # Errors
    /// What the card says.
    pub fn rms_norm(&self, x: &Mem, weight: &Mem, eps: f32, out: &Mem, n_rows: usize) -> Result<()> {
        let n = weight.len() / size_of::<f32>();
        want("rms_norm", &[(x, n_rows * n), (out, n_rows * n)]);
        let (x, weight, out, n) = (x.at(), weight.at(), out.at(), int(n)?);
        // SAFETY: lengths were checked above.
        unsafe { self.launch("rms_norm", [int(n_rows)? as u32, 1, 1], THREADS, args![x, weight, out, n, eps]) }
    }

    /// out = (x - mean) / sqrt(var + eps) * weight + bias, row by row; x, out: (n_rows, n), weight, bias: (n,).
    ///
    /// # Errors
    /// What the card says.
    pub fn layer_norm(&self, x: &Mem, (weight, bias): (&Mem, &Mem), eps: f32, out: &Mem, n_rows: usize) -> Result<()> {
        let n = weight.len() / size_of::<f32>();
        want("layer_norm", &[(x, n_rows * n), (out, n_rows * n), (bias, n)]);
        let (x, weight, bias, out, n) = (x.at(), weight.at(), bias.at(), out.at(), int(n)?);
        // SAFETY: lengths were checked above.
        unsafe { self.launch("layer_norm", [int(n_rows)? as u32, 1, 1], THREADS, args![x, weight, bias, out, n, eps]) }
    }

    /// gate = silu(gate) * up, over `n` floats.
    ///
    /// # Errors
    /// What the card says.
    pub fn silu_mul(&self, gate: &Mem, up: &Mem, n: usize) -> Result<()> {
        self.elements("silu_mul", gate, Some(up), n)
    }

    /// x += y, over `n` floats.
    ///
    /// # Errors
    /// What the card says.
    pub fn add(&self, x: &Mem, y: &Mem, n: usize) -> Result<()> {
        self.elements("add", x, Some(y), n)
    }

    /// x = x * sigmoid(1.702 x), over `n` floats.
    ///
    /// # Errors
    /// What the card says.
    pub fn quick_gelu(&self, x: &Mem, n: usize) -> Result<()> {
        self.elements("quick_gelu", x, None, n)
    }

    /// x = 0.5 x (1 + erf(x / sqrt(2))), over `n` floats.
    ///
    /// # Errors
    /// What the card says.
    pub fn gelu_erf(&self, x: &Mem, n: usize) -> Result<()> {
        self.elements("gelu_erf", x, None, n)
    }

    fn elements(&self, name: &str, x: &Mem, y: Option<&Mem>, n: usize) -> Result<()> {
        want(name, &[(x, n), (y.unwrap_or(x), n)]);
        let (grid, x, count) = ([blocks_for(n)?, 1, 1], x.at(), n as u64);
        match y.map(Mem::at) {
            // SAFETY: lengths were checked above.
            Some(y) => unsafe { self.launch(name, grid, THREADS, args![x, y, count]) },
            // SAFETY: lengths were checked above.
            None => unsafe { self.launch(name, grid, THREADS, args![x, count]) },
        }
    }

    /// Rows `tokens` of `table` as floats; out: (tokens, n_cols). Without tokens, all of its rows.
    ///
    /// # Errors
    /// A token outside the table; what the card says.
    pub fn embed(&self, table: &DevMat, tokens: Option<&[i32]>, out: &Mem) -> Result<()> {
        let n = tokens.map_or(table.n_rows(), <[i32]>::len);
        want("embed", &[(out, n * table.n_cols())]);
        if let Some(id) = tokens.into_iter().flatten().find(|id| !(0..table.n_rows() as i64).contains(&i64::from(**id)))
        {
            return Err(Error::bad_input(format!("token `{id}` is outside the vocabulary of {}", table.n_rows())));
        }
        let ids = tokens.map(|tokens| self.upload(tokens, "tokens")).transpose()?;
        let (ids, w, out) = (ids.as_ref().map_or(0, Mem::at), table.mem().at(), out.at());
        let (n_cols, row_bytes) = (int(table.n_cols())?, table.row_bytes() as u64);
        // SAFETY: the length of `out` and all ids were checked above, `DevMat` has all of its rows; the ids are freed only
        // behind the kernel.
        unsafe {
            self.launch(names(table.ty()).embed, [int(n)? as u32, 1, 1], 128, args![w, ids, out, n_cols, row_bytes])
        }
    }

    /// The `k` largest of each row of `logits` (n_rows, n), largest first, of equal ones the lower index first: values and
    /// indices, (n_rows, k) each. Where a row has fewer numbers that are not NaN, index -1.
    ///
    /// # Errors
    /// What the card says.
    pub fn top_k(&self, logits: &Mem, (n_rows, n): (usize, usize), k: usize) -> Result<(Vec<f32>, Vec<i32>)> {
        want("top_k", &[(logits, n_rows * n)]);
        let (mut values, mut ids) = (vec![0f32; n_rows * k], vec![0i32; n_rows * k]);
        let (to_values, to_ids) = (self.alloc(n_rows * k * 4, "top_k")?, self.alloc(n_rows * k * 4, "top_k")?);
        let (logits, at_values, at_ids, n, k) = (logits.at(), to_values.at(), to_ids.at(), int(n)?, int(k)?);
        // SAFETY: lengths were checked above.
        unsafe { self.launch("top_k", [int(n_rows)? as u32, 1, 1], 1024, args![logits, at_values, at_ids, n, k])? };
        to_values.read(&mut values)?;
        to_ids.read(&mut ids)?;
        Ok((values, ids))
    }
}

/// Cosines and sines of the turning pairs of each token: (n_tokens, 2, n_turning).
#[derive(Clone)]
pub struct Rotation {
    pub table: Mem,
    pub n_tokens: usize,
    pub n_turning: usize,
}

/// [`Rotation`] as kernels take it; without one, no pair turns.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawRotation {
    table: u64,
    n_table: i32,
    n_turning: i32,
}

impl RawRotation {
    /// # Panics
    /// When the table is too short, or more pairs turn than a head of `d` has.
    pub(super) fn new(rotation: Option<&Rotation>, d: usize) -> Result<RawRotation> {
        let Some(rotation) = rotation else { return Ok(RawRotation { table: 0, n_table: 1, n_turning: 0 }) };
        want("rotation", &[(&rotation.table, 2 * rotation.n_tokens * rotation.n_turning)]);
        assert!(rotation.n_turning <= d / 2 && rotation.n_tokens > 0, "a rotation of heads of {d}");
        Ok(RawRotation {
            table: rotation.table.at(),
            n_table: int(rotation.n_tokens)?,
            n_turning: int(rotation.n_turning)?,
        })
    }
}

impl Card {
    /// Adds `bias` (n_head * d,) to and rotates every head of `rows` (n_tokens, n_head * d); token `it` turns by row
    /// `it % rotation.n_tokens`.
    ///
    /// # Errors
    /// What the card says.
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
        unsafe { self.launch("rotate_rows", grid, THREADS, args![rows, bias, rotation, n_head, d, n_pairs]) }
    }
}
