//! `eval fid`: scores a set of images against a reference.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use preprocess::console::printer::JsonTarget;
use preprocess::console::progress::Progress;
use preprocess::console::{Printer, count, exit, grid};
use preprocess::image::RgbImage;
use trainer::commands::ranks::{threads_of, with_ranks};
use trainer::commands::sample::SamplingArgs;
use trainer::commands::with_threads;
use trainer::distributed::HostReducer;

use crate::features::{Keep, Summary};
use crate::generated::{GeneratedImages, Stage};
use crate::images::ImageSource;
use crate::inception::POOL_FEATURES;
use crate::inception::weights::{LoadedInception, WeightSource};
use crate::metric::fid::frechet_distance;
use crate::metric::precision_recall::{Distances, precision_recall};
use crate::reference::{self, REFERENCE_IMAGES};
use crate::report::{self, Picture, Scores};
use crate::transform;

use super::reconstruct;

/// Samples that the literature's numbers are computed from.
const USUAL_SAMPLES: u64 = 50_000;
/// Samples that the report shows.
const SHOWN: usize = 64;

/// What `eval fid` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sample from this model: a checkpoint, or a run for its newest one; without --images the newest run is sampled.
    #[arg(long, value_name = "DIR", conflicts_with = "images")]
    checkpoint: Option<PathBuf>,
    /// The samples: a folder of PNG, JPEG or WebP pictures, an .npz with `arr_0` of shape [N, H, W, 3], or a dataset.
    #[arg(long, value_name = "DIR|FILE.npz")]
    images: Option<PathBuf>,
    /// Instead: what the autoencoder of this dataset and each way to store its latents cost, as FID of the reconstructions
    /// against the originals.
    #[arg(long, value_name = "DATASET", conflicts_with_all = ["checkpoint", "images", "reference", "metrics", "work"])]
    reconstruct: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    scoring: ScoringArgs,
    /// Also write scores.json, report.md and report.html into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the scores as JSON, to stdout or to FILE: fid, sfid, inception_score, precision, recall (each absent unless
    /// asked for), samples, comparable, and what was compared.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "absent, without a value, with a value")]
    json: Option<Option<PathBuf>>,
}

/// How samples are scored: shared by the commands that do.
#[derive(Clone, Debug, clap::Args)]
pub struct ScoringArgs {
    /// What to compare with: an .npz with statistics (ADM's, or made by `eval reference`) or images; a folder of images;
    /// a dataset made by `preprocess encode` (its original images where they can be had; statistics are kept in it).
    /// Without it, the dataset that the model learned from.
    #[arg(long, value_name = "DIR|FILE.npz|DATASET")]
    reference: Option<PathBuf>,
    /// Score at most so many samples.
    #[arg(long, default_value = "50k", value_parser = count::parse_count)]
    samples: u64,
    /// Weights of the Inception network: `auto` downloads the published file once, a .pth or safetensors file, or
    /// `random:SEED` (numbers that compare with nothing else).
    #[arg(long, default_value = "auto", value_name = "auto|FILE|random:SEED")]
    pub(super) inception: WeightSource,
    /// What to compute.
    #[arg(long, value_delimiter = ',', default_value = "fid,sfid,is,precision,recall")]
    metrics: Vec<Metric>,
    /// Distances of precision and recall in half precision, as ADM's evaluator has them on a GPU.
    #[arg(long)]
    pr_f16: bool,
    /// Keep the samples of a model and their features here [default: `scored` in its run or export]
    #[arg(long, value_name = "DIR")]
    pub(super) work: Option<PathBuf>,
}

impl ScoringArgs {
    fn distances(&self) -> Distances {
        if self.pr_f16 {
            Distances::Half
        } else {
            Distances::Single
        }
    }

    /// The largest number of samples.
    pub(super) fn samples(&self) -> usize {
        usize::try_from(self.samples).unwrap_or(usize::MAX)
    }
}

/// A metric that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Metric {
    Fid,
    Sfid,
    Is,
    Precision,
    Recall,
}

/// Computes, prints and saves the scores.
///
/// # Errors
/// If a set cannot be read, or the two sides do not fit each other.
pub fn run(args: &Args, printer: &mut Printer) -> anyhow::Result<()> {
    printer.set_json(&args.json);
    if let Some(dataset) = &args.reconstruct {
        return reconstruct::run(dataset, &args.scoring, args.out.as_deref(), &args.json, printer);
    }
    with_ranks(printer, |printer, group| {
        let threads = threads_of(0, group);
        let scored = with_threads(threads, || {
            let source = samples_of(args)?;
            let inception = args.scoring.inception.load()?;
            score(&source, &args.scoring, &inception, printer, group)
        })?;
        if let Some((scores, shown)) = scored {
            tell(args, &scores, &shown, printer)?;
        }
        Ok(exit::DONE)
    })
    .map(|_| ())
}

