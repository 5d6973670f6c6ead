//! The cache write and attention: which kernel, and on how many blocks.

use std::ops::Range;

use super::kernel::Kernel;
use super::memory::{Gpu, Mem};
use super::ops::{RawRotation, Rotation, THREADS, args, blocks_for, int, want};
use super::product::FEW;
use super::table::{RawTable, SeqTable};
use crate::gguf::GgmlType;
use crate::tensor::{CacheType, hadamard_run};
use crate::{Error, Result};

/// Stored rows of keys or values of a layer: head `ih` of sequence `is` begins at `(is * n_head_kv + ih) * stride` bytes and
/// holds one row of `d` elements per slot.
#[derive(Clone)]
pub struct KvMem {
    /// Type of the stored rows.
    pub ty: CacheType,
    /// The memory of all heads and sequences.
    pub mem: Mem,
    /// Bytes from head to head.
    pub stride: usize,
}

/// Tokens (n_seq * n_per_seq) of sequences that do not see each other and have no cache.
#[derive(Clone, Copy)]
pub struct Sequences {
    /// How many there are.
    pub n_seq: usize,
    /// Tokens of each.
    pub n_per_seq: usize,
}

#[repr(C)]
struct RawKvWrite {
    rows: u64,
    bias: u64,
    table: RawTable,
    out: u64,
    stride: u64,
    broken: u64,
    rotation: RawRotation,
    n_head: i32,
    d: i32,
    ty: i32,
    n_tokens: i32,
    n_seq: i32,
    layer: i32,
    first: i32,
    values: i32,
    transform: RawTransform,
}

/// See `Transform` in kv_write.cu.
#[repr(C)]
struct RawTransform {
    run: i32,
    factor: f32,
}

