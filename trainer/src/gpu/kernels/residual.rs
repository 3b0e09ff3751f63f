//! `residual.cu`.

use super::{named, parts, strips};
use crate::gpu::launch::{Element, Launch};
use crate::ops::profile::Op;
use crate::roofline::{Work, work};

fn launch<B>(name: String, [batch, rows, dim]: [usize; 3], work: Work) -> Launch<B> {
    let pack = Element::F32.pack(dim);
    strips(Op::Activation, name, batch * parts(rows), dim, pack, work)
}

/// `out = input + bias`: `[batch, rows, dim]`, f32.
pub fn residual<B>(shape: [usize; 3], input: B, bias: B, out: B) -> Launch<B> {
    let [batch, rows, dim] = shape;
    launch("residual_f32".to_owned(), shape, work::residual(batch, rows, dim))
        .buffers([input, bias, out])
        .ints(shape)
}

/// `branch += bias`, `out = input + gate branch`: `[batch, rows, dim]`; `modulation` `[batch, 3 dim]`.
pub fn gated_residual<B>(
    element: Element,
    shape: [usize; 3],
    input: B,
    modulation: B,
    bias: B,
    branch: B,
    out: B,
) -> Launch<B> {
    let [batch, rows, dim] = shape;
    let work = work::gated_residual(batch, rows, dim, element.bytes());
    launch(named("gated_residual", element), shape, work)
        .buffers([input, modulation, bias, branch, out])
        .ints(shape)
}

/// `d_branch = gate d_out`: `[batch, rows, dim]`; `partials` `[batch, parts(rows), dim]` of the gate and of the bias.
pub fn gated_residual_backward<B>(
    element: Element,
    shape: [usize; 3],
    d_out: B,
    modulation: B,
    branch: B,
    d_branch: B,
    partials: [B; 2],
) -> Launch<B> {
    let [batch, rows, dim] = shape;
    let work = work::gated_residual_backward(batch, rows, dim, element.bytes());
    launch(named("gated_residual_backward", element), shape, work)
        .buffers([d_out, modulation, branch, d_branch])
        .buffers(partials)
        .ints(shape)
}
