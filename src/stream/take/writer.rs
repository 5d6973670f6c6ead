//! Filling a take in place.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::record::{self, BYTES, Record, WORDS, chain_start};
use super::{
    ARCHITECTURE, CACHE_K, CACHE_STATES, CACHE_V, CHECKPOINTS, STATE_PLACES, Take, TakeHeader, rows_ne, states_ne,
};
use crate::cache::{CachePart, KvCache};
use crate::error::Context;
use crate::files::atomic::check_output;
use crate::files::{input::open_regular, lock};
use crate::gguf::parse::MAGIC;
use crate::gguf::{GgmlType, Gguf, GgufWriter};
use crate::{Error, ErrorKind, Result};

/// Time between checkpoints: each brings the new rows to disk, which takes a fraction of a second.
const EVERY: Duration = Duration::from_secs(10);

/// What becomes of a take that is there already where a new one is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// It stays, and the new one is refused.
    Refuse,
    /// The new one takes its place, at once; whoever is asking the old one keeps it.
    Replace,
}

impl IfExists {
    /// Checks that a take can be written as `path`, before any work begins.
    ///
    /// # Errors
    /// What [`check_output`] says; a file that is there and may not be replaced: any, or one that is no take, or one that
    /// somebody is writing.
    pub fn check(self, path: &Path) -> Result<()> {
        check_output(path)?;
        if !path.exists() {
            return Ok(());
        }
        let refuse = |what: &str| Err(Error::bad_input(what).at(path.display().to_string()));
        match (self, Gguf::open(path)) {
            (IfExists::Refuse, _) => refuse("exists already; pass --again to replace it, or another --output"),
            (IfExists::Replace, Ok(file)) => match file.meta().str("general.architecture") {
                Ok(Some(ARCHITECTURE)) => Ok(()),
                _ => refuse("is no take and is not replaced"),
            },
            (IfExists::Replace, Err(err)) if is_in_the_way(&err) => Err(err),
            // A damaged take may be replaced, somebody's notes may not.
            (IfExists::Replace, Err(_)) => match read_start(path) {
                Ok(start) if start == MAGIC => Ok(()),
                _ => refuse("is no take and is not replaced"),
            },
        }
    }
}

/// Whether an error says nothing of what a file holds.
fn is_in_the_way(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::NotFound | ErrorKind::Busy)
}

fn read_start(path: &Path) -> Result<[u8; 4]> {
    let mut start = [0; 4];
    open_regular(path)?.0.read_exact(&mut start)?;
    Ok(start)
}

/// A take being written. It holds the file's exclusive lock: nobody else writes or reads it meanwhile.
pub struct TakeWriter {
    path: PathBuf,
    file: File,
    /// Where the tensors begin in the file.
    at_records: u64,
    at_k: u64,
    at_v: u64,
    /// Where layers are recurrent.
    at_states: Option<u64>,
    n_total: usize,
    n_slots: usize,
    n_records: usize,
    last: Record,
    /// Time of earlier runs, and when this one began.
    before: Duration,
    started: Instant,
    written: Instant,
    every: Duration,
}

impl TakeWriter {
    /// Makes a new take at `path`, in its final size but without any slot filled.
    ///
    /// # Errors
    /// What [`IfExists::check`] says, a header that contradicts itself.
    pub fn create(path: &Path, header: &TakeHeader, if_exists: IfExists) -> Result<TakeWriter> {
        header.check().at(|| path.display().to_string())?;
        if_exists.check(path)?;
        // A step of prefill may be a checkpoint each, and the end one more.
        let (writer, first) = tables(header, header.shape.n_ctx.div_ceil(header.n_batch) + 2)?;
        writer.write_in_place(path, |file, at| put(file, at[0], &first.to_bytes()))?;
        TakeWriter::open(path)
    }

