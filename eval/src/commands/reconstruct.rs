//! `eval fid --reconstruct`: the best that a model of a dataset's latents can come to.
//!
//! originals -> autoencoder -> mean -> what a store gives back of it -> decoder -> bytes -> FID against the originals, for
//! every dtype of the shards, and for the latents as the dataset has them. The originals are seen once, for all rows.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use preprocess::console::progress::Progress;
use preprocess::console::{JsonTarget, Printer};
use preprocess::image::{RgbImage, tensor};
use preprocess::vae::AutoencoderKl;
use serde::Serialize;
use shards::manifest::{Dtype, Store};
use shards::quantize;

use super::scoring::{ScoringArgs, warnings};
use crate::dataset_images::DatasetImages;
use crate::error::Error;
use crate::features::{BATCH, Extractor, Keep};
use crate::inception::weights::LoadedInception;
use crate::metric::fid::frechet_distance;

/// FID alone.
const KEEP: Keep = Keep {
    pool_rows: 0,
    spatial: false,
    logits: false,
};

/// One way to keep latents, and what it costs.
#[derive(Debug, Serialize)]
struct Row {
    /// The dtype, or `as stored` for what the dataset holds.
    latents: String,
    /// FID of the reconstructions against the originals.
    rfid: f64,
    /// Mean of the images' peak signal-to-noise ratios, decibels; absent when an image came back exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    psnr: Option<f64>,
    /// Root of the mean squared difference from the encoder's mean, in units of unscaled latents.
    latent_rms_error: f64,
}

/// Everything that the command finds.
#[derive(Debug, Serialize)]
struct Found {
    dataset: String,
    vae: String,
    samples: u64,
    inception: String,
    /// What the features come from, where it is not the processor's arithmetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    arithmetic: Option<&'static str>,
    comparable: bool,
    rows: Vec<Row>,
    warnings: Vec<String>,
}

/// What is summed up of one row.
struct Sums<'a> {
    extractor: Extractor<'a>,
    psnr: f64,
    squared_error: f64,
    elements: u64,
}

/// Reconstructs, prints and saves.
///
/// # Errors
/// If `dir` is no dataset, its originals or its autoencoder cannot be had, or a file cannot be written.
pub(super) fn run(
    dir: &Path,
    args: &ScoringArgs,
    out: Option<&Path>,
    json: &JsonTarget,
    printer: &mut Printer,
) -> Result<()> {
    let images = DatasetImages::open(dir)?;
    let autoencoder = images.autoencoder()?;
    let inception = args.load(0)?;
    let found = reconstruct(&images, &autoencoder, &inception, args.samples(), printer)?;
    let table = table(&found);
    printer.say(&table);
    for warning in &found.warnings {
        printer.note(format_args!("warning: {warning}"));
    }
    if let Some(folder) = out {
        fs_err::create_dir_all(folder)?;
        fs_err::write(
            folder.join("reconstruct.json"),
            serde_json::to_string_pretty(&found)?,
        )?;
        fs_err::write(folder.join("reconstruct.md"), format!("{table}\n"))?;
        printer.note(format_args!("saved to {}", folder.display()));
    }
    printer
        .json(json, &serde_json::to_value(found)?)
        .context("the JSON file cannot be written")
}

