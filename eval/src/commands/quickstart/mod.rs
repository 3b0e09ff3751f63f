//! `eval quickstart`: the whole road with nothing but this program, in a few minutes.
//!
//! Draws the built-in shapes, encodes them through the embedded autoencoder, trains a small DiffuSSM, samples from it
//! and scores the samples with the embedded classifier of shapes. Every stage is the documented command, told as it runs.
//! Run again in the same folder it goes on where it stopped.

mod scores;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use preprocess::console::progress::duration;
use preprocess::console::{Printer, Progress, exit, grid};
use preprocess::dataset::demo;
use preprocess::image::{RgbImage, tensor};
use preprocess::vae::AutoencoderKl;
use shards::manifest::Manifest;
use trainer::checkpoint;
use trainer::config::Resolved;
use trainer::distributed::Single;
use trainer::fit::step_times;
use trainer::generate::{Generator, SamplePlan};
use trainer::model::DiffuSsm;
use trainer::sampler::{Guidance, Sampler};

use crate::classifier::Classifier;
use crate::report::{self, Picture};
use scores::{Seen, copies, scores};

/// Side of the images in pixels: what the classifier knows.
const SIZE: usize = 64;
const CLASSES: usize = 10;
/// Training steps that are timed to plan the run.
const TIMED_STEPS: u64 = 20;
const SAMPLING_BATCH: usize = 50;
/// Images that the features of the others are compared with: as many as there are features, many times over.
const REFERENCE_IMAGES: u64 = 2000;

/// The set that it is all about.
const TRAINED: &str = "trained model";

/// What `eval quickstart` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for dataset, run, pictures and report.
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Seconds of training; longer is better.
    #[arg(long, default_value_t = 210.0)]
    seconds: f64,
    /// Training images.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(64..))]
    pictures: u64,
    /// Samples to draw and to score.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(10..))]
    samples: u64,
    /// Sampling steps (DDIM).
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(2..=1000))]
    steps: u64,
    /// Guidance scale.
    #[arg(long, default_value_t = 2.0)]
    cfg: f64,
    /// Seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A set of images with the classes that they should show, as the report names it.
struct Set {
    name: &'static str,
    images: Vec<RgbImage>,
    labels: Vec<usize>,
}

/// Draws, encodes, trains, samples, scores and reports.
///
/// # Errors
/// If a stage fails or the folder cannot be written.
pub fn run(args: &Args, printer: &mut Printer) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.seconds.is_finite() && args.seconds > 0.0,
        "--seconds must be above 0"
    );
    let started = Instant::now();
    let (data, run) = (args.out.join("data"), args.out.join("run"));
    fs_err::create_dir_all(&args.out)?;

    printer.say(format_args!(
        "1/4  {} images of coloured shapes, through the embedded autoencoder",
        args.pictures
    ));
    let (pictures, seed) = (args.pictures.to_string(), args.seed.to_string());
    command(
        printer,
        preprocess::cli::run,
        &[
            "preprocess",
            "encode",
            "--dataset",
            "demo",
            "--size",
            "64",
            "--vae",
            "tiny",
            "--flip",
            "none",
            "--limit",
            &pictures,
            "--seed",
            &seed,
            "--out",
            &text(&data)?,
        ],
    )?;

    printer.say("2/4  a small DiffuSSM learns them");
    let steps = planned_steps(args, &data, &run)?;
    let set_steps = format!("run.num_steps={steps}");
    let set_seed = format!("run.global_seed={seed}");
    let set_every = format!("run.checkpoint_every={}", steps.div_ceil(4));
    command(
        printer,
        trainer::cli::run,
        &[
            "trainer",
            "fit",
            "--config",
            "demo",
            "--data",
            &text(&data)?,
            "--out",
            &text(&run)?,
            "--set",
            &set_steps,
            "--set",
            &set_seed,
            "--set",
            &set_every,
            "--set",
            "run.sample_every=0",
        ],
    )?;
    let trained = Generator::open(&run)?;
    if trained.step < steps {
        printer.say(format_args!(
            "stopped after {} of {steps} steps; the same command goes on",
            trained.step
        ));
        return Ok(());
    }

    printer.say(format_args!(
        "3/4  {} samples of each model, DDIM {} steps",
        args.samples, args.steps
    ));
    let sets = sets(args, &trained, printer)?;

    printer.say("4/4  the scores of a classifier of the shapes");
    let classifier = Classifier::embedded()?;
    let seen = Seen::new(args, &classifier)?;
    let table = scores(&classifier, &seen, &sets, printer)?;
    let copies = copies(&classifier, &seen, &sets)?;
    write_report(
        args,
        &run,
        &sets,
        &format!("{table}\n{}", copies.0),
        copies.1,
        printer,
    )?;
    printer.say(format_args!(
        "all of it took {}",
        duration(started.elapsed().as_secs_f64())
    ));
    Ok(())
}

