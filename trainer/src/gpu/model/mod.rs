//! The model on a device: its forward, its backward and its training step as programs.
//!
//! The same order of operations as [`DiffuSsm`](crate::model::DiffuSsm), which is its twin on the processor. Activations are f32
//! or bf16; the residual stream, the condition, statistics and all gradients of parameters are f32. Every buffer of a program is
//! taken where it is first written and given back after its last use.

mod block;
mod ends;
mod places;
mod ssm;
mod step;
#[cfg(test)]
mod tests;

pub use places::{Inputs, Outputs, schedule_tables};

use places::{Constants, Linear, Parameters};
use ssm::Ssm;

use super::kernels::chunked::{LONGEST as LONGEST_BY_CHUNKS, STATES};
use super::kernels::column_sums::{Partials, add_column_sums, column_partials, rounded_column_partials};
use super::kernels::embed::broadcast_rows;
use super::kernels::long_conv::{LONGEST, size_for};
use super::kernels::parts;
use super::launch::Element;
use super::program::{Builder, Matrix, Slot, Space};
use crate::config::{Config, ConvForm, Precision};
use crate::diffusion::Schedule;
use crate::model::{Error, Keep, ModelConfig, ParamLayout};

/// The plan of a model on a device: where everything lies, and the programs that follow from it.
#[derive(Debug)]
pub struct DeviceModel {
    config: ModelConfig,
    element: Element,
    keep: Keep,
    params: Parameters,
    parameters: usize,
    constants: Constants,
    ssm: Ssm,
    training: step::Training,
}

/// `d` as a factor of products, and where its columns' partial sums lie.
struct Factor {
    matrix: Matrix,
    /// A copy that is to be given back.
    copy: Option<Slot>,
}

