//! Opening and checking a GGUF file, or all files of a split model.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::{Metadata, TensorInfo};
use crate::Result;

/// An opened GGUF file whose header, keys and tensor table have been checked.
pub struct Gguf {
    path: PathBuf,
    meta: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Maps and checks `path`. A file whose name ends in `-00001-of-0000N.gguf` brings in its siblings.
    pub fn open(path: &Path) -> Result<Gguf> {
        let _ = path;
        todo!()
    }

    /// Checks bytes that are already in memory (the embedded model, tests). `name` appears in errors.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf> {
        let _ = (name, bytes);
        todo!()
    }

    /// The same, for bytes that the caller gives away.
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Gguf> {
        let _ = (name, bytes);
        todo!()
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
        let _ = name;
        todo!()
    }

    /// The bytes of a tensor of this file; its range was checked at open.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let _ = tensor;
        todo!()
    }

    /// Bytes of all its files together.
    pub fn file_bytes(&self) -> u64 {
        todo!()
    }
}