    /// Writes a take that is complete at once: the first slots of `cache`, as many as `header` counts. What stood at `path`
    /// before is replaced when everything is on disk; whoever has it open keeps what he opened.
    ///
    /// # Errors
    /// A folder that cannot be written to, a full disk, a header that contradicts itself.
    pub fn write_whole(path: &Path, header: &TakeHeader, cache: &KvCache, spent: Duration) -> Result<()> {
        header.check().at(|| path.display().to_string())?;
        let slots = 0..header.n_tokens();
        let (writer, first) = tables(header, 2)?;
        let hashes = hashes(cache, slots.clone())?;
        let last = Record::after(first.chain, slots.end as u64, hashes, spent.as_millis() as u64, now());
        writer.write_in_place(path, |file, at| {
            put(file, at[0], &[first.to_bytes(), last.to_bytes()].concat())?;
            put_rows(file, (at[1], at[2]), cache, slots)?;
            at.get(3).map_or(Ok(()), |at| put_states(file, *at, cache, 1))
        })
    }

    /// Replaces the take by one that is complete, of which `header` says more than was known when it was begun.
    ///
    /// # Errors
    /// Those of [`TakeWriter::write_whole`]; the take that was begun is then as it was.
    pub(crate) fn finish_as(self, header: &TakeHeader, cache: &KvCache) -> Result<()> {
        TakeWriter::write_whole(&self.path, header, cache, self.before + self.started.elapsed())
    }

    /// Opens a take that is to be continued, after [`Take::open`] found it whole.
    ///
    /// # Errors
    /// A take that somebody else is writing or reading, or that has changed since it was checked.
    pub fn resume(take: Take) -> Result<TakeWriter> {
        let (path, records) = (take.path().to_path_buf(), take.records.clone());
        drop(take); // and with it the shared lock
        let writer = TakeWriter::open(&path)?;
        if Some(&writer.last) != records.last() {
            return Err(Error::new(ErrorKind::Mismatch, "changed while it was opened").at(path.display().to_string()));
        }
        Ok(writer)
    }

    fn open(path: &Path) -> Result<TakeWriter> {
        let place = || path.display().to_string();
        // The tables first; the lock then keeps them as they are.
        let (at, records, n_total, n_slots) = {
            let gguf = Gguf::open(path)?;
            let header = TakeHeader::read(gguf.meta()).at(place)?;
            let tensor = |name: &str| {
                gguf.tensor(name).ok_or_else(|| Error::format(format!("tensor `{name}` is missing")).at(place()))
            };
            let table = gguf.data(tensor(CHECKPOINTS)?);
            let front = gguf.fronts().next().expect("a file has a front");
            let records = record::read(table, chain_start(front), header.n_tokens() as u64).at(place)?;
            let at = [CHECKPOINTS, CACHE_K, CACHE_V].map(|name| tensor(name).map(|t| gguf.file_offset(t)));
            let states =
                header.shape.recurrent.map(|_| tensor(CACHE_STATES).map(|t| gguf.file_offset(t))).transpose()?;
            ((at, states), records, header.n_tokens(), table.len() / BYTES)
        };
        let ([at_records, at_k, at_v], at_states) = at;
        let file = File::options().read(true).write(true).open(path).at(place)?;
        lock(|| file.try_lock(), "in use: another program is watching into it or asking it").at(place)?;
        let last = *records.last().expect("checked to have one");
        let now = Instant::now();
        Ok(TakeWriter {
            path: path.to_path_buf(),
            file,
            at_records: at_records?,
            at_k: at_k?,
            at_v: at_v?,
            at_states,
            n_total,
            n_slots,
            n_records: records.len(),
            last,
            before: Duration::from_millis(last.milliseconds),
            started: now,
            written: now,
            every: EVERY,
        })
    }

    /// Sets the time between checkpoints.
    pub fn set_interval(&mut self, every: Duration) {
        self.every = every;
    }

    /// Tokens that the last checkpoint counts.
    pub fn n_done(&self) -> usize {
        self.last.n_tokens as usize
    }

