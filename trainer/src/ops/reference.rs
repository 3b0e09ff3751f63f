//! Naive f64 twins of the fused operations: slow, short, and what the tests believe.

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

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
}
