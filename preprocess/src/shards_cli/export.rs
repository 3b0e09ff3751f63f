//! `shards export`: a dataset as plain arrays for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use shards::dataset::Dataset;
use shards::export::{Export, Latent};

use crate::console::count::{parse_count, with_commas};
use crate::console::{JsonTarget, Printer, Progress, exit};
use crate::npz::{Dtype, Header, NpzWriter};

/// Writes `mean` and `logvar` [N, V, C, H, W] (f32; V = 2 with both mirror views) and `label` [N] (i64), in the order
/// of the keys.
///
/// The N source keys are a JSON array: the metadata entry `keys` of a safetensors file, the bytes of the array `keys`
/// of an npz file (`json.loads(bytes(archive["keys"]))`).
///
/// With `--layout dit` OUT becomes a folder as fast-DiT's training reads it: for the i-th image in key order
/// `imagenet256_features/<i>.npy`, a sample of its posterior times the scaling factor, f32 [1, C, H, W], and
/// `imagenet256_labels/<i>.npy`, i64 [1].
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// A dataset's folder
    dataset: PathBuf,
    /// The file to write: its name ends with .safetensors or .npz; for `--layout dit` a folder
    #[arg(long)]
    out: PathBuf,
    /// How to write it; by default as the name of OUT says
    #[arg(long, value_parser = ["dit"])]
    layout: Option<String>,
    /// Seed of the samples of `--layout dit`
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the means instead of samples, for `--layout dit`
    #[arg(long, requires = "layout", conflicts_with = "seed")]
    mean: bool,
    /// At most so many samples
    #[arg(long, value_parser = parse_count)]
    limit: Option<u64>,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

enum Format {
    Safetensors,
    Npz,
}

/// Runs the command.
pub(super) fn run(args: &ExportArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    if args.layout.is_some() {
        return run_dit(args, printer);
    }
    let format = match args.out.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => Format::Safetensors,
        Some("npz") => Format::Npz,
        _ => bail!(
            "{}: the name must tell the format\nhint: --out FILE.safetensors or --out FILE.npz; for a folder --layout dit",
            args.out.display()
        ),
    };
    let dataset = Dataset::open(&args.dataset)?;
    let export = Export::new(&dataset, args.limit.map(|limit| limit as usize))?;
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    match format {
        Format::Safetensors => export.write_safetensors(&args.out)?,
        Format::Npz => {
            write_npz(&export, &args.out).with_context(|| format!("exporting to {}", args.out.display()))?;
        }
    }
    let shape = export.shape();
    let arrays: Vec<&str> = export.parts().iter().map(|part| part.name()).collect();
    printer.say(format_args!(
        "wrote {} samples, {} of shape {shape:?}, to {}",
        with_commas(shape[0] as u64),
        arrays.join(" and "),
        args.out.display()
    ));
    let report = json!({ "out": args.out, "samples": shape[0], "shape": shape, "arrays": arrays });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

fn run_dit(args: &ExportArgs, printer: &mut Printer) -> Result<u8> {
    let dataset = Dataset::open(&args.dataset)?;
    let export = Export::new(&dataset, args.limit.map(|limit| limit as usize))?;
    let latent = if args.mean {
        Latent::Mean
    } else {
        Latent::Sample(args.seed)
    };
    let samples = export.len() as u64;
    let mut progress = Progress::new(printer, "export", "samples", 0, Some(samples));
    export.write_dit(&args.out, latent, |done| progress.set(printer, done, ""))?;
    progress.finish();
    printer.say(format_args!(
        "wrote {} latents and labels, two files each, to {}",
        with_commas(samples),
        args.out.display()
    ));
    let [_, _, c, h, w] = export.shape();
    let report = json!({
        "out": args.out,
        "layout": "dit",
        "samples": samples,
        "shape": [1, c, h, w],
        "scaling_factor": dataset.manifest().vae.scaling_factor,
    });
    printer.json(&args.json, &report)?;
    Ok(exit::DONE)
}

fn write_npz(export: &Export<'_>, path: &Path) -> Result<()> {
    let mut npz = NpzWriter::create(path)?;
    let shape = export.shape();
    for &part in export.parts() {
        let header = Header {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        npz.start(part.name(), &header)?;
        export.stream(part, |values| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            npz.write(&bytes).map_err(Failed::Npz)
        })?;
    }
    let header = Header {
        dtype: Dtype::I64,
        shape: vec![shape[0]],
    };
    npz.start("label", &header)?;
    for label in export.labels()? {
        npz.write(&label.to_le_bytes())?;
    }
    npz.text("keys", &export.keys_json()?)?;
    Ok(npz.finish()?)
}

/// Either end of the copy.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Shards(#[from] shards::error::Error),
    #[error(transparent)]
    Npz(crate::npz::Error),
}
