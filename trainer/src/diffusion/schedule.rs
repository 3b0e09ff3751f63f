//! The linear noise schedule and everything tabulated from it, in f64.

use super::{Error, respaced_timesteps};

/// Steps of the training process.
pub const NUM_TIMESTEPS: usize = 1000;

/// The tables of a (possibly respaced) process; index k is a kept timestep, in ascending order.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Original timestep of every kept index: what the model is given.
    pub timestep_map: Vec<u32>,
    /// `beta_t`
    pub betas: Vec<f64>,
    /// `abar_t`, the product of all `1 - beta` up to t.
    pub alphas_cumprod: Vec<f64>,
    /// `abar_{t-1}`; 1 at 0.
    pub alphas_cumprod_prev: Vec<f64>,
    /// Variance of `q(x_{t-1} | x_t, x_0)`; 0 at 0.
    pub posterior_variance: Vec<f64>,
    /// Its logarithm, the value at 0 replaced by the one at 1 of the same table.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// Weight of `x_0` in the posterior mean.
    pub posterior_mean_coef1: Vec<f64>,
    /// Weight of `x_t` in the posterior mean.
    pub posterior_mean_coef2: Vec<f64>,
    /// `ln beta_t`
    pub log_betas: Vec<f64>,
}

impl Schedule {
    /// ADM's linear schedule: `beta` evenly from `1e-4` to `0.02`, scaled by `1000 / num_timesteps`.
    pub fn linear(num_timesteps: usize) -> Self {
        Self::linear_between(num_timesteps, 1e-4, 0.02)
    }

    /// The linear schedule with other ends (at 1000 timesteps).
    pub fn linear_between(num_timesteps: usize, beta_start: f64, beta_end: f64) -> Self {
        let scale = 1000.0 / num_timesteps as f64;
        let (low, high) = (scale * beta_start, scale * beta_end);
        let last = num_timesteps.saturating_sub(1).max(1) as f64;
        let betas = (0..num_timesteps)
            .map(|t| low + (high - low) * t as f64 / last)
            .collect();
        Self::from_betas(betas, (0..num_timesteps as u32).collect())
    }

