//! What the user sees of a run.

use std::path::Path;
use std::time::{Duration, Instant};

use preprocess::console::count::{bytes, with_commas};
use preprocess::console::{Printer, Progress};

use crate::config::{Config, Origin, Precision, Resolved};
use crate::cost::TRAINING_PASSES;
use crate::fit::{self, Event};
use crate::memory::MemoryPlan;
use crate::roofline::Device;

/// Time for which matrix products are measured, to have something to compare the training with.
const PEAK_BUDGET: Duration = Duration::from_millis(100);

/// A rate as a share of a peak, which may not be known.
fn of_peak(gflops: f64, peak: f64) -> String {
    if peak.is_nan() {
        "peak not known".to_owned()
    } else {
        format!("{:.0}% of peak", 100.0 * gflops / peak.max(1e-9))
    }
}

/// What the user sees of a run.
pub(super) struct Report<'a> {
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
    pub(super) fn new(printer: &'a mut Printer, out: &'a Path, ranks: usize) -> Self {
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

    pub(super) fn tell(&mut self, event: &Event<'_>) {
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

    pub(super) fn close(self) {
        if let Some(progress) = self.progress {
            progress.finish();
        }
    }
}