impl RawTransform {
    /// That of heads of `d` elements, or none.
    fn new(d: usize, wanted: bool) -> RawTransform {
        let run = hadamard_run(d);
        match wanted {
            true => RawTransform { run: run as i32, factor: 1.0 / (run as f32).sqrt() },
            false => RawTransform { run: 0, factor: 1.0 },
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawAttention {
    q: u64,
    table: RawTable,
    k: u64,
    v: u64,
    stride_k: u64,
    stride_v: u64,
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
    n_splits: i32,
    n_windows: i32,
    layer: i32,
    first: i32,
    first_seq: i32,
    last_rows: i32,
    padding: i32,
}

/// Who sees whom in a sequence without a cache.
#[derive(Clone, Copy)]
pub enum Sees<'a> {
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
    pub(super) fn check(&self, op: &str, n_heads: usize, d: usize, n_slots: usize) {
        let row = self.ty.row_bytes(d).expect("the cache was made for whole blocks");
        assert!(n_slots * row <= self.stride, "{op}: {n_slots} slots of {row} bytes in {}", self.stride);
        assert!(n_heads * self.stride <= self.mem.len(), "{op}: {n_heads} heads in {} bytes", self.mem.len());
    }
}

/// Ranges into which `n_keys` keys of `n_tokens` tokens, few of them, are split. They change when keys double, so that launches stay the
/// same for long.
pub(super) fn splits(n_tokens: usize, n_keys: usize, (n_head, n_head_kv, d): (usize, usize, usize)) -> usize {
    let blocks = n_tokens * n_head_kv * chunks(n_head / n_head_kv, d);
    let by_keys = (n_keys / SPLIT_KEYS).max(1).next_power_of_two();
    (SPLIT_BLOCKS / blocks.max(1)).min(by_keys).clamp(1, MAX_SPLITS)
}

/// The kernel for so many tokens of a sequence, where tensor cores pay.
fn flash(n_tokens: usize, (n_head, n_head_kv, d): (usize, usize, usize)) -> Option<Kernel> {
    (n_tokens * (n_head / n_head_kv) >= MANY_ROWS && d <= 128).then_some(match d {
        0..=32 => Kernel::ATTENTION_FLASH_32,
        33..=64 => Kernel::ATTENTION_FLASH_64,
        65..=80 => Kernel::ATTENTION_FLASH_80,
        _ => Kernel::ATTENTION_FLASH_128,
    })
}

/// # Panics
/// When heads of queries do not share those of keys evenly.
///
/// # Errors
/// Heads beyond 1024 elements.
fn check_heads((n_head, n_head_kv, d): (usize, usize, usize)) -> Result<()> {
    assert!(n_head.is_multiple_of(n_head_kv) && d.is_multiple_of(2), "{n_head} heads of {d} over {n_head_kv}");
    if d > 1024 {
        return Err(Error::unsupported(format!("heads of `{d}` elements, expected at most 1024")));
    }
    Ok(())
}

/// What is kept of keys or of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPart {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

impl Gpu {
    /// Stores `rows` (n_seq * n_per_seq, n_head_kv * d), sequence by sequence: bias, rotation, transform, encoding and store in one
    /// pass. Sets the i32 `broken` where a row is not finite, or beyond what the type can hold.
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
        Sequences { n_seq, n_per_seq }: Sequences,
        (n_head_kv, d): (usize, usize),
        to: &KvMem,
        broken: &Mem,
    ) -> Result<()> {
        let n_tokens = n_seq * n_per_seq;
        want("kv_write", &[(rows, n_tokens * n_head_kv * d), (bias.unwrap_or(rows), n_head_kv * d), (broken, 1)]);
        to.check("kv_write", n_seq * n_head_kv, d, n_per_seq);
        let raw = RawKvWrite {
            rows: rows.at(),
            bias: bias.map_or(0, Mem::at),
            table: RawTable::NONE,
            out: to.mem.at(),
            stride: to.stride as u64,
            broken: broken.at(),
            rotation: RawRotation::new(rotation, d)?,
            n_head: int(n_head_kv)?,
            d: int(d)?,
            ty: to.ty.ty.id() as i32,
            n_tokens: int(n_tokens)?,
            n_seq: int(n_per_seq)?,
            layer: 0,
            first: 0,
            values: 0,
            transform: RawTransform::new(d, to.ty.hadamard),
        };
        let grid = [blocks_for(n_tokens * n_head_kv * 32)?, 1, 1];
        // SAFETY: every length was checked above.
        unsafe { self.launch(Kernel::KV_WRITE, grid, THREADS, args![raw]) }
    }

    /// The same for the rows of a batch, each of which goes behind the filled slots of layer `layer` of its sequence's cache.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn kv_write_cached(
        &self,
        rows: &Mem,
        (bias, rotation): (Option<&Mem>, Option<&Rotation>),
        (table, layer): (&SeqTable, usize),
        part: KvPart,
        broken: &Mem,
    ) -> Result<()> {
        let (_, n_head_kv, d) = table.heads();
        let width = n_head_kv * d;
        want("kv_write", &[(rows, table.n_rows() * width), (bias.unwrap_or(rows), width), (broken, 1)]);
        table.check_kv("kv_write", layer);
        let mut next = 0;
        while next < table.n_seq() {
            // Sequences whose caches have other types are other launches.
            let seqs = table.run(next, |one, other| one.is_like(other));
            next = seqs.end;
            let of = &table.seqs()[seqs];
            let (first, end) = (of[0].rows.start, of[of.len() - 1].rows.end);
            let ty = if part == KvPart::Keys { of[0].k.ty } else { of[0].v.ty };
            let raw = RawKvWrite {
                rows: rows.floats(first * width, (end - first) * width).at(),
                bias: bias.map_or(0, Mem::at),
                table: table.raw(),
                out: 0,
                stride: 0,
                broken: broken.at(),
                rotation: RawRotation::new(rotation.map(|rotation| rotation.from(first)).as_ref(), d)?,
                n_head: int(n_head_kv)?,
                d: int(d)?,
                ty: ty.ty.id() as i32,
                n_tokens: int(end - first)?,
                n_seq: 1,
                layer: int(layer)?,
                first: int(first)?,
                values: (part == KvPart::Values).into(),
                transform: RawTransform::new(d, ty.hadamard),
            };
            let grid = [blocks_for((end - first) * n_head_kv * 32)?, 1, 1];
            // SAFETY: every length was checked above; the caller sent the table before.
            unsafe { self.launch(Kernel::KV_WRITE, grid, THREADS, args![raw])? };
        }
        Ok(())
    }

    /// Floats that attention needs as `parts` for up to `n_tokens` tokens.
    pub fn attention_parts(n_tokens: usize, n_head: usize, d: usize) -> usize {
        // With many tokens there is one range each; with few, as many as fill the GPU with blocks of up to 8 heads. Sequences
        // of one token each have as many as they have alone.
        (n_tokens * n_head).max(SPLIT_BLOCKS * SPLIT_HEADS * n_tokens.min(FEW)) * (d + 2)
    }

