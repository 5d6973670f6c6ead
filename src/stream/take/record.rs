//! The checkpoints of a take: one record of eight 64-bit integers each, of which every one seals the one before it, and the
//! first one the file's header. A record is written after the rows that it counts.

use std::ops::Range;

use byteorder::{ByteOrder, LE};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::cache::KvCache;
use crate::{Error, Result};

/// Integers per record.
pub(super) const WORDS: usize = 8;
/// Bytes per record.
pub(super) const BYTES: usize = 8 * WORDS;

/// How far watching had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Slots that are filled.
    pub n_tokens: u64,
    /// The hash of the rows of the slots that the record before did not count.
    pub rows: u64,
    /// The hash of the states of recurrent layers after these tokens (0: there are none).
    pub states: u64,
    /// Time spent watching so far.
    pub milliseconds: u64,
    /// When it was written, in seconds since 1970 (0: not known; version 1 did not say).
    pub written: u64,
    /// The hash of all of the above and of the record before, or of the header.
    pub chain: u64,
}

/// What the first record continues: the hash of header, keys and tensor table.
pub(super) fn chain_start(front: &[u8]) -> u64 {
    xxh3_64(front)
}

impl Record {
    /// The record that follows `before` in the chain.
    pub(super) fn after(
        before: u64,
        n_tokens: u64,
        (rows, states): (u64, u64),
        milliseconds: u64,
        written: u64,
    ) -> Record {
        let mut record = Record { n_tokens, rows, states, milliseconds, written, chain: before };
        record.chain = xxh3_64(&record.to_bytes());
        record
    }

    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        let words = [self.n_tokens, self.rows, self.milliseconds, self.written, self.states, 0, 0, self.chain];
        let mut bytes = [0; BYTES];
        LE::write_u64_into(&words, &mut bytes);
        bytes
    }

    /// The record in `bytes`, if it continues `before`.
    fn read(bytes: &[u8; BYTES], before: u64) -> Option<Record> {
        let word = |i: usize| LE::read_u64(&bytes[8 * i..]);
        let record = Record::after(before, word(0), (word(1), word(4)), word(2), word(3));
        (record.to_bytes() == *bytes).then_some(record)
    }
}

/// The records of a table, up to the first that is not one: none yet, or one that was cut off while it was written.
///
/// # Errors
/// No first record, records after the end, counts that do not grow or go beyond `n_tokens`: damage.
pub(super) fn read(table: &[u8], start: u64, n_tokens: u64) -> Result<Vec<Record>> {
    let (slots, rest) = table.as_chunks::<BYTES>();
    let (mut records, mut chain) = (Vec::new(), start);
    for bytes in slots {
        let Some(record) = Record::read(bytes, chain) else { break };
        let earlier = records.last().map(|r: &Record| r.n_tokens);
        if record.n_tokens > n_tokens || earlier.is_some_and(|n| record.n_tokens <= n) {
            return Err(Error::format(format!("checkpoint {} counts `{}` tokens", records.len(), record.n_tokens)));
        }
        chain = record.chain;
        records.push(record);
    }
    if records.first().is_none_or(|first| first.n_tokens != 0) {
        return Err(Error::format("header or first checkpoint are damaged: the one does not seal the other"));
    }
    // One record may have been cut off, but not after the last; nobody writes beyond it.
    let is_complete = records.last().is_some_and(|last| last.n_tokens == n_tokens);
    let after = slots.iter().skip(records.len() + usize::from(!is_complete)).flatten().chain(rest);
    if after.into_iter().any(|byte| *byte != 0) {
        return Err(Error::format(format!("checkpoint {} is damaged, later ones exist", records.len())));
    }
    Ok(records)
}

/// The hash of no rows.
pub(super) fn hash_of_nothing() -> u64 {
    Xxh3::new().digest()
}

/// The hash of the stored rows of some slots.
pub(super) fn hash_slots(cache: &KvCache, slots: Range<usize>) -> u64 {
    let mut hash = Xxh3::new();
    for (_, _, bytes) in cache.runs(slots) {
        hash.update(bytes);
    }
    hash.digest()
}

/// The hash of the states of recurrent layers; 0 where there are none.
pub(super) fn hash_states(states: &[f32]) -> u64 {
    if states.is_empty() { 0 } else { xxh3_64(bytemuck::cast_slice(states)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[u64], room: usize) -> Vec<u8> {
        let (mut table, mut chain) = (Vec::new(), 77);
        for n in counts {
            let record = Record::after(chain, *n, (n ^ 5, n % 3), 1000 + n, 1_700_000_000 + n);
            chain = record.chain;
            table.extend(record.to_bytes());
        }
        table.resize(room * BYTES, 0);
        table
    }

    #[test]
    fn every_flipped_bit_is_damage_or_an_earlier_state() {
        let counts = [0, 512, 1024, 1500];
        let whole = table(&counts, 6);
        let n = |table: &[u8]| read(table, 77, 1500).map(|r| r.last().unwrap().n_tokens);
        assert_eq!(n(&whole).unwrap(), 1500);
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match (bit / 8 / BYTES, n(&damaged)) {
                // The last record looks as if it had been cut off: the one before counts.
                (3, Ok(n)) => assert_eq!(n, 1024, "bit {bit}"),
                (at, got) => assert!(got.is_err(), "bit {bit} of record {at}: {got:?}"),
            }
        }
        assert!(read(&whole, 78, 1500).is_err(), "another header");
        assert!(read(&whole, 77, 1499).is_err(), "more than there is");
    }

    /// Where more is to come, the place of the next record may hold the beginning of one.
    #[test]
    fn of_an_unfinished_table_only_the_next_record_may_be_cut_off() {
        let whole = table(&[0, 512, 1024], 6);
        for bit in 3 * BYTES * 8..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, 77, 1500).is_ok(), bit / 8 / BYTES == 3, "bit {bit}");
        }
    }

    #[test]
    fn every_prefix_of_a_record_leaves_the_one_before() {
        for cut in 0..BYTES {
            let mut torn = table(&[0, 10, 20], 4);
            torn[2 * BYTES + cut..3 * BYTES].fill(0);
            let records = read(&torn, 77, 100).unwrap();
            assert!(records.len() == 2 || (records.len() == 3 && torn == table(&[0, 10, 20], 4)), "cut at {cut}");
        }
    }
}
