//! The training loss: squared error on the noise, plus the variational bound for the learned variance.
//!
//! Nichol and Dhariwal 2021, section 3.1, as ADM and DiT compute it: plain sum, the bound sees the mean detached, so its
//! gradient reaches `v` alone. Both parts are means over the elements of one image; the bound is in bits a dimension.

use std::f64::consts::{LN_2, PI};

use super::Schedule;

/// The loss of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossParts {
    /// Mean squared error of the noise prediction.
    pub mse: f64,
    /// Variational bound, bits a dimension; 0 without learned variance.
    pub vb: f64,
}

/// `KL(N(m1, e^l1) || N(m2, e^l2))` in nats.
pub fn normal_kl(m1: f64, l1: f64, m2: f64, l2: f64) -> f64 {
    0.5 * (-1.0 + l2 - l1 + (l1 - l2).exp() + (m1 - m2).powi(2) * (-l2).exp())
}

/// The tanh form of the normal distribution function, and its derivative.
fn approx_cdf(z: f64) -> (f64, f64) {
    let c = (2.0 / PI).sqrt();
    let tanh = (c * (z + 0.044_715 * z * z * z)).tanh();
    (
        0.5 * (1.0 + tanh),
        0.5 * (1.0 - tanh * tanh) * c * (1.0 + 3.0 * 0.044_715 * z * z),
    )
}

/// Log-probability of the 2/255-wide bin around `x` under `N(mean, e^(2 log_scale))`, and its derivative with respect
/// to `log_scale`. The outermost bins reach to infinity; probabilities have a floor of 1e-12.
pub fn discretized_log_likelihood(x: f64, mean: f64, log_scale: f64) -> (f64, f64) {
    const FLOOR: f64 = 1e-12;
    let (centered, inverse) = (x - mean, (-log_scale).exp());
    let (z_plus, z_minus) = (
        inverse * (centered + 1.0 / 255.0),
        inverse * (centered - 1.0 / 255.0),
    );
    let ((plus, plus_slope), (minus, minus_slope)) = (approx_cdf(z_plus), approx_cdf(z_minus));
    // d z / d log_scale = -z
    let (probability, slope) = if x < -0.999 {
        (plus, -z_plus * plus_slope)
    } else if x > 0.999 {
        (1.0 - minus, z_minus * minus_slope)
    } else {
        (plus - minus, z_minus * minus_slope - z_plus * plus_slope)
    };
    if probability > FLOOR {
        (probability.ln(), slope / probability)
    } else {
        (FLOOR.ln(), 0.0)
    }
}

/// The loss of one image and its gradient with respect to the model's output.
///
/// # Shapes
/// `x_start`, `noise`: `[C H W]`; `output`, `d_output`: `[2 C H W]` (noise, then v) or `[C H W]` without learned
/// variance. `d_output` is overwritten by `weight` times the gradient of `mse + vb`.
pub fn training_loss(
    schedule: &Schedule,
    t: usize,
    x_start: &[f32],
    noise: &[f32],
    output: &[f32],
    weight: f64,
    d_output: &mut [f32],
) -> LossParts {
    let count = x_start.len();
    let (eps, v) = output.split_at(count);
    let (d_eps, d_v) = d_output.split_at_mut(count);
    let (signal, spread) = (
        schedule.alphas_cumprod[t].sqrt(),
        (1.0 - schedule.alphas_cumprod[t]).sqrt(),
    );
    let (recip, recipm1) = (schedule.sqrt_recip(t), schedule.sqrt_recipm1(t));
    let (low, high) = (schedule.posterior_log_variance_clipped[t], schedule.log_betas[t]);
    let each = 1.0 / count as f64;
    let mut loss = LossParts::default();
    for i in 0..count {
        let (x0, n, e) = (f64::from(x_start[i]), f64::from(noise[i]), f64::from(eps[i]));
        loss.mse += each * (n - e).powi(2);
        d_eps[i] = (weight * each * 2.0 * (e - n)) as f32;
        if v.is_empty() {
            continue;
        }
        let x_t = signal * x0 + spread * n;
        let mean = schedule.posterior_mean(t, recip * x_t - recipm1 * e, x_t);
        let fraction = (f64::from(v[i]) + 1.0) / 2.0;
        let log_variance = fraction * high + (1.0 - fraction) * low;
        let (nats, slope) = if t == 0 {
            let (log_probability, slope) = discretized_log_likelihood(x0, mean, 0.5 * log_variance);
            (-log_probability, -0.5 * slope)
        } else {
            let truth = schedule.posterior_mean(t, x0, x_t);
            let slope =
                0.5 * (1.0 - (low - log_variance).exp() - (truth - mean).powi(2) * (-log_variance).exp());
            (normal_kl(truth, low, mean, log_variance), slope)
        };
        loss.vb += each * nats / LN_2;
        d_v[i] = (weight * each * slope * 0.5 * (high - low) / LN_2) as f32;
    }
    loss
}

