//! `trainer sample`: images of a trained model, as a PNG grid or an ADM sample file.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use preprocess::console::count::parse_count;
use preprocess::console::grid::write_grid_png;
use preprocess::console::{JsonTarget, Printer, Progress, exit};
use preprocess::vae::AutoencoderKl;

use super::ranks::{threads_of, with_ranks};
use super::{DeviceArgs, with_threads};
use crate::bulk::SampleSet;
use crate::config::Precision;
use crate::distributed::HostReducer;
use crate::fit::grid_columns;
use crate::generate::{Generator, Labels, SamplePlan};
use crate::gpu::Place;
use crate::gpu::place::Use;
use crate::sampler::{Guidance, GuidanceMode, Sampler};

/// How samples are drawn: shared with the evaluation.
#[derive(Clone, Debug, clap::Args)]
pub struct SamplingArgs {
    #[command(flatten)]
    pub draw: DrawArgs,
    /// Guidance scale; 1: none
    #[arg(long, default_value_t = 1.0)]
    pub cfg: f64,
}

/// How samples are drawn, but for the guidance scale.
#[derive(Clone, Debug, clap::Args)]
pub struct DrawArgs {
    /// Images that go through the model together; they do not depend on it
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub batch: u64,
    /// Seed of all noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How a step is taken
    #[arg(long, default_value = "ddpm", value_parser = ["ddpm", "ddim"])]
    pub sampler: String,
    /// Kept timesteps: a number, or a specification of ADM's such as ddim50 or 10,15,20
    #[arg(long, default_value = "250")]
    pub steps: String,
    /// Which noise channels are guided: all, or the first three as in DiT's code
    #[arg(long, default_value = "all", value_parser = ["all", "dit3"])]
    pub cfg_mode: String,
    /// Guide only where LO < sigma <= HI
    #[arg(long, value_name = "LO,HI")]
    pub cfg_interval: Option<String>,
    /// Classes: balanced, random, or a list such as 0,207
    #[arg(long, default_value = "balanced")]
    pub labels: String,
    /// Arithmetic of the activations on a GPU
    #[arg(long, value_enum, default_value_t)]
    pub precision: Precision,
}

impl SamplingArgs {
    /// What the arguments mean.
    ///
    /// # Errors
    /// When a value is wrong.
    pub fn plan(&self) -> Result<SamplePlan> {
        self.draw.plan(self.cfg)
    }
}

impl DrawArgs {
    /// How a GPU is used, if `place` is one.
    ///
    /// # Errors
    /// When the arithmetic is none of the processor's.
    pub fn wish(&self, place: Place) -> Result<Use> {
        if place == Place::Cpu && self.precision != Precision::F32 {
            bail!("--precision is of GPUs: --device cuda");
        }
        Ok(Use {
            precision: self.precision,
            ..Use::default()
        })
    }

    /// What the arguments mean, with guidance scale `cfg`.
    ///
    /// # Errors
    /// When a value is wrong.
    pub fn plan(&self, cfg: f64) -> Result<SamplePlan> {
        let labels: Labels = self.labels.parse()?;
        if !cfg.is_finite() {
            bail!("--cfg {cfg}: a finite number is needed");
        }
        let interval = match &self.cfg_interval {
            None => None,
            Some(text) => {
                let bounds = text
                    .split_once(',')
                    .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
                let bounds: (f64, f64) = bounds
                    .with_context(|| format!("--cfg-interval {text}: expected LO,HI such as 0.28,1.61"))?;
                Some(bounds)
            }
        };
        Ok(SamplePlan {
            seed: self.seed,
            sampler: if self.sampler == "ddim" {
                Sampler::Ddim { eta: 0.0 }
            } else {
                Sampler::Ddpm
            },
            steps: self.steps.clone(),
            guidance: Guidance {
                scale: cfg,
                mode: if self.cfg_mode == "dit3" {
                    GuidanceMode::Dit3
                } else {
                    GuidanceMode::All
                },
                interval,
            },
            labels,
        })
    }
}