/// Tells a command as a user would type it, and runs it.
fn command(
    printer: &mut Printer,
    program: impl Fn(Vec<OsString>, &mut Printer) -> u8,
    words: &[&str],
) -> anyhow::Result<()> {
    printer.say(format_args!("$ {}", words.join(" ")));
    match program(words.iter().map(OsString::from).collect(), printer) {
        exit::DONE => Ok(()),
        code => bail!("`{} {}` ended with exit code {code}", words[0], words[1]),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("--out: the path must be UTF-8")?;
    Ok(text.to_owned())
}

/// The steps that fit into the time, or those of the run that is gone on from.
fn planned_steps(args: &Args, data: &Path, run: &Path) -> anyhow::Result<u64> {
    if let Ok(folder) = checkpoint::find(run) {
        return Ok(checkpoint::read_state(&folder)?.config.run.num_steps);
    }
    let mut resolved = Resolved::named("demo")?;
    resolved.adopt(&Manifest::read(data)?)?;
    let times = step_times(
        &resolved.config,
        TIMED_STEPS,
        trainer::gpu::Place::Cpu,
        &mut Single,
    )?
    .milliseconds;
    let median = times[times.len() / 2] / 1e3;
    Ok(((args.seconds / median) as u64).max(1))
}

/// The images that are compared: an untrained model's, the trained one's, fresh drawings and their reconstructions.
fn sets(args: &Args, trained: &Generator, printer: &mut Printer) -> anyhow::Result<Vec<Set>> {
    let vae = trained.autoencoder()?;
    let initial = DiffuSsm::new(trained.config.model.clone())?.init(args.seed)?;
    let untrained = Generator::new(trained.config.clone(), trained.dataset.clone(), 0, initial)?;
    let plan = SamplePlan {
        seed: args.seed,
        sampler: Sampler::Ddim { eta: 0.0 },
        steps: args.steps.to_string(),
        guidance: Guidance {
            scale: args.cfg,
            ..Guidance::default()
        },
        ..SamplePlan::default()
    };
    let balanced: Vec<usize> = (0..args.samples).map(|i| (i % CLASSES as u64) as usize).collect();
    let unguided = SamplePlan {
        guidance: Guidance::default(),
        ..plan.clone()
    };
    let held_out: Vec<(RgbImage, usize)> = (args.pictures..args.pictures + args.samples)
        .map(|id| demo::draw(args.seed, id, SIZE))
        .collect();
    let (images, labels): (Vec<RgbImage>, Vec<usize>) = held_out.into_iter().unzip();
    Ok(vec![
        Set {
            name: "untrained model",
            images: draw(&untrained, &unguided, &vae, args.samples, printer)?,
            labels: balanced.clone(),
        },
        Set {
            name: TRAINED,
            images: draw(trained, &plan, &vae, args.samples, printer)?,
            labels: balanced,
        },
        Set {
            name: "held-out images, reconstructed",
            images: reconstructed(&vae, &images)?,
            labels: labels.clone(),
        },
        Set {
            name: "held-out images",
            images,
            labels,
        },
    ])
}

fn draw(
    generator: &Generator,
    plan: &SamplePlan,
    vae: &AutoencoderKl,
    count: u64,
    printer: &mut Printer,
) -> anyhow::Result<Vec<RgbImage>> {
    let mut progress = Progress::new(printer, "sample", "images", 0, Some(count));
    let indices: Vec<u64> = (0..count).collect();
    let mut images = Vec::new();
    for indices in indices.chunks(SAMPLING_BATCH) {
        images.extend(generator.images(plan, vae, indices)?);
        progress.set(printer, images.len() as u64, "");
    }
    progress.finish();
    Ok(images)
}

/// What the autoencoder makes of images: the best that any model of its latents can reach.
fn reconstructed(vae: &AutoencoderKl, images: &[RgbImage]) -> anyhow::Result<Vec<RgbImage>> {
    let mut copies = Vec::with_capacity(images.len());
    for images in images.chunks(SAMPLING_BATCH) {
        let batch = tensor::to_unit(images, &candle_core::Device::Cpu)?;
        copies.extend(tensor::to_rgb(&vae.decode(&vae.encode(&batch)?.mean)?)?);
    }
    Ok(copies)
}

fn write_report(
    args: &Args,
    run: &Path,
    sets: &[Set],
    text: &str,
    copies: Option<Picture>,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let grid_png = |set: &Set| -> anyhow::Result<Vec<u8>> {
        let shown = &set.images[..set.images.len().min(10 * CLASSES)];
        Ok(report::encode_png(&grid::grid(shown, CLASSES)?)?)
    };
    let mut pictures = Vec::new();
    for (name, caption) in [
        (TRAINED, "Samples of the trained model, one class a column"),
        (
            "held-out images, reconstructed",
            "Images that it never saw, through the autoencoder",
        ),
        ("untrained model", "Samples of the untrained model"),
    ] {
        for set in sets.iter().filter(|set| set.name == name) {
            pictures.push(Picture::of_pixels(caption, grid_png(set)?));
        }
    }
    let loss = Picture::drawing("Training loss by step", fs_err::read(run.join("loss.png"))?);
    fs_err::write(args.out.join("grid.png"), &pictures[0].png)?;
    fs_err::write(args.out.join("loss.png"), &loss.png)?;
    pictures.insert(1, loss);
    pictures.extend(copies);
    let page = args.out.join("report.html");
    fs_err::write(&page, report::page("Quickstart", text, &pictures))?;
    for name in ["grid.png", "loss.png", "report.html"] {
        printer.say(format_args!("wrote {}", args.out.join(name).display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_run_goes_the_whole_road_and_again_without_training() {
        let folder = tempfile::tempdir().unwrap();
        let args = Args {
            out: folder.path().join("q"),
            seconds: 0.2,
            pictures: 64,
            samples: 10,
            steps: 3,
            cfg: 2.0,
            seed: 0,
        };
        for _ in 0..2 {
            let (mut printer, out, err) = Printer::captured();
            run(&args, &mut printer).unwrap_or_else(|error| panic!("{error:#}: {}", err.text()));
            assert!(out.text().contains("$ preprocess encode") && out.text().contains("trained model"));
            for name in ["grid.png", "loss.png", "report.html"] {
                assert!(args.out.join(name).metadata().unwrap().len() > 100);
            }
        }
    }
}
