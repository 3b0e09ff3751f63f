//! What the steps of a run give: the state, the lines of its metrics, and what is due after each.

use std::time::Instant;

use super::saver::Saver;
use super::{Error, Event, Metrics, StepReport, Told};
use crate::checkpoint::{MetricSums, State};
use crate::config::RunConfig;

/// Steps in a row without a finite loss after which a run is given up.
const MAX_SKIPPED_IN_A_ROW: u64 = 5;

/// What is due after a step.
pub(super) struct Due {
    pub(super) line: bool,
    pub(super) samples: bool,
    pub(super) frechet: bool,
    pub(super) checkpoint: bool,
}

impl Due {
    pub(super) fn at(step: u64, run: &RunConfig) -> Self {
        let is_last = step == run.num_steps;
        let every = |steps: u64| steps > 0 && (step.is_multiple_of(steps) || is_last);
        Self {
            line: every(run.log_every),
            samples: every(run.sample_every),
            frechet: every(run.frechet_every),
            checkpoint: run.is_checkpoint_due(step),
        }
    }

    /// Whether something is that needs the weights.
    pub(super) fn weights(&self) -> bool {
        self.samples || self.frechet || self.checkpoint
    }

    pub(super) fn any(&self) -> bool {
        self.line || self.weights()
    }
}

/// Puts what a step has given to the state of the run, and tells it.
///
/// # Errors
/// [`Error::NotFinite`], when too many steps in a row were left out.
pub(super) fn account(
    state: &mut State,
    told: &Told,
    saver: &mut Saver,
    listener: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    let Told { step, report, .. } = told;
    if report.is_skipped {
        state.skipped_steps += 1;
        state.skipped_in_a_row += 1;
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW {
            saver.finish(listener)?;
            return Err(Error::NotFinite {
                count: state.skipped_in_a_row,
                step: *step,
                loss: report.loss.mse + report.loss.vb,
                grad_norm: report.grad_norm,
                lr: report.lr,
                ids: told.ids.clone(),
                saved: saver.saved(),
            });
        }
        listener(Event::Note(&format!(
            "step {step} is left out: loss {}, gradient norm {}",
            report.loss.mse + report.loss.vb,
            report.grad_norm
        )));
    } else {
        state.skipped_in_a_row = 0;
        add(&mut state.sums, report);
    }
    listener(Event::Step {
        step: *step,
        report,
        wait: told.wait,
    });
    Ok(())
}

fn add(sums: &mut MetricSums, report: &StepReport) {
    sums.steps += 1;
    sums.loss += report.loss.mse + report.loss.vb;
    sums.mse += report.loss.mse;
    sums.vb += report.loss.vb;
    sums.grad_norm += report.grad_norm;
}

/// The line of `metrics.jsonl` for the steps summed; `None` when all of them were left out.
pub(super) fn line(
    state: &mut State,
    lr: f64,
    steps_per_epoch: u64,
    images_per_second: f64,
) -> Option<Metrics> {
    let sums = std::mem::take(&mut state.sums);
    let mean = |sum: f64| sum / sums.steps as f64;
    (sums.steps > 0).then(|| Metrics {
        step: state.step,
        epoch: f64::from(state.position.epoch) + state.position.batch as f64 / steps_per_epoch as f64,
        loss: mean(sums.loss),
        mse: mean(sums.mse),
        vb: mean(sums.vb),
        grad_norm: mean(sums.grad_norm),
        lr,
        images_per_second,
        images_seen: state.images_seen,
        skipped_steps: state.skipped_steps,
    })
}

/// Images and time of this process.
pub(super) struct Clock {
    start: Instant,
    pub(super) images: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            images: 0,
        }
    }

    pub(super) fn rate(&self) -> f64 {
        self.images as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}
