//! Letting tasks fill one matrix together, each its own rectangle, or one slice, each its own range.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice of which several tasks change a part each.
pub(super) struct SharedSlice<'a, T> {
    ptr: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: `get` is the only access, and its contract keeps concurrent calls on disjoint ranges.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Takes the slice over while tasks change it.
    pub(super) fn new(data: &'a mut [T]) -> SharedSlice<'a, T> {
        SharedSlice { ptr: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When the range leaves the slice.
    ///
    /// # Safety
    /// Ranges whose results live at the same time may not overlap.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn get(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: checked to lie inside the borrowed slice; the caller keeps ranges apart.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

/// A matrix (n_rows, n_cols) that several tasks write at once, each its own rectangle.
pub(super) struct SharedMat<'a> {
    ptr: *mut f32,
    n_rows: usize,
    n_cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: `write` and `add` are the only accesses, and their contracts keep concurrent calls on disjoint rectangles.
unsafe impl Sync for SharedMat<'_> {}

impl<'a> SharedMat<'a> {
    /// Takes the matrix over while tasks fill it.
    ///
    /// # Panics
    /// When it is not a whole number of rows.
    pub(super) fn new(data: &'a mut [f32], n_cols: usize) -> SharedMat<'a> {
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
    pub(super) unsafe fn write(&self, row: usize, col: usize, values: &[f32]) {
        assert!(row < self.n_rows && col <= self.n_cols && values.len() <= self.n_cols - col);
        // SAFETY: checked above to lie inside the borrowed matrix; the caller keeps concurrent calls apart.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.add(row * self.n_cols + col), values.len()) };
    }

    /// Adds `values` to row `row`, starting at column `col`.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    ///
    /// # Safety
    /// No two concurrent calls may name overlapping ranges.
    pub(super) unsafe fn add(&self, row: usize, col: usize, values: &[f32]) {
        assert!(row < self.n_rows && col <= self.n_cols && values.len() <= self.n_cols - col);
        // SAFETY: checked above to lie inside the borrowed matrix; the caller keeps concurrent calls apart.
        let out = unsafe { std::slice::from_raw_parts_mut(self.ptr.add(row * self.n_cols + col), values.len()) };
        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    }

    /// Elements per row.
    pub(super) fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Where an element lies, for asking the caches for it.
    pub(super) fn address(&self, row: usize, col: usize) -> *const f32 {
        self.ptr.wrapping_add(row * self.n_cols + col)
    }
}
