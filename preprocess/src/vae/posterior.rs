//! The diagonal Gaussian over latents that the encoder predicts.

use candle_core::{Device, Tensor};
use shards::rng::{Philox, Stream};

use super::error::Error;

/// Bounds of the logarithm of the variance.
const LOGVAR_RANGE: (f32, f32) = (-30.0, 20.0);

/// `N(mean, exp(logvar))`, unscaled, for a batch of images.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[B, C, h, w]`.
    pub mean: Tensor,
    /// `[B, C, h, w]` within `-30..20`; `None` for the identity, which knows no variance.
    pub logvar: Option<Tensor>,
}

impl Posterior {
    /// Splits moments `[B, 2C, h, w]` (row-major) and clamps the variance.
    pub(crate) fn from_moments(
        moments: &[f32],
        [batch, channels, height, width]: [usize; 4],
        device: &Device,
    ) -> Result<Self, Error> {
        let half = channels / 2 * height * width;
        let (mut mean, mut logvar) = (Vec::new(), Vec::new());
        for image in moments.chunks_exact((2 * half).max(1)) {
            mean.extend_from_slice(&image[..half]);
            logvar.extend(
                image[half..]
                    .iter()
                    .map(|v| v.clamp(LOGVAR_RANGE.0, LOGVAR_RANGE.1)),
            );
        }
        let shape = (batch, channels / 2, height, width);
        Ok(Self {
            mean: Tensor::from_vec(mean, shape, device)?,
            logvar: Some(Tensor::from_vec(logvar, shape, device)?),
        })
    }

    /// Splits moments `[B, 2C, h, w]` where they are, and clamps the variance.
    pub(crate) fn split(moments: &Tensor) -> Result<Self, Error> {
        let channels = moments.dim(1)? / 2;
        let logvar = moments.narrow(1, channels, channels)?;
        Ok(Self {
            mean: moments.narrow(1, 0, channels)?.contiguous()?,
            logvar: Some(logvar.contiguous()?.clamp(LOGVAR_RANGE.0, LOGVAR_RANGE.1)?),
        })
    }

    /// The most likely latent: the mean.
    pub fn mode(&self) -> &Tensor {
        &self.mean
    }

    /// `mean + exp(logvar / 2) * noise`, with the noise of sample `ids[b]` at `step` (the epoch; bit 31 set for the
    /// mirrored view), whatever the batch. Without a variance, the mean.
    ///
    /// # Errors
    /// When there is not one id for each image.
    pub fn sample(&self, rng: &Philox, ids: &[u64], step: u32) -> Result<Tensor, Error> {
        let Some(logvar) = &self.logvar else {
            return Ok(self.mean.clone());
        };
        let (batch, channels, height, width) = self.mean.dims4()?;
        if ids.len() != batch {
            return Err(Error::Input {
                got: self.mean.dims().to_vec(),
                reason: format!("{} sample ids were given for {batch} images", ids.len()),
            });
        }
        let mut latents: Vec<f32> = self.mean.flatten_all()?.to_vec1()?;
        let logvar: Vec<f32> = logvar.flatten_all()?.to_vec1()?;
        let size = channels * height * width;
        let mut noise = vec![0.0; size];
        let images = latents
            .chunks_exact_mut(size.max(1))
            .zip(logvar.chunks_exact(size.max(1)));
        for ((latent, logvar), &id) in images.zip(ids) {
            rng.fill_normal(Stream::PosteriorNoise, id, step, &mut noise);
            for ((value, logvar), noise) in latent.iter_mut().zip(logvar).zip(&noise) {
                *value += (0.5 * logvar).exp() * noise;
            }
        }
        Ok(Tensor::from_vec(
            latents,
            (batch, channels, height, width),
            self.mean.device(),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posterior(values: &[f32]) -> Posterior {
        Posterior::from_moments(values, [values.len() / 8, 2, 2, 2], &Device::Cpu).unwrap()
    }

    #[test]
    fn the_variance_is_clamped_and_the_mean_is_not() {
        let values = [-50.0, 50.0, 1.0, 2.0, -50.0, 50.0, 1.0, 2.0];
        let posterior = posterior(&values);
        let mean: Vec<f32> = posterior.mode().flatten_all().unwrap().to_vec1().unwrap();
        let logvar = posterior.logvar.unwrap();
        let logvar: Vec<f32> = logvar.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(mean, [-50.0, 50.0, 1.0, 2.0]);
        assert_eq!(logvar, [-30.0, 20.0, 1.0, 2.0]);
    }

    #[test]
    fn a_sample_depends_on_its_id_and_not_on_its_batch() {
        let one = [0.5, -0.5, 1.0, 2.0, -1.0, 0.0, 1.0, 2.0];
        let rng = Philox::new(3);
        let flat = |tensor: Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
        let single = flat(posterior(&one).sample(&rng, &[9], 4).unwrap());
        let both = flat(posterior(&[one, one].concat()).sample(&rng, &[8, 9], 4).unwrap());
        assert_eq!(single, both[4..]);
        assert_ne!(single, both[..4]);
        let mut noise = [0.0; 4];
        rng.fill_normal(Stream::PosteriorNoise, 9, 4, &mut noise);
        for i in 0..4 {
            assert!((single[i] - one[i] - (0.5 * one[4 + i]).exp() * noise[i]).abs() < 1e-6);
        }
        assert!(posterior(&one).sample(&rng, &[1, 2], 0).is_err());
    }
}