/// Prints and saves the scores.
fn tell(args: &Args, scores: &Scores, shown: &[RgbImage], printer: &mut Printer) -> anyhow::Result<()> {
    let target: &JsonTarget = &args.json;
    printer.say(table(scores));
    for warning in &scores.warnings {
        printer.note(format_args!("warning: {warning}"));
    }
    if let Some(folder) = &args.out {
        save(folder, scores, shown)?;
        printer.note(format_args!("report: {}", folder.join("report.html").display()));
    }
    printer
        .json(target, &serde_json::to_value(scores)?)
        .context("the JSON file cannot be written")
}

/// What is scored.
pub(super) enum Samples {
    Images(PathBuf, ImageSource),
    Model(Box<GeneratedImages>),
}

/// The scores and the first samples; `None` in all processes but the first.
pub(super) fn score(
    source: &Samples,
    args: &ScoringArgs,
    inception: &LoadedInception,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> anyhow::Result<Option<(Scores, Vec<RgbImage>)>> {
    let wants = |metric| args.metrics.contains(&metric);
    let manifold = wants(Metric::Precision) || wants(Metric::Recall);
    // Wrong paths should be told before minutes of work.
    let reference_path = reference_of(args, source)?;
    let reference_source = ImageSource::open(&reference_path)?;
    let (total, images) = match source {
        Samples::Images(path, images) => (images.count()?.min(args.samples()), path.display().to_string()),
        Samples::Model(samples) => (samples.count(), samples.description()),
    };
    anyhow::ensure!(
        total > 1,
        "--samples {}: at least two images are needed",
        args.samples
    );
    let keep = |pool_rows: usize, logits| Keep {
        pool_rows: if manifold { pool_rows } else { 0 },
        spatial: wants(Metric::Sfid),
        logits,
    };
    reference::check(&reference_source, keep(REFERENCE_IMAGES, false))?;
    let keep_samples = keep(total, wants(Metric::Is));
    let seen = match source {
        Samples::Images(_, images) if group.rank() == 0 => {
            Some(summarise(images, inception, keep_samples, total, printer)?)
        }
        Samples::Images(..) => None,
        Samples::Model(samples) => draw(samples, inception, keep_samples, printer, group)?,
    };
    let Some((samples, shown)) = seen else {
        return Ok(None);
    };

    let mut progress = Progress::new(printer, "reference", "images", 0, None);
    let reference = reference::load(
        &reference_source,
        &inception.network,
        &inception.id,
        keep(REFERENCE_IMAGES, false),
        |done| {
            progress.set(printer, done, "");
        },
    )?;
    progress.finish();
    check_sizes(&samples, &reference)?;

    let mut scores = Scores {
        samples: samples.count,
        comparable: inception.comparable,
        images,
        reference: reference_path.display().to_string(),
        inception: inception.id.clone(),
        image_size: samples.size.map_or([0, 0], |(height, width)| [height, width]),
        inception_score: samples.inception_score,
        ..Scores::default()
    };
    if wants(Metric::Fid) {
        scores.fid = Some(frechet_distance(&reference.pool, &samples.pool)?);
    }
    if let (Some(theirs), Some(ours)) = (&reference.spatial, &samples.spatial) {
        scores.sfid = Some(frechet_distance(theirs, ours)?);
    }
    if manifold {
        let both = precision_recall(
            &reference.pool_rows,
            &samples.pool_rows,
            POOL_FEATURES,
            args.distances(),
        )?;
        scores.precision = Some(both.precision).filter(|_| wants(Metric::Precision));
        scores.recall = Some(both.recall).filter(|_| wants(Metric::Recall));
    }
    scores.warnings = warnings(&scores.inception, scores.comparable, scores.samples);
    let ours = match source {
        Samples::Images(_, images) => transform::of_images(images)?,
        Samples::Model(samples) => samples.transform(),
    };
    let theirs = transform::of_images(&reference_source)?;
    scores
        .warnings
        .extend(transform::warning(ours.as_deref(), theirs.as_deref()));
    if let Some(warning) = reference_source.warning()? {
        scores.warnings.push(format!("reference images {warning}"));
    }
    match source {
        Samples::Images(_, source) => {
            let both = source.warning()?.into_iter().chain(source.compression_warning());
            scores
                .warnings
                .extend(both.map(|warning| format!("sample images {warning}")));
        }
        Samples::Model(samples) => scores.warnings.extend(samples.warning()),
    }
    if manifold && args.pr_f16 {
        scores
            .warnings
            .push("precision and recall are from distances in half precision".to_owned());
    }
    Ok(Some((scores, shown)))
}

/// What the network sees in given images, and the first of them.
fn summarise(
    images: &ImageSource,
    inception: &LoadedInception,
    keep: Keep,
    total: usize,
    printer: &mut Printer,
) -> anyhow::Result<(Summary, Vec<RgbImage>)> {
    let mut shown = Vec::new();
    let mut progress = Progress::new(printer, "samples", "images", 0, Some(total as u64));
    let summary = reference::summarise(&inception.network, images, keep, total, |done, images| {
        let room = SHOWN.saturating_sub(shown.len());
        shown.extend(images.iter().take(room).cloned());
        progress.set(printer, done, "");
    })?;
    progress.finish();
    Ok((summary, shown))
}

/// What the network sees in the samples of a model, and the first of them; `None` in all processes but the first.
fn draw(
    samples: &GeneratedImages,
    inception: &LoadedInception,
    keep: Keep,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> anyhow::Result<Option<(Summary, Vec<RgbImage>)>> {
    let is_first = group.rank() == 0;
    if is_first {
        printer.note(format_args!("samples  kept in {}", samples.folder().display()));
    }
    let (network, id) = (&inception.network, &inception.id);
    let mut progress: Option<(&str, Progress)> = None;
    let seen = samples.summarise(network, id, keep, SHOWN, group, |stage| {
        if !is_first {
            return;
        }
        let (name, done, total) = match stage {
            Stage::Drawn(done, total) => ("sample", done, total),
            Stage::Seen(done, total) => ("features", done, total),
        };
        match &mut progress {
            Some((current, progress)) if *current == name => progress.set(printer, done, ""),
            _ => progress = Some((name, Progress::new(printer, name, "images", done, Some(total)))),
        }
    })?;
    if let Some((_, progress)) = progress {
        progress.finish();
    }
    Ok(seen)
}

/// The samples that the arguments name, or those of a model.
fn samples_of(args: &Args) -> anyhow::Result<Samples> {
    if let Some(images) = &args.images {
        return Ok(Samples::Images(images.clone(), ImageSource::open(images)?));
    }
    let path = args.checkpoint.as_deref().unwrap_or(Path::new("runs"));
    let (plan, batch) = (args.sampling.plan()?, args.sampling.draw.batch as usize);
    let samples = GeneratedImages::open(
        path,
        plan,
        args.scoring.samples(),
        batch,
        args.scoring.work.as_deref(),
    )?;
    Ok(Samples::Model(Box::new(samples)))
}

/// Where the reference lies.
fn reference_of(args: &ScoringArgs, source: &Samples) -> anyhow::Result<PathBuf> {
    match (&args.reference, source) {
        (Some(reference), _) => Ok(reference.clone()),
        (None, Samples::Model(samples)) => Ok(samples.dataset().to_owned()),
        (None, Samples::Images(..)) => bail!(
            "compared with what?\nhint: --reference FILE.npz, a folder of images, or a dataset's folder"
        ),
    }
}

fn check_sizes(samples: &Summary, reference: &Summary) -> anyhow::Result<()> {
    if let (Some(ours), Some(theirs)) = (samples.size, reference.size)
        && ours != theirs
    {
        bail!(
            "the samples are {} x {} pixels, the reference's images {} x {}: scores across sizes mean nothing; use a \
             reference of the samples' size",
            ours.0,
            ours.1,
            theirs.0,
            theirs.1
        );
    }
    Ok(())
}

/// What must be known of a score by the network `inception` of so many samples.
pub(super) fn warnings(inception: &str, comparable: bool, samples: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if inception.starts_with("random:") {
        warnings.push("not comparable: the network's weights are random".to_owned());
    } else if !comparable {
        warnings.push("not comparable: the network's weights are not the published file".to_owned());
    }
    if samples < USUAL_SAMPLES {
        warnings.push(format!(
            "{} samples: published numbers use {}, and FID grows as samples get fewer",
            count::with_commas(samples),
            count::with_commas(USUAL_SAMPLES)
        ));
    }
    warnings
}

fn table(scores: &Scores) -> String {
    let rows = [
        ("FID", scores.fid),
        ("sFID", scores.sfid),
        ("Inception score", scores.inception_score),
        ("precision", scores.precision),
        ("recall", scores.recall),
    ];
    let lines = rows
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name:<16} {value:>10.4}")));
    let mut lines: Vec<String> = lines.collect();
    if !scores.comparable {
        lines.push("not comparable with published numbers".to_owned());
    }
    lines.join("\n")
}

fn save(folder: &Path, scores: &Scores, shown: &[RgbImage]) -> anyhow::Result<()> {
    fs_err::create_dir_all(folder)?;
    fs_err::write(folder.join("scores.json"), serde_json::to_string_pretty(scores)?)?;
    let all = std::slice::from_ref(scores);
    fs_err::write(folder.join("report.md"), report::markdown(all))?;
    let columns = (shown.len() as f64).sqrt().ceil() as usize;
    let png = report::encode_png(&grid::grid(shown, columns.max(1))?)?;
    fs_err::write(folder.join("grid.png"), &png)?;
    let picture = Picture {
        caption: "The first samples",
        png: &png,
    };
    fs_err::write(
        folder.join("report.html"),
        report::html("Evaluation", all, &[picture]),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
