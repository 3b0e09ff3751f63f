//! `eval quickstart`: the built-in shapes, a small DiffuSSM trained for two minutes, samples, a score and a page.
//!
//! Needs nothing but this program. The model works on small pictures directly, without an autoencoder; the score is a
//! Frechet distance of coarse colours, which compares with nothing but the other numbers of the same page.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use preprocess::console::plot::{Series, line_plot};
use preprocess::console::{Printer, Progress, grid};
use preprocess::dataset::demo;
use preprocess::image::RgbImage;
use shards::rng::{Philox, Stream};
use trainer::diffusion::{NUM_TIMESTEPS, Schedule, training_loss};
use trainer::model::{DiffuSsm, ModelConfig};
use trainer::optim::{AdamW, AdamWConfig, Rates, grad_norm};
use trainer::sampler::{self, Guidance, SampleConfig, Sampler};

use crate::metric::fid::frechet_distance;
use crate::report::{self, Picture};
use crate::stats::{Gaussian, Stats};

const CLASSES: usize = 10;
const BATCH: usize = 32;
/// Side of the coarse squares whose mean colours are compared, as a share of the picture: a 4 x 4 grid.
const COARSE: usize = 4;
const MAX_LR: f64 = 3e-3;
const WARM_UP: u64 = 50;
const MAX_GRAD_NORM: f64 = 1.0;

/// What `eval quickstart` accepts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for pictures and report.
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Seconds of training.
    #[arg(long, default_value_t = 150.0)]
    seconds: f64,
    /// Side of the pictures in pixels, a multiple of 4.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(8..=64))]
    size: u64,
    /// Training pictures.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(64..))]
    pictures: u64,
    /// Samples to draw.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(4..))]
    samples: u64,
    /// Sampling steps (DDIM).
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(2..=1000))]
    steps: u64,
    /// Seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Draws, trains, samples, scores and reports.
///
/// # Errors
/// If the size is not a multiple of 4 or the folder cannot be written.
pub fn run(args: &Args, printer: &mut Printer) -> anyhow::Result<()> {
    let size = args.size as usize;
    anyhow::ensure!(size.is_multiple_of(4), "--size {size} is not a multiple of 4");
    anyhow::ensure!(
        args.seconds.is_finite() && args.seconds > 0.0,
        "--seconds must be above 0"
    );
    fs_err::create_dir_all(&args.out)?;
    let draw = |range: std::ops::Range<u64>| -> Vec<(RgbImage, usize)> {
        range.map(|id| demo::draw(args.seed, id, size)).collect()
    };
    let train = draw(0..args.pictures);
    let held_out = draw(args.pictures..args.pictures + args.samples);
    let model = DiffuSsm::new(ModelConfig {
        hidden_size: 96,
        depth: 4,
        state_size: 16,
        patch_size: 2,
        input_size: size,
        in_channels: 3,
        num_classes: CLASSES,
        dt_min: 1e-2,
        dt_max: 0.5,
        ..ModelConfig::default()
    })?;
    printer.note(format_args!(
        "{} pictures of {size} x {size} pixels, {} parameters, {:.0} s of training",
        train.len(),
        model.layout().total(),
        args.seconds
    ));
    let initial = model.init(args.seed)?;
    let (weights, losses) = fit(&model, &initial, &train, args, printer)?;
    printer.note(format_args!(
        "{} steps; sampling {} pictures twice",
        losses.len(),
        args.samples
    ));
    let untrained = sample(&model, &initial, args)?;
    let trained = sample(&model, &weights, args)?;

    let reference = coarse_colours(train.iter().map(|(picture, _)| picture))?;
    let distance = |pictures: &[RgbImage]| -> anyhow::Result<f64> {
        Ok(frechet_distance(&reference, &coarse_colours(pictures.iter())?)?)
    };
    let held_out: Vec<RgbImage> = held_out.into_iter().map(|(picture, _)| picture).collect();
    let rows = [
        ("untrained model", distance(&untrained)?),
        ("trained model", distance(&trained)?),
        ("held-out pictures", distance(&held_out)?),
    ];
    let mut table = String::from("<table><tr><th></th><th>Frechet distance of coarse colours</th></tr>");
    printer.say("Frechet distance of coarse colours to the training pictures (lower is better)");
    for (name, value) in rows {
        printer.say(format_args!("{name:<20} {value:>9.4}"));
        table.push_str(&format!("<tr><td>{name}</td><td>{value:.4}</td></tr>"));
    }
    table.push_str("</table>");

    let columns = (trained.len() as f64).sqrt().ceil() as usize;
    let samples_png = report::encode_png(&grid::grid(&trained, columns)?)?;
    let held_out_png = report::encode_png(&grid::grid(&held_out, columns)?)?;
    let points = smoothed(&losses);
    let loss_png = report::encode_png(&line_plot(
        "loss",
        &[Series {
            name: "mse + vb".into(),
            points,
        }],
    ))?;
    let pictures = [
        Picture {
            caption: "Samples, one class a column where the grid is 10 wide",
            png: &samples_png,
        },
        Picture {
            caption: "Held-out pictures",
            png: &held_out_png,
        },
        Picture {
            caption: "Training loss by step",
            png: &loss_png,
        },
    ];
    fs_err::write(args.out.join("grid.png"), &samples_png)?;
    fs_err::write(args.out.join("loss.png"), &loss_png)?;
    let page = args.out.join("report.html");
    fs_err::write(&page, report::page("Quickstart", &table, &pictures))?;
    printer.say(format_args!("report: {}", page.display()));
    Ok(())
}

