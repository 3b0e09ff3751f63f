//! The weights as a forward pass reads them.
//!
//! Training takes them as they are stored, a matrix `[outputs, inputs]`, and each of its products is computed by all
//! threads. Inference has them turned to `[inputs, outputs]` once for all passes: the product finds them in the order in
//! which it goes through them, and has nothing to rearrange first, which pays where products are small and many. The
//! bits are the same.

use std::ops::Range;

use rayon::prelude::*;

use super::params::{ParamLayout, TensorInfo};
use crate::ops::matmul::{Mat, Threads, matmul_by};

/// All weights of a model.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    numbers: &'a [f32],
    is_turned: bool,
}

impl<'a> Weights<'a> {
    /// As they are stored.
    pub(super) fn stored(numbers: &'a [f32]) -> Self {
        Self {
            numbers,
            is_turned: false,
        }
    }

    /// After [`turn`]; products are computed by the thread that asks for them.
    pub(super) fn turned(numbers: &'a [f32]) -> Self {
        Self {
            numbers,
            is_turned: true,
        }
    }

    /// The numbers of a vector.
    pub(super) fn at(&self, range: &Range<usize>) -> &'a [f32] {
        &self.numbers[range.clone()]
    }

    /// `out = beta * out + x w^T` for the matrix at `weight`, `out` with `out_stride` elements from row to row.
    pub(super) fn product(
        &self,
        out: &mut [f32],
        out_stride: usize,
        beta: f32,
        x: Mat<'_>,
        weight: &Range<usize>,
    ) {
        let (inputs, outputs) = (x.cols(), weight.len() / x.cols());
        let numbers = self.at(weight);
        if self.is_turned {
            let weight = Mat::new(numbers, inputs, outputs);
            matmul_by(Threads::One, out, out_stride, beta, x, weight);
        } else {
            let weight = Mat::new(numbers, outputs, inputs).t();
            matmul_by(Threads::All, out, out_stride, beta, x, weight);
        }
    }

    /// `out = x w^T`: `x` `[rows, inputs]`, contiguous.
    pub(super) fn linear(&self, out: &mut [f32], x: &[f32], inputs: usize, weight: &Range<usize>) {
        let x = Mat::new(x, x.len() / inputs, inputs);
        self.product(out, weight.len() / inputs, 0.0, x, weight);
    }
}

/// Turns every matrix from `[outputs, inputs]` to `[inputs, outputs]`.
pub(super) fn turn(layout: &ParamLayout, numbers: &mut [f32]) {
    for (range, outputs, inputs) in layout.tensors().iter().flat_map(matrices) {
        transpose(&mut numbers[range], outputs, inputs);
    }
}

/// Undoes [`turn`].
pub(super) fn turn_back(layout: &ParamLayout, numbers: &mut [f32]) {
    for (range, outputs, inputs) in layout.tensors().iter().flat_map(matrices) {
        transpose(&mut numbers[range], inputs, outputs);
    }
}

/// The places, outputs and inputs of the matrices of a tensor that vectors are multiplied by: all but the label table.
fn matrices(tensor: &TensorInfo) -> impl Iterator<Item = (Range<usize>, usize, usize)> {
    let is_linear = tensor.name.ends_with(".weight") && tensor.name != "y_embed.weight";
    let (count, outputs, inputs) = match tensor.shape[..] {
        [outputs, inputs] if is_linear => (1, outputs, inputs),
        [count, outputs, inputs] if tensor.name.ends_with("w_down") => (count, outputs, inputs),
        _ => (0, 0, 0),
    };
    let (start, size) = (tensor.offset, outputs * inputs);
    (0..count).map(move |i| (start + i * size..start + (i + 1) * size, outputs, inputs))
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose(numbers: &mut [f32], rows: usize, columns: usize) {
    let before = numbers.to_vec();
    numbers
        .par_chunks_exact_mut(rows)
        .enumerate()
        .for_each(|(column, out)| {
            for (out, row) in out.iter_mut().zip(before.chunks_exact(columns)) {
                *out = row[column];
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn turning_twice_changes_nothing_and_once_every_matrix() {
        let config = ModelConfig {
            hidden_size: 6,
            depth: 1,
            state_size: 2,
            input_size: 4,
            num_classes: 3,
            freq_dim: 4,
            ..ModelConfig::default()
        };
        let layout = ParamLayout::model(&config);
        let stored: Vec<f32> = (0..layout.total()).map(|i| i as f32).collect();
        let mut turned = stored.clone();
        turn(&layout, &mut turned);
        for (name, changed) in [
            ("x_embed.weight", true),
            ("y_embed.weight", false),
            ("blocks.0.w_down", true),
            ("blocks.0.w3.weight", true),
            ("blocks.0.ssm.d", false),
            ("final.weight", true),
        ] {
            let range = layout.range(name);
            assert_eq!(turned[range.clone()] != stored[range], changed, "{name}");
        }
        let range = layout.range("blocks.0.w_down");
        let second = range.start + range.len() / 2;
        // Output 1, input 0 of the second matrix [6, 12].
        assert_eq!(turned[second + 1], stored[second + 12]);
        turn_back(&layout, &mut turned);
        assert!(turned == stored);
    }
}
