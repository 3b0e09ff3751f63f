//! `adamw.cu`.

use super::THREADS;
use crate::gpu::launch::{Arg, Launch};
use crate::ops::profile::Op;
use crate::roofline::work;

/// Elements of a block of AdamW.
const CHUNK: usize = 4096;
/// Elements of a block of the norm.
const NORM_CHUNK: usize = 1 << 16;

/// Partial sums of squares of `count` gradients.
pub fn norm_parts(count: usize) -> usize {
    count.div_ceil(NORM_CHUNK)
}

/// The buffers of a step of AdamW, all `[count]`.
#[derive(Clone, Copy, Debug)]
pub struct State<B> {
    /// Weights.
    pub params: B,
    /// First moment.
    pub first: B,
    /// Second moment.
    pub second: B,
    /// Moving average of the weights.
    pub ema: B,
    /// Gradients.
    pub grads: B,
    /// The weights in bf16, where products take them from there.
    pub copy: Option<B>,
}

/// One step: `ssm` `[ranges, 2]` i64, `grad_scale` `[1]`, `rates` `[8]` f32 (see the kernel).
pub fn adamw<B>(count: usize, state: State<B>, ssm: B, ranges: usize, grad_scale: B, rates: B) -> Launch<B> {
    let (name, with_copy) = match state.copy {
        Some(_) => ("adamw_bf16", true),
        None => ("adamw_f32", false),
    };
    let work = work::adamw(count, with_copy);
    let mut launch = Launch::new(Op::Optimizer, name, (count.div_ceil(CHUNK), 1), THREADS, work).buffers([
        state.params,
        state.first,
        state.second,
        state.ema,
        state.grads,
    ]);
    if let Some(copy) = state.copy {
        launch = launch.buffers([copy]);
    }
    launch
        .buffers([ssm, grad_scale, rates])
        .arg(Arg::I64(count as i64))
        .ints([ranges])
}

/// `partial` `[norm_parts(count)]` f64 of `grads` `[count]`.
pub fn sum_of_squares<B>(count: usize, grads: B, partial: B) -> Launch<B> {
    let (grid, work) = ((norm_parts(count), 1), work::sum_of_squares(count));
    Launch::new(Op::Optimizer, "sum_of_squares_f32", grid, THREADS, work)
        .buffers([grads, partial])
        .arg(Arg::I64(count as i64))
}

/// `norm` `[1]` f64 and `scale` `[1]` f32 of `partial` `[parts]` and `losses` `[values]`, f64.
pub fn grad_scale<B>(
    [parts, values]: [usize; 2],
    partial: B,
    losses: B,
    norm: B,
    scale: B,
    max_norm: f64,
) -> Launch<B> {
    let work = work::grad_scale(parts, values);
    Launch::new(Op::Optimizer, "grad_scale_f32", (1, 1), THREADS, work)
        .buffers([partial, losses, norm, scale])
        .ints([parts, values])
        .arg(Arg::F64(max_norm))
}