    fn from_betas(betas: Vec<f64>, timestep_map: Vec<u32>) -> Self {
        let mut alphas_cumprod = Vec::with_capacity(betas.len());
        let mut product = 1.0;
        for beta in &betas {
            product *= 1.0 - beta;
            alphas_cumprod.push(product);
        }
        let alphas_cumprod_prev: Vec<f64> = std::iter::once(1.0)
            .chain(alphas_cumprod.iter().copied())
            .take(betas.len())
            .collect();
        let table = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
            let rows = betas.iter().zip(&alphas_cumprod).zip(&alphas_cumprod_prev);
            rows.map(|((&beta, &now), &prev)| f(beta, now, prev)).collect()
        };
        let posterior_variance = table(&|beta, now, prev| beta * (1.0 - prev) / (1.0 - now));
        let mut posterior_log_variance_clipped: Vec<f64> =
            posterior_variance.iter().map(|v| v.ln()).collect();
        if betas.len() > 1 {
            posterior_log_variance_clipped[0] = posterior_log_variance_clipped[1];
        } else if let Some(first) = posterior_log_variance_clipped.first_mut() {
            *first = betas[0].ln();
        }
        Self {
            posterior_mean_coef1: table(&|beta, now, prev| beta * prev.sqrt() / (1.0 - now)),
            posterior_mean_coef2: table(&|beta, now, prev| (1.0 - prev) * (1.0 - beta).sqrt() / (1.0 - now)),
            log_betas: betas.iter().map(|b| b.ln()).collect(),
            timestep_map,
            betas,
            alphas_cumprod,
            alphas_cumprod_prev,
            posterior_variance,
            posterior_log_variance_clipped,
        }
    }

    /// The process through fewer steps (`250`, `10,15,20`, `ddim50`, empty for all): new betas from the kept `abar`,
    /// every table made anew.
    ///
    /// # Errors
    /// [`Error::Respacing`] when the specification does not fit.
    pub fn respaced(&self, spec: &str) -> Result<Self, Error> {
        let kept = respaced_timesteps(self.len(), spec)?;
        let mut last = 1.0;
        let mut betas = Vec::with_capacity(kept.len());
        for &t in &kept {
            betas.push(1.0 - self.alphas_cumprod[t] / last);
            last = self.alphas_cumprod[t];
        }
        let timestep_map = kept.iter().map(|&t| self.timestep_map[t]).collect();
        Ok(Self::from_betas(betas, timestep_map))
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.betas.is_empty()
    }

    /// `sqrt(1 / abar)`
    pub fn sqrt_recip(&self, t: usize) -> f64 {
        (1.0 / self.alphas_cumprod[t]).sqrt()
    }

    /// `sqrt(1 / abar - 1)`, the noise level sigma of a variance-preserving process.
    pub fn sqrt_recipm1(&self, t: usize) -> f64 {
        (1.0 / self.alphas_cumprod[t] - 1.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64, tolerance: f64) {
        assert!(
            (got - want).abs() <= tolerance * want.abs().max(1e-300),
            "{got} is not {want}"
        );
    }

    #[test]
    fn tables_match_the_golden_values() {
        let s = Schedule::linear(NUM_TIMESTEPS);
        // t, beta, abar, sqrt(1/abar), sqrt(1/abar - 1), clipped log variance, ln beta, coef1, coef2
        let golden = [
            (
                1,
                1.199_199_199_199_199_3e-4,
                0.999_780_092_072_072_1,
                1.000_109_972_102_099_2,
                0.014_830_923_708_980_388,
                -9.816_725_135_295_67,
                -9.028_686_371_949_341,
                0.545_291_499_510_290_3,
                0.454_708_498_990_530_3,
            ),
            (
                500,
                0.010_059_959_959_959_959,
                0.077_796_658_365_023_89,
                3.585_250_693_875_450_7,
                3.442_967_112_525_823,
                -4.600_049_739_984_908,
                -4.599_192_094_441_73,
                0.003_058_057_075_629_619,
                0.994_104_350_756_725_8,
            ),
            (
                999,
                0.02,
                4.035_829_765_375_676e-5,
                157.410_457_251_500_62,
                157.407_280_810_407_57,
                -3.912_023_829_100_455,
                -3.912_023_005_428_146,
                1.283_514_871_722_468_2e-4,
                0.989_948_678_267_513_2,
            ),
        ];
        for (t, beta, abar, recip, recipm1, log_variance, log_beta, coef1, coef2) in golden {
            close(s.betas[t], beta, 1e-12);
            close(s.alphas_cumprod[t], abar, 1e-10);
            close(s.sqrt_recip(t), recip, 1e-10);
            close(s.sqrt_recipm1(t), recipm1, 1e-10);
            close(s.posterior_log_variance_clipped[t], log_variance, 1e-10);
            close(s.log_betas[t], log_beta, 1e-12);
            close(s.posterior_mean_coef1[t], coef1, 1e-9);
            close(s.posterior_mean_coef2[t], coef2, 1e-10);
        }
        assert_eq!(
            s.posterior_log_variance_clipped[0],
            s.posterior_log_variance_clipped[1]
        );
        close(s.posterior_mean_coef1[0], 1.0, 1e-12);
    }

    #[test]
    fn respaced_tables_are_made_anew() -> Result<(), Error> {
        let s = Schedule::linear(NUM_TIMESTEPS).respaced("250")?;
        close(s.betas[1], 5.990_655_644_756_4e-4, 1e-10);
        close(s.posterior_variance[1], 8.570_253_440_564_8e-5, 1e-10);
        close(s.posterior_log_variance_clipped[0], -9.364_628_159_803_084, 1e-10);
        close(s.posterior_mean_coef1[1], 0.856_982_491_718_037_6, 1e-10);
        close(s.betas[249], 0.077_519_344_992_350, 1e-10);
        close(
            s.posterior_log_variance_clipped[249],
            -2.557_231_152_560_974,
            1e-10,
        );
        let s = Schedule::linear(NUM_TIMESTEPS).respaced("ddim50")?;
        assert_eq!(s.timestep_map[49], 980);
        close(s.alphas_cumprod[49], 5.903_751_370_853_377e-5, 1e-10);
        close(s.posterior_mean_coef1[49], 0.003_035_160_293_038_4, 1e-10);
        close(s.posterior_log_variance_clipped[1], -9.226_331_928_392_868, 1e-10);
        Ok(())
    }
}
