//! Matrix products on strided views, accumulating where gradients are summed: a safe face of the `gemm` crate.
//!
//! A row of the result has the same bits whatever the number of rows, so that no image depends on its batch: products that
//! are so small that `gemm` would sum in another order are filled up with rows of zeros.
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

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
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

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the pool.
    All,
    /// The caller alone: within a task, where other threads have tasks of their own.
    One,
}

/// `out = beta * out + a b`, `out` row-major with `out_stride` elements from row to row.
///
/// # Panics
/// When the shapes do not fit: a mistake of the caller, never of a user.
pub fn matmul(out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    matmul_by(Threads::All, out, out_stride, beta, a, b);
}

/// [`matmul`] by one or all threads, with the same bits.
///
/// # Panics
/// When the shapes do not fit: a mistake of the caller, never of a user.
pub fn matmul_by(threads: Threads, out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    let _clock = Clock::start(Op::MatMul);
    assert_eq!(a.cols, b.rows, "inner dimensions of a product");
    check_bounds(out.len(), a.rows, b.cols, out_stride);
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    if bf16::is_on() {
        let (a_data, b_data) = (bf16::rounded(a.span()), bf16::rounded(b.span()));
        let rounded = (Mat { data: &a_data, ..a }, Mat { data: &b_data, ..b });
        product(threads, out, out_stride, beta, rounded.0, rounded.1);
        // What is added to stays f32: gradients, and the residual stream.
        if beta == 0.0 {
            let rows = out.chunks_mut(out_stride).take(a.rows);
            rows.for_each(|row| bf16::store(&mut row[..b.cols]));
        }
    } else {
        product(threads, out, out_stride, beta, a, b);
    }
}

/// The number of rows from which on a row of a product has the bits that it has among many. `gemm` sums in another order
/// where there is one row, where the result has at most 256 elements, and, past 512 summands, where it has at most 64
/// rows and columns.
fn enough_rows(columns: usize, summands: usize) -> usize {
    let more_than_tiny = 256 / columns + 1;
    let more_than_small = if columns <= 64 && summands > 512 { 65 } else { 2 };
    more_than_tiny.max(more_than_small)
}

/// [`matmul`] in f32; `out` has been checked, `a` and `b` hold what their shapes say.
fn product(threads: Threads, out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    let (rows, columns) = (a.rows, b.cols);
    let enough = enough_rows(columns, a.cols);
    if rows >= enough {
        return gemm_product(threads, out, out_stride, beta, a, b);
    }
    let mut filled = vec![0.0; enough * a.cols];
    for (r, row) in filled.chunks_exact_mut(a.cols.max(1)).take(rows).enumerate() {
        for (c, value) in row.iter_mut().enumerate() {
            *value = a.data[r * a.row_stride + c * a.col_stride];
        }
    }
    let mut result = vec![0.0; enough * columns];
    for (row, out) in result
        .chunks_exact_mut(columns)
        .zip(out.chunks(out_stride))
        .take(rows)
    {
        row.copy_from_slice(&out[..columns]);
    }
    let filled = Mat::new(&filled, enough, a.cols);
    gemm_product(Threads::One, &mut result, columns, beta, filled, b);
    for (row, out) in result
        .chunks_exact(columns)
        .zip(out.chunks_mut(out_stride))
        .take(rows)
    {
        out[..columns].copy_from_slice(row);
    }
}

/// [`product`] as `gemm` computes it.
fn gemm_product(threads: Threads, out: &mut [f32], out_stride: usize, beta: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let parallelism = match threads {
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        Threads::One => Parallelism::None,
    };
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
            parallelism,
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
    fn a_row_has_the_same_bits_among_few_and_many() {
        let wave = |len: usize| -> Vec<f32> { (0..len).map(|i| (0.37 * i as f32).sin()).collect() };
        for (inputs, outputs) in [(16, 16), (5, 3), (128, 128), (256, 384), (768, 40), (1152, 16)] {
            let most = 150;
            let (x, w) = (wave(most * inputs), wave(inputs * outputs));
            let turned: Vec<f32> = (0..w.len())
                .map(|i| w[i % outputs * inputs + i / outputs])
                .collect();
            let mut many = vec![0.0; most * outputs];
            linear(&mut many, &x, &w, inputs, outputs);
            for rows in (1..20).chain([63, 64, 65, 66, 149]) {
                for threads in [Threads::All, Threads::One] {
                    for weights in [
                        Mat::new(&w, outputs, inputs).t(),
                        Mat::new(&turned, inputs, outputs),
                    ] {
                        let mut few = vec![0.0; rows * outputs];
                        let x = Mat::new(&x, rows, inputs);
                        matmul_by(threads, &mut few, outputs, 0.0, x, weights);
                        assert!(few == many[..few.len()], "{rows} rows, {inputs} to {outputs}");
                    }
                }
            }
        }
    }

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
