//! The autoencoder that a command was told to use.

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Tensor};
use shards::writer::Moments;

use crate::pipeline::Encoder;
use crate::vae::{AutoencoderKl, VaeSource};

/// What `--vae` is when it is not given.
pub(super) const DEFAULT: &str = "stabilityai/sd-vae-ft-ema";

/// Loads what `--vae` names, for images of `size` x `size`.
pub(super) fn load(name: &str, size: usize) -> Result<AutoencoderKl> {
    let source: VaeSource = name.parse()?;
    let vae = AutoencoderKl::load(&source, &Device::Cpu).with_context(|| {
        format!(
            "loading the autoencoder {name}\nhint: --vae tiny needs no download, --vae none stores pixels"
        )
    })?;
    let factor = vae.downsampling();
    if !size.is_multiple_of(factor) {
        bail!(
            "{size} pixels are not divisible by {factor}, the autoencoder's downsampling\nhint: choose --size"
        );
    }
    Ok(vae)
}

/// Whether pixels are passed through as they are.
pub(super) fn is_identity(vae: &AutoencoderKl) -> bool {
    vae.downsampling() == 1
}

/// Whether the autoencoder predicts a variance.
pub(super) fn has_variance(vae: &AutoencoderKl) -> bool {
    vae.downsampling() > 1
}

/// Channels, height and width of the latent of a `size` x `size` image.
pub(super) fn shape(vae: &AutoencoderKl, size: usize) -> [usize; 3] {
    [
        vae.latent_channels(),
        size / vae.downsampling(),
        size / vae.downsampling(),
    ]
}

impl Encoder for AutoencoderKl {
    fn encode(&self, images: &Tensor) -> Result<Vec<Moments>> {
        let posterior = Self::encode(self, images)?;
        let means = posterior.mean.flatten_from(1)?.to_vec2::<f32>()?;
        let Some(logvar) = &posterior.logvar else {
            return Ok(means
                .into_iter()
                .map(|mean| Moments { mean, logvar: None })
                .collect());
        };
        let logvars = logvar.flatten_from(1)?.to_vec2::<f32>()?;
        let each = means.into_iter().zip(logvars);
        Ok(each
            .map(|(mean, logvar)| Moments {
                mean,
                logvar: Some(logvar),
            })
            .collect())
    }
}
