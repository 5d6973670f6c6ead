//! Writing GGUF v3: deterministic bytes, written beside the final name and renamed when complete.
#![forbid(unsafe_code)]

use std::path::Path;

use super::{GgmlType, Metadata};
use crate::Result;

/// Collects metadata and tensor shapes, then streams tensor data in the declared order.
pub struct GgufWriter {
    meta: Metadata,
    tensors: Vec<(String, GgmlType, Vec<usize>)>,
}

impl GgufWriter {
    /// A writer with this metadata; `general.alignment` in it, if any, sets the alignment (default 32).
    pub fn new(meta: Metadata) -> GgufWriter {
        GgufWriter { meta, tensors: Vec::new() }
    }

    /// Declares the next tensor: dimensions fastest first.
    ///
    /// # Errors
    /// A bad name, a duplicate, a bad shape, a row that is not a whole number of blocks.
    pub fn tensor(&mut self, name: impl Into<String>, ty: GgmlType, ne: &[usize]) -> Result<()> {
        self.tensors.push((name.into(), ty, ne.to_vec()));
        todo!()
    }

    /// Writes the file: `fill(index, buf)` is called once per declared tensor, in order, with `buf` empty, and must push
    /// exactly the tensor's bytes. The file appears under `path` only when complete; on any error nothing is left behind.
    pub fn write(&self, path: &Path, fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<()> {
        let _ = (&self.meta, path, fill);
        todo!()
    }

    /// The whole file as bytes (tests, small files).
    pub fn to_bytes(&self, fill: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
        let _ = fill;
        todo!()
    }
}
