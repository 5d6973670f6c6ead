//! A read-only matrix of packed rows.
#![forbid(unsafe_code)]

use crate::ggml_type::GgmlType;
use crate::tensor::dequantize_row;
use crate::{Error, Result};

/// A matrix (n_rows, n_cols) of type `ty`, its rows packed one after another without gaps. Borrows its bytes.
#[derive(Debug, Clone, Copy)]
pub struct MatView<'a> {
    ty: GgmlType,
    n_cols: usize,
    n_rows: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> MatView<'a> {
    /// Views `data` as `n_rows` rows of `n_cols` elements.
    ///
    /// # Errors
    /// `Format` when `n_cols` is not a whole number of blocks of `ty`, or `data` is not exactly as long as the matrix.
    pub fn new(ty: GgmlType, n_cols: usize, n_rows: usize, data: &'a [u8]) -> Result<MatView<'a>> {
        let row_bytes = ty.row_bytes(n_cols).ok_or_else(|| {
            Error::format(format!("`{n_cols}` columns of {ty}: expected a multiple of {}", ty.block_len()))
        })?;
        let want = row_bytes
            .checked_mul(n_rows)
            .ok_or_else(|| Error::format(format!("`{n_rows}` rows of `{n_cols}` columns of {ty} overflow")))?;
        if data.len() != want {
            let have = data.len();
            return Err(Error::format(format!(
                "`{have}` bytes for ({n_rows}, {n_cols}) elements of {ty}: expected {want}"
            )));
        }
        Ok(MatView { ty, n_cols, n_rows, row_bytes, data })
    }

    /// The element type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Elements per row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Bytes per row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All rows, packed.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// When there is no row `i`.
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.n_rows, "row {i} of {}", self.n_rows);
        &self.data[i * self.row_bytes..][..self.row_bytes]
    }

    /// The rows `range.start..range.end` as a matrix of their own.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn rows(&self, range: std::ops::Range<usize>) -> MatView<'a> {
        assert!(range.start <= range.end && range.end <= self.n_rows, "rows {range:?} of {}", self.n_rows);
        let data = &self.data[range.start * self.row_bytes..range.end * self.row_bytes];
        MatView { n_rows: range.len(), data, ..*self }
    }

    /// Decodes row `i` into `dst` (n_cols,).
    ///
    /// # Panics
    /// When there is no row `i` or `dst` is not one row long.
    ///
    /// # Errors
    /// `Unsupported` for a type without a decoder.
    pub fn row_f32(&self, i: usize, dst: &mut [f32]) -> Result<()> {
        dequantize_row(self.ty, self.row(i), dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn rows_are_where_they_should_be() {
        let data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mat = MatView::new(GgmlType::F32, 2, 3, &data).unwrap();
        let mut row = [0.0; 2];
        mat.row_f32(2, &mut row).unwrap();
        assert_eq!(row, [4.0, 5.0]);
        mat.rows(1..3).row_f32(0, &mut row).unwrap();
        assert_eq!(row, [2.0, 3.0]);
        assert_eq!(mat.rows(3..3).n_rows(), 0);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let data = [0u8; 36];
        assert!(MatView::new(GgmlType::Q4_0, 32, 2, &data).is_ok());
        for (n_cols, n_rows) in [(31, 2), (32, 1), (32, 3), (64, 2), (32, usize::MAX), (usize::MAX - 31, 1)] {
            let err = MatView::new(GgmlType::Q4_0, n_cols, n_rows, &data).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Format, "{n_cols} {n_rows}");
        }
    }
}
