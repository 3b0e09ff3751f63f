//! One image's Gaussians: `q(x_t | x_0)`, what the model's output says of `x_{t-1}`, and the sampler's steps.
//!
//! Everything is for one image and one index t of the schedule; arithmetic in f64, storage in f32 or f64.

use super::Schedule;

/// What the model predicts at a step, element by element.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    /// Mean of `p(x_{t-1} | x_t)`.
    pub mean: Vec<f64>,
    /// Its log-variance.
    pub log_variance: Vec<f64>,
    /// The predicted `x_0`.
    pub x_start: Vec<f64>,
}

/// A DDIM step: the part without fresh noise, and the noise's standard deviation.
#[derive(Clone, Debug)]
pub struct DdimStep {
    /// `x_{t-1}` before noise is added.
    pub mean: Vec<f64>,
    /// Standard deviation of the noise; 0 for eta 0 and in the last step.
    pub sigma: f64,
}

impl Schedule {
    /// `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps` (Ho et al. 2020, eq. 4).
    pub fn q_sample(&self, t: usize, x_start: &[f32], eps: &[f32], x_t: &mut [f32]) {
        let signal = self.alphas_cumprod[t].sqrt();
        let noise = (1.0 - self.alphas_cumprod[t]).sqrt();
        for ((out, x), n) in x_t.iter_mut().zip(x_start).zip(eps) {
            *out = (signal * f64::from(*x) + noise * f64::from(*n)) as f32;
        }
    }

    /// Mean of `q(x_{t-1} | x_t, x_0)` (Ho et al. 2020, eq. 7).
    pub fn posterior_mean(&self, t: usize, x_start: f64, x_t: f64) -> f64 {
        self.posterior_mean_coef1[t] * x_start + self.posterior_mean_coef2[t] * x_t
    }

    /// The model's Gaussian: noise prediction `eps`, and `v` in -1..1 between the posterior's log-variance and
    /// `ln beta` (Nichol and Dhariwal 2021, eq. 15). Without `v` the posterior's own variance. `clip` bounds the
    /// predicted `x_0` to -1..1: for pixels, never for latents.
    pub fn p_mean_variance(&self, t: usize, x_t: &[f64], eps: &[f64], v: &[f64], clip: bool) -> Prediction {
        let (recip, recipm1) = (self.sqrt_recip(t), self.sqrt_recipm1(t));
        let (low, high) = (self.posterior_log_variance_clipped[t], self.log_betas[t]);
        let mut out = Prediction::default();
        for (i, (&x, &e)) in x_t.iter().zip(eps).enumerate() {
            let mut x_start = recip * x - recipm1 * e;
            if clip {
                x_start = x_start.clamp(-1.0, 1.0);
            }
            let fraction = v.get(i).map_or(0.0, |v| (v + 1.0) / 2.0);
            out.mean.push(self.posterior_mean(t, x_start, x));
            out.log_variance.push(fraction * high + (1.0 - fraction) * low);
            out.x_start.push(x_start);
        }
        out
    }

    /// One ancestral step: `mean + exp(log_variance / 2) noise`, without noise at index 0.
    pub fn p_sample(&self, t: usize, prediction: &Prediction, noise: &[f64]) -> Vec<f64> {
        let gaussian = prediction.mean.iter().zip(&prediction.log_variance).zip(noise);
        gaussian
            .map(|((mean, log_variance), z)| {
                if t == 0 {
                    *mean
                } else {
                    mean + (0.5 * log_variance).exp() * z
                }
            })
            .collect()
    }

