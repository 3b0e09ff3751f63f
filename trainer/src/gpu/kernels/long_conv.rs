//! `long_conv.cu` and `long_conv_split.cu`.

use std::f64::consts::PI;

use super::named;
use crate::gpu::launch::{Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::Work;
use crate::roofline::work::Conv;

/// Samples of a transform within a block at most, and of the quarters of a longer sequence.
pub const QUARTER: usize = 4096;
/// Samples of the longest sequence.
pub const LONGEST: usize = 4 * QUARTER;

/// Sizes of transforms.
pub const SIZES: [usize; 5] = [64, 256, 1024, QUARTER, LONGEST];

/// The smallest transform for `length` samples; `None` above [`LONGEST`].
pub fn size_for(length: usize) -> Option<usize> {
    SIZES.into_iter().find(|&n| length <= n)
}

/// `e^{sign 2 pi i j / period}` for j below `count`, as (re, im).
fn turns(count: usize, sign: f64, period: usize) -> impl Iterator<Item = f32> {
    (0..count).flat_map(move |j| {
        let angle = sign * 2.0 * PI * j as f64 / period as f64;
        [angle.cos() as f32, angle.sin() as f32]
    })
}

/// The table of the transforms of `n` samples, `n` at most [`QUARTER`].
pub fn table(n: usize) -> Vec<f32> {
    turns(n / 4, -1.0, n).chain(turns(n / 8, 1.0, 4 * n)).collect()
}

/// The table of the first and the last pass over [`LONGEST`] samples.
pub fn outer_table() -> Vec<f32> {
    turns(QUARTER, -1.0, LONGEST)
        .chain(turns(QUARTER, 1.0, 4 * LONGEST))
        .collect()
}

/// Channels and threads of a block, and bytes of its dynamic shared memory.
struct Block {
    channels: usize,
    threads: usize,
    shared: usize,
}

const fn block(channels: usize, threads: usize, shared: usize) -> Block {
    Block {
        channels,
        threads,
        shared,
    }
}

fn forward_block(n: usize) -> Block {
    match n {
        64 => block(16, 32, 9_344),
        256 => block(16, 128, 36_992),
        1024 => block(8, 256, 73_856),
        _ => block(4, 512, 163_840),
    }
}

fn backward_block(n: usize) -> Block {
    match n {
        64 => block(16, 64, 17_536),
        256 => block(16, 256, 69_760),
        1024 => block(8, 512, 139_392),
        _ => block(2, 512, 139_264),
    }
}

/// A launch over lines of kernels, some of them a block.
fn rows<B>(name: &str, n: usize, lines: usize, work: Work) -> Launch<B> {
    let rows = (1024 / n).max(1);
    let (name, grid) = (format!("long_conv_{name}_{n}"), (lines.div_ceil(rows), 1));
    Launch::new(Op::Conv, name, grid, rows * n / 8, work).shared(9 * rows * n)
}

/// `spectra` of `kernels` `[2, dim, length]` with the skip weights `[2, dim]` added; n at most [`QUARTER`].
pub fn spectra<B>(conv: &Conv, kernels: B, skip: B, table: B, spectra: B) -> Launch<B> {
    rows("spectra", conv.n, conv.dim, conv.spectra())
        .buffers([kernels, skip, table, spectra])
        .ints([conv.length, conv.dim, conv.directions])
}

/// `u` `[batch, length, dim]` -> `y` `[batch, length, directions dim]`; n at most [`QUARTER`].
pub fn forward<B>(element: Element, conv: &Conv, u: B, spectra: B, table: B, y: B) -> Launch<B> {
    let Block {
        channels,
        threads,
        shared,
    } = forward_block(conv.n);
    let name = format!("long_conv_forward_{}_{}", conv.n, element.suffix());
    let grid = (conv.batch, conv.dim.div_ceil(channels));
    Launch::new(Op::Conv, name, grid, threads, conv.forward())
        .shared(shared)
        .buffers([u, spectra, table, y])
        .ints([conv.length, conv.dim, conv.directions])
}

/// The gradient `du` of `u`, and `sums`, those of the spectra, of `conv.parts` shares of the batch; n at most [`QUARTER`].
pub fn backward<B>(
    element: Element,
    conv: &Conv,
    [u, dy]: [B; 2],
    spectra: B,
    table: B,
    du: B,
    sums: B,
) -> Launch<B> {
    let Block {
        channels,
        threads,
        shared,
    } = backward_block(conv.n);
    let name = format!("long_conv_backward_{}_{}", conv.n, element.suffix());
    let grid = (conv.parts, conv.dim.div_ceil(channels));
    Launch::new(Op::Conv, name, grid, threads, conv.backward())
        .shared(shared)
        .buffers([u, dy, spectra, table, du, sums])
        .ints([conv.batch, conv.length, conv.dim, conv.directions])
}

/// `dk =` `[2, dim, length]` and `d_skip +=` `[2, dim]` of `sums`; n at most [`QUARTER`].
pub fn gradients<B>(conv: &Conv, sums: B, table: B, dk: B, d_skip: B) -> Launch<B> {
    rows("gradients", conv.n, 2 * conv.dim, conv.gradients())
        .buffers([sums, table, dk, d_skip])
        .ints([conv.parts, conv.length, conv.dim, conv.directions])
}

fn outer_pass<B>(
    name: String,
    conv: &Conv,
    [outer, inner]: [usize; 2],
    buffers: [B; 3],
    work: Work,
) -> Launch<B> {
    let grid = ((QUARTER * inner).div_ceil(256), outer);
    Launch::new(Op::Conv, name, grid, 256, work)
        .buffers(buffers)
        .ints([conv.length, inner])
}

/// `x` `[outer, length, inner]` -> `quarters` `[outer, 4, 4096, inner]` of (re, im); `table` is [`outer_table`].
pub fn split<B>(element: Element, conv: &Conv, shape: [usize; 2], x: B, table: B, quarters: B) -> Launch<B> {
    let work = Conv {
        element: element.bytes(),
        ..*conv
    }
    .split(shape[0], shape[1]);
    outer_pass(
        named("long_conv_split", element),
        conv,
        shape,
        [x, table, quarters],
        work,
    )
}

/// [`split`] in the other direction.
pub fn merge<B>(element: Element, conv: &Conv, shape: [usize; 2], quarters: B, table: B, x: B) -> Launch<B> {
    let work = Conv {
        element: element.bytes(),
        ..*conv
    }
    .merge(shape[0], shape[1]);
    outer_pass(
        named("long_conv_merge", element),
        conv,
        shape,
        [quarters, table, x],
        work,
    )
}

fn inner<B>(name: &str, grid: (usize, usize), shared: usize, work: Work) -> Launch<B> {
    Launch::new(Op::Conv, format!("long_conv_inner_{name}"), grid, 512, work).shared(shared)
}

/// [`spectra`] of kernels in quarters.
pub fn inner_spectra<B>(conv: &Conv, kernels: B, skip: B, table: B, spectra: B) -> Launch<B> {
    inner("spectra", (conv.dim, 4), 9 * QUARTER, conv.inner_spectra())
        .buffers([kernels, skip, table, spectra])
        .ints([conv.dim, conv.directions])
}

/// [`forward`] of quarters.
pub fn inner_forward<B>(conv: &Conv, u: B, spectra: B, table: B, y: B) -> Launch<B> {
    let Block { channels, shared, .. } = forward_block(QUARTER);
    let grid = (4 * conv.batch, conv.dim.div_ceil(channels));
    inner("forward", grid, shared, conv.inner_forward())
        .buffers([u, spectra, table, y])
        .ints([conv.dim, conv.directions])
}

/// [`backward`] of quarters.
pub fn inner_backward<B>(conv: &Conv, [u, dy]: [B; 2], spectra: B, table: B, du: B, sums: B) -> Launch<B> {
    let Block { channels, shared, .. } = backward_block(QUARTER);
    let grid = (4 * conv.parts, conv.dim.div_ceil(channels));
    inner("backward", grid, shared, conv.inner_backward())
        .buffers([u, dy, spectra, table, du, sums])
        .ints([conv.batch, conv.dim, conv.directions])
}

/// [`gradients`] in quarters; [`add_skip`] follows the merge.
pub fn inner_gradients<B>(conv: &Conv, sums: B, table: B, dk: B) -> Launch<B> {
    let grid = (2 * conv.dim, 4);
    inner("gradients", grid, 9 * QUARTER, conv.inner_gradients())
        .buffers([sums, table, dk])
        .ints([conv.parts, conv.dim, conv.directions])
}

/// `d_skip[line] += dk[line, 0]`: `dk` `[2, dim, length]`.
pub fn add_skip<B>(conv: &Conv, dk: B, d_skip: B) -> Launch<B> {
    let lines = 2 * conv.dim;
    let grid = (lines.div_ceil(256), 1);
    Launch::new(Op::Conv, "long_conv_add_skip", grid, 256, conv.add_skip())
        .buffers([dk, d_skip])
        .ints([lines, conv.length])
}
