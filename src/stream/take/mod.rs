//! Take files: a video that was watched once, kept as the filled cache.
//!
//! A take is a GGUF file of three tensors: `take.checkpoints` and the cache itself, `cache.k` and `cache.v`, at their final
//! size from the start; where layers are recurrent, `cache.states` is a fourth. Watching fills them in place: first the rows of the
//! new slots and the states behind them, then one record that counts them (see `record`). Whoever is killed in between leaves rows that no record counts, which is as good as none, so a take can be
//! continued from its last record at any moment. The keys say what the cache is of: model, positions, video, sampling.
//!
//! A finished take is mapped, not read: pages are shared between processes, and what a conversation adds after the video goes
//! into pages of its own. Nothing of a take is used before all of it that stands for something has been checked: header, keys,
//! tables, records, the rows of every counted slot, and the zeros between them. Free slots, which questions and answers will
//! overwrite before anything reads them, are not looked at: that would cost as much as the video did.
//! Start reading at [`Take::open`] and [`TakeWriter`].

mod header;
mod record;
mod same;
mod writer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::path::Path;

pub use header::TakeHeader;
pub use same::WatchRequest;
pub use writer::{IfExists, TakeWriter};

use record::{Record, chain_start};

use crate::cache::{CacheShape, KvCache};
use crate::error::Context;
use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::{Error, Result};

/// `general.architecture` of a take.
pub const ARCHITECTURE: &str = "longtake-take";
/// The newest version that is known here; those before it are read. It is written where a stream's past became thinner, version 4 where
/// visual tokens were left out, version 3 where there are recurrent states, or where time goes by the clock or is told in words, and
/// version 2 elsewhere.
pub const VERSION: u64 = 5;

const CHECKPOINTS: &str = "take.checkpoints";
const CACHE_K: &str = "cache.k";
const CACHE_V: &str = "cache.v";
/// Room for the states of recurrent layers at two checkpoints: those of record `i` are in place `i % STATE_PLACES`, so that the last
/// record's stay whole while the next one's are written.
const CACHE_STATES: &str = "cache.states";
const STATE_PLACES: usize = 2;

/// A take that has been opened and checked whole.
pub struct Take {
    file: Gguf,
    /// What it says of itself.
    pub header: TakeHeader,
    records: Vec<Record>,
}

impl Take {
    /// Maps a take and checks all of it: the tables, the chain of records, and the hash of every counted slot. With
    /// `mmap` off the file is read instead.
    ///
    /// # Errors
    /// Another kind of file, another version, damage anywhere; the file, and what differs, are named.
    pub fn open(path: &Path, mmap: bool) -> Result<Take> {
        let place = || path.display().to_string();
        let file = Gguf::open_with(path, crate::gguf::GgufOptions { mmap })?;
        let arch = file.meta().need_str("general.architecture").at(place)?;
        if arch != ARCHITECTURE {
            let message = format!("architecture is `{arch}`, expected a take (`{ARCHITECTURE}`), as `watch` writes it");
            return Err(Error::mismatch(message).at(place()));
        }
        let header = TakeHeader::read(file.meta()).at(place)?;
        let take = Take { records: Vec::new(), header, file };
        take.checked().at(place)
    }

