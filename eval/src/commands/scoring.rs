//! Scoring one set of samples: shared by the commands that do.

use std::path::PathBuf;

use anyhow::bail;
use preprocess::console::progress::Progress;
use preprocess::console::{Printer, count};
use preprocess::device::Devices;
use preprocess::image::RgbImage;
use trainer::commands::sample::DrawArgs;
use trainer::distributed::HostReducer;
use trainer::gpu::Place;
use trainer::gpu::place::Use;

use super::against::Against;
use crate::features::{Keep, Summary};
use crate::generated::{GeneratedImages, Stage};
use crate::images::ImageSource;
use crate::inception::POOL_FEATURES;
use crate::inception::weights::{LoadedInception, WeightSource};
use crate::metric::fid::frechet_distance;
use crate::metric::precision_recall::{Distances, precision_recall};
use crate::neighbours;
use crate::reference::{self, REFERENCE_IMAGES};
use crate::report::{EVALUATOR, Picture, Scores};
use crate::transform;

/// Samples that the literature's numbers are computed from.
const USUAL_SAMPLES: u64 = 50_000;
/// Samples that the report shows.
const SHOWN: usize = 64;
/// Samples whose nearest reference images are looked for.
const COMPARED: usize = 1000;

/// How samples are scored.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ScoringArgs {
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
    inception: WeightSource,
    /// Where a model is sampled and the Inception network runs; of several GPUs each process takes one.
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda[:N[,N..]]")]
    device: Devices,
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

    /// The Inception network, on the device of process `rank`.
    pub(super) fn load(&self, rank: usize) -> anyhow::Result<LoadedInception> {
        Ok(self.inception.load_on(&self.device.of_process(rank)?)?)
    }

    /// Where process `rank` samples a model, and how.
    pub(super) fn place(&self, draw: &DrawArgs, rank: usize) -> anyhow::Result<(Place, Use)> {
        let place = Place::of_process(&self.device, rank);
        Ok((place, draw.wish(place)?))
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

/// What is scored.
pub(super) enum Samples<'a> {
    Images(PathBuf, ImageSource),
    Model(GeneratedImages<'a>),
}

/// What came of scoring.
pub(super) struct Scored {
    pub(super) scores: Scores,
    /// The first samples.
    pub(super) shown: Vec<RgbImage>,
    /// Those of them that are nearest to reference images, with these, if they were looked for.
    pub(super) neighbours: Option<Picture>,
}

/// The scores and the first samples, which are compared with the images of the reference if `looks_for_copies`; `None` in
/// all processes but the first. The reference stays in `known`, for the next samples.
pub(super) fn score(
    source: &Samples<'_>,
    args: &ScoringArgs,
    looks_for_copies: bool,
    known: &mut Option<Against>,
    inception: &LoadedInception,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> anyhow::Result<Option<Scored>> {
    let wants = |metric| args.metrics.contains(&metric);
    let manifold = wants(Metric::Precision) || wants(Metric::Recall);
    // Wrong paths should be told before minutes of work.
    let mut against = Against::open(&reference_of(args, source)?, known.take())?;
    let (total, images) = match source {
        Samples::Images(path, images) => (images.count()?.min(args.samples()), path.display().to_string()),
        Samples::Model(samples) => (samples.count(), samples.description()),
    };
    anyhow::ensure!(
        total > 1,
        "--samples {}: at least two images are needed",
        args.samples
    );
    let keep_samples = Keep {
        pool_rows: match (manifold, looks_for_copies) {
            (true, _) => total,
            (false, true) => COMPARED,
            (false, false) => 0,
        },
        spatial: wants(Metric::Sfid),
        logits: wants(Metric::Is),
    };
    // Images beside statistics are not looked at for their neighbours alone: the network takes minutes for them.
    let has_rows = manifold || looks_for_copies && !against.source.has_statistics()?;
    let keep_reference = Keep {
        pool_rows: if has_rows { REFERENCE_IMAGES } else { 0 },
        logits: false,
        ..keep_samples
    };
    against.check(keep_reference)?;
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

    let compared = against.seen(inception, keep_reference, printer)?;
    let reference = compared.summary;
    check_sizes(&samples, reference)?;

    let mut scores = Scores {
        samples: samples.count,
        comparable: inception.comparable,
        images,
        reference: compared.path.display().to_string(),
        inception: inception.id.clone(),
        arithmetic: inception.network.arithmetic().map(str::to_owned),
        image_size: samples.size.map_or([0, 0], |(height, width)| [height, width]),
        inception_score: samples.inception_score,
        evaluator: EVALUATOR.to_owned(),
        against: compared.record.clone(),
        model: match source {
            Samples::Images(..) => None,
            Samples::Model(samples) => Some(samples.record()),
        },
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
        args.distances().name().clone_into(&mut scores.distances);
    }
    let mut neighbours = None;
    if looks_for_copies
        && let Some(found) = neighbours::find(
            &reference.pool_rows,
            &samples.pool_rows,
            POOL_FEATURES,
            shown.len(),
        )?
    {
        neighbours = neighbours::picture(&found, &shown, |numbers| compared.source.pick(numbers))?;
        scores.neighbours = Some(found);
    }
    scores.warnings = warnings(&scores.inception, scores.comparable, scores.samples);
    let ours = match source {
        Samples::Images(_, images) => transform::of_images(images)?,
        Samples::Model(samples) => samples.model().transform(),
    };
    let theirs = transform::of_images(compared.source)?;
    scores
        .warnings
        .extend(transform::warning(ours.as_deref(), theirs.as_deref()));
    scores.warnings.extend(reference::arithmetic_warning(
        compared.source,
        &inception.features_id(),
    )?);
    if let Some(warning) = compared.source.warning()? {
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
    *known = Some(against);
    Ok(Some(Scored {
        scores,
        shown,
        neighbours,
    }))
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
    samples: &GeneratedImages<'_>,
    inception: &LoadedInception,
    keep: Keep,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> anyhow::Result<Option<(Summary, Vec<RgbImage>)>> {
    let is_first = group.rank() == 0;
    if is_first {
        printer.note(format_args!("samples  kept in {}", samples.folder().display()));
    }
    let (network, id) = (&inception.network, &inception.features_id());
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

/// Where the reference lies.
fn reference_of(args: &ScoringArgs, source: &Samples<'_>) -> anyhow::Result<PathBuf> {
    match (&args.reference, source) {
        (Some(reference), _) => Ok(reference.clone()),
        (None, Samples::Model(samples)) => Ok(samples.model().dataset().to_owned()),
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
