//! `preprocess reconstruct`: what an autoencoder keeps of images.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use candle_core::Device;

use crate::console::grid::write_grid_png;
use crate::console::{JsonTarget, Printer, exit};
use crate::device::Devices;
use crate::image::{crop::decode_and_crop, tensor};
use crate::nn::GpuPrecision;

use super::autoencoder;

/// Writes pairs of original and reconstruction, with the PSNR of each.
#[derive(Debug, clap::Args)]
pub struct ReconstructArgs {
    /// Image files
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// The autoencoder: a hub id, a folder, a file, `tiny` or `none`
    #[arg(long, default_value = autoencoder::DEFAULT)]
    vae: String,
    /// Side of the square crop, in pixels
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    size: u32,
    /// The PNG of pairs: original left, reconstruction right
    #[arg(long, short)]
    out: PathBuf,
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

/// Runs the command.
///
/// # Errors
/// For a bad image, an autoencoder that cannot be loaded, or a file that cannot be written.
pub fn run(args: &ReconstructArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let size = args.size as usize;
    let vae = autoencoder::load(&args.vae, size, &args.device.first()?, args.precision)?;
    let mut pairs = Vec::with_capacity(2 * args.images.len());
    let mut rows = Vec::new();
    for path in &args.images {
        let bytes = fs_err::read(path)?;
        let image = decode_and_crop(&bytes, size).with_context(|| path.display().to_string())?;
        let batch = tensor::to_unit(std::slice::from_ref(&image), &Device::Cpu)?;
        let decoded = tensor::to_rgb(&vae.decode(&vae.encode(&batch)?.mean)?)?;
        for copy in decoded {
            let db = image.psnr(&copy);
            printer.say(format_args!("{db:6.2} dB  {}", path.display()));
            // JSON has no infinity: an exact copy has no PSNR.
            rows.push(serde_json::json!({ "image": path, "psnr": db.is_finite().then_some(db) }));
            pairs.extend([image.clone(), copy]);
        }
    }
    write_grid_png(&pairs, 2, &args.out).with_context(|| format!("writing {}", args.out.display()))?;
    printer.say(format_args!("wrote {}", args.out.display()));
    printer.json(json, &serde_json::json!({ "out": args.out, "images": rows }))?;
    Ok(exit::DONE)
}
