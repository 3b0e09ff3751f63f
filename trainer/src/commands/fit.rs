//! `trainer fit`: trains, resumes, reports.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use preprocess::console::count::{bytes, with_commas};
use preprocess::console::progress::duration;
use preprocess::console::{JsonTarget, Printer, Progress, exit};
use shards::manifest::Manifest;

use super::ranks::{TransportArgs, threads_of, with_ranks_over};
use super::signals::Signals;
use super::{ConfigArgs, DeviceArgs, MemoryArgs, newest_dataset, with_threads};
use crate::checkpoint;
use crate::config::{Config, Origin, Precision, Resolved};
use crate::cost::TRAINING_PASSES;
use crate::distributed::{HostReducer, share};
use crate::export;
use crate::fit::{self, Event, Outcome, Plan};
use crate::memory::MemoryPlan;
use crate::roofline::Device;

/// Time for which matrix products are measured, to have something to compare the training with.
const PEAK_BUDGET: Duration = Duration::from_millis(100);

/// Trains a model; run again after an interruption, it goes on.
#[derive(Debug, clap::Args)]
pub struct FitArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The dataset's folder [default: data.path, else the newest below data/]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The run's folder [default: runs/<dataset>-<configuration>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Start anew: in --out if it is empty, else in the first of --out-2, --out-3, .. that is; nothing is overwritten
    #[arg(long)]
    fresh: bool,
    /// Start from the weights of an export, checkpoint or run, with its configuration unless --config names one
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// Go on although this key differs from the checkpoint's; `data` for the dataset; may be repeated
    #[arg(long, value_name = "KEY")]
    allow: Vec<String>,
    #[command(flatten)]
    transport: TransportArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Write the data as JSON to stdout, or into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Runs the command.
///
/// # Errors
/// For a wrong configuration or dataset, and those of training.
pub fn run(args: &FitArgs, printer: &mut Printer) -> Result<u8> {
    printer.set_json(&args.json);
    with_ranks_over(args.transport, printer, |printer, reducer| {
        train(args, printer, reducer)
    })
}

/// Trains in one of the processes that train together, or in the only one; the first reports.
fn train(args: &FitArgs, printer: &mut Printer, reducer: &mut HostReducer) -> Result<u8> {
    let json: &JsonTarget = &args.json;
    let plan = share(reducer, || plan(args))?;
    let is_first = reducer.rank() == 0;
    let signals = Signals::listen()?;
    let started = Instant::now();
    let threads = threads_of(plan.resolved.config.run.threads, reducer);
    let done = with_threads(threads, || {
        if !is_first {
            return Ok(fit::fit_among(&plan, &signals.stop, reducer, &mut |_| {}));
        }
        let mut report = Report::new(printer, &plan.out, reducer.ranks());
        let done = fit::fit_among(&plan, &signals.stop, reducer, &mut |event| report.tell(&event));
        report.close();
        Ok(done)
    })?;
    let outcome = match done {
        Err(fit::Error::NotFinite { .. }) if !is_first => return Ok(exit::BAD),
        Err(error @ fit::Error::NotFinite { .. }) => {
            printer.error(format_args!("error: {error}"));
            return Ok(exit::BAD);
        }
        other => other?,
    };
    if !is_first {
        return Ok(exit::DONE);
    }
    finish(&plan, &outcome, started.elapsed(), printer);
    let report = serde_json::json!({
        "out": plan.out,
        "step": outcome.step,
        "finished": outcome.is_finished,
        "checkpoint": outcome.checkpoint,
        "last": outcome.last,
    });
    printer.json(json, &report)?;
    Ok(exit::DONE)
}

fn finish(plan: &Plan, outcome: &Outcome, time: Duration, printer: &mut Printer) {
    let loss = outcome.last.as_ref().map_or_else(String::new, |metrics| {
        format!(
            ", loss {:.4}, {:.1} images/s",
            metrics.loss, metrics.images_per_second
        )
    });
    let (out, spent) = (plan.out.display(), duration(time.as_secs_f64()));
    printer.say(format_args!(
        "{} after {} steps in {spent}{loss}\nwrote {out}/{{checkpoints,samples,tensorboard,metrics.jsonl,loss.png}}",
        if outcome.is_finished {
            "done"
        } else {
            "stopped and saved"
        },
        with_commas(outcome.step)
    ));
    if outcome.is_finished {
        printer.say(format_args!(
            "next: trainer sample --checkpoint {out} --out grid.png; eval fid --checkpoint {out}"
        ));
    } else {
        printer.say(format_args!("next: trainer fit --out {out} goes on from here"));
    }
}

/// What the arguments mean: configuration, dataset, folder.
fn plan(args: &FitArgs) -> Result<Plan> {
    // A run that is gone on from brings its own configuration.
    let resumed = match &args.out {
        Some(out) if !args.fresh && args.config.config.is_none() => configuration_of(out)?,
        _ => None,
    };
    let mut resolved = match (resumed, &args.config.config, &args.init) {
        (Some(resumed), _, _) => resumed,
        (None, Some(name), _) => Resolved::named(name)?,
        (None, None, Some(init)) => configuration_of_init(init)?,
        (None, None, None) => Resolved::from_text("", "")?,
    };
    let is_given = !resolved.origins.is_empty();
    let set_all = |resolved: &mut Resolved| -> Result<(), crate::config::Error> {
        args.config
            .set
            .iter()
            .try_for_each(|assignment| resolved.set(assignment))
    };
    set_all(&mut resolved)?;
    let data = [args.data.clone().unwrap_or_default(), resolved.config.data.path.clone()]
        .into_iter()
        .find(|path| !path.as_os_str().is_empty())
        .or_else(|| newest_dataset(Path::new("data")))
        .context(
            "there is no dataset below data/\nhint: `preprocess encode --dataset demo --vae tiny` makes a small one, \
             --data DIR names one",
        )?;
    // Without a word, the shapes that the program draws get the small model that learns them, everything else XL.
    let is_demo = Manifest::read(&data)?.source.dataset == "demo";
    if is_demo && !is_given {
        resolved = Resolved::named("demo")?;
        set_all(&mut resolved)?;
    }
    resolved.config.data.path.clone_from(&data);
    let out = args.out.clone().unwrap_or_else(|| {
        let dataset = data
            .file_name()
            .map_or_else(|| "data".into(), |name| name.to_string_lossy());
        let init = args
            .init
            .as_deref()
            .and_then(Path::file_name)
            .and_then(OsStr::to_str);
        let name = args
            .config
            .name(init.unwrap_or(if is_demo { "demo" } else { "xl" }));
        PathBuf::from(format!("runs/{dataset}-{name}"))
    });
    Ok(Plan {
        resolved,
        data,
        out: if args.fresh { unused(&out)? } else { out },
        init: args.init.clone(),
        allow: args.allow.clone(),
        place: args.device.place()?,
        available_memory: args.memory.available(),
    })
}

/// The configuration that weights were trained with; the data are others.
fn configuration_of_init(init: &Path) -> Result<Resolved> {
    let mut config = export::open_config(init)?;
    config.data.path = PathBuf::new();
    let text = toml::to_string(&config).context("the configuration of --init")?;
    Ok(Resolved::from_text(&text, "--init")?)
}

/// The configuration of the newest checkpoint of a run.
fn configuration_of(run: &Path) -> Result<Option<Resolved>> {
    let states = checkpoint::list(run).into_iter().rev();
    // A damaged state is told when the run is opened.
    let Some(state) = states
        .filter_map(|(_, folder)| checkpoint::read_state(&folder).ok())
        .next()
    else {
        return Ok(None);
    };
    let text = toml::to_string(&state.config).context("the checkpoint's configuration")?;
    Ok(Some(Resolved::from_text(&text, "checkpoint")?))
}

/// A new or empty folder for a run: `out`, or `out` with the first number behind it that is free. It is made here, so that
/// two runs that start together do not get the same one.
fn unused(out: &Path) -> Result<PathBuf> {
    let with = |number: u32| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    if let Some(parent) = out.parent() {
        fs_err::create_dir_all(parent)?;
    }
    for path in std::iter::once(out.to_owned()).chain((2..10_000).map(with)) {
        match fs_err::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            Err(_) => {}
        }
        let is_empty = path.is_dir() && fs_err::read_dir(&path)?.next().is_none();
        if is_empty {
            return Ok(path);
        }
    }
    bail!("{} and 10,000 more are taken", out.display())
}

