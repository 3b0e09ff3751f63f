//! `trainer fit`: trains, resumes, reports.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use preprocess::console::count::{bytes, with_commas};
use preprocess::console::progress::duration;
use preprocess::console::{JsonTarget, Printer, Progress, exit};
use shards::manifest::Manifest;

use super::{ConfigArgs, MemoryArgs, newest_dataset, with_threads};
use crate::checkpoint;
use crate::config::{Config, Origin, Precision, Resolved};
use crate::fit::{self, Event, Outcome, Plan};
use crate::memory::MemoryPlan;

/// Multiply-adds of a training step over those of a forward pass.
const PASSES: f64 = 3.0;

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
    /// Where the model is trained
    #[arg(long, default_value = "cpu", value_parser = ["cpu"])]
    device: String,
    /// Start anew in another folder, even if there is a checkpoint
    #[arg(long)]
    fresh: bool,
    /// Go on although this key differs from the checkpoint's; `data` for the dataset; may be repeated
    #[arg(long, value_name = "KEY")]
    allow: Vec<String>,
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
    let json: &JsonTarget = &args.json;
    printer.set_json(json);
    let plan = plan(args)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // The second signal of a kind ends the process at once.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            exit::INTERRUPTED.into(),
            Arc::clone(&stop),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let started = Instant::now();
    let threads = plan.resolved.config.run.threads;
    let done = with_threads(threads, || {
        let mut report = Report::new(printer, &plan.out);
        let done = fit::fit(&plan, &stop, &mut |event| report.tell(&event));
        report.close();
        Ok(done)
    })?;
    let outcome = match done {
        Err(error @ fit::Error::NotFinite { .. }) => {
            printer.error(format_args!("error: {error}"));
            return Ok(exit::BAD);
        }
        other => other?,
    };
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
        "{} after {} steps in {spent}{loss}\nwrote {out}/{{checkpoints,samples,metrics.jsonl,loss.png}}",
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
    let mut resolved = match (resumed, &args.config.config) {
        (Some(resumed), _) => resumed,
        (None, Some(name)) => Resolved::named(name)?,
        (None, None) => Resolved::from_text("", "")?,
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
        let name = args.config.name(if is_demo { "demo" } else { "xl" });
        PathBuf::from(format!("runs/{dataset}-{name}"))
    });
    Ok(Plan {
        resolved,
        data,
        out: if args.fresh { unused(&out)? } else { out },
        allow: args.allow.clone(),
        available_memory: args.memory.available(),
    })
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

/// `out`, or with the first number behind it that gives a folder without checkpoints.
fn unused(out: &Path) -> Result<PathBuf> {
    let with = |number: u32| {
        let mut name = out.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    };
    std::iter::once(out.to_owned())
        .chain((2..10_000).map(with))
        .find(|path| checkpoint::list(path).is_empty())
        .map_or_else(|| bail!("{} and 10,000 more are taken", out.display()), Ok)
}

/// What the user sees of a run.
struct Report<'a> {
    printer: &'a mut Printer,
    out: &'a Path,
    progress: Option<Progress>,
    gflops: f64,
    smooth_loss: Option<f64>,
    waited: Duration,
    started: Instant,
}

impl<'a> Report<'a> {
    fn new(printer: &'a mut Printer, out: &'a Path) -> Self {
        Self {
            printer,
            out,
            progress: None,
            gflops: 0.0,
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
            } => {
                self.head(resolved, *parameters);
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
                    let extra = format!(
                        "loss {:.4} grad {:.2} lr {:.1e} {:.0} GFLOP/s wait {:.0}%",
                        self.smooth_loss.unwrap_or(f64::NAN),
                        report.grad_norm,
                        report.lr,
                        progress.rate() * self.gflops,
                        100.0 * share
                    );
                    progress.set(self.printer, *step, &extra);
                }
            }
            Event::Logged(_) => {}
            Event::Saved(path) => self.line(format_args!("saved    {}", path.display())),
            Event::Sampled(path) => self.line(format_args!("sample   {}", path.display())),
            Event::Note(text) => self.line(format_args!("note     {text}")),
        }
    }

    fn head(&mut self, resolved: &Resolved, parameters: usize) {
        let config: &Config = &resolved.config;
        let images = config.optim.global_batch_size as f64;
        // Two floating-point operations a multiply-add.
        self.gflops = 2.0 * PASSES * images * config.model.gflops_per_image();
        self.printer.note(format_args!(
            "model    {} parameters   {}   cpu ({} threads)",
            with_commas(parameters as u64),
            match config.run.precision {
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16 (emulated)",
            },
            rayon::current_num_threads()
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
        let plan = MemoryPlan::training(config);
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
