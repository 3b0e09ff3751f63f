//! The autoencoder of Stable Diffusion (`AutoencoderKL`; Rombach et al. 2022, arXiv:2112.10752): images to the moments
//! of a posterior over latents, and latents to images.
//!
//! [`AutoencoderKl`] takes and gives tensors `[B, C, H, W]`; inside, the network runs in f32 on the processor with
//! the layers of [`crate::nn`], channels last, so many images at a time as fit a fixed amount of memory.

pub mod config;
pub mod error;
pub mod loader;
pub mod posterior;
pub mod source;

mod attention;
mod decoder;
mod encoder;
mod hub;
mod load;
mod mapped;
mod middle;
mod names;
mod resnet;
mod weights;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use shards::manifest::VaeRecord;

use crate::nn::{FeatureMap, Padding};

pub use config::VaeConfig;
pub use error::Error;
pub use posterior::Posterior;
pub use source::VaeSource;

use decoder::Decoder;
use encoder::Encoder;
use loader::{GetTensor, Loader};

/// Bytes of activations that the images in work at one time may take together, unless the caller says otherwise.
const ACTIVATION_BYTES: u64 = 1 << 30;
/// Channels of an image that the identity encodes.
const PIXEL_CHANNELS: usize = 3;

/// An autoencoder with its weights, or the identity.
pub struct AutoencoderKl {
    network: Option<Network>,
    record: VaeRecord,
    latent_channels: usize,
    device: Device,
    activation_bytes: u64,
}

struct Network {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Loads the autoencoder of `source`; results will be on `device`.
    ///
    /// # Errors
    /// When files are missing, damaged, or describe another network, or the hub cannot be reached.
    pub fn load(source: &VaeSource, device: &Device) -> Result<Self, Error> {
        match load::load(source)? {
            Some(loaded) => {
                let mut get = |name: &str, shape: &[usize]| loaded.weights.tensor(name, shape);
                Self::from_tensors(loaded.config, loaded.record, &mut get, device)
            }
            None => Ok(Self::identity(device)),
        }
    }

    /// Loads the autoencoder that a dataset was made with; results will be on `device`.
    ///
    /// # Errors
    /// Those of [`AutoencoderKl::load`], and [`Error::Replaced`] when other weights lie there now.
    pub fn from_record(record: &VaeRecord, device: &Device) -> Result<Self, Error> {
        let name = match &record.revision {
            Some(revision) => format!("{}@{revision}", record.id),
            None => record.id.clone(),
        };
        let vae = Self::load(&name.parse()?, device)?;
        if record.sha256.is_some() && vae.record.sha256 != record.sha256 {
            return Err(Error::Replaced {
                id: name,
                expected: record.sha256.clone().unwrap_or_default(),
                found: vae.record.sha256.unwrap_or_default(),
            });
        }
        Ok(vae)
    }

