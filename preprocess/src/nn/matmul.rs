#![expect(
    unsafe_code,
    reason = "the gemm crate's entry point takes pointers and strides"
)]
//! One matrix product on one thread: the only door to the `gemm` crate.

use gemm::Parallelism;

/// A matrix inside a slice: element `(row, column)` lies at `row * row_step + column * column_step`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The values; rows may overlap.
    pub data: &'a [f32],
    /// Values from one row to the next.
    pub row_step: usize,
    /// Values from one column to the next.
    pub column_step: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix with `row_step` values from one row to the next.
    pub fn rows(data: &'a [f32], row_step: usize) -> Self {
        Self {
            data,
            row_step,
            column_step: 1,
        }
    }

    /// The transpose of a row-major matrix.
    pub fn transposed(data: &'a [f32], row_step: usize) -> Self {
        Self {
            data,
            row_step: 1,
            column_step: row_step,
        }
    }

    fn last(&self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.row_step + (columns - 1) * self.column_step
    }
}

/// `out = scale * a b`, or `out += scale * a b` with `accumulate`; `a` is m x k, `b` k x n, `out` m x n in rows of
/// `out_step` values. Runs on the calling thread only.
///
/// # Panics
/// When a matrix reaches beyond its slice.
pub fn matmul(
    out: &mut [f32],
    out_step: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    [m, n, k]: [usize; 3],
    scale: f32,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out_step >= n, "rows of a product overlap");
    assert!((m - 1) * out_step + n <= out.len(), "product beyond its slice");
    if k == 0 {
        if !accumulate {
            for row in out.chunks_mut(out_step) {
                row[..n].fill(0.0);
            }
        }
        return;
    }
    assert!(a.last(m, k) < a.data.len(), "left factor beyond its slice");
    assert!(b.last(k, n) < b.data.len(), "right factor beyond its slice");
    // SAFETY: the assertions above keep every element of the three strided matrices inside its slice, `out` is
    // borrowed mutably and its rows do not overlap, and slices are no longer than isize::MAX bytes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_step as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_step as isize,
            a.row_step as isize,
            b.data.as_ptr(),
            b.column_step as isize,
            b.row_step as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_products_match_the_definition() {
        let a: Vec<f32> = (0..40).map(|v| (v as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..40).map(|v| (v as f32 * 0.3).cos()).collect();
        let (m, n, k) = (4, 3, 5);
        let views = [
            (Matrix::rows(&a, 6), Matrix::rows(&b, 4)),
            (Matrix::rows(&a, 2), Matrix::transposed(&b, 5)),
        ];
        for (a, b) in views {
            let mut out = vec![1.0; m * 4];
            matmul(&mut out, 4, a, b, [m, n, k], 0.5, true);
            for (i, row) in out.chunks(4).enumerate() {
                for (j, &value) in row.iter().take(n).enumerate() {
                    let product: f32 = (0..k)
                        .map(|l| {
                            a.data[i * a.row_step + l * a.column_step]
                                * b.data[l * b.row_step + j * b.column_step]
                        })
                        .sum();
                    assert!((value - 1.0 - 0.5 * product).abs() < 1e-5);
                }
                assert_eq!(row[3], 1.0);
            }
        }
    }
}
