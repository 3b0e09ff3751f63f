//! From noise to latents: DDPM and DDIM with classifier-free guidance.
//!
//! All noise is keyed by (seed, index of the image, original timestep), so image i is the same whatever batch it is
//! sampled in. The model is a closure; this module does not know it.

mod guidance;

pub use guidance::{Guidance, GuidanceMode};

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use shards::rng::{Philox, Stream};

use crate::diffusion::Schedule;

/// How `x_{t-1}` is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Ancestral sampling with the learned variance (Ho et al. 2020).
    #[default]
    Ddpm,
    /// Song et al. 2021, with `eta` between 0 (deterministic) and 1.
    Ddim {
        /// Share of the ancestral noise.
        eta: f64,
    },
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddpm => f.write_str("DDPM"),
            Self::Ddim { eta } => write!(f, "DDIM, eta {eta}"),
        }
    }
}

/// What defines a set of samples, beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampleConfig {
    /// Seed of all noise.
    pub seed: u64,
    /// DDPM or DDIM.
    pub sampler: Sampler,
    /// Classifier-free guidance.
    pub guidance: Guidance,
}

/// A batch to sample: indices choose the noise, labels the class.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Index of every image in the whole set.
    pub indices: &'a [u64],
    /// Label of every image; ignored by a model without labels.
    pub labels: &'a [u32],
    /// The label that stands for none; without it guidance is off.
    pub null_label: Option<u32>,
    /// Latent channels C.
    pub channels: usize,
    /// Elements of a channel, `H W`.
    pub area: usize,
}

/// Samples a batch: latents `[B, C, H, W]`, not yet divided by the scaling factor.
///
/// `model(x, t, y)` gives `[B', 2 C, H, W]` (or `[B', C, H, W]`) for `x` `[B, C, H, W]` and B' original timesteps and labels;
/// B' is B, or 2 B where guidance is on: both branches go through in one batch, the images of the second those of the first.
///
/// # Errors
/// Those of the model.
pub fn sample<E>(
    schedule: &Schedule,
    config: &SampleConfig,
    batch: &Batch<'_>,
    mut model: impl FnMut(&[f32], &[f32], &[u32]) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    let rng = Philox::new(config.seed);
    let image = batch.channels * batch.area;
    let mut x = vec![0f32; batch.indices.len() * image];
    for (x, &index) in x.chunks_exact_mut(image).zip(batch.indices) {
        rng.fill_normal(Stream::InitialNoise, index, 0, x);
    }
    for k in (0..schedule.len()).rev() {
        step(schedule, config, batch, k, &mut x, &mut model)?;
    }
    Ok(x)
}

/// One step of [`sample`], at index `k` of the schedule: `x` `[B, C, H, W]` becomes what follows it.
///
/// # Errors
/// Those of the model.
pub fn step<E>(
    schedule: &Schedule,
    config: &SampleConfig,
    batch: &Batch<'_>,
    k: usize,
    x: &mut [f32],
    model: &mut impl FnMut(&[f32], &[f32], &[u32]) -> Result<Vec<f32>, E>,
) -> Result<(), E> {
    let image = batch.channels * batch.area;
    let timestep = schedule.timestep_map[k];
    let output = config
        .guidance
        .evaluate(schedule.sqrt_recipm1(k), timestep, x, batch, model)?;
    let width = output.len() / batch.indices.len();
    x.par_chunks_exact_mut(image)
        .zip(output.par_chunks_exact(width))
        .zip(batch.indices)
        .for_each(|((x, output), &index)| step_of_image(schedule, config, index, k, x, output));
    Ok(())
}

/// [`step`] of image `index`: `x` `[C, H, W]`, the model's `output` `[2 C, H, W]` or `[C, H, W]`.
fn step_of_image(
    schedule: &Schedule,
    config: &SampleConfig,
    index: u64,
    k: usize,
    x: &mut [f32],
    output: &[f32],
) {
    let x_t = widen(x);
    let (eps, v) = output.split_at(x.len());
    let p = schedule.p_mean_variance(k, &x_t, &widen(eps), &widen(v), false);
    let mut noise = vec![0f32; x.len()];
    let is_noisy = k > 0 && config.sampler != Sampler::Ddim { eta: 0.0 };
    if is_noisy {
        let rng = Philox::new(config.seed);
        rng.fill_normal(Stream::SamplerNoise, index, schedule.timestep_map[k], &mut noise);
    }
    let next = match config.sampler {
        Sampler::Ddpm => schedule.p_sample(k, &p, &widen(&noise)),
        Sampler::Ddim { eta } => {
            let step = schedule.ddim_step(k, &x_t, &p.x_start, eta);
            step.mean
                .iter()
                .zip(&noise)
                .map(|(m, z)| m + step.sigma * f64::from(*z))
                .collect()
        }
    };
    for (x, next) in x.iter_mut().zip(next) {
        *x = next as f32;
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A model whose output depends on position, timestep and label, image by image.
    fn model(x: &[f32], t: &[f32], y: &[u32]) -> Result<Vec<f32>, Infallible> {
        let mut out = Vec::new();
        for ((x, t), y) in x.chunks_exact(8).cycle().zip(t).zip(y) {
            out.extend(x.iter().map(|x| 0.8 * x + 0.01 * *y as f32));
            out.extend(x.iter().map(|x| (x - t / 1000.0).tanh()));
        }
        Ok(out)
    }

    fn run(config: &SampleConfig, indices: &[u64], labels: &[u32]) -> Vec<f32> {
        let schedule = Schedule::linear(1000).respaced("10").unwrap();
        let batch = Batch {
            indices,
            labels,
            null_label: Some(9),
            channels: 2,
            area: 4,
        };
        sample(&schedule, config, &batch, model).unwrap()
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for sampler in [
            Sampler::Ddpm,
            Sampler::Ddim { eta: 0.0 },
            Sampler::Ddim { eta: 0.7 },
        ] {
            let guidance = Guidance {
                scale: 2.0,
                ..Guidance::default()
            };
            let config = SampleConfig {
                seed: 3,
                sampler,
                guidance,
            };
            let together = run(&config, &[0, 1, 7], &[1, 2, 3]);
            assert_eq!(together[8..16], run(&config, &[1], &[2]));
            assert_eq!(together[16..], run(&config, &[7], &[3]));
            assert_ne!(together[..8], together[8..16]);
        }
    }

    #[test]
    fn unit_guidance_equals_the_conditional_branch() {
        let plain = SampleConfig::default();
        let null_is_wrong = SampleConfig {
            guidance: Guidance {
                scale: 1.5,
                ..Guidance::default()
            },
            ..plain
        };
        assert_ne!(run(&plain, &[4], &[2]), run(&null_is_wrong, &[4], &[2]));
        // Outside of its interval guidance is off.
        let guidance = Guidance {
            scale: 1.5,
            interval: Some((1e6, 2e6)),
            ..Guidance::default()
        };
        assert_eq!(
            run(&plain, &[4], &[2]),
            run(&SampleConfig { guidance, ..plain }, &[4], &[2])
        );
    }
}
