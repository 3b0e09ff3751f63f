//! Where everything lies that outlives a program: weights, tables, what a step starts from and what it tells.

use std::ops::Range;

use crate::diffusion::Schedule;
use crate::gpu::kernels::long_conv::{self, LONGEST, QUARTER};
use crate::gpu::kernels::optimizer::norm_parts;
use crate::gpu::launch::Element;
use crate::gpu::program::{Filled, Matrix, Slot, Space};
use crate::model::{ModelConfig, ParamLayout, TensorInfo, position_table};

/// Factors of a step of AdamW.
pub(super) const RATES: usize = 8;

/// A number whose bytes a table holds.
trait Plain: bytemuck::NoUninit {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for i64 {}

/// The tables of [`Space::Constants`].
#[derive(Debug)]
pub(super) struct Constants {
    /// `[5, steps]` f64, as `diffusion.cu` says.
    pub(super) tables: Slot,
    /// Original timesteps, `[steps]` f32.
    pub(super) timestep_map: Slot,
    /// Begin and end of dt, A and B, `[ranges, 2]` i64.
    pub(super) ssm_ranges: Slot,
    /// Of the transforms within a block.
    pub(super) conv: Slot,
    /// Of the passes before and after them; empty where there are none.
    pub(super) conv_outer: Slot,
    /// `[J, D]`; empty without positions.
    pub(super) positions: Slot,
    /// `[D]`
    pub(super) zeros: Slot,
    /// What each of them holds.
    pub(super) content: Vec<(Slot, Vec<u8>)>,
    /// All of them.
    pub(super) bytes: usize,
}

/// The tables of a schedule, `[5, steps]`, as `diffusion.cu` takes them.
pub fn schedule_tables(schedule: &Schedule) -> Vec<f64> {
    [
        &schedule.alphas_cumprod,
        &schedule.posterior_log_variance_clipped,
        &schedule.log_betas,
        &schedule.posterior_mean_coef1,
        &schedule.posterior_mean_coef2,
    ]
    .map(Vec::clone)
    .concat()
}

impl Constants {
    pub(super) fn new(config: &ModelConfig, layout: &ParamLayout, schedule: &Schedule, n: usize) -> Self {
        let mut content = Vec::new();
        let mut filled = Filled::new(Space::Constants);
        let tables = schedule_tables(schedule);
        let timestep_map: Vec<f32> = schedule.timestep_map.iter().map(|&t| t as f32).collect();
        let ssm_ranges: Vec<i64> = layout
            .ssm_ranges()
            .iter()
            .flat_map(|range| [range.start as i64, range.end as i64])
            .collect();
        let conv_outer = if n == LONGEST {
            long_conv::outer_table()
        } else {
            Vec::new()
        };
        let mut put = |slot: Slot, bytes: &[u8]| {
            content.push((slot, bytes.to_vec()));
            slot
        };
        fn of<T: Plain>(
            filled: &mut Filled,
            values: &[T],
            put: &mut impl FnMut(Slot, &[u8]) -> Slot,
        ) -> Slot {
            put(
                filled.next(values.len(), size_of::<T>()),
                bytemuck::cast_slice(values),
            )
        }
        let put = &mut put;
        let constants = Self {
            tables: of(&mut filled, &tables, put),
            timestep_map: of(&mut filled, &timestep_map, put),
            ssm_ranges: of(&mut filled, &ssm_ranges, put),
            conv: of(&mut filled, &long_conv::table(n.min(QUARTER)), put),
            conv_outer: of(&mut filled, &conv_outer, put),
            positions: of(&mut filled, &position_table(config), put),
            zeros: of(&mut filled, &vec![0f32; config.hidden_size], put),
            content: Vec::new(),
            bytes: filled.bytes(),
        };
        Self { content, ..constants }
    }
}

/// What a step starts from, for `images` images: written by the host.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Unscaled latents `[images, C H W]`, f32.
    pub latents: Slot,
    /// Records, `[images]` i64.
    pub ids: Slot,
    /// Labels, `[images]` i32.
    pub labels: Slot,
    /// The epoch, `[1]` i32.
    pub epoch: Slot,
    /// The factors of AdamW, `[8]` f32.
    pub rates: Slot,
    /// All of them.
    pub bytes: usize,
}

