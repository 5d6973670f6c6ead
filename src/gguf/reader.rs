//! Opening and checking a GGUF file, or all files of a split model.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::foreign::refuse_folder;
use super::parse::{Tables, parse, shown};
use super::split::{self, ShardName};
use super::storage::Storage;
use super::{FileCopy, Metadata, TensorInfo};
use crate::error::Context;
use crate::{Error, Result};

/// An opened GGUF file whose header, keys and tensor table have been checked.
///
/// Of a split model, the keys are those of the first file (which carries all of them, among them the [`SPLIT_KEYS`](super::SPLIT_KEYS)
/// that a copy into one file must leave out) and the tensors are those of all files in order.
pub struct Gguf {
    path: PathBuf,
    meta: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    shards: Vec<Shard>,
}

/// How [`Gguf::open_with`] gets at the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufOptions {
    /// Map the file (the default: immediate, and shared between processes) or read all of it into memory. Reading is for
    /// network drives, removable media and files that others may rewrite: a mapped file that is cut short by somebody
    /// else ends the process when the lost part is touched, unless it [catches](super::catch_file_signals) that.
    pub mmap: bool,
}

impl Default for GgufOptions {
    fn default() -> GgufOptions {
        GgufOptions { mmap: true }
    }
}

/// One file.
struct Shard {
    path: PathBuf,
    storage: Storage,
    version: u32,
    alignment: u64,
    data_start: u64,
}

impl Gguf {
    /// Maps and checks `path`. A file whose name ends in `-00001-of-0000N.gguf` brings in its siblings.
    ///
    /// # Errors
    /// `Io` when a file cannot be opened, else what [`parse`] says; `Mismatch` when the files of a split model do not
    /// belong together. Each names the file.
    pub fn open(path: &Path) -> Result<Gguf> {
        Gguf::open_with(path, GgufOptions::default())
    }

    /// [`Gguf::open`] with a choice between mapping and reading.
    pub fn open_with(path: &Path, options: GgufOptions) -> Result<Gguf> {
        let load = |path: &Path| -> Result<(Shard, Tables)> {
            refuse_folder(path).at(|| path.display().to_string())?;
            let storage = if options.mmap { Storage::map(path) } else { Storage::read(path) };
            storage.and_then(|storage| Shard::check(path, storage)).at(|| path.display().to_string())
        };
        let (first, tables) = load(path)?;
        let mut gguf = Gguf {
            path: path.to_path_buf(),
            meta: tables.meta,
            tensors: Vec::new(),
            by_name: HashMap::with_capacity(tables.tensors.len()),
            shards: Vec::new(),
        };
        let n_shards = split::n_shards(path, &gguf.meta).at(|| path.display().to_string())?;
        gguf.add(first, tables.tensors)?;
        if n_shards > 1 {
            let place = || path.display().to_string();
            split::check_shard(0, &gguf.meta, &gguf.meta).at(place)?;
            let name = ShardName::of(path).ok_or_else(|| Error::mismatch("not named like a part").at(place()))?;
            for no in 1..n_shards {
                let path = name.path(no + 1);
                let (shard, tables) = load(&path)?;
                split::check_shard(no, &tables.meta, &gguf.meta).at(|| path.display().to_string())?;
                gguf.add(shard, tables.tensors)?;
            }
            let (found, said) = (gguf.tensors.len(), gguf.meta.need_uint(split::TENSORS_KEY).at(place)?);
            if found as u64 != said {
                let what = format!("key `{}` is `{said}`, the {n_shards} files hold {found}", split::TENSORS_KEY);
                return Err(Error::mismatch(what).at(place()));
            }
        }
        Ok(gguf)
    }