    fn checked(mut self) -> Result<Take> {
        self.header.check()?;
        if self.file.padding().any(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            return Err(Error::format("bytes between the tensors are damaged, expected zeros"));
        }
        let shape = self.header.shape;
        let (k, v) = tensors_as_said(&self.file, &shape)?;
        let table = tensor(&self.file, CHECKPOINTS)?;
        let front = self.file.fronts().next().expect("a file has a front");
        let records = record::read(self.file.data(table), chain_start(front), self.header.n_tokens() as u64)?;
        let cache = KvCache::from_memory(shape, 0, self.file.data_copy(k)?, self.file.data_copy(v)?)?;
        let mut from = 0;
        for record in &records {
            if record::hash_slots(&cache, from..record.n_tokens as usize) != record.rows {
                let message = format!("keys and values of tokens {from} to {} are damaged", record.n_tokens);
                return Err(Error::format(message));
            }
            from = record.n_tokens as usize;
        }
        self.records = records;
        // Those of earlier records were overwritten meanwhile.
        if record::hash_states(&self.states()?) != self.last().states {
            return Err(Error::format(format!("recurrent states after {} tokens are damaged", self.n_done())));
        }
        self.file.check_unchanged()?;
        Ok(self)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Tokens whose keys and values are in it.
    pub fn n_done(&self) -> usize {
        self.last().n_tokens as usize
    }

    /// Whether the whole video is in it.
    pub fn is_complete(&self) -> bool {
        self.n_done() == self.header.n_tokens()
    }

    /// Checkpoints written so far, the empty first one among them.
    pub fn n_checkpoints(&self) -> usize {
        self.records.len()
    }

    /// Seconds that watching took so far.
    pub fn seconds(&self) -> f64 {
        self.last().milliseconds as f64 / 1e3
    }

    /// When the last checkpoint was written, in seconds since 1970, where the take says so.
    pub fn written(&self) -> Option<u64> {
        Some(self.last().written).filter(|seconds| *seconds > 0)
    }

    fn last(&self) -> &Record {
        self.records.last().expect("a take without its first record is refused")
    }

    /// The states of recurrent layers at the last checkpoint; none where no layer is recurrent, or nothing was watched yet.
    fn states(&self) -> Result<Vec<f32>> {
        let place = self.records.len() - 1;
        let Some([n_state, n_layer, _]) = states_ne(&self.header.shape).filter(|_| place > 0) else {
            return Ok(Vec::new());
        };
        let (tensor, n_bytes) = (tensor(&self.file, CACHE_STATES)?, n_state * n_layer * size_of::<f32>());
        let bytes = &self.file.data(tensor)[place % STATE_PLACES * n_bytes..][..n_bytes];
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// The cache with everything watched so far. That of a complete take is mapped: it costs the pages that are written to,
    /// and nobody can write into the file while it lives. One that will be continued is a copy in memory.
    ///
    /// # Errors
    /// `Io` when the system refuses the memory.
    pub fn cache(&self) -> Result<KvCache> {
        let (k, v) = (tensor(&self.file, CACHE_K)?, tensor(&self.file, CACHE_V)?);
        let mut mapped =
            KvCache::from_memory(self.header.shape, self.n_done(), self.file.data_copy(k)?, self.file.data_copy(v)?)?;
        if self.n_done() > 0 {
            mapped.set_states(&self.states()?)?;
        }
        if self.is_complete() { Ok(mapped) } else { mapped.to_memory() }
    }
}

fn tensor<'a>(file: &'a Gguf, name: &str) -> Result<&'a TensorInfo> {
    file.tensor(name).ok_or_else(|| Error::format(format!("tensor `{name}` is missing")))
}

/// The keys and the values, where they and the states are of the sizes that the keys of the file give.
fn tensors_as_said<'a>(file: &'a Gguf, shape: &CacheShape) -> Result<(&'a TensorInfo, &'a TensorInfo)> {
    let (k, v, ne) = (tensor(file, CACHE_K)?, tensor(file, CACHE_V)?, rows_ne(shape));
    let mut expected = vec![(k, shape.type_k.ty, &ne[..]), (v, shape.type_v.ty, &ne)];
    let states_ne = states_ne(shape);
    if let Some(ne) = &states_ne {
        expected.push((tensor(file, CACHE_STATES)?, GgmlType::F32, ne));
    }
    for (tensor, ty, ne) in expected {
        if tensor.ne != ne || tensor.ty != ty {
            let message =
                format!("tensor `{}` is {} {:?}, the keys say {ty} {ne:?}", tensor.name, tensor.ty, tensor.ne);
            return Err(Error::format(message));
        }
    }
    Ok((k, v))
}

/// The dimensions of the rows of keys, or of values.
fn rows_ne(shape: &CacheShape) -> [usize; 4] {
    [shape.d, shape.n_ctx, shape.n_head_kv, shape.n_row_layers()]
}

/// The dimensions of the states, where there are any.
fn states_ne(shape: &CacheShape) -> Option<[usize; 3]> {
    shape.recurrent.map(|recurrent| [recurrent.state.n_state(), recurrent.layers.len(), STATE_PLACES])
}
