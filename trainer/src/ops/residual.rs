//! The sum of a block's input and its branch, with the bias of the branch's last layer, and their backward.

use rayon::prelude::*;

use super::bias_gelu::add_rows;
use super::profile::{Clock, Op};
use super::vectorised::vectorised;

/// Rows of one task: fixed, so that sums over rows do not depend on the number of threads.
const ROWS: usize = 32;

/// `out = input + bias`, row by row; all `[rows, bias.len()]`. The branch's product is added to it afterwards.
pub fn residual(input: &[f32], bias: &[f32], out: &mut [f32]) {
    let _clock = Clock::start(Op::Activation);
    let task = ROWS * bias.len();
    out.par_chunks_mut(task)
        .zip(input.par_chunks(task))
        .for_each(|(out, input)| plain_rows(input, bias, out));
}

vectorised! {
    fn plain_rows<'a>(input: &'a [f32], bias: &'a [f32], out: &'a mut [f32]) {
        for (out, input) in out.chunks_exact_mut(bias.len()).zip(input.chunks_exact(bias.len())) {
            for ((out, input), bias) in out.iter_mut().zip(input).zip(bias) {
                *out = input + bias;
            }
        }
    }
}

/// `branch += bias` (kept for the backward), `out = input + gate * branch`.
///
/// # Shapes
/// `input`, `branch`, `out`: `[B, J, D]`; `bias`: `[D]`; the gate of image `b` is at `modulation[b][2 D..3 D]`.
pub fn gated_residual(
    input: &[f32],
    modulation: &[f32],
    bias: &[f32],
    branch: &mut [f32],
    batch: usize,
    out: &mut [f32],
) {
    let _clock = Clock::start(Op::Activation);
    let (dim, image) = (bias.len(), out.len() / batch);
    out.par_chunks_mut(image)
        .zip(branch.par_chunks_mut(image))
        .zip(input.par_chunks(image))
        .zip(modulation.par_chunks(3 * dim))
        .for_each(|(((out, branch), input), modulation)| {
            let gate = &modulation[2 * dim..];
            out.par_chunks_mut(ROWS * dim)
                .zip(branch.par_chunks_mut(ROWS * dim))
                .zip(input.par_chunks(ROWS * dim))
                .for_each(|((out, branch), input)| gated_rows(input, gate, bias, branch, out));
        });
}

vectorised! {
    fn gated_rows<'a>(
        input: &'a [f32],
        gate: &'a [f32],
        bias: &'a [f32],
        branch: &'a mut [f32],
        out: &'a mut [f32],
    ) {
        let dim = bias.len();
        let rows = out.chunks_exact_mut(dim).zip(branch.chunks_exact_mut(dim)).zip(input.chunks_exact(dim));
        for ((out, branch), input) in rows {
            for ((((out, branch), input), gate), bias) in out.iter_mut().zip(branch).zip(input).zip(gate).zip(bias) {
                *branch += bias;
                *out = input + gate * *branch;
            }
        }
    }
}

/// `sum += values`.
pub fn add(sum: &mut [f32], values: &[f32]) {
    let task = 1 << 14;
    sum.par_chunks_mut(task)
        .zip(values.par_chunks(task))
        .for_each(|(sum, values)| add_rows(values, sum));
}

/// The backward of [`gated_residual`]: writes `d_branch`, adds the gate's gradient to `d_modulation`.
pub fn gated_residual_backward(
    d_out: &[f32],
    modulation: &[f32],
    branch: &[f32],
    batch: usize,
    d_branch: &mut [f32],
    d_modulation: &mut [f32],
) {
    let _clock = Clock::start(Op::Activation);
    let (dim, image) = (modulation.len() / batch / 3, d_out.len() / batch);
    d_branch
        .par_chunks_mut(image)
        .zip(d_out.par_chunks(image))
        .zip(branch.par_chunks(image))
        .zip(modulation.par_chunks(3 * dim))
        .zip(d_modulation.par_chunks_mut(3 * dim))
        .for_each(|((((d_branch, d_out), branch), modulation), d_modulation)| {
            let gate = &modulation[2 * dim..];
            let partial: Vec<Vec<f32>> = d_branch
                .par_chunks_mut(ROWS * dim)
                .zip(d_out.par_chunks(ROWS * dim))
                .zip(branch.par_chunks(ROWS * dim))
                .map(|((d_branch, d_out), branch)| {
                    let mut sum = vec![0.0; dim];
                    gated_rows_backward(d_out, gate, branch, d_branch, &mut sum);
                    sum
                })
                .collect();
            for sum in partial {
                for (d, s) in d_modulation[2 * dim..].iter_mut().zip(sum) {
                    *d += s;
                }
            }
        });
}

vectorised! {
    fn gated_rows_backward<'a>(
        d_out: &'a [f32],
        gate: &'a [f32],
        branch: &'a [f32],
        d_branch: &'a mut [f32],
        d_gate: &'a mut [f32],
    ) {
        let dim = gate.len();
        let rows = d_branch.chunks_exact_mut(dim).zip(d_out.chunks_exact(dim)).zip(branch.chunks_exact(dim));
        for ((d_branch, d_out), branch) in rows {
            for ((((d_branch, d_gate), d_out), branch), gate) in
                d_branch.iter_mut().zip(d_gate.iter_mut()).zip(d_out).zip(branch).zip(gate)
            {
                *d_gate += d_out * branch;
                *d_branch = d_out * gate;
            }
        }
    }
}
