//! In place of `parquet_file.rs` in a build without the feature `bench-data`.

use super::table::Cells;
use crate::{Error, Result};

/// # Errors
/// Always: nothing here reads Parquet.
pub(super) fn read(_: Vec<u8>, _: &[&str]) -> Result<Vec<Cells>> {
    Err(Error::unsupported("this build reads no Parquet, expected one with the feature `bench-data`, or JSON or TSV"))
}