impl Inputs {
    pub(super) fn new(config: &ModelConfig, images: usize) -> Self {
        let mut filled = Filled::new(Space::Inputs);
        Self {
            latents: filled.next(images * config.latent_numbers(), 4),
            ids: filled.next(images, 8),
            labels: filled.next(images, 4),
            epoch: filled.next(1, 4),
            rates: filled.next(RATES, 4),
            bytes: filled.bytes(),
        }
    }
}

/// What a step tells, read by the host.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// (mse, vb) of every image, `[images, 2]` f64: those of this process, then sums over all where there are several.
    pub losses: Slot,
    /// The norm of the gradients, `[1]` f64.
    pub norm: Slot,
    /// Their factor, `[1]` f32; not a number where the step was skipped.
    pub scale: Slot,
    /// All three, with what lies between them, in bytes.
    pub told: Slot,
    /// Sums of squares of parts of the gradients, f64.
    pub(super) squares: Slot,
    /// All of them.
    pub bytes: usize,
}

impl Outputs {
    pub(super) fn new(parameters: usize, images: usize) -> Self {
        let mut filled = Filled::new(Space::Outputs);
        let (losses, norm, scale) = (filled.next(2 * images, 8), filled.next(1, 8), filled.next(1, 4));
        Self {
            losses,
            norm,
            scale,
            told: Slot::new(Space::Outputs, 0, scale.offset + scale.bytes, 1),
            squares: filled.next(norm_parts(parameters), 8),
            bytes: filled.bytes(),
        }
    }
}

/// Weight and bias of a linear layer.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
}

/// The parameters on the device.
#[derive(Debug)]
pub(super) struct Parameters {
    layout: ParamLayout,
    element: Element,
}

impl Parameters {
    pub(super) fn new(layout: ParamLayout, element: Element) -> Self {
        Self { layout, element }
    }

    /// Where `name` lies in the flat buffers; empty without such a tensor.
    pub(super) fn range(&self, name: &str) -> Range<usize> {
        self.layout.get(name).map_or(0..0, TensorInfo::range)
    }

    /// The first element of a block.
    pub(super) fn start_of_block(&self, index: usize) -> usize {
        self.layout.start_of_block(index)
    }

    /// The first element behind all blocks.
    pub(super) fn end_of_blocks(&self) -> usize {
        self.layout.end_of_blocks()
    }

    pub(super) fn linear(&self, name: &str) -> Linear {
        Linear {
            weight: self.range(&format!("{name}.weight")),
            bias: self.range(&format!("{name}.bias")),
        }
    }

    /// All of a flat f32 buffer.
    pub(super) fn flat(&self, space: Space) -> Slot {
        Slot::new(space, 0, self.layout.total(), 4)
    }

    /// All weights in bf16, where products take them from there.
    pub(super) fn copy(&self) -> Option<Slot> {
        let copy = Slot::new(Space::Copy, 0, self.layout.total(), Element::Bf16.bytes());
        (self.element == Element::Bf16).then_some(copy)
    }

    /// A part of the weights, f32.
    pub(super) fn value(&self, range: &Range<usize>) -> Slot {
        self.flat(Space::Params).part(range.start, range.len())
    }

    /// The gradient of a part.
    pub(super) fn grad(&self, range: &Range<usize>) -> Slot {
        self.flat(Space::Grads).part(range.start, range.len())
    }

    /// A weight `[outputs, inputs]` for products.
    pub(super) fn weight(&self, range: &Range<usize>, inputs: usize) -> Matrix {
        let slot = match self.copy() {
            Some(copy) => copy.part(range.start, range.len()),
            None => self.value(range),
        };
        Matrix::new(slot, self.element, inputs)
    }

    /// Its gradient, f32.
    pub(super) fn weight_grad(&self, range: &Range<usize>, inputs: usize) -> Matrix {
        Matrix::new(self.grad(range), Element::F32, inputs)
    }
}
