//! Bias and GELU in one pass over the output of a linear layer, and their backward.

use rayon::prelude::*;

use super::bf16;
use super::profile::{Clock, Op};
use super::vectorised::{sigmoid, vectorised};

/// Rows handled by one task: fixed, so that sums over rows do not depend on the number of threads.
const ROWS_PER_TASK: usize = 64;
/// Numbers handled by one task where nothing is summed.
const CHUNK: usize = 1 << 14;

/// Which GELU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    #[default]
    Tanh,
    /// `0.5 x (1 + erf(x / sqrt 2))`
    Erf,
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// The value and the derivative of the tanh form, through `0.5 (1 + tanh z) = sigmoid(2 z)`.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> (f32, f32) {
    let square = x * x;
    let s = sigmoid(2.0 * SQRT_2_OVER_PI * x * (1.0 + CUBIC * square));
    let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * square);
    (x * s, s + x * s * (1.0 - s) * slope)
}

/// The value and the derivative of the erf form, in f64 (an option kept for comparison, not for speed).
pub(super) fn gelu_erf(x: f32) -> (f32, f32) {
    let x = f64::from(x);
    let cdf = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    ((x * cdf) as f32, (cdf + x * density) as f32)
}

/// `pre += bias` (kept for the backward), `out = gelu(pre)`. `pre`, `out`: `[rows, bias.len()]`.
/// [`bias_gelu_in_place`] keeps nothing.
pub fn bias_gelu(kind: Gelu, pre: &mut [f32], bias: &[f32], out: &mut [f32]) {
    let _clock = Clock::start(Op::Activation);
    let cols = bias.len();
    let task = cols * ROWS_PER_TASK;
    pre.par_chunks_mut(task)
        .zip(out.par_chunks_mut(task))
        .for_each(|(pre, out)| match kind {
            Gelu::Tanh => bias_gelu_tanh(pre, bias, out),
            Gelu::Erf => {
                for (pre, out) in pre.chunks_exact_mut(cols).zip(out.chunks_exact_mut(cols)) {
                    for ((p, o), b) in pre.iter_mut().zip(out).zip(bias) {
                        *p += b;
                        *o = gelu_erf(*p).0;
                    }
                }
            }
        });
    bf16::store(pre);
    bf16::store(out);
}

vectorised! {
    fn bias_gelu_tanh<'a>(pre: &'a mut [f32], bias: &'a [f32], out: &'a mut [f32]) {
        for (pre, out) in pre.chunks_exact_mut(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
            for ((p, o), b) in pre.iter_mut().zip(out).zip(bias) {
                *p += b;
                *o = gelu_tanh(*p).0;
            }
        }
    }
}

/// `values = gelu(values + bias)`, with the bits of [`bias_gelu`]. `values`: `[rows, bias.len()]`.
pub fn bias_gelu_in_place(kind: Gelu, values: &mut [f32], bias: &[f32]) {
    let _clock = Clock::start(Op::Activation);
    let task = bias.len() * ROWS_PER_TASK;
    values.par_chunks_mut(task).for_each(|values| match kind {
        Gelu::Tanh => bias_gelu_tanh_in_place(values, bias),
        Gelu::Erf => {
            for row in values.chunks_exact_mut(bias.len()) {
                for (v, b) in row.iter_mut().zip(bias) {
                    *v = gelu_erf(*v + b).0;
                }
            }
        }
    });
    bf16::store(values);
}

vectorised! {
    fn bias_gelu_tanh_in_place<'a>(values: &'a mut [f32], bias: &'a [f32]) {
        for row in values.chunks_exact_mut(bias.len()) {
            for (v, b) in row.iter_mut().zip(bias) {
                *v = gelu_tanh(*v + b).0;
            }
        }
    }
}

/// `d = d * gelu'(pre)` in place: from the gradient of the output to that of the pre-activation.
pub fn gelu_backward(kind: Gelu, pre: &[f32], d: &mut [f32]) {
    let _clock = Clock::start(Op::Activation);
    d.par_chunks_mut(CHUNK)
        .zip(pre.par_chunks(CHUNK))
        .for_each(|(d, pre)| match kind {
            Gelu::Tanh => gelu_tanh_backward(pre, d),
            Gelu::Erf => {
                for (d, p) in d.iter_mut().zip(pre) {
                    *d *= gelu_erf(*p).1;
                }
            }
        });
}

vectorised! {
    fn gelu_tanh_backward<'a>(pre: &'a [f32], d: &'a mut [f32]) {
        for (d, p) in d.iter_mut().zip(pre) {
            *d *= gelu_tanh(*p).1;
        }
    }
}

/// `db[c] += sum over rows of d[row, c]`.
pub fn bias_backward(d: &[f32], db: &mut [f32]) {
    let _clock = Clock::start(Op::Activation);
    let cols = db.len();
    let partial: Vec<Vec<f32>> = d
        .par_chunks(cols * ROWS_PER_TASK)
        .map(|rows| {
            let mut sum = vec![0f32; cols];
            add_rows(rows, &mut sum);
            sum
        })
        .collect();
    for sum in partial {
        for (b, s) in db.iter_mut().zip(sum) {
            *b += s;
        }
    }
}

vectorised! {
    /// Adds every row of `rows` to `sum`.
    pub(super) fn add_rows<'a>(rows: &'a [f32], sum: &'a mut [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (s, v) in sum.iter_mut().zip(row) {
                *s += v;
            }
        }
    }
}

/// `rows += bias`, row by row.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    let _clock = Clock::start(Op::Activation);
    let task = CHUNK.div_ceil(bias.len()) * bias.len();
    rows.par_chunks_mut(task).for_each(|rows| add_to_rows(rows, bias));
}

vectorised! {
    fn add_to_rows<'a>(rows: &'a mut [f32], bias: &'a [f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (v, b) in row.iter_mut().zip(bias) {
                *v += b;
            }
        }
    }
}
