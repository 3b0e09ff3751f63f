//! `shards study`: what each way to store would cost, on the latents of a dataset that holds them exactly.
//!
//! Errors are put beside two noises that training adds anyway: the posterior's, `exp(logvar / 2)`, and the diffusion's
//! smallest, `sqrt(1 - alphas_cumprod[0])` of ADM's linear schedule (Dhariwal and Nichol 2021), in units of scaled latents.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use shards::dataset::Dataset;
use shards::layout::RowLayout;
use shards::manifest::Dtype;
use shards::study::{self, Choice, Cost};

use super::target::Target;
use crate::console::{JsonTarget, Printer, exit};

/// Encodes and decodes samples in memory, once for each dtype, frame size and level of zstd.
#[derive(Debug, clap::Args)]
pub(super) struct StudyArgs {
    /// A folder of moments in f32: `preprocess encode --dtype f32`
    dataset: PathBuf,
    /// Samples, spread over the dataset
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Measure each choice for at least so many CPU seconds
    #[arg(long, default_value_t = 0.15)]
    seconds: f64,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

const FRAME_ROWS: [usize; 3] = [1, 8, 64];
const LEVELS: [Option<i32>; 5] = [None, Some(1), Some(3), Some(9), Some(19)];
/// `sqrt(beta_1)` with beta_1 = 1e-4, where 1000 steps begin.
const SMALLEST_DIFFUSION_NOISE: f64 = 0.01;

/// Rows of a dataset, and the noises beside which errors are put.
struct Sample {
    shape: [usize; 3],
    rows: Vec<(Vec<f32>, Option<Vec<f32>>)>,
    /// Median and mean of `exp(logvar / 2)`, where the log-variance is stored.
    posterior_std: Option<(f64, f64)>,
    scaling_factor: f64,
}

/// Runs the command.
pub(super) fn run(args: &StudyArgs, printer: &mut Printer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let sample = read(args)?;
    let mut lines = Vec::new();
    let mut table = format!("{}\n", heading(&sample));
    for dtype in Dtype::ALL {
        let name = dtype.name();
        for frame_rows in FRAME_ROWS {
            for level in LEVELS {
                let layout = RowLayout {
                    shape: sample.shape,
                    dtype,
                    logvar: sample.posterior_std.is_some(),
                };
                let choice = Choice {
                    layout,
                    frame_rows,
                    level,
                };
                let cost = study::measure(&choice, &sample.rows, &cpu_seconds(Instant::now()), args.seconds)?;
                let line = Line::new(&sample, &choice, &cost);
                table += &line.text(name, frame_rows, level);
                lines.push(line.json(name, frame_rows, level));
            }
        }
    }
    printer.say(format_args!("{}", table.trim_end()));
    let report = json!({
        "rows": sample.rows.len(),
        "posterior_std_median": sample.posterior_std.map(|s| s.0),
        "posterior_std_mean": sample.posterior_std.map(|s| s.1),
        "scaling_factor": sample.scaling_factor,
        "choices": lines,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

fn read(args: &StudyArgs) -> Result<Sample> {
    let target = Target::Dataset(Box::new(Dataset::open(&args.dataset)?));
    let header = target.header();
    let layout = header.row_layout();
    if layout.dtype != Dtype::F32 {
        bail!(
            "{} holds rounded latents, beside which errors cannot be measured\nhint: encode with --dtype f32",
            args.dataset.display()
        );
    }
    let (mut rows, mut stds) = (Vec::new(), Vec::new());
    for i in target.spread(args.samples as usize) {
        for view in 0..header.views as usize {
            let mut mean = vec![0.0; layout.elements()];
            let mut logvar = layout.logvar.then(|| vec![0.0; layout.elements()]);
            target.read(i, view, &mut mean, logvar.as_deref_mut())?;
            stds.extend(logvar.iter().flatten().map(|v| (f64::from(*v) / 2.0).exp()));
            rows.push((mean, logvar));
        }
    }
    stds.sort_by(f64::total_cmp);
    let posterior_std = (!stds.is_empty()).then(|| {
        let mean = stds.iter().sum::<f64>() / stds.len() as f64;
        (stds[stds.len() / 2], mean)
    });
    Ok(Sample {
        shape: layout.shape,
        rows,
        posterior_std,
        scaling_factor: target
            .manifest()
            .map_or(1.0, |manifest| manifest.vae.scaling_factor),
    })
}

fn heading(sample: &Sample) -> String {
    let [c, h, w] = sample.shape;
    let std = sample.posterior_std.map_or(String::new(), |(median, mean)| {
        format!(", posterior std {median:.3e} (median), {mean:.3e} (mean)")
    });
    format!(
        "{} rows of {c} x {h} x {w}{std}, scaling factor {}; GB of f32 per CPU-second\n\
         dtype rows level  bytes/row  encode  decode  rms error  / posterior std  / diffusion noise",
        sample.rows.len(),
        sample.scaling_factor
    )
}

/// A choice's figures.
struct Line {
    bytes_per_row: f64,
    encode_gb_per_second: f64,
    decode_gb_per_second: f64,
    rms_error: f64,
    to_posterior: Option<f64>,
    to_diffusion: f64,
}

impl Line {
    fn new(sample: &Sample, choice: &Choice, cost: &Cost) -> Self {
        let rows = sample.rows.len() as f64;
        let elements = choice.layout.elements() as f64;
        let values = if choice.layout.logvar { 2.0 } else { 1.0 };
        let gigabytes = rows * elements * values * 4e-9;
        let rms_error = (cost.squared_error / (rows * elements)).sqrt();
        Self {
            bytes_per_row: cost.bytes as f64 / rows,
            encode_gb_per_second: gigabytes / cost.encode_seconds.max(1e-9),
            decode_gb_per_second: gigabytes / cost.decode_seconds.max(1e-9),
            rms_error,
            to_posterior: sample.posterior_std.map(|(median, _)| rms_error / median),
            to_diffusion: rms_error * sample.scaling_factor / SMALLEST_DIFFUSION_NOISE,
        }
    }

    fn text(&self, dtype: &str, rows: usize, level: Option<i32>) -> String {
        let level = level.map_or("none".into(), |level| level.to_string());
        let posterior = self
            .to_posterior
            .map_or("-".into(), |ratio| format!("{ratio:.2e}"));
        format!(
            "{dtype:5} {rows:4} {level:>5} {:10.1} {:7.3} {:7.3} {:10.2e} {posterior:>16} {:18.2e}\n",
            self.bytes_per_row,
            self.encode_gb_per_second,
            self.decode_gb_per_second,
            self.rms_error,
            self.to_diffusion
        )
    }

    fn json(&self, dtype: &str, rows: usize, level: Option<i32>) -> Value {
        json!({
            "dtype": dtype, "frame_rows": rows, "level": level, "bytes_per_row": self.bytes_per_row,
            "encode_gb_per_second": self.encode_gb_per_second, "decode_gb_per_second": self.decode_gb_per_second,
            "rms_error": self.rms_error, "error_to_posterior_std": self.to_posterior,
            "error_to_diffusion_noise": self.to_diffusion,
        })
    }
}

/// A clock of this thread's CPU seconds; where the system does not tell them, of the wall's since `start`.
fn cpu_seconds(start: Instant) -> impl Fn() -> f64 {
    move || {
        let text = fs_err::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<f64>().ok());
        nanoseconds.map_or_else(|| start.elapsed().as_secs_f64(), |ns| ns * 1e-9)
    }
}
