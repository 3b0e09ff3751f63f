//! How much memory a training process takes: known before the first step, from the configuration alone.

use serde::Serialize;

use crate::config::Config;
use crate::model::{ModelConfig, Modulation, ParamLayout};

const F32: u64 = size_of::<f32>() as u64;
/// One complex number of a spectrum.
const COMPLEX: u64 = 2 * F32;
/// Batches of latents that the loader holds: those ahead, one in work, one in use.
const BATCHES_HELD: u64 = 4;
/// Flat buffers of a checkpoint that is written while training goes on.
const COPIES_SAVED: u64 = 4;
/// The program itself, its threads and the packed panels of the matrix products.
const BASE: u64 = 56 << 20;

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Weights and their moving average.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// Both moments of AdamW.
    pub optimizer: u64,
    /// What the forward pass of a micro-batch keeps for the backward.
    pub activations: u64,
    /// The working buffers of one block's backward, and of the ends of the model.
    pub workspace: u64,
    /// Batches of the loader, the copy of a checkpoint in flight, and the program.
    pub other: u64,
}

impl MemoryPlan {
    /// The plan of a training process on the CPU.
    pub fn training(config: &Config) -> Self {
        let model = &config.model;
        let parameters = ParamLayout::model(model).total() as u64 * F32;
        let batch = config.optim.micro_batch() as u64;
        let image = (model.in_channels * model.input_size * model.input_size) as u64;
        let held = BATCHES_HELD * config.optim.global_batch_size as u64 * image * F32;
        Self {
            weights: 2 * parameters,
            gradients: parameters,
            optimizer: 2 * parameters,
            activations: model.depth as u64 * block_saved(model, batch) + kernels(model) * model.depth as u64,
            workspace: block_workspace(model, batch) + ends(model, batch),
            other: held + BASE + u64::from(config.run.async_checkpoint) * COPIES_SAVED * parameters,
        }
    }

    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations + self.workspace + self.other
    }
}

/// What a block's forward keeps: see `BlockSaved`.
fn block_saved(model: &ModelConfig, batch: u64) -> u64 {
    let (d, m) = (model.hidden_size as u64, model.downscale as u64);
    let (rows, ssm) = (batch * model.tokens() as u64, model.ssm_width() as u64);
    let bins = model.length() as u64 + 1;
    let branch = if model.modulation == Modulation::Gate {
        d
    } else {
        0
    };
    // input, h, pre0, act0; pre_up and u; y; pre_down, down, pre1, pre2, product.
    let per_row = 4 * d + 2 * m * d + m * ssm + 10 * d + branch;
    rows * per_row * F32 + d * bins * (batch + 2) * COMPLEX
}

/// The convolution kernels of a block.
fn kernels(model: &ModelConfig) -> u64 {
    2 * (model.hidden_size * model.length()) as u64 * F32
}

/// What a block's backward allocates beside what was kept: dh, dy, du, and the kernels' gradient.
fn block_workspace(model: &ModelConfig, batch: u64) -> u64 {
    let (d, m) = (model.hidden_size as u64, model.downscale as u64);
    let (rows, ssm) = (batch * model.tokens() as u64, model.ssm_width() as u64);
    let chunks = rayon::current_num_threads() as u64 * 16 * model.length() as u64 * 6 * F32;
    rows * (d + m * ssm + m * d) * F32 + 2 * kernels(model) + chunks
}

/// Tokens, output and their gradients, and the last layer.
fn ends(model: &ModelConfig, batch: u64) -> u64 {
    let (d, rows) = (model.hidden_size as u64, batch * model.tokens() as u64);
    let image = (model.in_channels * model.input_size * model.input_size) as u64;
    let widths = 2 * (model.token_width() + model.out_token_width()) as u64 + 3 * d;
    rows * widths * F32 + batch * image * 8 * F32
}

/// The most memory that this process has held so far, in bytes, where the system tells.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
