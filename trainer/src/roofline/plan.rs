//! What a GPU's memory holds in training.

use super::Device;
use super::step::conv_of;
use crate::config::Recompute;
use crate::memory::kept_activations;
use crate::model::{ModelConfig, ParamLayout};

/// Bytes that the driver, the libraries and the allocator's gaps are taken to need: an assumption.
const RESERVED: f64 = 3e9;
const F32: f64 = 4.0;
const BF16: f64 = 2.0;
/// Bytes of a complex number.
const COMPLEX: f64 = 8.0;

/// Bytes by purpose, for one GPU in bf16.
#[derive(Clone, Copy, Debug)]
pub struct GpuMemory {
    /// Weights, gradients, two moments and EMA in f32, the weights' copy in bf16.
    pub parameters: f64,
    /// What the forward keeps for the backward.
    pub activations: f64,
    /// Spectra of the kernels of all blocks.
    pub spectra: f64,
    /// What one block's backward works in.
    pub workspace: f64,
}

impl GpuMemory {
    /// The plan of `batch` images.
    pub fn new(model: &ModelConfig, batch: usize, recompute: Recompute) -> Self {
        let (d, m) = (model.hidden_size as f64, model.downscale as f64);
        let (rows, depth) = ((batch * model.tokens()) as f64, model.depth as f64);
        let ssm = model.ssm_width() as f64;
        let conv = conv_of(model, batch);
        let spectra = (conv.directions * conv.dim * conv.n) as f64 * COMPLEX;
        // Normals of the norm and the residual stream are f32.
        let input = rows * d * F32;
        let kept = input + rows * (kept_activations(model) as f64 * BF16 + 2.0 * F32);
        // dh, dy, du, d_product and d_down, the stream's gradient; the sums of two parts, kernels and their gradients.
        let quarters = if conv.n > 4096 {
            2.0 * COMPLEX * rows * (m * d + m * ssm)
        } else {
            0.0
        };
        let workspace = rows * ((d + m * ssm + m * d + 4.0 * d) * BF16 + d * F32)
            + 2.0 * spectra
            + 2.0 * (2 * conv.dim * conv.length) as f64 * F32
            + quarters;
        let (activations, spectra) = match recompute {
            Recompute::None => (depth * kept, depth * spectra),
            Recompute::Block => ((depth - 1.0) * input + kept, spectra),
        };
        Self {
            parameters: ParamLayout::model(model).total() as f64 * (5.0 * F32 + BF16),
            activations,
            spectra,
            workspace,
        }
    }

    /// The sum of all, with what is reserved.
    pub fn total(&self) -> f64 {
        self.parameters + self.activations + self.spectra + self.workspace + RESERVED
    }
}

/// The most images that fit into a device.
pub fn largest_batch(model: &ModelConfig, device: &Device, recompute: Recompute) -> usize {
    let fits = |batch: usize| GpuMemory::new(model, batch, recompute).total() <= device.memory;
    (1..=4096).take_while(|&batch| fits(batch)).last().unwrap_or(0)
}
