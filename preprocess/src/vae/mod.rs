//! The autoencoder of Stable Diffusion (`AutoencoderKL`; Rombach et al. 2022, arXiv:2112.10752): images to the moments
//! of a posterior over latents, and latents to images.
//!
//! [`AutoencoderKl`] takes and gives tensors `[B, C, H, W]`; inside, the network runs in f32, so many images at a time as
//! fit a fixed amount of memory: on the processor with the layers of [`crate::nn`], channels last, on a GPU with candle's
//! tensors. Both forms are one definition of encoder and decoder over a `Backend`.

pub mod config;
pub mod error;
pub mod loader;
pub mod posterior;
pub mod source;

mod attention;
mod backend;
mod decoder;
mod encoder;
mod host;
mod hub;
mod load;
mod mapped;
mod middle;
mod names;
mod resnet;
mod tensors;
mod weights;

use candle_core::{DType, Device, Tensor};
use shards::manifest::VaeRecord;

use crate::nn::{GpuPrecision, Padding};

pub use config::VaeConfig;
pub use error::Error;
pub use posterior::Posterior;
pub use source::VaeSource;

use backend::Backend;
use decoder::Decoder;
use encoder::Encoder;
use host::Host;
use loader::{GetTensor, Loader};
use tensors::Tensors;

/// Bytes of activations that the images in work at one time may take together, unless the caller says otherwise: on the
/// processor, and on each GPU.
const ACTIVATION_BYTES: u64 = 1 << 30;
const GPU_ACTIVATION_BYTES: u64 = 8 << 30;
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
    layers: Layers,
}

/// The two forms of the layers.
enum Layers {
    Host(Box<Form<Host>>),
    Tensors(Box<Form<Tensors>>),
}

struct Form<B: Backend> {
    encoder: Encoder<B>,
    decoder: Decoder<B>,
}

impl<B: Backend> Form<B> {
    fn load(backend: &B, config: &VaeConfig, get: &mut GetTensor<'_>) -> Result<Self, Error> {
        let mut loader = Loader::new(backend, get);
        Ok(Self {
            encoder: Encoder::load(&mut loader, config)?,
            decoder: Decoder::load(&mut loader, config)?,
        })
    }
}

impl AutoencoderKl {
    /// Loads the autoencoder of `source`; it works on `device`, and its results will be there.
    ///
    /// # Errors
    /// When files are missing, damaged, or describe another network, or the hub cannot be reached.
    pub fn load(source: &VaeSource, device: &Device) -> Result<Self, Error> {
        Self::load_in(source, device, GpuPrecision::F32)
    }

    /// [`AutoencoderKl::load`] with convolutions of another precision, on a GPU; on the processor they are f32.
    ///
    /// # Errors
    /// Those of [`AutoencoderKl::load`].
    pub fn load_in(source: &VaeSource, device: &Device, precision: GpuPrecision) -> Result<Self, Error> {
        match load::load(source)? {
            Some(loaded) => {
                let mut get = |name: &str, shape: &[usize]| loaded.weights.tensor(name, shape);
                Self::from_tensors_in(loaded.config, loaded.record, &mut get, device, precision)
            }
            None => Ok(Self::identity(device)),
        }
    }

    /// Loads the autoencoder that a dataset was made with; it works on `device`, and its results will be there.
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
        Self::from_tensors_in(config, record, get, device, GpuPrecision::F32)
    }

    fn from_tensors_in(
        config: VaeConfig,
        record: VaeRecord,
        get: &mut GetTensor<'_>,
        device: &Device,
        precision: GpuPrecision,
    ) -> Result<Self, Error> {
        let layers = if device.is_cpu() {
            Layers::Host(Form::load(&Host, &config, get)?.into())
        } else {
            let device = device.clone();
            let backend = Tensors { device, precision };
            Layers::Tensors(Form::load(&backend, &config, get)?.into())
        };
        let record = VaeRecord {
            arithmetic: (!device.is_cpu()).then(|| precision.arithmetic().to_owned()),
            ..record
        };
        Ok(Self::of_layers(config, record, layers, device))
    }

    fn of_layers(config: VaeConfig, record: VaeRecord, layers: Layers, device: &Device) -> Self {
        Self {
            record,
            latent_channels: config.latent_channels,
            activation_bytes: match layers {
                Layers::Host(_) => ACTIVATION_BYTES,
                Layers::Tensors(_) => GPU_ACTIVATION_BYTES,
            },
            network: Some(Network { config, layers }),
            device: device.clone(),
        }
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
                arithmetic: None,
            },
            latent_channels: PIXEL_CHANNELS,
            device: device.clone(),
            activation_bytes: ACTIVATION_BYTES,
        }
    }

    /// Bounds the activations of the images in work at one time, which otherwise take up to 1 GiB together, on a GPU 8.
    /// One image is always in work, whatever it takes.
    pub fn set_activation_bytes(&mut self, bytes: u64) {
        self.activation_bytes = bytes;
    }

    /// About how many bytes of activations one image of `height` x `width` pixels takes on its way to the moments.
    pub fn image_bytes(&self, height: usize, width: usize) -> u64 {
        match &self.network {
            Some(network) => {
                let live_maps = match network.layers {
                    Layers::Host(_) => host::LIVE_MAPS,
                    Layers::Tensors(_) => tensors::LIVE_MAPS,
                };
                live_maps * network.config.map_bytes(height, width)
            }
            None => 0,
        }
    }

    /// Where it works.
    pub fn device(&self) -> &Device {
        &self.device
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
        let at_once = self.at_once(height, width);
        match &network.layers {
            Layers::Host(form) => {
                let moments = host::map_images(images, Padding::ONE, at_once, |x| form.encoder.forward(x))?;
                let latent = self.downsampling();
                let shape = [batch, 2 * self.latent_channels, height / latent, width / latent];
                Posterior::from_moments(&moments, shape, &self.device)
            }
            Layers::Tensors(form) => {
                let moments =
                    tensors::map_batches(images, at_once, &self.device, |x| form.encoder.forward(x))?;
                Posterior::split(&moments)
            }
        }
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
        match &network.layers {
            Layers::Host(form) => {
                let images = host::map_images(latents, Padding::NONE, at_once, |x| form.decoder.forward(x))?;
                let channels = network.config.out_channels;
                let shape = (batch, channels, factor * height, factor * width);
                Ok(Tensor::from_vec(images, shape, &self.device)?)
            }
            Layers::Tensors(form) => {
                tensors::map_batches(latents, at_once, &self.device, |x| form.decoder.forward(x))
            }
        }
    }

    /// How many images of `height` x `width` pixels may be in work at one time.
    fn at_once(&self, height: usize, width: usize) -> usize {
        let most = self.activation_bytes / self.image_bytes(height, width).max(1);
        match self.network.as_ref().map(|network| &network.layers) {
            Some(Layers::Tensors(_)) => most.max(1) as usize,
            _ => most.clamp(1, rayon::current_num_threads() as u64) as usize,
        }
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

#[cfg(test)]
mod tests;
