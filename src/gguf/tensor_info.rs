//! One row of the tensor table.
#![forbid(unsafe_code)]

use super::GgmlType;

/// A tensor's name, type, shape and place.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Its name (`blk.0.attn_q.weight`).
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Dimensions, fastest first, 1 to 4 of them, all at least 1.
    pub ne: Vec<usize>,
    /// Byte offset within the data section of its shard.
    pub offset: u64,
    /// Bytes of data.
    pub n_bytes: usize,
    /// Which file of a split model holds it (0 when not split).
    pub shard: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.ne.iter().product()
    }

    /// Length of a row (`ne[0]`).
    pub fn n_cols(&self) -> usize {
        self.ne[0]
    }

    /// Number of rows (all dimensions but the first).
    pub fn n_rows(&self) -> usize {
        self.ne[1..].iter().product()
    }
}