    /// out (tokens, n_head * d) = softmax(q·kᵀ / sqrt(d)) · v, sequence by sequence: all tokens see all of their sequence, or of their
    /// window.
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
        Sequences { n_seq, n_per_seq }: Sequences,
        heads: (usize, usize, usize),
        sees: Sees<'_>,
        out: &Mem,
        parts: &Mem,
    ) -> Result<()> {
        check_heads(heads)?;
        let ((n_head, n_head_kv, d), n_tokens) = (heads, n_seq * n_per_seq);
        want("attention", &[(q, n_tokens * n_head * d), (out, n_tokens * n_head * d)]);
        for kv in [k, v] {
            kv.check("attention", n_seq * n_head_kv, d, n_per_seq);
        }
        let (ends, n_windows, longest) = match sees {
            Sees::Windows(windows) => {
                assert!(windows.n > 0, "no windows");
                want("attention", &[(windows.ends, windows.n)]);
                (windows.ends.at(), windows.n, windows.longest)
            }
            Sees::All => (0, 1, n_per_seq),
        };
        let flash = flash(n_per_seq, heads);
        let n_splits = splits(n_tokens, n_per_seq, heads);
        let raw = RawAttention {
            k: k.mem.at(),
            v: v.mem.at(),
            stride_k: k.stride as u64,
            stride_v: v.stride as u64,
            ends,
            n_seq: int(n_per_seq)?,
            n_windows: int(n_windows)?,
            ..RawAttention::new((q.at(), out.at(), parts.at()), [k.ty.ty, v.ty.ty], heads, n_tokens, n_splits)?
        };
        self.transform(k.ty, q, n_tokens * n_head, d)?;
        if let Some(kernel) = flash {
            let group = n_head / n_head_kv;
            let grid = [(longest * group).div_ceil(64) as u32, n_head_kv as u32, int(n_seq * n_windows)? as u32];
            // SAFETY: every length was checked above.
            unsafe { self.launch(kernel, grid, 128, args![raw])? };
            return self.transform(v.ty, out, n_tokens * n_head, d);
        }
        want("attention", &[(parts, n_tokens * n_head * n_splits * (d + 2))]);
        // SAFETY: every length was checked above.
        unsafe { self.attention_split(raw, [k.ty.ty, v.ty.ty])? };
        self.transform(v.ty, out, n_tokens * n_head, d)
    }

    /// The same for rows of a batch from number `first` on, the first of which is the first of `q` and `out`: each sees the
    /// slots of layer `layer` of its sequence's cache, up to its own. A row's sum is made as when its sequence is alone.
    ///
    /// # Errors
    /// Heads beyond 1024 elements; what the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn attention_cached(
        &self,
        q: &Mem,
        (table, layer): (&SeqTable, usize),
        first: usize,
        out: &Mem,
        parts: &Mem,
    ) -> Result<()> {
        let heads = table.heads();
        check_heads(heads)?;
        let ((n_head, n_head_kv, d), width) = (heads, heads.0 * heads.2);
        let n_tokens = table.n_rows() - first;
        want("attention", &[(q, n_tokens * width), (out, n_tokens * width)]);
        table.check_kv("attention", layer);
        let last_rows = table.is_last(first);
        let (seqs, mut next) = (table.seqs(), 0);
        while next < seqs.len() {
            if seqs[next].rows_from(first) == 0 {
                next += 1;
                continue;
            }
            let kernel = flash(seqs[next].rows_from(first), heads);
            let mut run = table.run(next, |one, other| {
                one.is_like(other) && flash(other.rows_from(first), heads).map(Kernel::id) == kernel.map(Kernel::id)
            });
            let begin = seqs[next].rows.start.max(first);
            let n_splits = |run: &Range<usize>| run.clone().map(|i| table.n_splits_of(i, first)).max().unwrap_or(1);
            let n_rows = |run: &Range<usize>| seqs[run.end - 1].rows.end - begin;
            let n_parts = |run: &Range<usize>| n_rows(run) * n_head * n_splits(run) * (d + 2);
            // As many as there is room for.
            while kernel.is_none() && run.len() > 1 && n_parts(&run) * size_of::<f32>() > parts.len() {
                run.end -= 1;
            }
            next = run.end;
            let (n, types) = (n_rows(&run), [seqs[run.start].k.ty, seqs[run.start].v.ty]);
            let (part, [type_k, type_v]) = (|mem: &Mem| mem.floats((begin - first) * width, n * width), types);
            self.transform(type_k, &part(q), n * n_head, d)?;
            let types = types.map(|ty| ty.ty);
            let raw = RawAttention {
                table: table.raw(),
                layer: int(layer)?,
                first: int(begin)?,
                first_seq: int(run.start)?,
                last_rows: last_rows.into(),
                ..RawAttention::new((part(q).at(), part(out).at(), parts.at()), types, heads, n, n_splits(&run))?
            };
            if let Some(kernel) = kernel {
                let longest = run.clone().map(|i| seqs[i].rows_from(first)).max().unwrap_or(0);
                let blocks = (longest * (n_head / n_head_kv)).div_ceil(64);
                let grid = [int(blocks)? as u32, n_head_kv as u32, int(run.len())? as u32];
                // SAFETY: every length was checked above; the caller sent the table before.
                unsafe { self.launch(kernel, grid, 128, args![raw])? };
                self.transform(type_v, &part(out), n * n_head, d)?;
                continue;
            }
            want("attention", &[(parts, n_parts(&run))]);
            // SAFETY: as above.
            unsafe { self.attention_split(raw, types)? };
            self.transform(type_v, &part(out), n * n_head, d)?;
        }
        Ok(())
    }

    /// Transforms heads of `d` elements in place, where those that they belong to are: queries before they meet keys, and back what
    /// became of values.
    fn transform(&self, ty: CacheType, heads: &Mem, n_heads: usize, d: usize) -> Result<()> {
        if ty.hadamard { self.hadamard_rows(heads, n_heads, d) } else { Ok(()) }
    }

    /// Transforms `n_heads` heads of `d` elements in place, bit for bit as [`hadamard`](crate::tensor::hadamard).
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn hadamard_rows(&self, rows: &Mem, n_heads: usize, d: usize) -> Result<()> {
        want("hadamard_rows", &[(rows, n_heads * d)]);
        let (at, transform, d, n) = (rows.at(), RawTransform::new(d, true), int(d)?, n_heads as u64);
        let grid = [blocks_for(n_heads * 32)?, 1, 1];
        // SAFETY: the length was checked above.
        unsafe { self.launch(Kernel::HADAMARD_ROWS, grid, THREADS, args![at, transform, d, n]) }
    }

    /// Few tokens: ranges of keys, and then their sum.
    ///
    /// # Safety
    /// All that `raw` names is there.
    unsafe fn attention_split(&self, raw: RawAttention, types: [GgmlType; 2]) -> Result<()> {
        let RawAttention { n_head, n_head_kv, d, n_tokens, n_splits, .. } = raw;
        let kernel = match types {
            _ if d > 128 => Kernel::ATTENTION_SPLIT_WIDE,
            [GgmlType::F16, GgmlType::F16] => Kernel::ATTENTION_SPLIT_F16,
            [GgmlType::Q8_0, GgmlType::Q8_0] => Kernel::ATTENTION_SPLIT_Q8_0,
            _ => Kernel::ATTENTION_SPLIT_ANY,
        };
        let chunks = chunks((n_head / n_head_kv) as usize, d as usize);
        let grid = [n_splits as u32, n_head_kv as u32 * chunks as u32, n_tokens as u32];
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, grid, 128, args![raw])? };
        // SAFETY: as above; `parts` were written by the kernel before.
        unsafe { self.launch(Kernel::ATTENTION_MERGE, [n_tokens as u32, n_head as u32, 1], 128, args![raw]) }
    }
}

impl RawAttention {
    /// Of (q, out, parts), of no cache and nobody.
    fn new(
        (q, out, parts): (u64, u64, u64),
        [type_k, type_v]: [GgmlType; 2],
        (n_head, n_head_kv, d): (usize, usize, usize),
        n_tokens: usize,
        n_splits: usize,
    ) -> Result<RawAttention> {
        Ok(RawAttention {
            q,
            table: RawTable::NONE,
            k: 0,
            v: 0,
            stride_k: 0,
            stride_v: 0,
            ends: 0,
            out,
            parts,
            type_k: type_k.id() as i32,
            type_v: type_v.id() as i32,
            n_head: int(n_head)?,
            n_head_kv: int(n_head_kv)?,
            d: int(d)?,
            n_tokens: int(n_tokens)?,
            n_seq: 1,
            n_splits: int(n_splits)?,
            n_windows: 1,
            layer: 0,
            first: 0,
            first_seq: 0,
            last_rows: 0,
            padding: 0,
        })
    }
}
