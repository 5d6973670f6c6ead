//! The fused cache write: bias, rotation, quantization and store in one pass over the fresh rows.

use rayon::prelude::*;

use crate::gguf::GgmlType;
use crate::position::{RotaryTable, rotate_f32};
use crate::tensor::quantize_row;
use crate::{Error, Result};

/// Where the rows of one tensor (K or V) of one layer go: head-major memory, `stride` bytes per head.
pub struct CacheRows<'a> {
    pub ty: GgmlType,
    pub data: &'a mut [u8],
    pub stride: usize,
    /// The slot of the first row.
    pub slot: usize,
}

/// Stores `rows` (n_tokens, n_head_kv * d) into consecutive slots. Each head of each row gets its bias, is rotated by
/// `rotary` (keys; pairs of zero frequency are not touched) and is encoded in place while it is in the first-level cache.
///
/// # Errors
/// A row that is not finite: a model with broken weights.
///
/// # Panics
/// When the lengths disagree.
pub fn kv_write(
    rows: &[f32],
    bias: Option<&[f32]>,
    rotary: Option<&RotaryTable>,
    (n_head_kv, d): (usize, usize),
    to: CacheRows<'_>,
) -> Result<()> {
    const MAX_D: usize = 1024;
    assert!(d <= MAX_D, "the loader caps the head dimension");
    let row_bytes = to.ty.row_bytes(d).expect("the cache was made for whole blocks");
    let (ty, slot) = (to.ty, to.slot);
    to.data.par_chunks_mut(to.stride).take(n_head_kv).enumerate().try_for_each(|(ih, heads)| {
        let mut head = [0f32; MAX_D];
        let head = &mut head[..d];
        let slots = heads[slot * row_bytes..].chunks_exact_mut(row_bytes);
        for (it, (row, dst)) in rows.chunks_exact(n_head_kv * d).zip(slots).enumerate() {
            head.copy_from_slice(&row[ih * d..][..d]);
            finish_head(head, bias.map(|b| &b[ih * d..][..d]), rotary, it);
            if !head.iter().all(|v| v.is_finite()) {
                return Err(Error::format(format!(
                    "keys or values of token {it} are not finite: the weights are broken"
                )));
            }
            quantize_row(ty, head, dst, None)?;
        }
        Ok(())
    })
}

/// Adds `bias` to and rotates every head of every row of `rows` (n_tokens, n_head * d): what `kv_write` does to keys,
/// for queries.
pub fn rotate_rows(rows: &mut [f32], bias: Option<&[f32]>, rotary: &RotaryTable, (n_head, d): (usize, usize)) {
    rows.par_chunks_mut(n_head * d).enumerate().for_each(|(it, row)| {
        for (ih, head) in row.chunks_exact_mut(d).enumerate() {
            finish_head(head, bias.map(|b| &b[ih * d..][..d]), Some(rotary), it);
        }
    });
}

#[inline]
fn finish_head(head: &mut [f32], bias: Option<&[f32]>, rotary: Option<&RotaryTable>, it: usize) {
    if let Some(bias) = bias {
        super::add(head, bias);
    }
    if let Some(table) = rotary {
        let (cos, sin) = table.token(it);
        rotate_f32(head, cos, sin);
    }
}
