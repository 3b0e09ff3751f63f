//! Matrix products on strided views, accumulating where gradients are summed: a safe face of the `gemm` crate.
#![expect(
    unsafe_code,
    reason = "gemm takes raw pointers; the bounds are checked here first"
)]

use gemm::Parallelism;

use super::bf16;
use super::profile::{Clock, Op};

/// A read-only matrix view: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A contiguous row-major `[rows, cols]` matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major with `row_stride` elements from row to row (a block of columns of a wider matrix).
    ///
    /// # Panics
    /// When the view reaches beyond `data`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check_bounds(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The numbers between the first and the last element of the view.
    fn span(&self) -> &'a [f32] {
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        let end = last(self.rows, self.row_stride) + last(self.cols, self.col_stride) + 1;
        &self.data[..end.min(self.data.len())]
    }

    /// The transposed view: no data moves.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

fn check_bounds(len: usize, rows: usize, cols: usize, row_stride: usize) {
    let reach = if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + cols
    };
    assert!(
        reach <= len,
        "a [{rows}, {cols}] view (row stride {row_stride}) of {len} elements"
    );
}

/// `out = beta * out + a b`, `out` row-major with `out_stride` elements from row to row.
///
/// # Panics
/// When the shapes do not fit: a mistake of the caller, never of a user.
pub fn matmul(out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    let _clock = Clock::start(Op::MatMul);
    assert_eq!(a.cols, b.rows, "inner dimensions of a product");
    check_bounds(out.len(), a.rows, b.cols, out_stride);
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    if bf16::is_on() {
        let (a_data, b_data) = (bf16::rounded(a.span()), bf16::rounded(b.span()));
        let rounded = (Mat { data: &a_data, ..a }, Mat { data: &b_data, ..b });
        product(out, out_stride, beta, rounded.0, rounded.1);
        // What is added to stays f32: gradients, and the residual stream.
        if beta == 0.0 {
            let rows = out.chunks_mut(out_stride).take(a.rows);
            rows.for_each(|row| bf16::store(&mut row[..b.cols]));
        }
    } else {
        product(out, out_stride, beta, a, b);
    }
}

/// [`matmul`] in f32; `out` has been checked, `a` and `b` hold what their shapes say.
fn product(out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    // SAFETY: all three views were checked against their slices; `out` is exclusively borrowed.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            beta != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            beta,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(rayon::current_num_threads()),
        );
    }
}

/// `y = x w^T`: `x [rows, inputs]`, `w [outputs, inputs]`, `y [rows, outputs]`.
pub fn linear(y: &mut [f32], x: &[f32], w: &[f32], inputs: usize, outputs: usize) {
    let rows = x.len() / inputs;
    matmul(
        y,
        outputs,
        0.0,
        Mat::new(x, rows, inputs),
        Mat::new(w, outputs, inputs).t(),
    );
}

/// `dx = beta * dx + dy w`: the gradient of [`linear`] with respect to its input.
pub fn linear_backward_input(
    dx: &mut [f32],
    beta: f32,
    dy: &[f32],
    w: &[f32],
    inputs: usize,
    outputs: usize,
) {
    let rows = dy.len() / outputs;
    matmul(
        dx,
        inputs,
        beta,
        Mat::new(dy, rows, outputs),
        Mat::new(w, outputs, inputs),
    );
}

/// `dw += dy^T x`: the gradient of [`linear`] with respect to its weight.
pub fn linear_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], inputs: usize, outputs: usize) {
    let rows = x.len() / inputs;
    matmul(
        dw,
        inputs,
        1.0,
        Mat::new(dy, rows, outputs).t(),
        Mat::new(x, rows, inputs),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_and_transposed_products_match_the_sum() {
        let a: Vec<f32> = (0..15).map(|i| i as f32 * 0.5 - 3.0).collect();
        let b: Vec<f32> = (0..8).map(|i| (i as f32).sin()).collect();
        // a: columns 1..3 of a [3, 5] matrix; b: the transpose of [4, 2].
        let mut out = vec![1.0; 12];
        matmul(
            &mut out,
            4,
            2.0,
            Mat::strided(&a[1..], 3, 2, 5),
            Mat::new(&b, 4, 2).t(),
        );
        for r in 0..3 {
            for c in 0..4 {
                let want = 2.0 + (0..2).map(|k| a[1 + r * 5 + k] * b[c * 2 + k]).sum::<f32>();
                assert!((out[r * 4 + c] - want).abs() < 1e-5);
            }
        }
    }
}
