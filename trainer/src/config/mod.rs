//! What defines a run: TOML with the sections `[model] [diffusion] [data] [optim] [run]`.
//!
//! Defaults, a file or a built-in configuration, `--set section.key=value`, and at last what the dataset says of its
//! shape, each over the one before; every key remembers where its value came from.

mod data;
mod error;
mod preset;
mod resolve;

use serde::{Deserialize, Serialize};

use crate::model::{Keep, ModelConfig};
use crate::optim::AdamWConfig;

pub use data::{Cache, DataConfig, Order};
pub use error::Error;
pub use preset::{PRESETS, preset, preset_with_shape};
pub use resolve::{Origin, Resolved, entries};

/// A whole run. The defaults are DiffuSSM-XL with DiT's recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The architecture.
    pub model: ModelConfig,
    /// The noise process.
    pub diffusion: DiffusionConfig,
    /// Where training data comes from and in which order.
    pub data: DataConfig,
    /// Optimiser, learning rate, batch.
    pub optim: OptimConfig,
    /// Length, checkpoints, reports.
    pub run: RunConfig,
}

/// The `[diffusion]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Steps of the training process.
    pub num_timesteps: usize,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            num_timesteps: crate::diffusion::NUM_TIMESTEPS,
        }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// It stays.
    #[default]
    Constant,
    /// Half a cosine from `lr` to `final_lr_ratio * lr` at `run.num_steps`.
    Cosine,
}

/// The `[optim]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Learning rate.
    pub lr: f64,
    /// Learning rate of dt, A and B; 0: that of everything else.
    pub ssm_lr: f64,
    /// What follows the warm-up.
    pub lr_schedule: LrSchedule,
    /// Where a cosine ends, as a share of `lr`.
    pub final_lr_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients; 0: they are not clipped.
    pub max_grad_norm: f64,
    /// Images in one optimiser step.
    pub global_batch_size: usize,
    /// Images that go through the model together; 0: all of them.
    pub micro_batch_size: usize,
    /// Decay of the moving average of the weights, a step.
    pub ema_decay: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        let adamw = AdamWConfig::default();
        Self {
            lr: 1e-4,
            ssm_lr: 0.0,
            lr_schedule: LrSchedule::Constant,
            final_lr_ratio: 0.0,
            warmup_steps: 0,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            weight_decay: adamw.weight_decay,
            max_grad_norm: 0.0,
            global_batch_size: 256,
            micro_batch_size: 0,
            ema_decay: adamw.ema_decay,
        }
    }
}

impl OptimConfig {
    /// The optimiser's constants.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            ema_decay: self.ema_decay,
        }
    }

    /// Images that go through the model together.
    pub fn micro_batch(&self) -> usize {
        match self.micro_batch_size {
            0 => self.global_batch_size,
            size => size.min(self.global_batch_size),
        }
    }

    /// The factor of the learning rate in step `step` (from 1) of `num_steps`.
    pub fn lr_factor(&self, step: u64, num_steps: u64) -> f64 {
        if step <= self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        match self.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Cosine => {
                let length = num_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.final_lr_ratio + (1.0 - self.final_lr_ratio) * cosine
            }
        }
    }
}

/// Arithmetic of the activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// On a GPU, single precision but for the factors of matrix products, which are rounded to 10 bits behind the point.
    Tf32,
    /// bf16 as mixed precision stores and multiplies it; emulated on the CPU, for its numbers and not for speed: see
    /// [`crate::ops::bf16`].
    Bf16,
}

impl Precision {
    /// As it is written in configurations and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// How the long convolution and its backward are computed on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvForm {
    /// By fast Fourier transforms in f32.
    #[default]
    Transforms,
    /// By chunks of samples whose states go from one to the next, in f32; with bf16 activations their products are those of
    /// tensor cores, whose factors are bf16, too.
    Chunks,
}

/// What the backward pass computes again instead of keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// The forward pass of each block but the last: of a block only its input is kept. The same bits in about a fifth
    /// more time.
    Block,
}

impl From<Recompute> for Keep {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::None => Self::All,
            Recompute::Block => Self::Inputs,
        }
    }
}

