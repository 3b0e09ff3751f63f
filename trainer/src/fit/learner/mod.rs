//! One training step: noise, forward, loss, backward, AdamW and EMA.

use rayon::prelude::*;
use shards::loader::Batch;
use shards::rng::{Philox, Stream};

use crate::checkpoint::{BufferRefs, Buffers};
use crate::config::{Config, Precision};
use crate::diffusion::{LossParts, Schedule, training_loss};
use crate::distributed::{HostReducer, Single};
use crate::model::{DiffuSsm, Error, Gradients, Kernels, ModelConfig};
use crate::ops::bf16;
use crate::ops::profile::{Clock, Op};
use crate::optim::{AdamW, Rates, grad_norm};

/// Fewest gradients that are summed over processes at a time: 4 MiB. Smaller parts wait for their neighbours.
const MIN_BUCKET: usize = 1 << 20;

/// A model in training: weights, their average, gradients and moments, all flat.
pub struct Learner {
    model: DiffuSsm,
    config: Config,
    schedule: Schedule,
    rng: Philox,
    params: Vec<f32>,
    ema: Vec<f32>,
    grads: Vec<f32>,
    optimizer: AdamW,
    /// The kernels of the weights in a step; before, those of the step before.
    kernels: Option<Kernels>,
}

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Means over the global batch.
    pub loss: LossParts,
    /// Norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Loss or gradients were not finite: nothing was changed.
    pub is_skipped: bool,
}