/// Trains until the time is over; the averaged weights and the loss of every step.
fn fit(
    model: &DiffuSsm,
    initial: &[f32],
    train: &[(RgbImage, usize)],
    args: &Args,
    printer: &mut Printer,
) -> anyhow::Result<(Vec<f32>, Vec<f64>)> {
    let schedule = Schedule::linear(NUM_TIMESTEPS);
    let rng = Philox::new(args.seed);
    let null_label = model.config.null_label().unwrap_or(0);
    let adamw = AdamWConfig {
        beta2: 0.99,
        ema_decay: 0.995,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(adamw, initial.len(), model.layout().ssm_ranges());
    let (mut params, mut ema) = (initial.to_vec(), initial.to_vec());
    let mut grads = vec![0.0; params.len()];
    let data: Vec<Vec<f32>> = train.iter().map(|(picture, _)| to_chw(picture)).collect();
    let image = data.first().map_or(0, Vec::len);
    let (mut x_t, mut noise) = (vec![0.0; BATCH * image], vec![0.0; BATCH * image]);
    let mut d_out = vec![0.0; 2 * BATCH * image];
    let mut losses = Vec::new();
    let limit = Duration::from_secs_f64(args.seconds);
    let mut progress = Progress::new(printer, "training", "steps", 0, None);
    let start = Instant::now();
    while start.elapsed() < limit || losses.is_empty() {
        let step = losses.len() as u64 + 1;
        let (mut times, mut labels, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for b in 0..BATCH {
            // The draw's number takes the place of a record: no two draws share their noise.
            let draw = (step - 1) * BATCH as u64 + b as u64;
            let id = rng.below(Stream::Shuffle, draw, 0, 0, data.len() as u32) as usize;
            let t = rng.below(Stream::Timestep, draw, 0, 0, NUM_TIMESTEPS as u32);
            let dropped = rng.uniform(Stream::LabelDrop, draw, 0, 0) < model.config.class_dropout_prob;
            let span = b * image..(b + 1) * image;
            rng.fill_normal(Stream::TrainingNoise, draw, 0, &mut noise[span.clone()]);
            schedule.q_sample(t as usize, &data[id], &noise[span.clone()], &mut x_t[span]);
            times.push(t as f32);
            labels.push(if dropped { null_label } else { train[id].1 as u32 });
            ids.push(id);
        }
        let (output, saved) = model.forward_train(&params, &x_t, &times, &labels)?;
        let mut loss = 0.0;
        for b in 0..BATCH {
            let (noise, wide) = (&noise[b * image..][..image], b * 2 * image..(b + 1) * 2 * image);
            let weight = 1.0 / BATCH as f64;
            let (out, d_out) = (&output[wide.clone()], &mut d_out[wide]);
            let parts = training_loss(
                &schedule,
                times[b] as usize,
                &data[ids[b]],
                noise,
                out,
                weight,
                d_out,
            );
            loss += weight * (parts.mse + parts.vb);
        }
        anyhow::ensure!(
            loss.is_finite(),
            "the loss is not finite at step {step}: use another --seed"
        );
        grads.fill(0.0);
        model.backward(&params, saved, &d_out, &mut grads)?;
        let grad_scale = (MAX_GRAD_NORM / grad_norm(&grads).max(MAX_GRAD_NORM)) as f32;
        let done = (start.elapsed().as_secs_f64() / args.seconds).min(1.0);
        let decay = 0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        let lr = MAX_LR * decay * (step as f64 / WARM_UP as f64).min(1.0);
        optimizer.step(
            step,
            Rates {
                lr,
                ssm_lr: lr,
                grad_scale,
            },
            &mut params,
            &grads,
            &mut ema,
        );
        losses.push(loss);
        progress.set(printer, step, &format!("loss {loss:.4}"));
    }
    progress.finish();
    Ok((ema, losses))
}

/// Samples with labels 0, 1, .. 9, 0, .. through DDIM and guidance 2.
fn sample(model: &DiffuSsm, weights: &[f32], args: &Args) -> anyhow::Result<Vec<RgbImage>> {
    let size = args.size as usize;
    let schedule = Schedule::linear(NUM_TIMESTEPS).respaced(&args.steps.to_string())?;
    let config = SampleConfig {
        seed: args.seed,
        sampler: Sampler::Ddim { eta: 0.0 },
        guidance: Guidance {
            scale: 2.0,
            ..Guidance::default()
        },
    };
    let kernels = model.kernels(weights);
    let indices: Vec<u64> = (0..args.samples).collect();
    let mut pictures = Vec::with_capacity(indices.len());
    for indices in indices.chunks(BATCH) {
        let labels: Vec<u32> = indices
            .iter()
            .map(|index| (index % CLASSES as u64) as u32)
            .collect();
        let batch = sampler::Batch {
            indices,
            labels: &labels,
            null_label: model.config.null_label(),
            channels: 3,
            area: size * size,
        };
        let x = sampler::sample(&schedule, &config, &batch, |x, t, y| {
            model.forward_with(weights, &kernels, x, t, y)
        })
        .context("sampling failed")?;
        pictures.extend(x.chunks_exact(3 * size * size).map(|x| from_chw(x, size)));
    }
    Ok(pictures)
}

/// `[3, H, W]` in [-1, 1].
fn to_chw(picture: &RgbImage) -> Vec<f32> {
    let channel = |c: usize| picture.data.iter().skip(c).step_by(3);
    (0..3)
        .flat_map(|c| channel(c).map(|&byte| f32::from(byte) / 127.5 - 1.0))
        .collect()
}

fn from_chw(values: &[f32], size: usize) -> RgbImage {
    let area = size * size;
    let data =
        (0..area * 3).map(|i| (127.5 * values[(i % 3) * area + i / 3] + 128.0).clamp(0.0, 255.0) as u8);
    RgbImage {
        width: size,
        height: size,
        data: data.collect(),
    }
}

/// Statistics of the mean colours (in 0..1) of a 4 x 4 grid of squares: 48 features.
fn coarse_colours<'a>(pictures: impl Iterator<Item = &'a RgbImage>) -> anyhow::Result<Gaussian> {
    let mut stats = Stats::new(COARSE * COARSE * 3);
    for picture in pictures {
        let cell = picture.width / COARSE;
        let mut means = vec![0.0; COARSE * COARSE * 3];
        for (i, pixel) in picture.data.chunks_exact(3).enumerate() {
            let (y, x) = (i / picture.width / cell, i % picture.width / cell);
            for (c, &byte) in pixel.iter().enumerate() {
                means[(y * COARSE + x) * 3 + c] += f32::from(byte) / 255.0 / (cell * cell) as f32;
            }
        }
        stats.push(&means)?;
    }
    Ok(stats.finish()?)
}

/// Means of up to 200 stretches, by step.
fn smoothed(losses: &[f64]) -> Vec<(f64, f64)> {
    let width = losses.len().div_ceil(200).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    losses
        .chunks(width)
        .enumerate()
        .map(|(i, part)| ((i * width) as f64, mean(part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_run_leaves_pictures_and_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let args = Args {
            out: folder.path().join("q"),
            seconds: 0.2,
            size: 8,
            pictures: 64,
            samples: 4,
            steps: 3,
            seed: 0,
        };
        let (mut printer, out, _) = Printer::captured();
        run(&args, &mut printer).unwrap();
        assert!(out.text().contains("trained model"), "{}", out.text());
        for name in ["grid.png", "loss.png", "report.html"] {
            assert!(folder.path().join("q").join(name).metadata().unwrap().len() > 100);
        }
    }

    #[test]
    fn pictures_survive_the_way_through_the_model_s_layout() {
        let (picture, _) = demo::draw(0, 3, 8);
        assert_eq!(from_chw(&to_chw(&picture), 8), picture);
    }
}
