//! Training steps on a device: what is written before each, and what is read after it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytemuck::cast_slice;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use shards::loader::Latents;

use super::device::{Device, DeviceError, Ticket};
use super::model::{DeviceModel, Outputs};
use super::program::{Program, Slot, Space};
use crate::checkpoint::{BufferRefs, Buffers};
use crate::diffusion::LossParts;
use crate::optim::DeviceRates;

/// Numbers of a flat buffer that are turned into bf16 and written at a time.
const PIECE: usize = 1 << 22;

/// A model in training on a device.
pub struct DeviceLearner {
    model: DeviceModel,
    device: Box<dyn Device>,
    /// By images, and bits of the latents' factor.
    programs: HashMap<(usize, u32), Arc<Program>>,
    /// Images that there is room for.
    images: usize,
    /// Steps whose outputs have not been fetched, the oldest first.
    pending: VecDeque<(Ticket, Outputs)>,
}

/// What a step has told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutputs {
    /// Sums over the images of all processes.
    pub loss: LossParts,
    /// Norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// Loss or gradients were not finite: nothing was changed.
    pub is_skipped: bool,
}

/// A batch of this process.
#[derive(Debug)]
pub struct DeviceBatch<'a> {
    /// `[images, C, H, W]`, unscaled.
    pub latents: Latents,
    /// Records, `[images]`.
    pub ids: &'a [u64],
    /// Labels, `[images]`, below the number of classes.
    pub labels: &'a [i32],
    /// The pass over the data.
    pub epoch: u32,
}

impl DeviceLearner {
    /// Puts weights, their average and moments on `device`, with room for steps on `images` images.
    ///
    /// # Errors
    /// [`DeviceError`], for instance where memory does not suffice.
    pub fn new(
        model: DeviceModel,
        mut device: Box<dyn Device>,
        images: usize,
        buffers: BufferRefs<'_>,
    ) -> Result<Self, DeviceError> {
        for (space, bytes) in model.spaces(images) {
            device.reserve(space, bytes)?;
        }
        for (slot, bytes) in model.constants() {
            device.write(*slot, bytes)?;
        }
        let count = model.parameters();
        for (space, values) in [
            (Space::Params, buffers.params),
            (Space::Ema, buffers.ema),
            (Space::First, buffers.first),
            (Space::Second, buffers.second),
        ] {
            device.write(Slot::new(space, 0, count, 4), cast_slice(values))?;
        }
        write_copy(&mut *device, &model, buffers.params)?;
        Ok(Self {
            model,
            device,
            programs: HashMap::new(),
            images,
            pending: VecDeque::new(),
        })
    }

    /// The plan.
    pub fn model(&self) -> &DeviceModel {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The device, to work on it.
    pub fn device_mut(&mut self) -> &mut dyn Device {
        &mut *self.device
    }

    /// The program of a step on `images` images; `scaling` is the latents' factor.
    ///
    /// # Errors
    /// [`DeviceError`] where memory does not suffice.
    pub fn program(&mut self, images: usize, scaling: f32) -> Result<Arc<Program>, DeviceError> {
        let key = (images, scaling.to_bits());
        if let Some(program) = self.programs.get(&key) {
            return Ok(Arc::clone(program));
        }
        if images > self.images {
            self.device.wait()?;
            for (space, bytes) in self.model.spaces(images) {
                if matches!(space, Space::Inputs | Space::Outputs) {
                    self.device.reserve(space, bytes)?;
                }
            }
            self.images = images;
        }
        let program = Arc::new(self.model.step(images, scaling));
        self.device.reserve(Space::Arena, program.arena)?;
        self.programs.insert(key, Arc::clone(&program));
        Ok(program)
    }

    /// Starts a step, with everything before it perhaps still going on; what it tells comes from [`DeviceLearner::told`].
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn start(
        &mut self,
        batch: DeviceBatch<'_>,
        scaling: f32,
        rates: &DeviceRates,
    ) -> Result<(), DeviceError> {
        let images = batch.ids.len();
        let program = self.program(images, scaling)?;
        let (inputs, outputs) = (self.model.inputs(images), self.model.outputs(images));
        self.device.upload(inputs.latents, batch.latents)?;
        self.device.write(inputs.ids, cast_slice(batch.ids))?;
        self.device.write(inputs.labels, cast_slice(batch.labels))?;
        self.device
            .write(inputs.epoch, cast_slice(&[batch.epoch as i32]))?;
        self.device.write(inputs.rates, cast_slice(rates))?;
        self.device.run(&program)?;
        let ticket = self.device.order(outputs.told)?;
        self.pending.push_back((ticket, outputs));
        Ok(())
    }

    /// Steps that were started and have not told anything yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Waits for the oldest step that was started and has not told anything, and says what it tells.
    ///
    /// # Errors
    /// [`DeviceError`], also when there is no such step.
    pub fn told(&mut self) -> Result<StepOutputs, DeviceError> {
        let Some((ticket, outputs)) = self.pending.pop_front() else {
            return Err(DeviceError {
                what: "asking for a step".to_owned(),
                reason: "none was started".to_owned(),
            });
        };
        let bytes = self.device.fetch(ticket)?;
        let at = |slot: Slot| &bytes[slot.offset - outputs.told.offset..][..slot.bytes];
        let numbers: Vec<f64> = bytemuck::pod_collect_to_vec(at(outputs.losses));
        let mut loss = LossParts::default();
        for image in numbers.chunks_exact(2) {
            loss.mse += image[0];
            loss.vb += image[1];
        }
        let scale: f32 = bytemuck::pod_read_unaligned(at(outputs.scale));
        Ok(StepOutputs {
            loss,
            grad_norm: bytemuck::pod_read_unaligned(at(outputs.norm)),
            is_skipped: scale.is_nan(),
        })
    }

    /// Reads weights, their average and moments, after all steps that were started.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn read(&mut self, buffers: &mut Buffers) -> Result<(), DeviceError> {
        let count = self.model.parameters();
        for (space, values) in [
            (Space::Params, &mut buffers.params),
            (Space::Ema, &mut buffers.ema),
            (Space::First, &mut buffers.first),
            (Space::Second, &mut buffers.second),
        ] {
            values.resize(count, 0.0);
            let slot = Slot::new(space, 0, count, 4);
            self.device.read(slot, bytemuck::cast_slice_mut(values))?;
        }
        Ok(())
    }
}

/// Writes the weights in bf16, where products take them from there.
pub(super) fn write_copy(
    device: &mut dyn Device,
    model: &DeviceModel,
    weights: &[f32],
) -> Result<(), DeviceError> {
    if !model.has_copy() {
        return Ok(());
    }
    let copy = Slot::new(Space::Copy, 0, weights.len(), 2);
    let mut rounded = vec![bf16::ZERO; PIECE.min(weights.len())];
    for (piece, values) in weights.chunks(PIECE).enumerate() {
        let rounded = &mut rounded[..values.len()];
        rounded.convert_from_f32_slice(values);
        device.write(copy.part(piece * PIECE, values.len()), cast_slice(rounded))?;
    }
    Ok(())
}
