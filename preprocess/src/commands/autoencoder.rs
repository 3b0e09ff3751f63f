//! The autoencoder that a command was told to use.

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, DeviceLocation, Tensor};
use shards::writer::Moments;

use crate::console::Printer;
use crate::console::count::bytes;
use crate::nn::GpuPrecision;
use crate::pipeline::Encoder;
use crate::vae::{AutoencoderKl, VaeSource};

/// What `--vae` is when it is not given.
pub(super) const DEFAULT: &str = "stabilityai/sd-vae-ft-ema";

/// Loads what `--vae` names, for images of `size` x `size`, to work on `device` in `precision`, which is of GPUs.
pub(super) fn load(
    name: &str,
    size: usize,
    device: &Device,
    precision: GpuPrecision,
) -> Result<AutoencoderKl> {
    if device.is_cpu() && precision != GpuPrecision::F32 {
        bail!("--precision is of GPUs: --device cuda");
    }
    let source: VaeSource = name.parse()?;
    // Pixels have nothing to compute.
    let device = if source == VaeSource::None {
        &Device::Cpu
    } else {
        device
    };
    let vae = AutoencoderKl::load_in(&source, device, precision).with_context(|| {
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

/// Gives the autoencoder what its images of `size` x `size` take of `memory` bytes, at most half of it or one image; the
/// rest, which is returned, is the images' on their way to it and from it.
pub(super) fn share_memory(vae: &mut AutoencoderKl, size: usize, memory: u64, printer: &mut Printer) -> u64 {
    let image = vae.image_bytes(size, size);
    let most = image * rayon::current_num_threads() as u64;
    let share = most.min(memory / 2).max(image);
    if share > memory {
        printer.note(format_args!(
            "note     one image in the autoencoder takes {}, more than --memory {}: they go one by one",
            bytes(image),
            bytes(memory)
        ));
    }
    vae.set_activation_bytes(share);
    memory.saturating_sub(share)
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
        let posterior = Self::encode(self, images).map_err(|error| match self.device().location() {
            DeviceLocation::Cuda { gpu_id } => anyhow::Error::from(error).context(format!(
                "on cuda:{gpu_id} (a smaller --batch needs less of its memory)"
            )),
            _ => error.into(),
        })?;
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