/// The `[run]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Optimiser steps of the whole run.
    pub num_steps: u64,
    /// Steps between two checkpoints; the last step always has one.
    pub checkpoint_every: u64,
    /// Newest checkpoints that are kept; 0: all.
    pub keep_last: usize,
    /// Steps between two checkpoints that are kept for ever, beside the newest; 0: none.
    pub keep_every: u64,
    /// Whether checkpoints are written while training goes on, from a copy in memory.
    pub async_checkpoint: bool,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between two grids of samples; 0: none.
    pub sample_every: u64,
    /// Images of a grid.
    pub sample_count: u64,
    /// Sampling steps (DDIM) of a grid.
    pub sample_steps: usize,
    /// Guidance scale of a grid; 1: none.
    pub sample_cfg: f64,
    /// Steps between two Frechet distances of samples; 0: none. Training waits for them.
    pub frechet_every: u64,
    /// Samples of a distance, drawn from the averaged weights without guidance, in `sample_steps` steps.
    pub frechet_samples: u64,
    /// The network of a distance, as `eval fid --inception` takes it.
    pub frechet_inception: String,
    /// Seed of everything.
    pub global_seed: u64,
    /// Arithmetic of the activations.
    pub precision: Precision,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// On a GPU, whether a step is captured as a CUDA graph: all of its launches are one.
    pub cuda_graph: bool,
    /// On a GPU, how the long convolution is computed.
    pub conv: ConvForm,
    /// Threads; 0: all cores.
    pub threads: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            num_steps: 400_000,
            checkpoint_every: 1000,
            keep_last: 3,
            keep_every: 0,
            async_checkpoint: true,
            log_every: 10,
            sample_every: 0,
            sample_count: 16,
            sample_steps: 50,
            sample_cfg: 1.5,
            frechet_every: 0,
            frechet_samples: 2000,
            frechet_inception: "auto".to_owned(),
            global_seed: 0,
            precision: Precision::F32,
            recompute: Recompute::None,
            cuda_graph: false,
            conv: ConvForm::Transforms,
            threads: 0,
        }
    }
}

impl RunConfig {
    /// Whether a checkpoint is due after step `step`.
    pub fn is_checkpoint_due(&self, step: u64) -> bool {
        let is_multiple = |every: u64| every > 0 && step.is_multiple_of(every);
        step == self.num_steps || is_multiple(self.checkpoint_every) || is_multiple(self.keep_every)
    }
}

impl Config {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Names the key and says what it must be.
    pub fn validate(&self) -> Result<(), Error> {
        self.model.validate()?;
        let positive = [
            ("diffusion.num_timesteps", self.diffusion.num_timesteps as u64),
            ("optim.global_batch_size", self.optim.global_batch_size as u64),
            ("data.block_samples", self.data.block_samples as u64),
            ("data.window_blocks", self.data.window_blocks as u64),
            ("run.num_steps", self.run.num_steps),
            ("run.checkpoint_every", self.run.checkpoint_every),
            ("run.log_every", self.run.log_every),
            ("run.sample_count", self.run.sample_count),
            ("run.frechet_samples", self.run.frechet_samples),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::value(*key, "it must be at least 1"));
        }
        let optim = &self.optim;
        let finite = [
            ("optim.lr", optim.lr),
            ("optim.ssm_lr", optim.ssm_lr),
            ("optim.final_lr_ratio", optim.final_lr_ratio),
            ("optim.eps", optim.eps),
            ("optim.weight_decay", optim.weight_decay),
            ("optim.max_grad_norm", optim.max_grad_norm),
            ("run.sample_cfg", self.run.sample_cfg),
        ];
        if let Some((key, value)) = finite
            .iter()
            .find(|(_, value)| !value.is_finite() || *value < 0.0)
        {
            return Err(Error::value(
                *key,
                format!("{value} is not a number of at least 0"),
            ));
        }
        let shares = [
            ("optim.beta1", optim.beta1),
            ("optim.beta2", optim.beta2),
            ("optim.ema_decay", optim.ema_decay),
        ];
        if let Some((key, value)) = shares.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return Err(Error::value(*key, format!("{value} is not in [0, 1)")));
        }
        if self.diffusion.num_timesteps < 2 || self.diffusion.num_timesteps > 1 << 20 {
            return Err(Error::value("diffusion.num_timesteps", "it must be at least 2"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_its_end() {
        let optim = OptimConfig {
            lr_schedule: LrSchedule::Cosine,
            final_lr_ratio: 0.1,
            warmup_steps: 4,
            ..OptimConfig::default()
        };
        assert_eq!(optim.lr_factor(1, 100), 0.25);
        assert_eq!(optim.lr_factor(4, 100), 1.0);
        assert!((optim.lr_factor(52, 100) - 0.55).abs() < 1e-12);
        assert!((optim.lr_factor(100, 100) - 0.1).abs() < 1e-12);
        assert_eq!(OptimConfig::default().lr_factor(7, 100), 1.0);
    }

    #[test]
    fn impossible_values_name_their_key() {
        let mut config = Config::default();
        config.optim.beta2 = 1.0;
        assert!(config.validate().unwrap_err().to_string().contains("optim.beta2"));
        let mut config = Config::default();
        config.run.log_every = 0;
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("run.log_every")
        );
    }
}
