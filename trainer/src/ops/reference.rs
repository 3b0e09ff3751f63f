//! Naive f64 twins of the fused operations: slow, short, and what the tests believe.

use num_complex::Complex64;

use super::bias_gelu::Gelu;
use super::ssm_kernel::Discretization;

/// Both directions of the convolution by the direct sum, O(L^2), without the skip term.
///
/// `u`: `[L]`; `forward`, `backward`: kernels `[L]`; returns `(y_f, y_b)`.
pub fn bidirectional_conv(u: &[f64], forward: &[f64], backward: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let length = u.len();
    let y_f = (0..length)
        .map(|l| (0..=l).map(|i| forward[i] * u[l - i]).sum())
        .collect();
    let y_b = (0..length)
        .map(|l| (0..length - l).map(|i| backward[i] * u[l + i]).sum())
        .collect();
    (y_f, y_b)
}

/// The convolution of a batch with its skip term, in the layouts of [`super::long_conv::LongConv::forward`].
pub fn long_conv(u: &[f64], kernels: &[f64], skip: &[f64], length: usize, sum: bool) -> Vec<f64> {
    let dim = skip.len() / 2;
    let width = if sum { dim } else { 2 * dim };
    let mut y = vec![0.0; u.len() / dim * width];
    for b in 0..u.len() / (length * dim) {
        for c in 0..dim {
            let u: Vec<f64> = (0..length).map(|l| u[(b * length + l) * dim + c]).collect();
            let kernel = |direction: usize| &kernels[(direction * dim + c) * length..][..length];
            let (y_f, y_b) = bidirectional_conv(&u, kernel(0), kernel(1));
            for l in 0..length {
                let row = (b * length + l) * width;
                y[row + c] += y_f[l] + skip[c] * u[l];
                let second = if sum { c } else { dim + c };
                y[row + second] += y_b[l] + skip[dim + c] * u[l];
            }
        }
    }
    y
}

/// One channel's kernel by the whole `[N, L]` Vandermonde matrix: `K[l] = 2 Re sum_n C_n Bbar_n exp(z_n l)`.
///
/// `states`: log_a_real, a_imag, b_re, b_im, c_re, c_im of every state.
pub fn ssm_kernel(log_dt: f64, states: &[[f64; 6]], kind: Discretization, length: usize) -> Vec<f64> {
    let dt = log_dt.exp();
    let terms: Vec<(Complex64, Complex64)> = states
        .iter()
        .map(|&[log_a_real, a_imag, b_re, b_im, c_re, c_im]| {
            let a = Complex64::new(-log_a_real.exp(), a_imag);
            let (b, c) = (Complex64::new(b_re, b_im), Complex64::new(c_re, c_im));
            let (step, phi) = match kind {
                Discretization::Zoh => ((a * dt).exp(), ((a * dt).exp() - 1.0) / a),
                Discretization::Bilinear => {
                    let den = 1.0 - a * dt / 2.0;
                    ((1.0 + a * dt / 2.0) / den, dt / den)
                }
            };
            (c * b * phi, step)
        })
        .collect();
    (0..length as i32)
        .map(|l| {
            2.0 * terms
                .iter()
                .map(|(gain, step)| (gain * step.powi(l)).re)
                .sum::<f64>()
        })
        .collect()
}

/// Either GELU.
pub fn gelu(kind: Gelu, x: f64) -> f64 {
    match kind {
        Gelu::Tanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
        }
        Gelu::Erf => 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / std::f64::consts::SQRT_2)),
    }
}

/// LayerNorm without affine, then shift and scale, in the layouts of [`super::norm_modulate::norm_modulate`].
pub fn norm_modulate(
    x: &[f64],
    modulation: &[f64],
    batch: usize,
    dim: usize,
    with_scale: bool,
    eps: f64,
) -> Vec<f64> {
    let per_image = x.len() / dim / batch;
    let width = modulation.len() / batch;
    let mut h = Vec::with_capacity(x.len());
    for (row, x) in x.chunks_exact(dim).enumerate() {
        let modulation = &modulation[row / per_image * width..][..width];
        let mean = x.iter().sum::<f64>() / dim as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
        for (i, v) in x.iter().enumerate() {
            let scale = if with_scale {
                1.0 + modulation[dim + i]
            } else {
                1.0
            };
            h.push(scale * (v - mean) / (variance + eps).sqrt() + modulation[i]);
        }
    }
    h
}