    /// Builds the network of `config` from tensors that `get` gives by name.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn from_tensors(
        config: VaeConfig,
        record: VaeRecord,
        get: &mut GetTensor<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut loader = Loader::new(get);
        let encoder = Encoder::load(&mut loader, &config)?;
        let decoder = Decoder::load(&mut loader, &config)?;
        Ok(Self {
            record,
            latent_channels: config.latent_channels,
            network: Some(Network {
                config,
                encoder,
                decoder,
            }),
            device: device.clone(),
            activation_bytes: ACTIVATION_BYTES,
        })
    }

    /// `none`: latents are pixels.
    fn identity(device: &Device) -> Self {
        Self {
            network: None,
            record: VaeRecord {
                id: VaeSource::None.to_string(),
                revision: None,
                sha256: None,
                scaling_factor: 1.0,
                downsampling: 1,
            },
            latent_channels: PIXEL_CHANNELS,
            device: device.clone(),
            activation_bytes: ACTIVATION_BYTES,
        }
    }

    /// Bounds the activations of the images in work at one time, which otherwise take up to 1 GiB together. One image
    /// is always in work, whatever it takes.
    #[must_use]
    pub fn with_activation_bytes(mut self, bytes: u64) -> Self {
        self.activation_bytes = bytes;
        self
    }

    /// About how many bytes of activations one image of `height` x `width` pixels takes on its way to the moments.
    pub fn image_bytes(&self, height: usize, width: usize) -> u64 {
        match &self.network {
            Some(network) => network.config.image_bytes(height, width),
            None => 0,
        }
    }

    /// What to write into a data set.
    pub fn record(&self) -> &VaeRecord {
        &self.record
    }

    /// What a latent is multiplied by before the diffusion model sees it.
    pub fn scaling_factor(&self) -> f64 {
        self.record.scaling_factor
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// Pixels per latent element, along one side.
    pub fn downsampling(&self) -> usize {
        self.record.downsampling
    }

    /// The posterior of images `[B, 3, H, W]` in `[-1, 1]`; latents are not scaled.
    ///
    /// # Errors
    /// When the images have another number of channels, or sides that the downsampling does not divide.
    pub fn encode(&self, images: &Tensor) -> Result<Posterior, Error> {
        let Some(network) = &self.network else {
            self.check(images, PIXEL_CHANNELS, 1)?;
            return Ok(Posterior {
                mean: images.to_dtype(DType::F32)?.to_device(&self.device)?,
                logvar: None,
            });
        };
        let [batch, _, height, width] =
            self.check(images, network.config.in_channels, self.downsampling())?;
        let moments = network.map_images(images, Padding::ONE, self.at_once(height, width), |image| {
            network.encoder.forward(image)
        })?;
        let latent = self.downsampling();
        let shape = [batch, 2 * self.latent_channels, height / latent, width / latent];
        Posterior::from_moments(&moments, shape, &self.device)
    }

    /// The images `[B, 3, H, W]` of unscaled latents `[B, C, h, w]`; about `[-1, 1]`, not clipped.
    ///
    /// # Errors
    /// When the latents have another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, Error> {
        let [batch, _, height, width] = self.check(latents, self.latent_channels, 1)?;
        let Some(network) = &self.network else {
            return Ok(latents.to_dtype(DType::F32)?.to_device(&self.device)?);
        };
        let factor = self.downsampling();
        let at_once = self.at_once(factor * height, factor * width);
        let images = network.map_images(latents, Padding::NONE, at_once, |latent| {
            network.decoder.forward(latent)
        })?;
        let shape = (
            batch,
            network.config.out_channels,
            factor * height,
            factor * width,
        );
        Ok(Tensor::from_vec(images, shape, &self.device)?)
    }

    /// How many images of `height` x `width` pixels may be in work at one time.
    fn at_once(&self, height: usize, width: usize) -> usize {
        let most = self.activation_bytes / self.image_bytes(height, width).max(1);
        most.clamp(1, rayon::current_num_threads() as u64) as usize
    }

    /// The shape of a tensor with the right channels and sides.
    fn check(&self, tensor: &Tensor, channels: usize, multiple: usize) -> Result<[usize; 4], Error> {
        match *tensor.dims() {
            [b, c, h, w]
                if c == channels && 0 < h * w && h.is_multiple_of(multiple) && w.is_multiple_of(multiple) =>
            {
                Ok([b, c, h, w])
            }
            _ => Err(Error::Input {
                got: tensor.dims().to_vec(),
                reason: format!(
                    "expected [batch, {channels}, height, width] with sides that are multiples of {multiple}"
                ),
            }),
        }
    }
}

impl Network {
    /// Applies `forward` to each image of a batch `[B, C, H, W]`, `at_once` at a time. The results follow one another as
    /// `[C, H, W]`.
    fn map_images(
        &self,
        batch: &Tensor,
        padding: Padding,
        at_once: usize,
        forward: impl Fn(&FeatureMap) -> Result<FeatureMap, Error> + Sync,
    ) -> Result<Vec<f32>, Error> {
        let (_, channels, height, width) = batch.dims4()?;
        let values: Vec<f32> = batch
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?
            .flatten_all()?
            .to_vec1()?;
        let size = channels * height * width;
        let mut out = Vec::new();
        for group in values.chunks(at_once * size) {
            let images: Vec<Vec<f32>> = group
                .par_chunks_exact(size)
                .map(|image| {
                    let map = FeatureMap::from_nchw(image, [1, channels, height, width], padding)?;
                    Ok(forward(&map)?.to_nchw())
                })
                .collect::<Result<_, Error>>()?;
            out.extend(images.into_iter().flatten());
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