/// Bits a dimension of `KL(q(x_T | x_0) || N(0, 1))`.
pub fn prior_bits_per_dimension(schedule: &Schedule, x_start: &[f64]) -> f64 {
    let last = schedule.alphas_cumprod.last().copied().unwrap_or(1.0);
    let kl = |x: &f64| normal_kl(last.sqrt() * x, (1.0 - last).ln(), 0.0, 0.0);
    x_start.iter().map(kl).sum::<f64>() / x_start.len() as f64 / LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_match_the_golden_values() {
        assert!((normal_kl(0.3, -2.0, 0.25, -1.7) - 0.027_251_544_580_517_8).abs() < 1e-15);
        let golden = [
            (0.1, 0.12, -3.0, -2.848_964_750_511_49),
            (0.1, 0.12, -4.6, -3.069_029_808_257_09),
            (-1.2, -1.1, -4.6, -27.631_021_115_928_5),
            (-0.9995, -1.0, -2.0, -0.667_417_836_072_469),
            (0.0, 0.0, 0.0, -5.767_057_473_603_43),
        ];
        for (x, mean, log_scale, want) in golden {
            let (got, slope) = discretized_log_likelihood(x, mean, log_scale);
            assert!((got - want).abs() < 1e-10, "{got} is not {want}");
            let up = discretized_log_likelihood(x, mean, log_scale + 1e-6).0;
            let down = discretized_log_likelihood(x, mean, log_scale - 1e-6).0;
            assert!(((up - down) / 2e-6 - slope).abs() < 1e-6, "slope {slope}");
        }
    }

    #[test]
    fn losses_match_the_golden_values() {
        let wave = |k: f64, scale: f64| -> Vec<f32> {
            (0..16)
                .map(|i| (scale * (0.7 * f64::from(i) + k).sin()) as f32)
                .collect()
        };
        let s = Schedule::linear(1000);
        let (x0, n) = (wave(0.1, 1.0), wave(1.3, 1.2));
        let output = [wave(1.2, 1.0), wave(2.5, 0.8)].concat();
        let mut d = vec![0.0; 32];
        let golden = [
            (0, 1.514_005_803_32),
            (1, 0.068_350_531_363_4),
            (500, 0.000_209_361_157_49),
            (999, 0.000_387_438_696_853),
        ];
        for (t, vb) in golden {
            let loss = training_loss(&s, t, &x0, &n, &output, 1.0, &mut d);
            assert!((loss.mse - 0.026_317_026_055_8).abs() < 1e-7);
            assert!(
                (loss.vb - vb).abs() < 1e-6 * vb.max(0.1),
                "t {t}: {} is not {vb}",
                loss.vb
            );
        }
        let x0: Vec<f64> = (0..16).map(|i| (0.7 * f64::from(i) + 0.1).sin()).collect();
        assert!((prior_bits_per_dimension(&s, &x0) - 1.415_397_449_1e-5).abs() < 1e-12);
    }
}
