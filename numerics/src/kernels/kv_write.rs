//! The fused cache write: bias, rotation, Hadamard transform, quantization and store in one pass over the fresh rows.

use std::sync::OnceLock;

use half::f16;

use super::attention::simd::Simd;
use super::disjoint::SharedSlice;
use super::{Kernels, threads};
use crate::ggml_type::GgmlType;
use crate::position::{RotaryTable, rotate_f32};
use crate::tensor::block::{self, Block, Q4_0, Q8_0, largest};
use crate::tensor::{CacheType, hadamard};
use crate::{Error, Result};

/// Elements per task: a few tens of microseconds of work.
const TASK_ELEMENTS: usize = 1 << 14;

/// Where the rows of one tensor (K or V) of one layer go: head-major memory, `stride` bytes per head.
pub struct CacheRows<'a> {
    /// Type of the stored rows.
    pub ty: CacheType,
    /// The memory of all heads.
    pub data: &'a mut [u8],
    /// Bytes from head to head.
    pub stride: usize,
    /// The slot of the first row.
    pub slot: usize,
}

/// Stores `rows` (n_tokens, n_head_kv * d) into consecutive slots. Each head of each row gets its bias, is rotated by
/// `rotary` (keys; pairs of zero frequency are not touched), whose row of the first token is given, is transformed where the type is,
/// and is encoded in place while it is in the first-level cache.
///
/// # Errors
/// A row that is not finite, or beyond what the type can hold: a model with broken weights.
///
/// # Panics
/// When the lengths disagree.
pub fn kv_write(
    kernels: &Kernels,
    rows: &[f32],
    bias: Option<&[f32]>,
    rotary: Option<(&RotaryTable, usize)>,
    (n_head_kv, d): (usize, usize),
    to: CacheRows<'_>,
) -> Result<()> {
    const MAX_D: usize = 1024;
    assert!(d <= MAX_D, "the loader caps the head dimension");
    let row_bytes = to.ty.row_bytes(d).expect("the cache was made for whole blocks");
    let (ty, slot) = (to.ty, to.slot);
    let n_tokens = rows.len() / (n_head_kv * d);
    assert!(rows.len() == n_tokens * n_head_kv * d && to.data.len() >= n_head_kv * to.stride);
    assert!((slot + n_tokens) * row_bytes <= to.stride);
    let (rotary, angle) = (rotary.map(|(table, _)| table), rotary.map_or(0, |(_, first)| first));
    let write = |it: usize, ih: usize, dst: &mut [u8]| {
        let mut head = [0f32; MAX_D];
        let head = &mut head[..d];
        head.copy_from_slice(&rows[(it * n_head_kv + ih) * d..][..d]);
        finish_head(kernels, head, bias.map(|b| &b[ih * d..][..d]), rotary, angle + it);
        if (kernels.attend.encode)(ty, head, dst) {
            return Ok(());
        }
        if head.iter().all(|v| v.is_finite()) {
            ty.encode_transformed(head, dst)?;
        }
        Err(Error::format(format!("keys or values of token {it} are not finite: the weights are broken")))
    };
    // Several tasks per head: there may be fewer heads than threads.
    let (data, tokens) = (&SharedSlice::new(to.data), (TASK_ELEMENTS / d).max(1));
    let per_head = n_tokens.div_ceil(tokens);
    let broken = OnceLock::new();
    let run = |task: usize| {
        let (ih, first) = (task / per_head, task % per_head * tokens);
        let n = tokens.min(n_tokens - first);
        let start = ih * to.stride + (slot + first) * row_bytes;
        // SAFETY: tasks write disjoint slots, or slots of different heads, which lie in memory of their own.
        let part = unsafe { data.get(start..start + n * row_bytes) };
        for (i, dst) in part.chunks_exact_mut(row_bytes).enumerate() {
            if let Err(error) = write(first + i, ih, dst) {
                let _ = broken.set(error); // the first is enough
                return;
            }
        }
    };
    if rows.len() <= TASK_ELEMENTS {
        (0..n_head_kv * per_head).for_each(run);
    } else {
        threads::for_each(n_head_kv * per_head, run);
    }
    broken.into_inner().map_or(Ok(()), Err)
}

/// Adds `bias` to and rotates every head of every row of `rows` (n_tokens, n_head * d): what `kv_write` does to keys,
/// for queries. The table's row of the first is given.
pub fn rotate_rows(
    kernels: &Kernels,
    rows: &mut [f32],
    bias: Option<&[f32]>,
    rotary: Option<(&RotaryTable, usize)>,
    (n_head, d): (usize, usize),
) {
    let width = n_head * d;
    let (rotary, first) = (rotary.map(|(table, _)| table), rotary.map_or(0, |(_, first)| first));
    let at_once = (TASK_ELEMENTS / width).max(1);
    threads::for_chunks(rows, at_once * width, |task, rows| {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            for (ih, head) in row.chunks_exact_mut(d).enumerate() {
                finish_head(kernels, head, bias.map(|b| &b[ih * d..][..d]), rotary, first + task * at_once + i);
            }
        }
    });
}

#[inline]
fn finish_head(kernels: &Kernels, head: &mut [f32], bias: Option<&[f32]>, rotary: Option<&RotaryTable>, it: usize) {
    if let Some(bias) = bias {
        head.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
    if let Some(table) = rotary {
        let (cos, sin) = table.token(it);
        (kernels.attend.rotate)(&mut head[..2 * table.n_pair()], cos, sin);
    }
}

/// See [`AttentionOps::rotate`](super::AttentionOps); compiled by each table for its instruction set.
#[inline(always)]
pub(super) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    rotate_f32(head, cos, sin);
}

