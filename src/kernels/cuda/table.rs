//! Sequences of a batch that have caches of their own. Kernels find in a table where the keys, values and states of each are, so that
//! one launch serves all of them, and launches that were recorded serve whichever contexts the table names.

use std::ops::Range;

use super::attention::{KvMem, splits};
use super::memory::{Gpu, Mem};
use super::ops::int;
use crate::Result;
use crate::tensor::CacheType;

/// A sequence of a batch, and what it has in a cache.
pub struct CachedSeq {
    /// Its rows of the batch.
    pub rows: Range<usize>,
    /// Slots filled before them.
    pub n_past: usize,
    /// Keys and values of all layers, head after head.
    pub k: KvMem,
    /// Likewise.
    pub v: KvMem,
    /// What all recurrent layers remember.
    pub states: Mem,
}

/// Words of a `CachedSeq` of table.cuh: five addresses and lengths of 64 bits, six numbers.
const SEQ_WORDS: usize = 5 * 2 + 6;

/// `SeqTable` of table.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawTable {
    seqs: u64,
    seq_of: u64,
}

impl RawTable {
    /// Of rows of no cache.
    pub(super) const NONE: RawTable = RawTable { seqs: 0, seq_of: 0 };
}

/// The sequences of a batch, in order and without gaps.
pub struct SeqTable {
    mem: Mem,
    seqs: Vec<CachedSeq>,
    /// Heads of queries, of keys, and elements of each.
    heads: (usize, usize, usize),
    /// The first row that has a use behind the last layer's keys and values.
    last: usize,
}

impl SeqTable {
    /// A table that lies at the beginning of `mem`, once [`SeqTable::words`] were sent there.
    pub fn new(mem: Mem, heads: (usize, usize, usize)) -> SeqTable {
        SeqTable { mem, seqs: Vec::new(), heads, last: 0 }
    }

    /// Words of a table of `n_seq` sequences with `n_rows` rows in all: a multiple of 16 bytes.
    pub fn n_words(n_seq: usize, n_rows: usize) -> usize {
        n_seq * SEQ_WORDS + n_rows.next_multiple_of(4)
    }

    /// Begins a batch of which all rows attend, in the last layer those from row `last` on.
    pub fn begin(&mut self, last: usize) {
        self.seqs.clear();
        self.last = last;
    }

    /// Adds the next sequence.
    ///
    /// # Panics
    /// When its rows do not follow those before.
    pub fn push(&mut self, seq: CachedSeq) {
        assert!(seq.rows.start == self.n_rows() && !seq.rows.is_empty(), "rows {:?} of a table", seq.rows);
        self.seqs.push(seq);
    }

    /// Rows of the batch.
    pub fn n_rows(&self) -> usize {
        self.seqs.last().map_or(0, |seq| seq.rows.end)
    }

    /// How many sequences there are.
    pub fn n_seq(&self) -> usize {
        self.seqs.len()
    }

    /// Words that it takes now.
    pub fn len(&self) -> usize {
        SeqTable::n_words(self.n_seq(), self.n_rows())
    }

    /// Whether no sequence was added.
    pub fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    /// Types of keys and values, where those of all sequences are the same.
    pub fn types(&self) -> Option<[CacheType; 2]> {
        let mut types = self.seqs.iter().map(CachedSeq::types);
        let first = types.next()?;
        types.all(|of| of == first).then_some(first)
    }

    /// The most ranges of keys that a row has in attention.
    pub fn n_splits(&self) -> usize {
        self.seqs.iter().map(|seq| self.splits(seq, 0)).max().unwrap_or(1)
    }

    /// What has to be sent to its memory.
    ///
    /// # Errors
    /// Sizes that kernels cannot count.
    ///
    /// # Panics
    /// When there are not [`SeqTable::len`] words.
    pub fn write(&self, words: &mut [u32]) -> Result<()> {
        let (seqs, rows) = words[..self.len()].split_at_mut(self.n_seq() * SEQ_WORDS);
        for (i, (seq, words)) in self.seqs.iter().zip(seqs.chunks_exact_mut(SEQ_WORDS)).enumerate() {
            let long = [seq.k.mem.at(), seq.v.mem.at(), seq.states.at(), seq.k.stride as u64, seq.v.stride as u64];
            let splits = [self.splits(seq, 0), self.splits(seq, self.last)];
            let short = [seq.rows.start, seq.rows.len(), seq.n_past, splits[0], splits[1], 0];
            let (to_long, to_short) = words.split_at_mut(2 * long.len());
            for (to, x) in to_long.chunks_exact_mut(2).zip(long) {
                to.copy_from_slice(&[x as u32, (x >> 32) as u32]);
            }
            for (to, x) in to_short.iter_mut().zip(short) {
                *to = int(x)? as u32;
            }
            rows[seq.rows.clone()].fill(i as u32);
        }
        Ok(())
    }

