//! `preprocess encode`: a data set to a folder of shards.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};
use shards::manifest::{Compression, Dtype, Flip, ManifestHeader, Source, Store, StoreSettings};

use crate::console::count::{bytes, parse_count, with_commas};
use crate::console::{JsonTarget, Printer, exit};
use crate::dataset::{Dataset, demo::Demo, folder::Folder};
use crate::pipeline::{self, EncodeConfig};
use crate::vae::AutoencoderKl;

use super::autoencoder;

/// Images of the demo data set when no limit is given.
const DEMO_IMAGES: u64 = 4000;

/// Encodes a data set into shards; run again after an interruption, it continues.
#[derive(Debug, clap::Args)]
pub struct EncodeArgs {
    /// Which data set: `folder` or `demo`
    #[arg(long)]
    dataset: String,
    /// Where it lies: for `folder`, class subfolders with images or one folder of images
    #[arg(long)]
    source: Option<PathBuf>,
    /// Which part of the data set; recorded
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
    /// One machine's share, i/n
    #[arg(long)]
    part: Option<String>,
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
    /// Where the autoencoder runs
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Seed of what is drawn: the demo images, and the noise of `--store sample`
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Images encoded together
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Threads that read and decode; all cores when absent
    #[arg(long)]
    workers: Option<usize>,
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
    if args.part.is_some() {
        bail!("--part is not available in this version\nhint: encode the data set in one run");
    }
    if args.device != "cpu" {
        bail!(
            "--device {} is not available in this version\nhint: --device cpu",
            args.device
        );
    }
    let source = open(args)?;
    let images = args.limit.map_or(source.len(), |limit| limit.min(source.len()));
    let max_rejects = allowance(&args.max_rejects, images)?;
    let size = args.size as usize;
    let vae = autoencoder::load(&args.vae, size)?;
    let header = header(args, &source, &vae)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("data/{}-{size}", args.dataset)));
    printer.note(format_args!(
        "encode   {} of {} {} images at {size} px through {} into {}",
        with_commas(images),
        with_commas(source.len()),
        args.dataset,
        args.vae,
        out.display()
    ));
    let workers = args
        .workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let config = EncodeConfig {
        out: out.clone(),
        header,
        images,
        max_rejects,
        batch: args.batch,
        workers,
    };
    let summary = match pipeline::encode(&config, &source, &vae, printer) {
        Err(error @ pipeline::Error::TooManyRejects { .. }) => {
            printer.error(format_args!("error: {error}"));
            return Ok(exit::BAD);
        }
        other => other?,
    };
    let stored: u64 = summary.manifest.shards.iter().map(|shard| shard.bytes).sum();
    printer.say(format_args!(
        "wrote {} samples, {} in {} shards, {} rejected, to {} ({:.1} images/s)\nnext: trainer fit --data {}",
        with_commas(summary.manifest.samples),
        bytes(stored),
        summary.manifest.shards.len(),
        summary.rejects,
        out.display(),
        summary.images_per_second,
        out.display()
    ));
    let report = serde_json::json!({
        "out": out,
        "samples": summary.manifest.samples,
        "rejects": summary.rejects,
        "resumed_at": summary.resumed_at,
        "images_per_second": summary.images_per_second,
        "bytes": stored,
        "fingerprint": summary.manifest.fingerprint,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

fn open(args: &EncodeArgs) -> Result<Dataset> {
    match (args.dataset.as_str(), &args.source) {
        ("demo", None) => Ok(Dataset::Demo(Demo {
            seed: args.seed,
            count: args.limit.unwrap_or(DEMO_IMAGES),
        })),
        ("demo", Some(_)) => bail!("the demo data set is drawn by the program\nhint: leave --source out"),
        ("folder", Some(path)) => Ok(Dataset::Folder(Folder::open(path)?)),
        ("folder", None) => bail!("where are the images?\nhint: --dataset folder --source DIR"),
        ("imagenet" | "lsun-church" | "lsun-bedroom" | "parquet" | "webdataset", _) => bail!(
            "--dataset {} is not available in this version\n\
             hint: `folder` reads class subfolders of JPEG, PNG and WebP files (ImageNet's train folder is one), \
             `demo` needs no files",
            args.dataset
        ),
        (other, _) => {
            bail!("`{other}` is no data set that is known\nhint: --dataset folder or --dataset demo")
        }
    }
}

fn header(args: &EncodeArgs, source: &Dataset, vae: &AutoencoderKl) -> Result<ManifestHeader> {
    let size = args.size as usize;
    let store = match args.store.as_deref() {
        Some("moments") if !autoencoder::has_variance(vae) => {
            bail!("pixels have no variance to store\nhint: --store mean")
        }
        Some("sample") => Store::Sample,
        Some("moments") => Store::Moments,
        None if autoencoder::has_variance(vae) => Store::Moments,
        _ => Store::Mean,
    };
    let dtype = match args.dtype.as_str() {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        "int8" => Dtype::Int8,
        _ => Dtype::Bf16,
    };
    let settings = StoreSettings {
        store,
        dtype,
        flip: if args.flip == "both" {
            Flip::Both
        } else {
            Flip::None
        },
        compression: if args.compression == "zstd" {
            Compression::Zstd
        } else {
            Compression::None
        },
        frame_samples: args.frame_samples,
        shard_samples: args.shard_samples as usize,
    };
    let (transform, decoder) = match source {
        Dataset::Demo(_) => ("drawn", "none"),
        Dataset::Folder(_) => ("adm-center-crop", "libjpeg-turbo islow fancy"),
    };
    let class_names = source.class_names();
    Ok(ManifestHeader {
        name: format!("{}-{size}", args.dataset),
        source: Source {
            dataset: args.dataset.clone(),
            split: args.split.clone(),
            path: args
                .source
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            limit: args.limit,
            listing: matches!(source, Dataset::Folder(_)).then(|| listing(source)),
        },
        image_size: size,
        transform: transform.into(),
        decoder: decoder.into(),
        vae: vae.record().clone(),
        store: settings,
        shape: autoencoder::shape(vae, size),
        num_classes: class_names.len(),
        class_names,
        seed: args.seed,
        part: None,
    })
}

/// A hash of all keys in order, so that a continued run finds the source as it was.
fn listing(source: &Dataset) -> String {
    let mut hash = Sha256::new();
    for id in 0..source.len() {
        hash.update(source.key(id));
        hash.update(b"\n");
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
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
