//! `preprocess verify`: encodes some samples of a dataset anew and compares.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use candle_core::Device;
use shards::manifest::Store;
use shards::shuffle::epoch_order;

use crate::console::{JsonTarget, Printer, exit};
use crate::dataset::Request;
use crate::device::Devices;
use crate::image::tensor;
use crate::nn::GpuPrecision;

use super::autoencoder;

/// Largest root mean square difference, over that of the latents, beyond what the storage itself loses.
const TOLERANCE: f64 = 0.005;

/// Encodes some samples of a dataset anew from its source and compares them with what is stored.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The dataset's folder
    dataset: PathBuf,
    /// The source, as `encode` takes it: a folder, a file, `hub`, or `demo`
    #[arg(long)]
    against: PathBuf,
    /// How many samples, drawn at random
    #[arg(long, default_value_t = 64)]
    samples: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The autoencoder, if it is not where it was
    #[arg(long)]
    vae: Option<String>,
    /// Where the autoencoder runs: `cpu`, or `cuda:1` for the second GPU
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda:N")]
    device: Devices,
    /// What the factors of the autoencoder's convolutions are rounded to on a GPU
    #[arg(long, value_enum, default_value_t)]
    precision: GpuPrecision,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command; samples that differ give exit code 1.
///
/// # Errors
/// When the dataset or its source cannot be read, or when only noisy samples are stored.
pub fn run(args: &VerifyArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let stored = shards::dataset::Dataset::open(&args.dataset)?;
    let manifest = stored.manifest();
    if manifest.store.store == Store::Sample {
        bail!("the dataset stores samples of the posterior, which cannot be compared with its mean");
    }
    let against = (args.against != Path::new("demo")).then_some(args.against.as_path());
    let opened = Request::again(manifest, against).open(&mut |text| printer.note(format_args!("{text}")))?;
    let source = &opened.dataset;
    let size = manifest.image_size;
    let vae = autoencoder::load(
        args.vae.as_deref().unwrap_or(&manifest.vae.id),
        size,
        &args.device.first()?,
        args.precision,
    )?;
    if autoencoder::shape(&vae, size) != manifest.shape {
        bail!(
            "the autoencoder's latents are {:?}, the dataset's {:?}",
            autoencoder::shape(&vae, size),
            manifest.shape
        );
    }
    let count = args.samples.clamp(1, stored.len());
    let (mut worst, mut differ) = (0f64, 0usize);
    let mut mean = vec![0f32; stored.elements()];
    // In the source's order: archives are read from front to back.
    let mut drawn = Vec::with_capacity(count);
    for &sample in &epoch_order(args.seed, 0, stored.ids())[..count] {
        drawn.push((source.position(stored.id(sample as usize)?), sample as usize));
    }
    drawn.sort_unstable();
    for (position, i) in drawn {
        let key = stored.key(i)?.to_string();
        let same = |position: &u64| {
            source.key(*position) == key && Some(source.label(*position)) == stored.label(i).ok()
        };
        let Some(position) = position.filter(same) else {
            differ += 1;
            printer.say(format_args!(
                "{key}: the source has another image or label at this place"
            ));
            continue;
        };
        let image = source.load(position, size).with_context(|| key.clone())?;
        for view in 0..stored.views() {
            let image = if view == 0 { image.clone() } else { image.flipped() };
            let latent = vae
                .encode(&tensor::to_unit(&[image], &Device::Cpu)?)?
                .mean
                .flatten_all()?
                .to_vec1::<f32>()?;
            stored.read(i, view, &mut mean, None)?;
            let square = |values: &mut dyn Iterator<Item = f64>| {
                (values.map(|v| v * v).sum::<f64>() / latent.len().max(1) as f64).sqrt()
            };
            let error = square(&mut latent.iter().zip(&mean).map(|(a, b)| f64::from(a - b)));
            let scale = square(&mut latent.iter().map(|v| f64::from(*v))).max(1e-12);
            worst = worst.max(error / scale);
            if error > TOLERANCE * scale + 2.0 * manifest.quantization_error {
                differ += 1;
                printer.say(format_args!(
                    "{key} view {view}: differs by {:.3} % of the latent",
                    100.0 * error / scale
                ));
            }
        }
    }
    printer.say(format_args!(
        "compared {count} samples: {differ} differ, at most {:.4} % of the latent",
        100.0 * worst
    ));
    let report = serde_json::json!({ "samples": count, "differ": differ, "worst_relative_rms": worst });
    printer.json(json, &report)?;
    Ok(if differ == 0 { exit::DONE } else { exit::BAD })
}