/// The definition of [`AttentionOps::encode`](super::AttentionOps).
pub(super) fn encode(ty: CacheType, head: &mut [f32], dst: &mut [u8]) -> bool {
    if ty.hadamard {
        hadamard(head);
    }
    encode_transformed(ty, head, dst)
}

fn encode_transformed(ty: CacheType, head: &[f32], dst: &mut [u8]) -> bool {
    head.iter().all(|x| x.is_finite()) && ty.encode_transformed(head, dst).is_ok()
}

/// The same in loops that vectorize, to be compiled by a table for its instruction set.
///
/// # Safety
/// The CPU has the features of `S`.
///
/// # Panics
/// When the lengths disagree.
#[inline(always)]
pub(super) unsafe fn encode_vectors<S: Simd>(ty: CacheType, src: &mut [f32], dst: &mut [u8]) -> bool {
    assert_eq!(ty.row_bytes(src.len()), Some(dst.len()), "bytes for {} elements of {ty}", src.len());
    if ty.hadamard {
        hadamard(src);
    }
    let src = &*src;
    let largest = ty.aligned_max().unwrap_or(match ty.ty {
        GgmlType::Q8_0 => Q8_0::MAX_ABS,
        GgmlType::Q4_0 => Q4_0::MAX_ABS,
        _ => f32::MAX,
    });
    // Not `all`, which would stop early and so not vectorize. No comparison holds for a NaN.
    if !src.iter().fold(true, |fits, x| fits & (x.abs() <= largest)) {
        return false;
    }
    match ty.ty {
        GgmlType::Q4_0 if ty.hadamard => block::encode_aligned_q4_0(src, dst),
        GgmlType::Q5_0 if ty.hadamard => block::encode_aligned_q5_0(src, dst),
        GgmlType::F32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        GgmlType::F16 => {
            let whole = src.len() / S::L * S::L;
            for at in (0..whole).step_by(S::L) {
                // SAFETY: L elements lie ahead in both; the caller has the features.
                unsafe { S::store_f16(dst[2 * at..][..2 * S::L].as_mut_ptr(), S::load(src[at..][..S::L].as_ptr())) };
            }
            for (to, x) in dst.as_chunks_mut::<2>().0[whole..].iter_mut().zip(&src[whole..]) {
                *to = f16::from_f32(*x).to_le_bytes();
            }
        }
        GgmlType::BF16 => {
            for (to, x) in dst.as_chunks_mut::<2>().0.iter_mut().zip(src) {
                // To nearest, ties to even.
                let bits = x.to_bits();
                *to = (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes();
            }
        }
        GgmlType::Q8_0 => {
            for (to, x) in dst.as_chunks_mut::<34>().0.iter_mut().zip(src.as_chunks::<32>().0) {
                // SAFETY: checked above.
                unsafe { q8_0(x, to) };
            }
        }
        GgmlType::Q4_0 => {
            for (to, x) in dst.as_chunks_mut::<18>().0.iter_mut().zip(src.as_chunks::<32>().0) {
                // SAFETY: checked above.
                unsafe { q4_0(x, to) };
            }
        }
        _ => return encode_transformed(ty, src, dst),
    }
    true
}

#[inline(always)]
fn inverse_of(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// # Safety
/// All elements are finite.
#[inline(always)]
unsafe fn q8_0(x: &[f32; 32], to: &mut [u8; 34]) {
    /// The largest f32 below a half: added, it never carries a fraction below a half to the next integer.
    const BELOW_HALF: f32 = 0.499_999_97;
    let d = largest(x) / 127.0;
    let inverse = inverse_of(d);
    let (scale, codes) = to.split_at_mut(2);
    scale.copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (code, x) in codes.iter_mut().zip(x) {
        // Half away from zero.
        let x = x * inverse;
        // SAFETY: elements are finite, and none is larger than 127 / inverse, give or take a rounding.
        let code_i32: i32 = unsafe { (x + BELOW_HALF.copysign(x)).to_int_unchecked() };
        *code = code_i32 as u8;
    }
}

/// # Safety
/// All elements are finite.
#[inline(always)]
unsafe fn q4_0(x: &[f32; 32], to: &mut [u8; 18]) {
    let top = largest(x);
    // The definition starts from zero, which is positive.
    let extreme = if top == 0.0 { 0.0 } else { x.iter().copied().find(|x| x.abs() == top).unwrap_or(0.0) };
    let d = extreme / -8.0;
    let inverse = inverse_of(d);
    let (scale, codes) = to.split_at_mut(2);
    scale.copy_from_slice(&f16::from_f32(d).to_le_bytes());
    // As in the definition, the product is exact before it is rounded down.
    let mut wide = [0i32; 32];
    for (code, x) in wide.iter_mut().zip(x) {
        let x = f64::from(*x) * f64::from(inverse) + 8.5;
        // SAFETY: elements are finite, and none is larger than 8 / inverse, give or take a rounding.
        let code_i32: i32 = unsafe { x.to_int_unchecked() };
        *code = code_i32.min(15);
    }
    for i in 0..16 {
        codes[i] = (wide[i] | wide[i + 16] << 4) as u8;
    }
}
