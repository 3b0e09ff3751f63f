//! The autoencoder that a command was told to use: a network, or none (pixels as they are).

use anyhow::{Result, bail};
use candle_core::Tensor;
use shards::manifest::VaeRecord;
use shards::writer::Moments;

use crate::pipeline::Encoder;

/// What `--vae` is when it is not given.
pub(super) const DEFAULT: &str = "none";

/// A loaded autoencoder.
pub(super) enum Autoencoder {
    /// The identity on pixels in [-1, 1].
    Pixels,
}

/// Loads what `--vae` names, for images of `size` x `size`.
pub(super) fn load(name: &str, _size: usize) -> Result<Autoencoder> {
    match name {
        "none" => Ok(Autoencoder::Pixels),
        other => bail!("--vae {other} is not available in this version\nhint: --vae none stores pixels"),
    }
}

impl Autoencoder {
    pub(super) fn has_variance(&self) -> bool {
        match self {
            Self::Pixels => false,
        }
    }

    pub(super) fn record(&self) -> VaeRecord {
        match self {
            Self::Pixels => VaeRecord {
                id: "none".into(),
                revision: None,
                sha256: None,
                scaling_factor: 1.0,
                downsampling: 1,
            },
        }
    }

    /// Channels, height and width of the latent of a `size` x `size` image.
    pub(super) fn shape(&self, size: usize) -> [usize; 3] {
        match self {
            Self::Pixels => [3, size, size],
        }
    }
}

impl Encoder for Autoencoder {
    fn encode(&self, images: &Tensor) -> Result<Vec<Moments>> {
        match self {
            Self::Pixels => {
                let each = images.flatten_from(1)?.to_vec2::<f32>()?;
                Ok(each
                    .into_iter()
                    .map(|mean| Moments { mean, logvar: None })
                    .collect())
            }
        }
    }
}