/// Draws samples of a trained model.
#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// An export, a checkpoint, or a run for its newest one
    #[arg(long, value_name = "DIR", default_value = "runs")]
    checkpoint: PathBuf,
    /// Images to draw
    #[arg(long, default_value = "16", value_parser = parse_count)]
    count: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// A PNG grid, or an .npz with `arr_0` [N, H, W, 3] and `arr_1` [N] labels
    #[arg(long, short, value_name = "GRID.png|SAMPLES.npz")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Threads; all cores when absent
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// When there is no sound checkpoint, the autoencoder is missing, or the file cannot be written.
pub fn run(args: &SampleArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let is_archive = match args.out.extension().and_then(|extension| extension.to_str()) {
        Some("png") => false,
        Some("npz") => true,
        _ => bail!("--out {}: the name must end in .png or .npz", args.out.display()),
    };
    if args.count == 0 {
        bail!("--count 0: at least one image must be drawn");
    }
    let plan = args.sampling.plan()?;
    let place = args.device.place()?;
    let wish = args.sampling.draw.wish(place)?;
    let generator = Generator::open(&args.checkpoint)?;
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    with_ranks(printer, |printer, group| {
        let generator = generator.at(place, wish, group)?;
        let vae = generator.autoencoder_at(place, group)?;
        let threads = threads_of(args.threads, group);
        with_threads(threads, || {
            if is_archive {
                archive(args, &plan, &generator, &vae, printer, group)
            } else if group.rank() == 0 {
                grid(args, &plan, &generator, &vae, printer)
            } else {
                Ok(())
            }
        })?;
        if group.rank() == 0 {
            tell(args, &generator, printer)?;
        }
        Ok(exit::DONE)
    })
}

fn tell(args: &SampleArgs, generator: &Generator, printer: &mut Printer) -> Result<()> {
    printer.say(format_args!(
        "wrote {} images of step {} to {}",
        args.count,
        generator.step,
        args.out.display()
    ));
    let report = serde_json::json!({ "out": args.out, "count": args.count, "step": generator.step });
    Ok(printer.json(&args.json, &report)?)
}

/// Writes a grid as PNG.
fn grid(
    args: &SampleArgs,
    plan: &SamplePlan,
    generator: &Generator,
    vae: &AutoencoderKl,
    printer: &mut Printer,
) -> Result<()> {
    let mut progress = Progress::new(printer, "sample", "images", 0, Some(args.count));
    let indices: Vec<u64> = (0..args.count).collect();
    let mut images = Vec::new();
    for indices in indices.chunks(args.sampling.draw.batch as usize) {
        images.extend(generator.images(plan, vae, indices)?);
        progress.set(printer, images.len() as u64, "");
    }
    progress.finish();
    let columns = grid_columns(images.len(), generator.config.model.num_classes);
    Ok(write_grid_png(&images, columns, &args.out)?)
}

/// Writes an ADM sample file, from parts that a killed command leaves for the next.
fn archive(
    args: &SampleArgs,
    plan: &SamplePlan,
    generator: &Generator,
    vae: &AutoencoderKl,
    printer: &mut Printer,
    group: &mut HostReducer,
) -> Result<()> {
    let mut parts = args.out.clone().into_os_string();
    parts.push(".parts");
    let set = SampleSet::open(parts.as_ref(), generator, plan, args.count, group)?;
    let is_first = group.rank() == 0;
    let mut progress: Option<Progress> = None;
    set.draw(vae, args.sampling.draw.batch as usize, group, |done, total| {
        if !is_first {
            return;
        }
        match &mut progress {
            Some(progress) => progress.set(printer, done, ""),
            None => {
                if done > 0 {
                    printer.note(format_args!("continuing after {done} images"));
                }
                progress = Some(Progress::new(printer, "sample", "images", done, Some(total)));
            }
        }
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    if is_first {
        set.assemble(&args.out)?;
        set.remove()?;
    }
    Ok(())
}