    /// Ranges of keys of a row of `seq` where rows from `first` on attend: as many as when the sequence is alone.
    fn splits(&self, seq: &CachedSeq, first: usize) -> usize {
        splits(seq.rows_from(first), seq.n_past + seq.rows.len(), self.heads)
    }

    /// The first rows of all sequences from number `first` on that are `alike`, and those numbers.
    pub(super) fn run(&self, first: usize, alike: impl Fn(&CachedSeq, &CachedSeq) -> bool) -> Range<usize> {
        let n = self.seqs[first..].iter().take_while(|seq| alike(&self.seqs[first], seq)).count();
        first..first + n
    }

    pub(super) fn seqs(&self) -> &[CachedSeq] {
        &self.seqs
    }

    /// Heads of queries, of keys, and elements of each.
    pub fn heads(&self) -> (usize, usize, usize) {
        self.heads
    }

    /// Whether rows from `first` on are the last ones.
    pub(super) fn is_last(&self, first: usize) -> bool {
        assert!(first == 0 || first == self.last, "rows from {first} on, expected 0 or {}", self.last);
        first > 0
    }

    /// Ranges of keys of sequence `i` where rows from `first` on attend.
    pub(super) fn n_splits_of(&self, i: usize, first: usize) -> usize {
        self.splits(&self.seqs[i], first)
    }

    pub(super) fn raw(&self) -> RawTable {
        let seqs = self.mem.at();
        RawTable { seqs, seq_of: seqs + (self.n_seq() * SEQ_WORDS * size_of::<u32>()) as u64 }
    }

    /// # Panics
    /// When the table is larger than its memory, or a cache has no layer `layer` with room for its rows.
    pub(super) fn check_kv(&self, op: &str, layer: usize) {
        let (_, n_head_kv, d) = self.heads;
        self.check(op);
        for seq in &self.seqs {
            for kv in [&seq.k, &seq.v] {
                kv.check(op, (layer + 1) * n_head_kv, d, seq.n_past + seq.rows.len());
            }
        }
    }

    /// # Panics
    /// When the table is larger than its memory, or a cache has no state `layer` of `n_state` floats.
    pub(super) fn check_states(&self, op: &str, layer: usize, n_state: usize) {
        self.check(op);
        for seq in &self.seqs {
            let (n, has) = ((layer + 1) * n_state * size_of::<f32>(), seq.states.len());
            assert!(n <= has, "{op}: {n} bytes of states in {has}");
        }
    }

    fn check(&self, op: &str) {
        let n = self.len() * size_of::<u32>();
        assert!(n <= self.mem.len(), "{op}: a table of {n} bytes in {}", self.mem.len());
    }
}

impl CachedSeq {
    fn types(&self) -> [CacheType; 2] {
        [self.k.ty, self.v.ty]
    }

    /// Whether kernels for the rows of one serve the other.
    pub(super) fn is_like(&self, other: &CachedSeq) -> bool {
        self.types() == other.types()
    }

    /// How many of its rows are from number `first` of the batch on.
    pub(super) fn rows_from(&self, first: usize) -> usize {
        self.rows.end - self.rows.start.max(first).min(self.rows.end)
    }
}

impl Gpu {
    /// A table of these sequences, there at once.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub fn table(&self, seqs: Vec<CachedSeq>, heads: (usize, usize, usize), last: usize) -> Result<SeqTable> {
        let n_rows = seqs.last().map_or(0, |seq| seq.rows.end);
        let mem = self.alloc(SeqTable::n_words(seqs.len(), n_rows) * size_of::<u32>(), "a table of sequences")?;
        let mut table = SeqTable::new(mem, heads);
        table.begin(last);
        seqs.into_iter().for_each(|seq| table.push(seq));
        let mut words = vec![0; table.len()];
        table.write(&mut words)?;
        table.mem.write(&words)?;
        Ok(table)
    }
}
