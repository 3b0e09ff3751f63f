//! `chunked_conv.cu`, `chunked_conv_matrices.cu`, `chunked_conv_moments.cu`: the long convolution by chunks whose states go from one to the next, for any
//! length; in bf16 its products are those of tensor cores. The alternative to [`long_conv`](super::long_conv).

use super::{THREADS, named};
use crate::gpu::launch::{Element, Launch};
use crate::ops::profile::Op;
use crate::ops::ssm_kernel::Discretization;
use crate::roofline::work::Chunked;

/// Complex states of a channel that the kernels have room for.
pub const STATES: usize = 32;
/// Samples of the longest sequence.
pub const LONGEST: usize = 1 << 18;
/// Threads of a block of the convolution, and its channels.
const BLOCK: (usize, usize) = (512, 8);
/// Bytes of shared memory of the states and of a tile's rows.
const STATES_SHARED: usize = 114_688;
const TILE_ROWS: usize = 8 * 324;

/// Numbers of a line's fragments: f32, or words of two bf16.
pub fn fragments(element: Element) -> usize {
    match element {
        Element::F32 => 2080,
        Element::Bf16 => 2176,
    }
}

/// Words of a line's slopes, in bf16.
pub const SLOPES: usize = 3072;

/// The matrices of both directions, from the parameters (log_dt, log_a_real, a_imag, b_re, b_im, c_re, c_im) and the skip weights:
/// `fragments` `[2 dim, fragments(element)]`, `powers` `[2 dim, 32, 4]` f32, and in bf16 `slopes` `[2 dim, 3072]`, written
/// for a backward.
pub fn matrices<B>(
    shape: &Chunked,
    [states, with_slopes]: [usize; 2],
    disc: Discretization,
    params: [B; 7],
    skip: B,
    [to, powers]: [B; 2],
    slopes: Option<B>,
) -> Launch<B> {
    let element = if slopes.is_some() {
        Element::Bf16
    } else {
        Element::F32
    };
    let work = shape.matrices(states, with_slopes > 0);
    let name = named("chunked_conv_matrices", element);
    let kind = usize::from(disc == Discretization::Bilinear);
    let launch = Launch::new(Op::SsmKernel, name, (2 * shape.dim, 1), THREADS, work)
        .shared(17_536)
        .buffers(params)
        .buffers([skip, to, powers]);
    match slopes {
        Some(slopes) => launch.buffers([slopes]).ints([states, kind, with_slopes]),
        None => launch.ints([states, kind]),
    }
}

/// Numbers of the states that tiles of an image hand on, as (re, im).
pub fn carries(shape: &Chunked) -> usize {
    shape.parts * (shape.tiles() - 1) * shape.dim * STATES
}

/// `x` `[batch, length, inputs dim]` -> `y` `[batch, length, outputs dim]`, through `matrices` (fragments, powers) and `carries`.
fn convolve<B>(
    element: Element,
    shape: &Chunked,
    inputs: usize,
    x: B,
    [fragments, powers]: [B; 2],
    carries: B,
    y: B,
) -> Launch<B> {
    let (threads, channels) = BLOCK;
    let tile = TILE_ROWS * if element == Element::F32 { 8 } else { 4 };
    let (name, work) = if inputs == 1 {
        ("chunked_conv", shape.forward())
    } else {
        ("chunked_conv_adjoint", shape.adjoint())
    };
    let grid = (shape.parts, shape.dim.div_ceil(channels));
    Launch::new(Op::Conv, named(name, element), grid, threads, work)
        .shared(STATES_SHARED + inputs * tile)
        .buffers([x, fragments, powers, carries, y])
        .ints([shape.batch, shape.length, shape.dim])
}

/// `u` `[batch, length, dim]` -> `y` `[batch, length, directions dim]`; `carries` of (re, im) has [`carries`] numbers.
pub fn forward<B>(element: Element, shape: &Chunked, u: B, matrices: [B; 2], carries: B, y: B) -> Launch<B> {
    convolve(element, shape, 1, u, matrices, carries, y).ints([shape.directions, 0])
}

/// The gradient `du` of `u`, of `dy` in the layout of `y`.
pub fn adjoint<B>(
    element: Element,
    shape: &Chunked,
    dy: B,
    matrices: [B; 2],
    carries: B,
    du: B,
) -> Launch<B> {
    if shape.directions == 2 {
        convolve(element, shape, 2, dy, matrices, carries, du)
    } else {
        convolve(element, shape, 1, dy, matrices, carries, du).ints([1, 1])
    }
}

/// What the gradients of the parameters are made of, of `u` and `dy`: `moments` `[parts, 2 dim, 32, 4]` and `near`
/// `[parts, 2 dim, 32]` f32. `matrices` are fragments, powers and, in bf16, slopes.
pub fn moments<B>(
    shape: &Chunked,
    [u, dy]: [B; 2],
    [fragments, powers]: [B; 2],
    slopes: Option<B>,
    to: [B; 2],
) -> Launch<B> {
    let (threads, channels) = BLOCK;
    let element = if slopes.is_some() {
        Element::Bf16
    } else {
        Element::F32
    };
    let grid = (2 * shape.parts, shape.dim.div_ceil(channels));
    let name = named("chunked_conv_moments", element);
    let launch = Launch::new(Op::Conv, name, grid, threads, shape.moments()).buffers([u, dy]);
    let launch = match slopes {
        Some(slopes) => launch.shared(162_048).buffers([fragments, slopes]),
        None => launch.shared(41_472),
    };
    launch
        .buffers([powers])
        .buffers(to)
        .ints([shape.batch, shape.length, shape.dim, shape.directions])
}

/// Adds the gradients of the parameters (in their order) and of the skip weights, given [`moments`]; those of B stay without
/// `train_b`.
pub fn gradients<B>(
    shape: &Chunked,
    states: usize,
    disc: Discretization,
    params: [B; 7],
    from: [B; 2],
    grads: [B; 7],
    d_skip: B,
    train_b: bool,
) -> Launch<B> {
    let kind = usize::from(disc == Discretization::Bilinear);
    let grid = (2 * shape.dim, 1);
    let work = shape.gradients(states);
    Launch::new(Op::SsmKernel, "chunked_conv_gradients_f32", grid, 32, work)
        .buffers(params)
        .buffers(from)
        .buffers(grads)
        .buffers([d_skip])
        .ints([shape.parts, states, kind, usize::from(train_b)])
}