    /// Whether it is time for a checkpoint, or a cache with `len` tokens holds all of the video.
    pub fn is_due(&self, len: usize) -> bool {
        len >= self.n_total || self.written.elapsed() >= self.every
    }

    /// Writes a checkpoint of everything in the cache that belongs to the take.
    ///
    /// # Errors
    /// `Io`, a full disk for instance; the take then stays as of its last checkpoint. Recurrent states that were lost.
    pub fn checkpoint(&mut self, cache: &KvCache) -> Result<()> {
        let (from, to) = (self.n_done(), cache.len().min(self.n_total));
        if to <= from {
            return Ok(());
        }
        self.write(cache, from, to).at(|| self.path.display().to_string())?;
        self.written = Instant::now();
        Ok(())
    }

    fn write(&mut self, cache: &KvCache, from: usize, to: usize) -> Result<()> {
        if self.n_records == self.n_slots {
            return Err(Error::limit(format!("no room for more than {} checkpoints", self.n_slots)));
        }
        let hashes = hashes(cache, from..to)?;
        put_rows(&self.file, (self.at_k, self.at_v), cache, from..to)?;
        if let Some(at) = self.at_states {
            put_states(&self.file, at, cache, self.n_records)?;
        }
        // The record may not reach the disk before the rows that it counts.
        self.file.sync_data()?;
        let spent = self.before + self.started.elapsed();
        let next = Record::after(self.last.chain, to as u64, hashes, spent.as_millis() as u64, now());
        put(&self.file, self.at_records + (self.n_records * BYTES) as u64, &next.to_bytes())?;
        self.file.sync_data()?;
        self.n_records += 1;
        self.last = next;
        Ok(())
    }
}

/// The tables of a take with room for `n_slots` records, and its first record.
fn tables(header: &TakeHeader, n_slots: usize) -> Result<(GgufWriter, Record)> {
    let shape = &header.shape;
    let mut meta = header.to_metadata();
    meta.set("general.alignment", 4096u32);
    let mut writer = GgufWriter::new(meta);
    writer.tensor(CHECKPOINTS, GgmlType::I64, &[WORDS, n_slots])?;
    let ne = rows_ne(shape);
    writer.tensor(CACHE_K, shape.type_k.ty, &ne)?;
    writer.tensor(CACHE_V, shape.type_v.ty, &ne)?;
    if let Some(ne) = states_ne(shape) {
        writer.tensor(CACHE_STATES, GgmlType::F32, &ne)?;
    }
    let first = Record::after(chain_start(&writer.front()?), 0, (record::hash_of_nothing(), 0), 0, 0);
    Ok((writer, first))
}

/// What a record that counts `slots`, the last ones of the cache, says of them and of the states behind them.
fn hashes(cache: &KvCache, slots: Range<usize>) -> Result<(u64, u64)> {
    let states = cache.states()?;
    if !states.is_empty() && cache.len() != slots.end {
        let message = format!("recurrent layers remember `{}` tokens, the take would count {}", cache.len(), slots.end);
        return Err(Error::mismatch(message));
    }
    Ok((record::hash_slots(cache, slots), record::hash_states(states)))
}

/// Writes the states for record `i` where states begin at `at`.
fn put_states(file: &File, at: u64, cache: &KvCache, i: usize) -> Result<()> {
    let states = bytemuck::cast_slice(cache.states()?);
    put(file, at + (i % STATE_PLACES * states.len()) as u64, states)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Writes `bytes` at `at`.
fn put(mut file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(bytes)?)
}

/// Writes the rows of some slots where keys and values begin at (`at_k`, `at_v`).
fn put_rows(file: &File, (at_k, at_v): (u64, u64), cache: &KvCache, slots: Range<usize>) -> Result<()> {
    cache.runs(slots).try_for_each(|(part, at, bytes)| {
        let start = if part == CachePart::K { at_k } else { at_v };
        put(file, start + at as u64, bytes)
    })
}
