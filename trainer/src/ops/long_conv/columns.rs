//! Blocks of columns of a row-major matrix, written from several threads at once.
#![expect(
    unsafe_code,
    reason = "rayon has no disjoint column slices of a row-major matrix"
)]

use std::marker::PhantomData;

/// A row-major `[rows, width]` matrix whose columns are handed out to tasks.
pub(super) struct Columns<'a> {
    data: *mut f32,
    rows: usize,
    width: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives as long as the value, and every write goes through
// `write`, whose contract forbids two tasks to share a column.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub(super) fn new(data: &'a mut [f32], width: usize) -> Self {
        assert_eq!(data.len() % width, 0, "columns of a ragged matrix");
        Self {
            data: data.as_mut_ptr(),
            rows: data.len() / width,
            width,
            lifetime: PhantomData,
        }
    }

    /// Writes `values` into `row`, from `column` on.
    ///
    /// # Safety
    /// While the matrix is shared, no two threads may use overlapping column ranges.
    #[inline(always)]
    pub(super) unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        assert!(
            row < self.rows && column + values.len() <= self.width,
            "outside of the matrix"
        );
        // SAFETY: in bounds by the assertion; not aliased by the caller's promise.
        unsafe {
            let target = self.data.add(row * self.width + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), target, values.len());
        }
    }
}
