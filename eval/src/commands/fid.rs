//! `eval fid`: scores a set of images against a reference.

use std::path::{Path, PathBuf};

use anyhow::Context;
use preprocess::console::printer::JsonTarget;
use preprocess::console::{Printer, exit};
use trainer::commands::ranks::{threads_of, with_ranks};
use trainer::commands::sample::SamplingArgs;
use trainer::commands::with_threads;
use trainer::distributed::HostReducer;

use super::reconstruct;
use super::scoring::{Samples, Scored, ScoringArgs, score};
use crate::generated::{GeneratedImages, Model};
use crate::images::ImageSource;
use crate::report::{Evaluation, Picture, Scores, curves, folder};

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
        if let Some((scored, curves)) = with_threads(threads, || evaluate(args, printer, group))? {
            tell(args, scored, &curves, printer)?;
        }
        Ok(exit::DONE)
    })
    .map(|_| ())
}

/// Scores what the arguments name; with the curves of the run that it is of, if a report is asked for. `None` in all
/// processes but the first.
fn evaluate(
    args: &Args,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> anyhow::Result<Option<(Scored, Vec<Picture>)>> {
    let mut run = None;
    let model;
    let source = match &args.images {
        Some(images) => Samples::Images(images.clone(), ImageSource::open(images)?),
        None => {
            let path = args.checkpoint.as_deref().unwrap_or(Path::new("runs"));
            let plan = args.sampling.plan()?;
            let place = args.scoring.place(&args.sampling.draw, group.rank())?;
            model = Model::open(path, args.scoring.work.as_deref(), place, group)?;
            run = model.run();
            let (count, batch) = (args.scoring.samples(), args.sampling.draw.batch as usize);
            Samples::Model(GeneratedImages::new(&model, plan, count, batch))
        }
    };
    let inception = args.scoring.load(group.rank())?;
    let reports = args.out.is_some();
    let Some(scored) = score(
        &source,
        &args.scoring,
        reports,
        &mut None,
        &inception,
        printer,
        group,
    )?
    else {
        return Ok(None);
    };
    let runs: Vec<(String, PathBuf)> = run
        .filter(|_| reports)
        .map(|run| (run.display().to_string(), run))
        .into_iter()
        .collect();
    Ok(Some((scored, curves::of_runs(&runs)?)))
}

/// Prints and saves the scores.
fn tell(args: &Args, scored: Scored, curves: &[Picture], printer: &mut Printer) -> anyhow::Result<()> {
    let target: &JsonTarget = &args.json;
    let scores = &scored.scores;
    printer.say(table(scores));
    for warning in &scores.warnings {
        printer.note(format_args!("warning: {warning}"));
    }
    let json = serde_json::to_value(scores)?;
    if let Some(out) = &args.out {
        let evaluation = Evaluation {
            scores: scored.scores,
            samples: Some(folder::square_of_samples(&scored.shown)?),
            neighbours: scored.neighbours,
        };
        folder::save(out, &evaluation, curves)?;
        printer.note(format_args!("report: {}", out.join("report.html").display()));
    }
    printer
        .json(target, &json)
        .context("the JSON file cannot be written")
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

#[cfg(test)]
mod tests;