fn reconstruct(
    images: &DatasetImages,
    autoencoder: &AutoencoderKl,
    inception: &LoadedInception,
    limit: usize,
    printer: &mut Printer,
) -> Result<Found> {
    let manifest = images.manifest();
    let (shape, network) = (manifest.shape, &inception.network);
    let total = images.count().min(limit);
    anyhow::ensure!(total > 1, "at least two images are needed");
    let mut originals = Extractor::new(network, KEEP);
    let mut rows: Vec<Sums<'_>> = (0..=Dtype::ALL.len()).map(|_| Sums::new(network)).collect();
    let mut progress = Progress::new(printer, "reconstruct", "images", 0, Some(total as u64));
    images.visit_with_latents(BATCH, total, |batch, stored| {
        originals.push(&batch)?;
        let mean = autoencoder.encode(&tensor::to_unit(&batch, &Device::Cpu)?)?.mean;
        let mean: Vec<f32> = mean.flatten_all()?.to_vec1()?;
        for (row, dtype) in rows.iter_mut().zip(Dtype::ALL) {
            let mut latents = mean.clone();
            for latent in latents.chunks_exact_mut(shape.iter().product()) {
                quantize::round_trip(shape, dtype, latent).map_err(|what| {
                    Error::Numeric(format!("a latent cannot be stored as {}: {what}", dtype.name()))
                })?;
            }
            row.push(autoencoder, &batch, &mean, latents, shape)?;
        }
        if let Some(row) = rows.last_mut() {
            row.push(
                autoencoder,
                &batch,
                &mean,
                stored.flatten_all()?.to_vec1()?,
                shape,
            )?;
        }
        progress.set(printer, originals.count(), "");
        Ok(())
    })?;
    progress.finish();

    let (samples, originals) = (originals.count(), originals.finish()?);
    let store = &manifest.store;
    let as_stored = format!("as stored ({})", store.dtype.name());
    let names = Dtype::ALL.map(|dtype| dtype.name().to_owned());
    let mut found = Vec::new();
    for (latents, row) in names.into_iter().chain([as_stored]).zip(rows) {
        let psnr = row.psnr / samples as f64;
        let latent_rms_error = (row.squared_error / row.elements as f64).sqrt();
        found.push(Row {
            latents,
            rfid: frechet_distance(&originals.pool, &row.extractor.finish()?.pool)?,
            psnr: psnr.is_finite().then_some(psnr),
            latent_rms_error,
        });
    }
    let mut warnings = warnings(&inception.id, inception.comparable, samples);
    if store.store == Store::Sample {
        warnings.push(
            "the dataset stores samples of the posterior, not its mean: its row has their noise, too"
                .to_owned(),
        );
    }
    Ok(Found {
        dataset: images.dir().display().to_string(),
        vae: manifest.vae.id.clone(),
        samples,
        inception: inception.id.clone(),
        arithmetic: inception.network.arithmetic(),
        comparable: inception.comparable,
        rows: found,
        warnings,
    })
}

impl<'a> Sums<'a> {
    fn new(network: &'a crate::inception::Inception) -> Self {
        Self {
            extractor: Extractor::new(network, KEEP),
            psnr: 0.0,
            squared_error: 0.0,
            elements: 0,
        }
    }

    /// Adds what `latents` `[B, C, H, W]`, kept in place of `mean`, give back of the `originals`.
    fn push(
        &mut self,
        autoencoder: &AutoencoderKl,
        originals: &[RgbImage],
        mean: &[f32],
        latents: Vec<f32>,
        [channels, height, width]: [usize; 3],
    ) -> crate::error::Result<()> {
        let pairs = latents.iter().zip(mean);
        self.squared_error += pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        self.elements += mean.len() as u64;
        let latents = Tensor::from_vec(latents, (originals.len(), channels, height, width), &Device::Cpu)?;
        let decoded = tensor::to_rgb(&autoencoder.decode(&latents)?)?;
        self.psnr += originals
            .iter()
            .zip(&decoded)
            .map(|(a, b)| a.psnr(b))
            .sum::<f64>();
        self.extractor.push(&decoded)
    }
}

fn table(found: &Found) -> String {
    let mut lines = vec![
        format!(
            "{} images of {} through the autoencoder {}",
            found.samples, found.dataset, found.vae
        ),
        "| latents | rFID | PSNR, dB | rms error of the latents |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for row in &found.rows {
        let psnr = row
            .psnr
            .map_or_else(|| "exact".to_owned(), |psnr| format!("{psnr:.2}"));
        lines.push(format!(
            "| {} | {:.4} | {psnr} | {:.3e} |",
            row.latents, row.rfid, row.latent_rms_error
        ));
    }
    if !found.comparable {
        lines.push("not comparable with published numbers".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
