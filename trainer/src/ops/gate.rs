//! The gated product `gelu(a) * gelu(b)` of a block (Yan et al. 2023, eq. 5) and its backward.

use rayon::prelude::*;

use super::bf16;
use super::bias_gelu::{Gelu, gelu_erf, gelu_tanh};
use super::profile::{Clock, Op};
use super::vectorised::vectorised;

const CHUNK: usize = 1 << 14;

/// `a += bias_a`, `b += bias_b` (kept for the backward), `out = gelu(a) * gelu(b)`; all `[rows, cols]`.
pub fn gate(kind: Gelu, a: &mut [f32], bias_a: &[f32], b: &mut [f32], bias_b: &[f32], out: &mut [f32]) {
    let _clock = Clock::start(Op::Activation);
    let cols = bias_a.len();
    let task = cols * CHUNK.div_ceil(cols);
    a.par_chunks_mut(task)
        .zip(b.par_chunks_mut(task))
        .zip(out.par_chunks_mut(task))
        .for_each(|((a, b), out)| match kind {
            Gelu::Tanh => gate_tanh(a, bias_a, b, bias_b, out),
            Gelu::Erf => gate_rows(a, bias_a, b, bias_b, out, |x| gelu_erf(x).0),
        });
    for stored in [a, b, out] {
        bf16::store(stored);
    }
}

vectorised! {
    fn gate_tanh<'a>(
        a: &'a mut [f32],
        bias_a: &'a [f32],
        b: &'a mut [f32],
        bias_b: &'a [f32],
        out: &'a mut [f32],
    ) {
        gate_rows(a, bias_a, b, bias_b, out, |x| gelu_tanh(x).0);
    }
}

#[inline(always)]
fn gate_rows(
    a: &mut [f32],
    bias_a: &[f32],
    b: &mut [f32],
    bias_b: &[f32],
    out: &mut [f32],
    gelu: impl Fn(f32) -> f32,
) {
    let cols = bias_a.len();
    let rows = a
        .chunks_exact_mut(cols)
        .zip(b.chunks_exact_mut(cols))
        .zip(out.chunks_exact_mut(cols));
    for ((a, b), out) in rows {
        for ((((a, b), out), bias_a), bias_b) in a.iter_mut().zip(b).zip(out).zip(bias_a).zip(bias_b) {
            *a += bias_a;
            *b += bias_b;
            *out = gelu(*a) * gelu(*b);
        }
    }
}

/// `a = gelu(a + bias_a) * gelu(b + bias_b)`, with the bits of [`gate`]; all `[rows, cols]`.
pub fn gate_in_place(kind: Gelu, a: &mut [f32], bias_a: &[f32], b: &[f32], bias_b: &[f32]) {
    let _clock = Clock::start(Op::Activation);
    let task = bias_a.len() * CHUNK.div_ceil(bias_a.len());
    a.par_chunks_mut(task)
        .zip(b.par_chunks(task))
        .for_each(|(a, b)| match kind {
            Gelu::Tanh => gate_tanh_in_place(a, bias_a, b, bias_b),
            Gelu::Erf => gate_rows_in_place(a, bias_a, b, bias_b, |x| gelu_erf(x).0),
        });
    bf16::store(a);
}

vectorised! {
    fn gate_tanh_in_place<'a>(a: &'a mut [f32], bias_a: &'a [f32], b: &'a [f32], bias_b: &'a [f32]) {
        gate_rows_in_place(a, bias_a, b, bias_b, |x| gelu_tanh(x).0);
    }
}

#[inline(always)]
fn gate_rows_in_place(a: &mut [f32], bias_a: &[f32], b: &[f32], bias_b: &[f32], gelu: impl Fn(f32) -> f32) {
    let cols = bias_a.len();
    for (a, b) in a.chunks_exact_mut(cols).zip(b.chunks_exact(cols)) {
        for (((a, b), bias_a), bias_b) in a.iter_mut().zip(b).zip(bias_a).zip(bias_b) {
            *a = gelu(*a + bias_a) * gelu(*b + bias_b);
        }
    }
}

/// Turns the pre-activations `a`, `b` into their gradients, given that of the product.
pub fn gate_backward(kind: Gelu, a: &mut [f32], b: &mut [f32], d_out: &[f32]) {
    let _clock = Clock::start(Op::Activation);
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks_mut(CHUNK))
        .zip(d_out.par_chunks(CHUNK))
        .for_each(|((a, b), d)| match kind {
            Gelu::Tanh => gate_tanh_backward(a, b, d),
            Gelu::Erf => product_backward(a, b, d, gelu_erf),
        });
}

vectorised! {
    fn gate_tanh_backward<'a>(a: &'a mut [f32], b: &'a mut [f32], d: &'a [f32]) {
        product_backward(a, b, d, gelu_tanh);
    }
}

#[inline(always)]
fn product_backward(a: &mut [f32], b: &mut [f32], d: &[f32], gelu: impl Fn(f32) -> (f32, f32)) {
    for ((a, b), d) in a.iter_mut().zip(b.iter_mut()).zip(d) {
        let (value_a, slope_a) = gelu(*a);
        let (value_b, slope_b) = gelu(*b);
        *a = d * value_b * slope_a;
        *b = d * value_a * slope_b;
    }
}