/// A rate as a share of a peak, which may not be known.
fn of_peak(gflops: f64, peak: f64) -> String {
    if peak.is_nan() {
        "peak not known".to_owned()
    } else {
        format!("{:.0}% of peak", 100.0 * gflops / peak.max(1e-9))
    }
}

/// What the user sees of a run.
struct Report<'a> {
    printer: &'a mut Printer,
    out: &'a Path,
    ranks: usize,
    progress: Option<Progress>,
    /// Operations of a step, in units of 10^9.
    gflops: f64,
    /// Of those, what the machine could do in a second.
    peak_gflops: f64,
    images_per_step: f64,
    smooth_loss: Option<f64>,
    waited: Duration,
    started: Instant,
}

impl<'a> Report<'a> {
    fn new(printer: &'a mut Printer, out: &'a Path, ranks: usize) -> Self {
        Self {
            printer,
            out,
            ranks,
            progress: None,
            gflops: 0.0,
            peak_gflops: 0.0,
            images_per_step: 0.0,
            smooth_loss: None,
            waited: Duration::ZERO,
            started: Instant::now(),
        }
    }

    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Started {
                resolved,
                dataset,
                step,
                parameters,
                steps_per_epoch,
                device,
            } => {
                self.head(resolved, *parameters, *device);
                self.printer.note(format_args!(
                    "data     {}   {} samples   {} steps an epoch",
                    dataset.path,
                    with_commas(dataset.samples),
                    with_commas(*steps_per_epoch)
                ));
                if *step > 0 {
                    self.printer
                        .note(format_args!("resume   step {}", with_commas(*step)));
                }
                let total = resolved.config.run.num_steps;
                self.progress = Some(Progress::new(self.printer, "fit", "steps", *step, Some(total)));
                self.started = Instant::now();
            }
            Event::Step { step, report, wait } => {
                let loss = report.loss.mse + report.loss.vb;
                if loss.is_finite() {
                    let smooth = self.smooth_loss.map_or(loss, |old| old + 0.05 * (loss - old));
                    self.smooth_loss = Some(smooth);
                }
                self.waited += *wait;
                if let Some(progress) = &mut self.progress {
                    let share = self.waited.as_secs_f64() / self.started.elapsed().as_secs_f64().max(1e-9);
                    let (rate, gflops) = (progress.rate(), progress.rate() * self.gflops);
                    let extra = format!(
                        "loss {:.4} grad {:.2} lr {:.1e} {:.1} images/s {gflops:.0} GFLOP/s ({}) wait {:.0}%",
                        self.smooth_loss.unwrap_or(f64::NAN),
                        report.grad_norm,
                        report.lr,
                        rate * self.images_per_step,
                        of_peak(gflops, self.peak_gflops),
                        100.0 * share
                    );
                    progress.set(self.printer, *step, &extra);
                }
            }
            Event::Logged(_) => {}
            Event::Saved(path, waited) => self.line(format_args!(
                "saved    {} (training waited {:.3} s)",
                path.display(),
                waited.as_secs_f64()
            )),
            Event::Scored(distance) => self.line(format_args!(
                "frechet  {:.4} over {} samples{}",
                distance.frechet,
                with_commas(distance.samples),
                if distance.comparable {
                    String::new()
                } else {
                    format!(" (in {}: not comparable)", distance.inception)
                }
            )),
            Event::Sampled(path) => self.line(format_args!("sample   {}", path.display())),
            Event::Note(text) => self.line(format_args!("note     {text}")),
        }
    }

    fn head(&mut self, resolved: &Resolved, parameters: usize, device: Option<&str>) {
        let config: &Config = &resolved.config;
        let images = config.optim.global_batch_size as f64;
        // Two floating-point operations a multiply-add.
        self.gflops = 2.0 * TRAINING_PASSES * images * config.model.gflops_per_image();
        self.images_per_step = images;
        let processes = match self.ranks {
            1 => String::new(),
            ranks => format!("{ranks} processes of "),
        };
        let place = match device {
            Some(name) => {
                // Of all GPUs together; one that is not known has no peak to compare with.
                let known = Device::called(name);
                self.peak_gflops = known.map_or(f64::NAN, |known| {
                    known.peak(config.run.precision) * self.ranks as f64 / 1e9
                });
                format!("{processes}{name}")
            }
            None => {
                if !self.printer.is_quiet() {
                    self.peak_gflops = fit::matmul_gflops(PEAK_BUDGET);
                }
                format!(
                    "cpu ({processes}{} threads, matrix products at most {:.0} GFLOP/s)",
                    rayon::current_num_threads(),
                    self.peak_gflops
                )
            }
        };
        self.printer.note(format_args!(
            "model    {} parameters   {}   {place}",
            with_commas(parameters as u64),
            match (config.run.precision, device) {
                (Precision::F32, _) => "f32",
                (Precision::Tf32, _) => "TF32",
                (Precision::Bf16, None) => "bf16 (emulated)",
                (Precision::Bf16, Some(_)) => "bf16",
            },
        ));
        let mut from: Vec<String> = Vec::new();
        for (key, origin) in &resolved.origins {
            let text = match origin {
                Origin::Flag => format!("--set {key}"),
                origin => origin.to_string(),
            };
            if !from.contains(&text) {
                from.push(text);
            }
        }
        from.push("defaults".to_owned());
        self.printer.note(format_args!(
            "config   {} (all values: {})",
            from.join(", "),
            self.out.join("config.toml").display()
        ));
        if device.is_some() {
            return;
        }
        let plan = MemoryPlan::training(&fit::slice_of(config, self.ranks));
        self.printer.note(format_args!(
            "memory   weights {} + gradients {} + optimizer {} + activations {} + rest {} = {}",
            bytes(plan.weights),
            bytes(plan.gradients),
            bytes(plan.optimizer),
            bytes(plan.activations),
            bytes(plan.workspace + plan.other),
            bytes(plan.total())
        ));
    }

    /// A line of its own; a bar is drawn again below it.
    fn line(&mut self, text: impl std::fmt::Display) {
        match &self.progress {
            Some(progress) => progress.suspend(|| self.printer.note(text)),
            None => self.printer.note(text),
        }
    }

    fn close(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }
}
