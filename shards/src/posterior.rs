//! Drawing from the posterior that an autoencoder gave: `mean + exp(logvar / 2) noise`.

use std::sync::LazyLock;

use crate::{
    quantize::byte_to_logvar,
    rng::{Philox, Stream},
    vectorised::vectorised,
};

/// The standard deviation of each byte that a log-variance is stored as.
static STD: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| (0.5 * byte_to_logvar(byte as u8)).exp()));

/// The noise of (seed, id, epoch, view).
pub(crate) fn fill_noise(rng: &Philox, id: u64, epoch: u32, mirrored: bool, noise: &mut [f32]) {
    let step = epoch | (u32::from(mirrored) << 31);
    rng.fill_normal(Stream::PosteriorNoise, id, step, noise);
}

/// `mean + exp(logvar / 2) noise`, in place.
pub(crate) fn sample(mean: &mut [f32], logvar: &[f32], noise: &[f32]) {
    for ((value, logvar), noise) in mean.iter_mut().zip(logvar).zip(noise) {
        *value += (0.5 * logvar).exp() * *noise;
    }
}

/// The same with the log-variance as it is stored, [`byte_to_logvar`].
pub(crate) fn add_noise(mean: &mut [f32], logvar: &[u8], noise: &[f32]) {
    add_scaled(mean, logvar, noise, &STD);
}

vectorised! {
    fn add_scaled<'a>(mean: &'a mut [f32], logvar: &'a [u8], noise: &'a [f32], std: &'a [f32; 256]) {
        const AT_ONCE: usize = 64;
        // Apart from the table, which is read number by number, this is work for vectors.
        let mut scale = [0f32; AT_ONCE];
        for ((mean, logvar), noise) in mean
            .chunks_mut(AT_ONCE)
            .zip(logvar.chunks(AT_ONCE))
            .zip(noise.chunks(AT_ONCE))
        {
            for (scale, &byte) in scale.iter_mut().zip(logvar) {
                *scale = std[usize::from(byte)];
            }
            for ((value, scale), noise) in mean.iter_mut().zip(&scale).zip(noise) {
                *value += scale * noise;
            }
        }
    }
}