impl Learner {
    /// A new model.
    ///
    /// # Errors
    /// When the architecture does not fit together.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let model = DiffuSsm::new(config.model.clone())?;
        let params = model.init(config.run.global_seed)?;
        let zeros = || vec![0.0; params.len()];
        let buffers = Buffers {
            ema: params.clone(),
            first: zeros(),
            second: zeros(),
            params,
        };
        Ok(Self::with_buffers(config, model, buffers))
    }

    /// The model of a checkpoint.
    ///
    /// # Errors
    /// When the architecture does not fit together, or the buffers do not fit it.
    pub fn resume(config: &Config, buffers: Buffers) -> Result<Self, Error> {
        let model = DiffuSsm::new(config.model.clone())?;
        let expected = model.layout().total();
        for (what, buffer) in [
            ("weights", &buffers.params),
            ("ema", &buffers.ema),
            ("first moment", &buffers.first),
            ("second moment", &buffers.second),
        ] {
            if buffer.len() != expected {
                return Err(Error::Length {
                    what,
                    found: buffer.len(),
                    expected,
                });
            }
        }
        Ok(Self::with_buffers(config, model, buffers))
    }

    fn with_buffers(config: &Config, model: DiffuSsm, buffers: Buffers) -> Self {
        let length = buffers.params.len();
        let mut optimizer = AdamW::new(config.optim.adamw(), 0, model.layout().ssm_ranges());
        (optimizer.first, optimizer.second) = (buffers.first, buffers.second);
        Self {
            schedule: Schedule::linear(config.diffusion.num_timesteps),
            rng: Philox::new(config.run.global_seed),
            grads: vec![0.0; length],
            params: buffers.params,
            ema: buffers.ema,
            config: config.clone(),
            optimizer,
            kernels: None,
            model: model.keeping(config.run.recompute.into()),
        }
    }

    /// The model.
    pub fn model(&self) -> &DiffuSsm {
        &self.model
    }

    /// The averaged weights.
    pub fn ema(&self) -> &[f32] {
        &self.ema
    }

    /// What a checkpoint holds.
    pub fn buffers(&self) -> BufferRefs<'_> {
        BufferRefs {
            params: &self.params,
            ema: &self.ema,
            first: &self.optimizer.first,
            second: &self.optimizer.second,
        }
    }

    /// Everything that a checkpoint holds, for a learner elsewhere.
    pub(super) fn into_buffers(self) -> Buffers {
        Buffers {
            params: self.params,
            ema: self.ema,
            first: self.optimizer.first,
            second: self.optimizer.second,
        }
    }

    /// Step number `step` (from 1) on a global batch of unscaled latents.
    ///
    /// Timesteps, noise and label dropping are keyed by (seed, record, epoch); gradients are summed over micro-batches,
    /// and are means over the global batch.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Length`] when the batch does not fit the model.
    pub fn step(&mut self, step: u64, batch: &Batch, scaling_factor: f32) -> Result<StepReport, Error> {
        self.step_among(step, batch, scaling_factor, &mut Single)
    }

    /// [`Learner::step`] of one of several processes, on its slice of the global batch.
    ///
    /// Gradients are summed over processes while the backward of the last micro-batch goes on; the report is the same in
    /// all processes, and so is what they make of it.
    ///
    /// # Errors
    /// As [`Learner::step`], in this process alone.
    pub fn step_among(
        &mut self,
        step: u64,
        batch: &Batch,
        scaling_factor: f32,
        reducer: &mut HostReducer,
    ) -> Result<StepReport, Error> {
        let image = self.config.model.latent_numbers();
        let micro = self.config.optim.micro_batch();
        let weight = 1.0 / self.config.optim.global_batch_size as f64;
        self.grads.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
        self.kernels = self.model.step_kernels(&self.params, self.kernels.take());
        let mut loss = LossParts::default();
        for start in (0..batch.ids.len()).step_by(micro) {
            let end = (start + micro).min(batch.ids.len());
            let latents = batch
                .latents
                .get(start * image..end * image)
                .ok_or(Error::Length {
                    what: "latents",
                    found: batch.latents.len(),
                    expected: batch.ids.len() * image,
                })?;
            let inputs = self.noised(
                latents,
                &batch.ids[start..end],
                &batch.labels[start..end],
                batch.epoch,
                scaling_factor,
            )?;
            let is_last = end == batch.ids.len();
            let part = self.accumulate(&inputs, weight, is_last.then_some(&mut *reducer))?;
            loss.mse += part.mse;
            loss.vb += part.vb;
        }
        let mut parts = [loss.mse, loss.vb];
        reducer.sum(&mut parts);
        [loss.mse, loss.vb] = parts;
        let norm = grad_norm(&self.grads);
        let (lr, ssm_lr) = learning_rates(&self.config, step);
        let is_skipped = !(loss.mse + loss.vb + norm).is_finite();
        if !is_skipped {
            self.update(step, (lr, ssm_lr), norm);
        }
        Ok(StepReport {
            loss,
            grad_norm: norm,
            lr,
            is_skipped,
        })
    }

    /// `x_t`, noise, timestep and label of every image of a micro-batch.
    fn noised(
        &self,
        latents: &[f32],
        ids: &[u64],
        labels: &[i64],
        epoch: u32,
        scaling_factor: f32,
    ) -> Result<Inputs, Error> {
        let _clock = Clock::start(Op::Diffusion);
        let image = latents.len() / ids.len();
        let mut inputs = Inputs {
            x_start: latents.iter().map(|x| x * scaling_factor).collect(),
            noise: vec![0.0; latents.len()],
            x_t: vec![0.0; latents.len()],
            timesteps: vec![0; ids.len()],
            labels: vec![0; ids.len()],
        };
        let (schedule, rng, steps) = (&self.schedule, &self.rng, self.schedule.len() as u32);
        inputs
            .x_t
            .par_chunks_exact_mut(image)
            .zip(inputs.noise.par_chunks_exact_mut(image))
            .zip(inputs.x_start.par_chunks_exact(image))
            .zip(inputs.timesteps.par_iter_mut())
            .zip(ids)
            .for_each(|((((x_t, noise), x_start), timestep), &id)| {
                *timestep = rng.below(Stream::Timestep, id, epoch, 0, steps) as usize;
                rng.fill_normal(Stream::TrainingNoise, id, epoch, noise);
                schedule.q_sample(*timestep, x_start, noise, x_t);
            });
        let model = &self.config.model;
        if model.num_classes > 0 {
            let labels = checked_labels(model, labels)?;
            for ((out, label), &id) in inputs.labels.iter_mut().zip(labels).zip(ids) {
                let is_dropped = rng.uniform(Stream::LabelDrop, id, epoch, 0) < model.class_dropout_prob;
                *out = match model.null_label() {
                    Some(null) if is_dropped => null,
                    _ => label,
                };
            }
        }
        Ok(inputs)
    }

    /// Forward, loss and backward of a micro-batch; adds to the gradients. The last one of a step comes with `reducer`,
    /// which sums them. The losses are sums over the micro-batch times `weight`.
    fn accumulate(
        &mut self,
        inputs: &Inputs,
        weight: f64,
        reducer: Option<&mut HostReducer>,
    ) -> Result<LossParts, Error> {
        let count = inputs.timesteps.len();
        let image = inputs.x_t.len() / count;
        let t: Vec<f32> = inputs
            .timesteps
            .iter()
            .map(|&index| self.schedule.timestep_map[index] as f32)
            .collect();
        let is_bf16 = self.config.run.precision == Precision::Bf16;
        let (output, saved) = bf16::scope(is_bf16, || {
            self.model.forward_train(
                &self.params,
                self.kernels.as_ref(),
                &inputs.x_t,
                &t,
                &inputs.labels,
            )
        })?;
        let clock = Clock::start(Op::Diffusion);
        let width = output.len() / count;
        let mut d_output = vec![0.0; output.len()];
        let schedule = &self.schedule;
        let parts: Vec<LossParts> = d_output
            .par_chunks_exact_mut(width)
            .zip(output.par_chunks_exact(width))
            .zip(inputs.x_start.par_chunks_exact(image))
            .zip(inputs.noise.par_chunks_exact(image))
            .zip(&inputs.timesteps)
            .map(|((((d_output, output), x_start), noise), &timestep)| {
                training_loss(schedule, timestep, x_start, noise, output, weight, d_output)
            })
            .collect();
        drop((output, clock));
        let (model, params, grads) = (&self.model, &self.params, &mut self.grads[..]);
        let kernels = self.kernels.as_mut();
        match reducer {
            None => {
                bf16::scope(is_bf16, || {
                    model.backward_before_others(params, kernels, saved, &d_output, grads)
                })?;
            }
            Some(reducer) => {
                let mut done = Ok(Vec::new());
                reducer.overlap(Box::new(|hand_over| {
                    let gradients = Gradients::new(grads, MIN_BUCKET, hand_over);
                    done = bf16::scope(is_bf16, || {
                        model.backward_in_parts(params, kernels, saved, &d_output, gradients)
                    });
                }));
                done?;
            }
        }
        // In the batch's order: the sum does not depend on the threads.
        Ok(parts.iter().fold(LossParts::default(), |sum, part| LossParts {
            mse: sum.mse + weight * part.mse,
            vb: sum.vb + weight * part.vb,
        }))
    }

    fn update(&mut self, step: u64, (lr, ssm_lr): (f64, f64), norm: f64) {
        let optim = &self.config.optim;
        let clip = optim.max_grad_norm;
        let grad_scale = if clip > 0.0 && norm > clip {
            clip / norm
        } else {
            1.0
        };
        let rates = Rates {
            lr,
            ssm_lr,
            grad_scale: grad_scale as f32,
        };
        self.optimizer
            .step(step, rates, &mut self.params, &self.grads, &mut self.ema);
    }
}

