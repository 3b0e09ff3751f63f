//! The layout that fast-DiT's `extract_features.py` writes and its training reads: two `.npy` files an image.

use std::{io::Write, path::Path};

use super::Export;
use crate::{error::Result, posterior, rng::Philox};

/// Which latent of an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latent {
    /// The mean of the posterior.
    Mean,
    /// A sample with the noise of this seed, as training draws it in epoch 0; the mean where no log-variance is stored.
    Sample(u64),
}

/// The folder of latents.
pub const FEATURES: &str = "imagenet256_features";
/// The folder of labels.
pub const LABELS: &str = "imagenet256_labels";

impl Export<'_> {
    /// Writes `FEATURES/<i>.npy`, f32 `[1, C, H, W]`, times the scaling factor, and `LABELS/<i>.npy`, i64 `[1]`, for the
    /// `i`-th sample in key order, of the image as it is, not its mirror image. Calls `progress` with the samples done.
    ///
    /// # Errors
    /// Those of the file system and of [`Dataset::read`](crate::dataset::Dataset::read).
    pub fn write_dit(&self, dir: &Path, latent: Latent, mut progress: impl FnMut(u64)) -> Result<()> {
        let dataset = self.dataset;
        let (features, labels) = (dir.join(FEATURES), dir.join(LABELS));
        for folder in [&features, &labels] {
            fs_err::create_dir_all(folder)?;
        }
        let factor = dataset.manifest().vae.scaling_factor as f32;
        let [c, h, w] = dataset.manifest().shape;
        let elements = dataset.elements();
        let (mut values, mut logvar, mut noise) =
            (vec![0.0; elements], vec![0.0; elements], vec![0.0; elements]);
        let mut bytes = Vec::new();
        for (i, &sample) in self.order.iter().enumerate() {
            match latent {
                Latent::Sample(seed) if dataset.has_logvar() => {
                    dataset.read(sample, 0, &mut values, Some(&mut logvar))?;
                    posterior::fill_noise(&Philox::new(seed), dataset.id(sample)?, 0, false, &mut noise);
                    posterior::sample(&mut values, &logvar, &noise);
                }
                _ => dataset.read(sample, 0, &mut values, None)?,
            }
            let name = format!("{i}.npy");
            start(&mut bytes, "<f4", &format!("1, {c}, {h}, {w}"));
            bytes.extend(values.iter().flat_map(|value| (value * factor).to_le_bytes()));
            fs_err::File::create(features.join(&name))?.write_all(&bytes)?;
            start(&mut bytes, "<i8", "1,");
            bytes.extend(dataset.label(sample)?.to_le_bytes());
            fs_err::File::create(labels.join(&name))?.write_all(&bytes)?;
            progress(i as u64 + 1);
        }
        Ok(())
    }
}

/// The header of a `.npy` file, version 1: values start at a multiple of 64 bytes.
fn start(bytes: &mut Vec<u8>, dtype: &str, shape: &str) {
    const PREFIX: &[u8] = b"\x93NUMPY\x01\x00";
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    while !(PREFIX.len() + 2 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    bytes.clear();
    bytes.extend(PREFIX);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
}
