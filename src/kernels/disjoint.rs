//! Letting tasks fill one matrix together, each its own rectangle.

use std::marker::PhantomData;

/// A matrix (n_rows, n_cols) that several tasks write at once, each its own rectangle.
pub struct SharedMat<'a> {
    ptr: *mut f32,
    n_rows: usize,
    n_cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: `write` is the only access, and its contract keeps concurrent calls on disjoint rectangles.
unsafe impl Sync for SharedMat<'_> {}

impl<'a> SharedMat<'a> {
    /// Takes the matrix over while tasks fill it.
    ///
    /// # Panics
    /// When it is not a whole number of rows.
    pub fn new(data: &'a mut [f32], n_cols: usize) -> SharedMat<'a> {
        let n_rows = data.len() / n_cols;
        assert_eq!(data.len(), n_rows * n_cols);
        SharedMat { ptr: data.as_mut_ptr(), n_rows, n_cols, borrow: PhantomData }
    }

    /// Copies `values` into row `row`, starting at column `col`.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    ///
    /// # Safety
    /// No two concurrent calls may name overlapping ranges.
    pub unsafe fn write(&self, row: usize, col: usize, values: &[f32]) {
        assert!(row < self.n_rows && col <= self.n_cols && values.len() <= self.n_cols - col);
        // SAFETY: checked above to lie inside the borrowed matrix; the caller keeps concurrent calls apart.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.add(row * self.n_cols + col), values.len()) };
    }
}