    /// Checks bytes that are already in memory (the embedded model, tests). `name` appears in errors. They are copied
    /// only if they do not begin at a multiple of 64 bytes.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf> {
        Gguf::from_storage(name, Storage::from_static(bytes))
    }

    /// The same, for bytes that the caller gives away.
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::from_storage(name, Storage::from_vec(bytes))
    }

    fn from_storage(name: &str, storage: Result<Storage>) -> Result<Gguf> {
        let (shard, tables) = storage.and_then(|storage| Shard::check(Path::new(name), storage)).at(|| name)?;
        if let Some(count) = tables.meta.uint(split::COUNT_KEY).at(|| name)?.filter(|n| *n > 1) {
            let what = format!("is part of a model split into `{count}` files, expected a whole one");
            return Err(Error::mismatch(what).at(name));
        }
        let mut gguf = Gguf {
            path: PathBuf::from(name),
            meta: tables.meta,
            tensors: Vec::new(),
            by_name: HashMap::with_capacity(tables.tensors.len()),
            shards: Vec::new(),
        };
        gguf.add(shard, tables.tensors)?;
        Ok(gguf)
    }

    /// Takes in the next file. Names are distinct within one file; across files they must be, too.
    fn add(&mut self, shard: Shard, tensors: Vec<TensorInfo>) -> Result<()> {
        for mut tensor in tensors {
            if let Some(earlier) = self.by_name.insert(tensor.name.clone(), self.tensors.len()) {
                let earlier = &self.shards[self.tensors[earlier].shard].path;
                let what = format!("tensor `{}` is already in `{}`", shown(&tensor.name), earlier.display());
                return Err(Error::mismatch(what).at(shard.path.display().to_string()));
            }
            tensor.shard = self.shards.len();
            self.tensors.push(tensor);
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Where it came from (the name given, for bytes in memory).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata, in file order.
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// Tensor table, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// The bytes of a tensor of this file; its range was checked at open. They begin at an address that is a multiple of
    /// the file's alignment or of 64, whichever is less.
    ///
    /// # Panics
    /// When `tensor` is not from this file and lies outside it.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let shard = &self.shards[tensor.shard];
        // Checked at open: fits the file, hence usize.
        let start = (shard.data_start + tensor.offset) as usize;
        &shard.storage.bytes()[start..start + tensor.n_bytes]
    }

    /// Writable memory that begins as the bytes of a tensor. Of a mapped file it costs only the pages that are written to;
    /// the file stays as it is.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    ///
    /// # Panics
    /// As [`Gguf::data`]; also for a tensor without elements.
    pub fn data_copy(&self, tensor: &TensorInfo) -> Result<FileCopy> {
        let shard = &self.shards[tensor.shard];
        let start = (shard.data_start + tensor.offset) as usize;
        shard.storage.copy_of(start..start + tensor.n_bytes).at(|| shard.path.display().to_string())
    }

    /// Where the bytes of a tensor begin in its file.
    pub fn file_offset(&self, tensor: &TensorInfo) -> u64 {
        self.shards[tensor.shard].data_start + tensor.offset
    }

    /// Header, keys and tensor table of each of its files, as they are stored.
    pub fn fronts(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.iter().map(|shard| &shard.storage.bytes()[..shard.data_start as usize])
    }

    /// What lies in its data sections outside of every tensor, in no particular order.
    pub fn padding(&self) -> impl Iterator<Item = &[u8]> {
        self.shards.iter().enumerate().flat_map(|(i, shard)| {
            let mut ends: Vec<(usize, usize)> = self
                .tensors
                .iter()
                .filter(|t| t.shard == i)
                .map(|t| {
                    let start = (shard.data_start + t.offset) as usize;
                    (start, start + t.n_bytes)
                })
                .collect();
            let bytes = shard.storage.bytes();
            ends.push((bytes.len(), bytes.len()));
            ends.sort_unstable();
            let mut from = shard.data_start as usize;
            ends.into_iter().map(move |(start, end)| {
                let gap = &bytes[from.min(start)..start];
                from = from.max(end);
                gap
            })
        })
    }

    /// Bytes of all its files together.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.storage.bytes().len() as u64).sum()
    }

    /// GGUF version of the first file, 2 or 3.
    pub fn version(&self) -> u32 {
        self.shards[0].version
    }

    /// Alignment of tensor data in the first file, in bytes.
    pub fn alignment(&self) -> u64 {
        self.shards[0].alignment
    }

    /// The files of a split model in order, each with its size in bytes and the offset of its data section; one entry
    /// when it is not split.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&Path, u64, u64)> {
        self.shards.iter().map(|s| (s.path.as_path(), s.storage.bytes().len() as u64, s.data_start))
    }

    /// Checks that no mapped file was cut or rewritten since it was opened; cheap enough to ask after every step.
    ///
    /// # Errors
    /// `Io` naming the file and what differs.
    pub fn check_unchanged(&self) -> Result<()> {
        self.shards.iter().try_for_each(|s| s.storage.check_unchanged().at(|| s.path.display().to_string()))
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gguf({}, {} keys, {} tensors)", self.path.display(), self.meta.len(), self.tensors.len())
    }
}

impl Shard {
    fn check(path: &Path, storage: Storage) -> Result<(Shard, Tables)> {
        let tables = parse(storage.bytes())?;
        let Tables { version, alignment, data_start, .. } = tables;
        Ok((Shard { path: path.to_path_buf(), storage, version, alignment, data_start }, tables))
    }
}
