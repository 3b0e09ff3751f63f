//! `preprocess encode`: a data set to a folder of shards.

mod header;
mod part;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::console::count::{bytes, parse_count, with_commas};
use crate::console::{JsonTarget, Printer, exit};
use crate::dataset::{Request, open::NAMES};
use crate::device::Devices;
use crate::nn::GpuPrecision;
use crate::pipeline::{self, EncodeConfig, Encoder, part_range};

use super::autoencoder;
use part::PartChoice;

const IMAGENET_CLASSES: usize = 1000;

/// Encodes a data set into shards; run again after an interruption, it continues.
#[derive(Debug, clap::Args)]
pub struct EncodeArgs {
    /// Which data set
    #[arg(long, value_parser = NAMES)]
    dataset: String,
    /// Where it lies: a file, a folder, or `hub`. What is there is recognised: ImageNet as class folders, as tar archives,
    /// as parquet or WebDataset files; LSUN as an LMDB folder or its zip archive. Nothing is unpacked
    /// [default: $IMAGENET_DIR or $LSUN_DIR, else ImageNet from the hub]
    #[arg(long)]
    source: Option<PathBuf>,
    /// Which part of the data set: `train`, `validation`, ...
    #[arg(long, default_value = "train")]
    split: String,
    /// Side of the square crop, in pixels
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    size: u32,
    /// The autoencoder: a hub id, a folder, a file, `tiny`, or `none` for pixels
    #[arg(long, default_value = autoencoder::DEFAULT)]
    vae: String,
    /// What is stored of the posterior: moments, mean or sample; moments unless pixels are stored
    #[arg(long, value_parser = ["moments", "mean", "sample"])]
    store: Option<String>,
    /// Number format of the mean
    #[arg(long, default_value = "bf16", value_parser = ["f32", "f16", "bf16", "int8"])]
    dtype: String,
    /// Which mirror views are stored
    #[arg(long, default_value = "both", value_parser = ["both", "none"])]
    flip: String,
    /// Take at most so many images, from the first on
    #[arg(long, value_parser = parse_count)]
    limit: Option<u64>,
    /// One machine's share: i/n, i from 0 to n-1 (n/n is 0/n, so counting from 1 works, too); `shards merge` puts the
    /// parts together. Taken from srun's or mpirun's variables when absent
    #[arg(long, value_name = "I/N")]
    part: Option<PartChoice>,
    /// Compressed or raw frames
    #[arg(long, default_value = "zstd", value_parser = ["zstd", "none"])]
    compression: String,
    /// Samples in a shard
    #[arg(long, default_value = "8192", value_parser = parse_count)]
    shard_samples: u64,
    /// Views of samples in a frame
    #[arg(long, default_value_t = 1)]
    frame_samples: usize,
    /// Bad images that are tolerated: a count, or a share such as 0.1%
    #[arg(long, default_value = "0.1%")]
    max_rejects: String,
    /// Where the autoencoder runs: `cpu`, or `cuda:0,1` for one worker on each
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda:N,..")]
    device: Devices,
    /// What the factors of the autoencoder's convolutions are rounded to on a GPU
    #[arg(long, value_enum, default_value_t)]
    precision: GpuPrecision,
    /// Seed of what is drawn: the demo images, and the noise of `--store sample`
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images encoded together; a GPU likes more
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Threads that decode; all cores when absent
    #[arg(long)]
    workers: Option<usize>,
    /// Memory for images: in flight, being decoded, in the autoencoder; its weights come on top: 500M, 2G
    #[arg(long, default_value = "2G", value_parser = parse_count)]
    memory: u64,
    /// The dataset's folder [default: data/<dataset>-<size>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For settings that cannot be met, and those of the pipeline.
pub fn run(args: &EncodeArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let devices = args.device.open()?;
    let part = match args.part {
        Some(part) => Some(part),
        None => part::from_environment()?,
    };
    let request = Request {
        dataset: args.dataset.clone(),
        source: args.source.clone(),
        split: args.split.clone(),
        limit: args.limit,
        seed: args.seed,
    };
    let opened = request.open(&mut |text| printer.note(format_args!("{text}")))?;
    let source = &opened.dataset;
    let images = args.limit.map_or(source.len(), |limit| limit.min(source.len()));
    let classes = source.class_names().len();
    if args.dataset == "imagenet" && classes < IMAGENET_CLASSES {
        printer.note(format_args!(
            "note     {classes} of ImageNet's 1,000 classes are here: labels are their ranks among these"
        ));
    }
    let size = args.size as usize;
    let mut autoencoders = Vec::with_capacity(devices.len());
    for device in &devices {
        autoencoders.push(autoencoder::load(&args.vae, size, device, args.precision)?);
    }
    let mut memory = args.memory;
    if args.device == Devices::Cpu {
        for vae in &mut autoencoders {
            memory = autoencoder::share_memory(vae, size, memory, printer);
        }
    }
    let vae = autoencoders.first().context("no device to encode on")?;
    let mut header = header::header(args, &opened, vae)?;
    header.part = part.and_then(PartChoice::recorded);
    let positions = part.map_or(0..images, |part| part_range(images, part.index, part.count));
    let max_rejects = allowance(&args.max_rejects, positions.end - positions.start)?;
    let whole = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("data/{}-{size}", args.dataset)));
    let out = part.map_or_else(|| whole.clone(), |part| part.folder(&whole, args.out.is_some()));
    printer.note(format_args!(
        "encode   {} of {} {} images ({}) at {size} px through {} into {}{}",
        with_commas(positions.end - positions.start),
        with_commas(source.len()),
        args.dataset,
        source.container(),
        args.vae,
        out.display(),
        part.map_or_else(String::new, |part| format!(", {part}"))
    ));
    let workers = args
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let config = EncodeConfig {
        out: out.clone(),
        header,
        positions,
        max_rejects,
        batch: args.batch,
        workers,
        memory,
    };
    // On the processor the network runs on all cores by itself; each GPU has a worker. Pixels take no more than a
    // conversion, which every worker can do.
    let encoders: Vec<&dyn Encoder> = if autoencoder::is_identity(vae) {
        vec![vae; workers]
    } else {
        autoencoders.iter().map(|vae| vae as &dyn Encoder).collect()
    };
    let summary = match pipeline::encode(&config, source, &encoders, printer) {
        Err(error @ pipeline::Error::TooManyRejects { .. }) => {
            printer.error(format_args!("error: {error}"));
            return Ok(exit::BAD);
        }
        other => other?,
    };
    let stored: u64 = summary.manifest.shards.iter().map(|shard| shard.bytes).sum();
    let next = match part {
        Some(part) if part.count > 1 => part.next(&whole, &out),
        _ => format!("trainer fit --data {}", out.display()),
    };
    printer.say(format_args!(
        "wrote {} samples, {} in {} shards, {} rejected, to {} ({:.1} images/s)\nnext: {next}",
        with_commas(summary.manifest.samples),
        bytes(stored),
        summary.manifest.shards.len(),
        summary.rejects,
        out.display(),
        summary.images_per_second,
    ));
    let report = serde_json::json!({
        "out": out,
        "samples": summary.manifest.samples,
        "rejects": summary.rejects,
        "resumed_at": summary.resumed_at,
        "images_per_second": summary.images_per_second,
        "stages_busy": summary.stages.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "bytes": stored,
        "fingerprint": summary.manifest.fingerprint,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

/// `0.1%` of the images (at least one), or a count.
fn allowance(text: &str, images: u64) -> Result<u64> {
    if let Some(share) = text.strip_suffix('%') {
        return match share.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => {
                Ok((images as f64 * percent / 100.0).ceil() as u64)
            }
            _ => bail!("--max-rejects {text}: a share lies between 0% and 100%"),
        };
    }
    parse_count(text).map_err(anyhow::Error::msg)
}
