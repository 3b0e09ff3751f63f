//! Bytes and operations of each kernel of `trainer/kernels`, from its shapes.
//!
//! `element` is the size of an activation in bytes: 2 or 4. Statistics, gradients of parameters, the residual stream and
//! everything of the state space model's kernels are f32.

use std::ops::{Add, Mul};

/// Rows whose columns a thread sums, as `ROWS_PER_THREAD` in `kernels/common.cuh`.
pub const ROWS_PER_PART: usize = 32;
const F32: u64 = 4;

/// Bytes that a kernel must move, and its f32 operations (a fused multiply-add is two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Operations.
    pub flops: u64,
}

impl Work {
    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.read + self.written
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            read: self.read + other.read,
            written: self.written + other.written,
            flops: self.flops + other.flops,
        }
    }
}

impl Mul<u64> for Work {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self {
            read: self.read * times,
            written: self.written * times,
            flops: self.flops * times,
        }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Operations of a GELU's value, with an exponential and a division counted as eight each.
const GELU: u64 = 24;
/// The same with its derivative.
const GELU_SLOPE: u64 = 32;

fn product(factors: &[usize]) -> u64 {
    factors.iter().map(|&factor| factor as u64).product()
}

/// Bytes of partial sums of columns.
fn partials(rows: usize, cols: usize) -> u64 {
    product(&[rows.div_ceil(ROWS_PER_PART), cols]) * F32
}

/// `bias_gelu`: the pre-activation is read and written, the activation written.
pub fn bias_gelu(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: count * element as u64 + cols as u64 * F32,
        written: 2 * count * element as u64,
        flops: count * (GELU + 1),
    }
}

/// `gelu_backward`, with the bias's partial sums.
pub fn gelu_backward(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 2 * count * element as u64,
        written: count * element as u64 + partials(rows, cols),
        flops: count * (GELU_SLOPE + 2),
    }
}

/// `gate`.
pub fn gate(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 2 * count * element as u64 + 2 * cols as u64 * F32,
        written: 3 * count * element as u64,
        flops: count * (2 * GELU + 3),
    }
}

/// `gate_backward`, with the partial sums of both biases.
pub fn gate_backward(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: 3 * count * element as u64,
        written: 2 * count * element as u64 + 2 * partials(rows, cols),
        flops: count * (2 * GELU_SLOPE + 6),
    }
}

/// `residual_f32`.
pub fn residual(batch: usize, rows: usize, dim: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * F32 + dim as u64 * F32,
        written: count * F32,
        flops: count,
    }
}

/// `gated_residual`.
pub fn gated_residual(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (F32 + element as u64) + product(&[batch + 1, dim]) * F32,
        written: count * (F32 + element as u64),
        flops: 3 * count,
    }
}

/// `gated_residual_backward`.
pub fn gated_residual_backward(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (F32 + element as u64) + product(&[batch, dim]) * F32,
        written: count * element as u64 + 2 * batch as u64 * partials(rows, dim),
        flops: 4 * count,
    }
}

/// `column_partials`.
pub fn column_partials(rows: usize, cols: usize, element: usize) -> Work {
    let count = product(&[rows, cols]);
    Work {
        read: count * element as u64,
        written: partials(rows, cols),
        flops: count,
    }
}

/// `add_column_sums_f32`.
pub fn add_column_sums(groups: usize, parts: usize, cols: usize) -> Work {
    Work {
        read: product(&[groups, parts + 1, cols]) * F32,
        written: product(&[groups, cols]) * F32,
        flops: product(&[groups, parts, cols]),
    }
}

/// `norm_modulate`: f32 in, an activation out.
pub fn norm_modulate(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * F32 + product(&[batch, 2, dim]) * F32,
        written: count * element as u64 + product(&[batch, rows, 2]) * F32,
        flops: 8 * count,
    }
}

/// `norm_modulate_backward`: adds to the gradient of the residual stream.
pub fn norm_modulate_backward(batch: usize, rows: usize, dim: usize, element: usize) -> Work {
    let count = product(&[batch, rows, dim]);
    Work {
        read: count * (2 * F32 + element as u64) + product(&[batch, rows, 2]) * F32 + product(&[batch, dim]) * F32,
        written: count * F32 + 2 * batch as u64 * partials(rows, dim),
        flops: 14 * count,
    }
}
