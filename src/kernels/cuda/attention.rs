//! The cache write and attention: which kernel, and on how many blocks.

use super::kernel::Kernel;
use super::memory::{Gpu, Mem};
use super::ops::{RawRotation, Rotation, THREADS, args, blocks_for, int, want};
use crate::gguf::GgmlType;
use crate::{Error, Result};

/// Stored rows of keys or values of a layer: head `ih` of sequence `is` begins at `(is * n_head_kv + ih) * stride` bytes and
/// holds one row of `d` elements per slot.
#[derive(Clone)]
pub struct KvMem {
    /// Type of the stored rows.
    pub ty: GgmlType,
    /// The memory of all heads and sequences.
    pub mem: Mem,
    /// Bytes from head to head.
    pub stride: usize,
}

/// Tokens (n_seq * n_per_seq) of sequences that do not see each other, and where they stand in their slots.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    /// How many there are.
    pub n_seq: usize,
    /// Tokens of each.
    pub n_per_seq: usize,
    /// One i32 on the GPU: slots filled before the first token of a sequence.
    pub past: &'a Mem,
    /// What that i32 is: kernels read it there, the host checks with it.
    pub n_past: usize,
}

#[repr(C)]
struct RawKvWrite {
    rows: u64,
    bias: u64,
    out: u64,
    stride: u64,
    slot: u64,
    broken: u64,
    rotation: RawRotation,
    n_head: i32,
    d: i32,
    ty: i32,
    n_tokens: i32,
    n_seq: i32,
}

#[repr(C)]
struct RawAttention {
    q: u64,
    k: u64,
    v: u64,
    stride_k: u64,
    stride_v: u64,
    past: u64,
    ends: u64,
    out: u64,
    parts: u64,
    type_k: i32,
    type_v: i32,
    n_head: i32,
    n_head_kv: i32,
    d: i32,
    n_tokens: i32,
    n_seq: i32,
    causal: i32,
    n_splits: i32,
    n_windows: i32,
    padding: i32,
}

/// Who sees whom in a sequence.
#[derive(Clone, Copy)]
pub enum Sees<'a> {
    /// Each token those before it, and itself.
    Causal,
    /// All see all.
    All,
    /// All see all of their window.
    Windows(WindowMem<'a>),
}

/// Windows of a sequence, one after another.
#[derive(Clone, Copy)]
pub struct WindowMem<'a> {
    /// (n) i32: where each ends; the last one where the sequence ends, which the caller checked.
    pub ends: &'a Mem,
    /// How many there are.
    pub n: usize,
    /// Tokens of the longest.
    pub longest: usize,
}

/// Query rows from which on tensor cores pay.
const MANY_ROWS: usize = 64;
/// Heads per block of attention_split.cu.
const SPLIT_HEADS: usize = 8;
/// Blocks that fill a GPU, and keys that a range has at least, or half as many.
const SPLIT_BLOCKS: usize = 512;
const SPLIT_KEYS: usize = 256;
/// Ranges of keys at most.
const MAX_SPLITS: usize = 64;

/// Blocks of attention_split.cu that share a KV head of `group` heads.
fn chunks(group: usize, d: usize) -> usize {
    group.div_ceil(if d <= 128 { SPLIT_HEADS } else { 1 })
}

impl KvMem {
    /// # Panics
    /// When `n_slots` slots do not fit.
    fn check(&self, op: &str, n_heads: usize, d: usize, n_slots: usize) {
        let row = self.ty.row_bytes(d).expect("the cache was made for whole blocks");
        assert!(n_slots * row <= self.stride, "{op}: {n_slots} slots of {row} bytes in {}", self.stride);
        assert!(n_heads * self.stride <= self.mem.len(), "{op}: {n_heads} heads in {} bytes", self.mem.len());
    }
}

