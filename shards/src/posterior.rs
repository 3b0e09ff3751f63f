//! Drawing from the posterior that an autoencoder gave.

use crate::rng::{Philox, Stream};

/// `mean + exp(logvar / 2) noise`, in place; the noise is that of (seed, id, epoch, view) and is left in `noise`.
pub(crate) fn sample(
    rng: &Philox,
    id: u64,
    epoch: u32,
    mirrored: bool,
    mean: &mut [f32],
    logvar: &[f32],
    noise: &mut Vec<f32>,
) {
    noise.resize(mean.len(), 0.0);
    let step = epoch | (u32::from(mirrored) << 31);
    rng.fill_normal(Stream::PosteriorNoise, id, step, noise);
    for ((value, logvar), noise) in mean.iter_mut().zip(logvar).zip(noise) {
        *value += (0.5 * logvar).exp() * *noise;
    }
}