impl DeviceModel {
    /// Plans the model of `config`, in one of `ranks` processes that train it together.
    ///
    /// # Errors
    /// [`Error::Config`] for an architecture that does not fit together, or a sequence that is too long for the kernels.
    pub fn new(config: &Config, ranks: usize) -> Result<Self, Error> {
        let model = config.model.clone();
        model.validate()?;
        let by_chunks = config.run.conv == ConvForm::Chunks;
        let most = if by_chunks { LONGEST_BY_CHUNKS } else { LONGEST };
        if model.length() > most {
            return Err(Error::Config {
                key: "input_size",
                why: format!(
                    "the sequence length {} is more than {most}, the longest on a GPU{}",
                    model.length(),
                    if by_chunks { "" } else { " without run.conv=chunks" }
                ),
            });
        }
        let n = size_for(model.length()).unwrap_or(LONGEST);
        if by_chunks && model.state_size > 2 * STATES {
            return Err(Error::Config {
                key: "state_size",
                why: format!(
                    "{} is more than {}, the most with run.conv=chunks",
                    model.state_size,
                    2 * STATES
                ),
            });
        }
        if model.state_size > 512 {
            return Err(Error::Config {
                key: "state_size",
                why: format!("{} is more than 512, the most on a GPU", model.state_size),
            });
        }
        let element = match config.run.precision {
            Precision::F32 | Precision::Tf32 => Element::F32,
            Precision::Bf16 => Element::Bf16,
        };
        let (layout, schedule) = (
            ParamLayout::model(&model),
            Schedule::linear(config.diffusion.num_timesteps),
        );
        Ok(Self {
            element,
            keep: config.run.recompute.into(),
            parameters: layout.total(),
            constants: Constants::new(&model, &layout, &schedule, n),
            ssm: Ssm::new(&model, n, element, config.run.conv),
            training: step::Training::new(config, schedule.len(), layout.ssm_ranges().len(), ranks),
            params: Parameters::new(layout, element),
            config: model,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The type of activations.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Whether products take the weights from a copy in bf16.
    pub fn has_copy(&self) -> bool {
        self.element == Element::Bf16
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Bytes of every space but [`Space::Arena`], in training on `images` images.
    pub fn spaces(&self, images: usize) -> Vec<(Space, usize)> {
        let flat = 4 * self.parameters;
        let mut spaces: Vec<(Space, usize)> = [
            Space::Params,
            Space::Grads,
            Space::First,
            Space::Second,
            Space::Ema,
        ]
        .map(|space| (space, flat))
        .into();
        spaces.extend([
            (Space::Copy, self.params.copy().map_or(0, |copy| copy.bytes)),
            (Space::Constants, self.constants.bytes),
            (Space::Inputs, self.inputs(images).bytes),
            (Space::Outputs, self.outputs(images).bytes),
            (Space::Spectra, self.spectra_bytes()),
        ]);
        spaces
    }

    /// The tables, and where they belong.
    pub fn constants(&self) -> &[(Slot, Vec<u8>)] {
        &self.constants.content
    }

    /// What a step on `images` images starts from.
    pub fn inputs(&self, images: usize) -> Inputs {
        Inputs::new(&self.config, images)
    }

    /// What it tells.
    pub fn outputs(&self, images: usize) -> Outputs {
        Outputs::new(self.parameters, images.max(self.training.room))
    }

    /// Bytes of the spectra of all blocks, for sampling.
    pub fn all_spectra_bytes(&self) -> usize {
        self.config.depth * self.ssm.prepared_bytes()
    }

    fn spectra_bytes(&self) -> usize {
        match self.keep {
            Keep::All => self.all_spectra_bytes(),
            Keep::Inputs => 0,
        }
    }

    /// Room for `rows` rows of `cols` activations.
    fn rows(&self, b: &mut Builder, rows: usize, cols: usize) -> Slot {
        b.activations(self.element, rows * cols)
    }

    /// Activations as a matrix of `cols` columns.
    fn matrix(&self, slot: Slot, cols: usize) -> Matrix {
        Matrix::new(slot, self.element, cols)
    }

    /// `out = x W^T`, or added to it: `x` `[rows, inputs]`, `out` `[rows, outputs]`, activations or f32.
    fn linear(
        &self,
        b: &mut Builder,
        rows: usize,
        weight: &std::ops::Range<usize>,
        x: Matrix,
        out: Matrix,
        beta: f32,
    ) {
        let (inputs, outputs) = (x.stride, out.stride);
        let weight = self.params.weight(weight, inputs);
        b.product([rows, inputs, outputs], x, weight.t(), out, beta);
    }

    /// `x W^T + bias` in f32: `x` `[rows, inputs]`.
    fn linear_f32(&self, b: &mut Builder, rows: usize, layer: &Linear, x: Matrix) -> Slot {
        let outputs = layer.bias.len();
        let out = b.floats(rows * outputs);
        let bias = self.params.value(&layer.bias);
        b.launch(broadcast_rows([rows, 0, outputs], bias, bias, out));
        self.linear(
            b,
            rows,
            &layer.weight,
            x,
            Matrix::new(out, Element::F32, outputs),
            1.0,
        );
        out
    }

    /// The gradient of a weight: `dw += d^T x`.
    fn weight_backward(
        &self,
        b: &mut Builder,
        rows: usize,
        weight: &std::ops::Range<usize>,
        d: Matrix,
        x: Matrix,
    ) {
        let (outputs, inputs) = (d.stride, x.stride);
        let dw = self.params.weight_grad(weight, inputs);
        b.product([outputs, rows, inputs], d.t(), x, dw, 1.0);
    }

    /// The gradient of a linear layer's input: `dx = d W`, or added to it.
    fn input_backward(
        &self,
        b: &mut Builder,
        rows: usize,
        weight: &std::ops::Range<usize>,
        d: Matrix,
        dx: Matrix,
        beta: f32,
    ) {
        let (outputs, inputs) = (d.stride, dx.stride);
        let weight = self.params.weight(weight, inputs);
        b.product([rows, outputs, inputs], d, weight, dx, beta);
    }

    /// Adds partial sums of `rows` rows to the gradient of a bias, and gives them back.
    fn bias_backward(&self, b: &mut Builder, rows: usize, bias: &std::ops::Range<usize>, partial: Slot) {
        let of = Partials::of(parts(rows), bias.len());
        b.launch(add_column_sums(of, partial, self.params.grad(bias), bias.len()));
        b.give(partial);
    }

    /// Room for the partial sums of `rows` rows of `cols` columns.
    fn partials(b: &mut Builder, rows: usize, cols: usize) -> Slot {
        b.floats(parts(rows) * cols)
    }

    /// A gradient in f32, `[rows, bias.len()]`, as a factor of products; its columns' sums go to that of `bias`.
    fn factor(&self, b: &mut Builder, rows: usize, bias: &std::ops::Range<usize>, d: Slot) -> Factor {
        let cols = bias.len();
        let partial = Self::partials(b, rows, cols);
        let (slot, copy) = match self.element {
            Element::F32 => {
                b.launch(column_partials(Element::F32, [rows, cols], d, partial));
                (d, None)
            }
            Element::Bf16 => {
                let copy = self.rows(b, rows, cols);
                b.launch(rounded_column_partials([rows, cols], d, copy, partial));
                (copy, Some(copy))
            }
        };
        self.bias_backward(b, rows, bias, partial);
        Factor {
            matrix: self.matrix(slot, cols),
            copy,
        }
    }
}
