//! `bias_gelu.cu` and `gate.cu`.

use super::{gelu_kind, named, parts, strips};
use crate::gpu::launch::{Element, Launch};
use crate::ops::bias_gelu::Gelu;
use crate::ops::profile::Op;
use crate::roofline::work;

/// `pre += bias`, `out = gelu(pre)`: `[rows, cols]`.
pub fn bias_gelu<B>(
    element: Element,
    [rows, cols]: [usize; 2],
    gelu: Gelu,
    pre: B,
    bias: B,
    out: B,
) -> Launch<B> {
    let work = work::bias_gelu(rows, cols, element.bytes());
    let name = named("bias_gelu", element);
    strips(Op::Activation, name, parts(rows), cols, element.pack(cols), work)
        .buffers([pre, bias, out])
        .ints([rows, cols, gelu_kind(gelu)])
}

/// `d *= gelu'(pre)`: `[rows, cols]`; `partial` `[parts(rows), cols]`.
pub fn gelu_backward<B>(
    element: Element,
    [rows, cols]: [usize; 2],
    gelu: Gelu,
    pre: B,
    d: B,
    partial: B,
) -> Launch<B> {
    let work = work::gelu_backward(rows, cols, element.bytes());
    let name = named("gelu_backward", element);
    strips(Op::Activation, name, parts(rows), cols, element.pack(cols), work)
        .buffers([pre, d, partial])
        .ints([rows, cols, gelu_kind(gelu)])
}

/// `a += bias_a`, `b += bias_b`, `out = gelu(a) gelu(b)`: `[rows, cols]`; `a` and `b` come with their biases.
pub fn gate<B>(
    element: Element,
    [rows, cols]: [usize; 2],
    gelu: Gelu,
    a: [B; 2],
    b: [B; 2],
    out: B,
) -> Launch<B> {
    let work = work::gate(rows, cols, element.bytes());
    let name = named("gate", element);
    strips(Op::Activation, name, parts(rows), cols, element.pack(cols), work)
        .buffers(a)
        .buffers(b)
        .buffers([out])
        .ints([rows, cols, gelu_kind(gelu)])
}

/// Turns the pre-activations `a`, `b` into their gradients: `[rows, cols]`; `partials` `[parts(rows), cols]` of each.
pub fn gate_backward<B>(
    element: Element,
    [rows, cols]: [usize; 2],
    gelu: Gelu,
    [a, b]: [B; 2],
    d_out: B,
    partials: [B; 2],
) -> Launch<B> {
    let work = work::gate_backward(rows, cols, element.bytes());
    let name = named("gate_backward", element);
    strips(Op::Activation, name, parts(rows), cols, element.pack(cols), work)
        .buffers([a, b, d_out])
        .buffers(partials)
        .ints([rows, cols, gelu_kind(gelu)])
}