impl Gpu {
    /// Stores `rows` (n_seq * n_per_seq, n_head_kv * d) behind the slots that are filled: bias, rotation, encoding and store in
    /// one pass. Sets the i32 `broken` where a row is not finite, or beyond what the type can hold.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn kv_write(
        &self,
        rows: &Mem,
        (bias, rotation): (Option<&Mem>, Option<&Rotation>),
        seqs: Sequences<'_>,
        (n_head_kv, d): (usize, usize),
        to: &KvMem,
        broken: &Mem,
    ) -> Result<()> {
        let n_tokens = seqs.n_seq * seqs.n_per_seq;
        want("kv_write", &[(rows, n_tokens * n_head_kv * d), (bias.unwrap_or(rows), n_head_kv * d)]);
        want("kv_write", &[(seqs.past, 1), (broken, 1)]);
        to.check("kv_write", seqs.n_seq * n_head_kv, d, seqs.n_past + seqs.n_per_seq);
        let raw = RawKvWrite {
            rows: rows.at(),
            bias: bias.map_or(0, Mem::at),
            out: to.mem.at(),
            stride: to.stride as u64,
            slot: seqs.past.at(),
            broken: broken.at(),
            rotation: RawRotation::new(rotation, d)?,
            n_head: int(n_head_kv)?,
            d: int(d)?,
            ty: to.ty.id() as i32,
            n_tokens: int(n_tokens)?,
            n_seq: int(seqs.n_per_seq)?,
        };
        let grid = [blocks_for(n_tokens * n_head_kv * 32)?, 1, 1];
        // SAFETY: every length was checked above.
        unsafe { self.launch(Kernel::KV_WRITE, grid, THREADS, args![raw]) }
    }

    /// Floats that [`Gpu::attention`] needs as `parts` for up to `n_tokens` tokens.
    pub fn attention_parts(n_tokens: usize, n_head: usize, d: usize) -> usize {
        // With many tokens there is one range each; with few, as many as fill the GPU with blocks of up to 8 heads.
        (n_tokens * n_head).max(SPLIT_BLOCKS * SPLIT_HEADS) * (d + 2)
    }

    /// Ranges into which `n_keys` keys of few tokens are split. They change when keys double, so that launches stay the same
    /// for long.
    pub fn attention_splits(n_tokens: usize, n_keys: usize, (n_head, n_head_kv, d): (usize, usize, usize)) -> usize {
        let blocks = n_tokens * n_head_kv * chunks(n_head / n_head_kv, d);
        let by_keys = (n_keys / SPLIT_KEYS).max(1).next_power_of_two();
        (SPLIT_BLOCKS / blocks.max(1)).min(by_keys).clamp(1, MAX_SPLITS)
    }

    /// out (tokens, n_head * d) = softmax(q·kᵀ / sqrt(d)) · v, sequence by sequence: token `it` of one sees `n_past + it + 1`
    /// slots where that is causal, else all see `n_past + n_per_seq`, or their window without what is past.
    ///
    /// # Errors
    /// Heads beyond 1024 elements; what the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    #[allow(clippy::too_many_arguments)]
    pub fn attention(
        &self,
        q: &Mem,
        (k, v): (&KvMem, &KvMem),
        seqs: Sequences<'_>,
        (n_head, n_head_kv, d): (usize, usize, usize),
        sees: Sees<'_>,
        out: &Mem,
        parts: &Mem,
    ) -> Result<()> {
        let Sequences { n_seq, n_per_seq, n_past, past } = seqs;
        let n_tokens = n_seq * n_per_seq;
        assert!(n_head.is_multiple_of(n_head_kv) && d.is_multiple_of(2), "{n_head} heads of {d} over {n_head_kv}");
        want("attention", &[(q, n_tokens * n_head * d), (out, n_tokens * n_head * d), (past, 1)]);
        for kv in [k, v] {
            kv.check("attention", n_seq * n_head_kv, d, n_past + n_per_seq);
        }
        if d > 1024 {
            return Err(Error::unsupported(format!("heads of `{d}` elements, expected at most 1024")));
        }
        let group = n_head / n_head_kv;
        let (ends, n_windows, longest) = match sees {
            Sees::Windows(windows) => {
                assert!(n_past == 0 && windows.n > 0, "windows of what is all there");
                want("attention", &[(windows.ends, windows.n)]);
                (windows.ends.at(), windows.n, windows.longest)
            }
            Sees::Causal | Sees::All => (0, 1, n_per_seq),
        };
        let flash = (n_per_seq * group >= MANY_ROWS && d <= 128).then_some(match d {
            0..=32 => Kernel::ATTENTION_FLASH_32,
            33..=64 => Kernel::ATTENTION_FLASH_64,
            65..=80 => Kernel::ATTENTION_FLASH_80,
            _ => Kernel::ATTENTION_FLASH_128,
        });
        let chunks = chunks(group, d);
        let n_splits = Gpu::attention_splits(n_tokens, n_past + n_per_seq, (n_head, n_head_kv, d));
        if flash.is_none() {
            want("attention", &[(parts, n_tokens * n_head * n_splits * (d + 2))]);
        }
        let raw = RawAttention {
            q: q.at(),
            k: k.mem.at(),
            v: v.mem.at(),
            stride_k: k.stride as u64,
            stride_v: v.stride as u64,
            past: past.at(),
            ends,
            out: out.at(),
            parts: parts.at(),
            type_k: k.ty.id() as i32,
            type_v: v.ty.id() as i32,
            n_head: int(n_head)?,
            n_head_kv: int(n_head_kv)?,
            d: int(d)?,
            n_tokens: int(n_tokens)?,
            n_seq: int(n_per_seq)?,
            causal: matches!(sees, Sees::Causal).into(),
            n_splits: int(n_splits)?,
            n_windows: int(n_windows)?,
            padding: 0,
        };
        if let Some(kernel) = flash {
            let grid = [(longest * group).div_ceil(64) as u32, n_head_kv as u32, int(n_seq * n_windows)? as u32];
            // SAFETY: every length was checked above.
            return unsafe { self.launch(kernel, grid, 128, args![raw]) };
        }
        let kernel = match (k.ty, v.ty) {
            _ if d > 128 => Kernel::ATTENTION_SPLIT_WIDE,
            (GgmlType::F16, GgmlType::F16) => Kernel::ATTENTION_SPLIT_F16,
            (GgmlType::Q8_0, GgmlType::Q8_0) => Kernel::ATTENTION_SPLIT_Q8_0,
            _ => Kernel::ATTENTION_SPLIT_ANY,
        };
        let grid = [n_splits as u32, (n_head_kv * chunks) as u32, n_tokens as u32];
        // SAFETY: every length was checked above.
        unsafe { self.launch(kernel, grid, 128, args![raw])? };
        // SAFETY: as above; `parts` were written by the kernel before.
        unsafe { self.launch(Kernel::ATTENTION_MERGE, [n_tokens as u32, n_head as u32, 1], 128, args![raw]) }
    }
}
