//! The gated product `gelu(a) * gelu(b)` of a block (Yan et al. 2023, eq. 5) and its backward.

use rayon::prelude::*;

use super::bias_gelu::{Gelu, gelu_erf, gelu_tanh};
use super::vectorised::dispatch;

const CHUNK: usize = 1 << 14;

#[inline(always)]
fn value_and_slope(kind: Gelu, x: f32) -> (f32, f32) {
    match kind {
        Gelu::Tanh => gelu_tanh(x),
        Gelu::Erf => gelu_erf(x),
    }
}

/// `a += bias_a`, `b += bias_b` (kept for the backward), `out = gelu(a) * gelu(b)`; all `[rows, cols]`.
pub fn gate(kind: Gelu, a: &mut [f32], bias_a: &[f32], b: &mut [f32], bias_b: &[f32], out: &mut [f32]) {
    let cols = bias_a.len();
    let task = cols * CHUNK.div_ceil(cols);
    a.par_chunks_mut(task)
        .zip(b.par_chunks_mut(task))
        .zip(out.par_chunks_mut(task))
        .for_each(|((a, b), out)| {
            dispatch(|| {
                let rows = a
                    .chunks_exact_mut(cols)
                    .zip(b.chunks_exact_mut(cols))
                    .zip(out.chunks_exact_mut(cols));
                for ((a, b), out) in rows {
                    for i in 0..cols {
                        a[i] += bias_a[i];
                        b[i] += bias_b[i];
                        out[i] = value_and_slope(kind, a[i]).0 * value_and_slope(kind, b[i]).0;
                    }
                }
            });
        });
}

/// Turns the pre-activations `a`, `b` into their gradients, given that of the product.
pub fn gate_backward(kind: Gelu, a: &mut [f32], b: &mut [f32], d_out: &[f32]) {
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks_mut(CHUNK))
        .zip(d_out.par_chunks(CHUNK))
        .for_each(|((a, b), d)| {
            dispatch(|| {
                for ((a, b), d) in a.iter_mut().zip(b.iter_mut()).zip(d) {
                    let (value_a, slope_a) = value_and_slope(kind, *a);
                    let (value_b, slope_b) = value_and_slope(kind, *b);
                    *a = d * value_b * slope_a;
                    *b = d * value_a * slope_b;
                }
            });
        });
}
