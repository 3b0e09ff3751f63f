//! A training step, kernel by kernel.

use super::work::{self, Conv, ROWS_PER_PART};
use super::{Device, Work};
use crate::cost::TRAINING_PASSES;
use crate::gpu::kernels::long_conv::size_for;
use crate::model::{ModelConfig, Modulation, ParamLayout};

/// Bytes of an activation: bf16.
const ELEMENT: usize = 2;

/// One operation of a step, all its launches together.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// What a launch does, for one block of the model or the whole of it.
    pub work: Work,
    /// Launches in a step.
    pub times: u64,
    /// Whether running the blocks again repeats it.
    pub is_forward: bool,
}

/// A step of a model in bf16 on one GPU.
#[derive(Clone, Debug)]
pub struct Step {
    /// Everything but matrix products.
    pub parts: Vec<Part>,
    /// Operations of the matrix products, two a multiply-add: those of the model, forward and backward.
    pub matmul_flops: f64,
    /// Images.
    pub batch: usize,
    /// Parameters.
    pub parameters: u64,
}

/// The convolution of a block.
pub(super) fn conv_of(model: &ModelConfig, batch: usize) -> Conv {
    let n = size_for(model.length()).unwrap_or(model.length().next_power_of_two());
    Conv::of_model(model, batch, n, ELEMENT)
}

impl Step {
    /// The step of `model` on `batch` images.
    pub fn new(model: &ModelConfig, batch: usize) -> Self {
        let (d, m, depth) = (model.hidden_size, model.downscale, model.depth as u64);
        let (tokens, rows) = (model.tokens(), batch * model.tokens());
        let conv = conv_of(model, batch);
        let states = model.state_size / 2;
        let parameters = ParamLayout::model(model).total() as u64;
        let image = model.latent_numbers();
        let forward = |name, work| Part {
            name,
            work,
            times: depth,
            is_forward: true,
        };
        let backward = |name, work| Part {
            name,
            work,
            times: depth,
            is_forward: false,
        };
        let once = |name, work| Part {
            name,
            work,
            times: 1,
            is_forward: false,
        };
        let sums = |cols: usize| work::add_column_sums(1, rows.div_ceil(ROWS_PER_PART), cols);
        let modulation_sums = work::add_column_sums(batch, tokens.div_ceil(ROWS_PER_PART), 2 * d);
        let gelus = |of: fn(usize, usize, usize) -> Work| {
            [
                of(rows, d, ELEMENT),
                of(rows, m * d, ELEMENT),
                of(rows, 2 * d, ELEMENT),
            ]
            .into_iter()
            .sum()
        };
        let is_gated = model.modulation == Modulation::Gate;
        let parts = vec![
            forward("norm + modulate", work::norm_modulate(batch, tokens, d, ELEMENT)),
            forward("bias + GELU (3)", gelus(work::bias_gelu)),
            forward("convolution", conv.whole_forward()),
            forward("gate", work::gate(rows, 2 * d, ELEMENT)),
            forward(
                "residual",
                if is_gated {
                    work::gated_residual(batch, tokens, d, ELEMENT)
                } else {
                    work::residual(batch, tokens, d)
                },
            ),
            backward(
                "residual, backward",
                if is_gated {
                    work::gated_residual_backward(batch, tokens, d, ELEMENT)
                } else {
                    work::rounded_column_partials(rows, d)
                },
            ),
            backward("gate, backward", work::gate_backward(rows, 2 * d, ELEMENT)),
            backward("GELU, backward (3)", gelus(work::gelu_backward)),
            backward("convolution, backward", conv.whole_backward()),
            backward(
                "norm, backward",
                work::norm_modulate_backward(batch, tokens, d, ELEMENT),
            ),
            backward("sums of columns", sums(8 * d + m * d) + modulation_sums),
            backward("kernels' spectra, gradients", conv.whole_kernels()),
            backward(
                "S4D kernels",
                work::ssm_kernels(2 * d, states, model.length())
                    + work::ssm_kernels_backward(2 * d, states, model.length()),
            ),
            once(
                "noise, loss",
                work::noised(batch, image) + work::training_loss(batch, image, ELEMENT),
            ),
            once(
                "gradient norm, AdamW, EMA",
                work::sum_of_squares(parameters as usize) + work::adamw(parameters as usize, true),
            ),
        ];
        Self {
            parts,
            matmul_flops: 2.0 * TRAINING_PASSES * 1e9 * model.gflops_per_image() * batch as f64,
            batch,
            parameters,
        }
    }

    /// Seconds that a part takes in a step, by a measure of one launch.
    fn time_of(part: &Part, of: impl Fn(Work) -> f64) -> f64 {
        part.times as f64 * of(part.work)
    }

    /// Seconds of everything but matrix products, at least.
    pub fn floor_of_kernels(&self, device: &Device) -> f64 {
        self.parts
            .iter()
            .map(|part| Self::time_of(part, |work| device.floor(work)))
            .sum()
    }

    /// The same, expected.
    pub fn expected_of_kernels(&self, device: &Device) -> f64 {
        self.parts
            .iter()
            .map(|part| Self::time_of(part, |work| device.expected(work)))
            .sum()
    }

    /// Seconds of the matrix products, expected.
    pub fn expected_of_matmul(&self, device: &Device) -> f64 {
        self.matmul_flops / (device.matmul_share * device.tensor_flops)
    }

    /// Seconds of a step at least: matrix products at their peak, every kernel at its floor.
    pub fn floor(&self, device: &Device) -> f64 {
        self.matmul_flops / device.tensor_flops + self.floor_of_kernels(device)
    }

    /// Seconds of a step, expected; with `recompute` every block's forward runs twice.
    pub fn expected(&self, device: &Device, recompute: bool) -> f64 {
        let once = self.expected_of_matmul(device) + self.expected_of_kernels(device);
        let again = self.parts.iter().filter(|part| part.is_forward);
        let again: f64 = again
            .map(|part| Self::time_of(part, |work| device.expected(work)))
            .sum();
        once + if recompute {
            again + self.expected_of_matmul(device) / TRAINING_PASSES
        } else {
            0.0
        }
    }

    /// Share of the tensor cores' peak that the model's products are of a step of so many seconds.
    pub fn utilisation(&self, device: &Device, seconds: f64) -> f64 {
        self.matmul_flops / seconds / device.tensor_flops
    }

    /// Seconds of the backward, expected: two thirds of the products, and what is not of the forward.
    pub fn expected_of_backward(&self, device: &Device) -> f64 {
        let parts = self
            .parts
            .iter()
            .filter(|part| !part.is_forward && part.times > 1);
        let kernels: f64 = parts
            .map(|part| Self::time_of(part, |work| device.expected(work)))
            .sum();
        kernels + self.expected_of_matmul(device) * (TRAINING_PASSES - 1.0) / TRAINING_PASSES
    }

    /// Seconds that a ring of `gpus` takes to sum the gradients, f32.
    pub fn all_reduce(&self, device: &Device, gpus: usize) -> f64 {
        let share = 2.0 * (gpus as f64 - 1.0) / gpus as f64;
        share * 4.0 * self.parameters as f64 / (super::device::LINK_SHARE * device.link)
    }
}