/// The labels of a batch for a model with classes; zeros for one without.
///
/// # Errors
/// [`Error::Label`] when one is no class of the model.
pub(super) fn checked_labels(model: &ModelConfig, labels: &[i64]) -> Result<Vec<u32>, Error> {
    if model.num_classes == 0 {
        return Ok(vec![0; labels.len()]);
    }
    let checked = |(index, &label): (usize, &i64)| {
        let label = u32::try_from(label).unwrap_or(u32::MAX);
        if (label as usize) < model.num_classes {
            Ok(label)
        } else {
            let rows = model.num_classes;
            Err(Error::Label { index, label, rows })
        }
    };
    labels.iter().enumerate().map(checked).collect()
}

/// The learning rates of step `step` (from 1): of dt, A and B of the state space models, and of all other parameters before.
pub(super) fn learning_rates(config: &Config, step: u64) -> (f64, f64) {
    let optim = &config.optim;
    let lr = optim.lr * optim.lr_factor(step, config.run.num_steps);
    let ssm_lr = match optim.ssm_lr {
        0.0 => lr,
        ssm_lr => lr / optim.lr.max(f64::MIN_POSITIVE) * ssm_lr,
    };
    (lr, ssm_lr)
}

struct Inputs {
    x_start: Vec<f32>,
    noise: Vec<f32>,
    x_t: Vec<f32>,
    timesteps: Vec<usize>,
    labels: Vec<u32>,
}

#[cfg(test)]
mod tests;