    /// One DDIM step (Song et al. 2021, eq. 12) from `x_t` towards the predicted `x_0`.
    pub fn ddim_step(&self, t: usize, x_t: &[f64], x_start: &[f64], eta: f64) -> DdimStep {
        let (now, prev) = (self.alphas_cumprod[t], self.alphas_cumprod_prev[t]);
        let sigma = eta * ((1.0 - prev) / (1.0 - now)).sqrt() * (1.0 - now / prev).sqrt();
        let direction = (1.0 - prev - sigma * sigma).max(0.0).sqrt();
        let (recip, recipm1) = (self.sqrt_recip(t), self.sqrt_recipm1(t));
        let mean = x_t
            .iter()
            .zip(x_start)
            .map(|(x, x0)| prev.sqrt() * x0 + direction * (recip * x - x0) / recipm1)
            .collect();
        DdimStep {
            mean,
            sigma: if t == 0 { 0.0 } else { sigma },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(k: f64, scale: f64) -> Vec<f64> {
        (0..16).map(|i| scale * (0.7 * f64::from(i) + k).sin()).collect()
    }

    #[test]
    fn single_steps_match_the_golden_values() {
        let s = Schedule::linear(1000);
        let (x0, n, eps, v, z) = (
            wave(0.1, 1.0),
            wave(1.3, 1.2),
            wave(1.2, 1.0),
            wave(2.5, 0.8),
            wave(3.3, 1.0),
        );
        // t, DDPM sum, DDIM sum with eta 0, with eta 1
        let golden = [
            (0, 1.476_493_283_65, 1.476_493_283_65, 1.476_493_283_65),
            (1, 1.467_207_357_73, 1.472_025_711_09, 1.462_588_629_7),
            (500, -0.285_867_925_887, -0.145_888_504_383, -0.285_922_574_655),
            (999, -0.772_498_785_143, -0.575_775_794_613, -0.772_498_859_159),
        ];
        for (t, ddpm, ddim0, ddim1) in golden {
            let (a, b) = (s.alphas_cumprod[t].sqrt(), (1.0 - s.alphas_cumprod[t]).sqrt());
            let x_t: Vec<f64> = x0.iter().zip(&n).map(|(x, n)| a * x + b * n).collect();
            let p = s.p_mean_variance(t, &x_t, &eps, &v, false);
            let sum = s.p_sample(t, &p, &z).iter().sum::<f64>();
            assert!((sum - ddpm).abs() < 1e-9, "t {t}: {sum} is not {ddpm}");
            for (eta, want) in [(0.0, ddim0), (1.0, ddim1)] {
                let step = s.ddim_step(t, &x_t, &p.x_start, eta);
                let sum: f64 = step.mean.iter().zip(&z).map(|(m, z)| m + step.sigma * z).sum();
                assert!((sum - want).abs() < 1e-9, "t {t} eta {eta}: {sum} is not {want}");
            }
        }
    }

    #[test]
    fn whole_chains_match_the_golden_values() -> Result<(), crate::diffusion::Error> {
        let model = |x: &[f64], t: u32| -> (Vec<f64>, Vec<f64>) {
            let eps = x.iter().map(|x| 0.9 * x.tanh() + 0.001 * f64::from(t)).collect();
            (eps, x.iter().map(|x| 0.5 * x.cos()).collect())
        };
        let s = Schedule::linear(1000).respaced("5")?;
        let mut x = wave(5.0, 1.0);
        for (step, k) in (0..5).rev().enumerate() {
            let (eps, v) = model(&x, s.timestep_map[k]);
            let p = s.p_mean_variance(k, &x, &eps, &v, false);
            x = s.p_sample(k, &p, &wave(11.0 + step as f64, 1.0));
        }
        assert!(
            (x[0] + 216.156_076_961).abs() < 1e-6 && (x.iter().sum::<f64>() + 2_336.846_219_03).abs() < 1e-5
        );
        let s = Schedule::linear(1000).respaced("ddim10")?;
        let mut x = wave(5.0, 1.0);
        for k in (0..10).rev() {
            let (eps, v) = model(&x, s.timestep_map[k]);
            let p = s.p_mean_variance(k, &x, &eps, &v, false);
            x = s.ddim_step(k, &x, &p.x_start, 0.0).mean;
        }
        assert!(
            (x[0] + 61.390_137_397_7).abs() < 1e-7 && (x.iter().sum::<f64>() + 467.485_658_622).abs() < 1e-6
        );
        Ok(())
    }
}
