//! Sampling on a device: its noise, both branches of the guidance in one batch, the steps; the host waits for the last alone.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::cast_slice;
use shards::rng::Stream;

use super::device::{Device, DeviceError};
use super::kernels::sampler::{SamplerStep, guided, normals, sampler_step};
use super::launch::{Element, Launch};
use super::learner::write_copy;
use super::model::{DeviceModel, schedule_tables};
use super::program::{Command, Filled, Program, Slot, Space};
use crate::config::Config;
use crate::diffusion::Schedule;
use crate::model;
use crate::sampler::{Batch, Guidance, GuidanceMode, SampleConfig, Sampler};

/// A model on a device that samples.
pub struct DeviceSampler {
    model: DeviceModel,
    device: Box<dyn Device>,
    /// By images and branches.
    programs: HashMap<(usize, usize), Arc<Program>>,
}

/// What a batch works in, all of it in [`Space::Inputs`] and [`Space::Outputs`].
struct Places {
    /// `[images, C, H, W]`, f32.
    x: Slot,
    ids: Slot,
    /// Of both branches.
    labels: Slot,
    timesteps: Slot,
    /// Of the kept steps.
    tables: Slot,
    output: Slot,
    input_bytes: usize,
}

impl DeviceSampler {
    /// Puts weights on `device`.
    ///
    /// # Errors
    /// [`model::Error`] for an architecture that does not fit together, or [`DeviceError`].
    pub fn new(
        config: &Config,
        mut device: Box<dyn Device>,
        weights: &[f32],
    ) -> Result<Result<Self, DeviceError>, model::Error> {
        let model = DeviceModel::new(config, 1)?;
        let mut place = || -> Result<(), DeviceError> {
            for (space, bytes) in model.spaces(1) {
                if matches!(space, Space::Params | Space::Copy | Space::Constants) {
                    device.reserve(space, bytes)?;
                }
            }
            device.reserve(Space::Spectra, model.all_spectra_bytes())?;
            for (slot, bytes) in model.constants() {
                device.write(*slot, bytes)?;
            }
            let params = Slot::new(Space::Params, 0, model.parameters(), 4);
            device.write(params, cast_slice(weights))?;
            write_copy(&mut *device, &model, weights)?;
            let spectra = Arc::new(model.spectra());
            device.reserve(Space::Arena, spectra.arena)?;
            device.run(&spectra)
        };
        Ok(place().map(|()| Self {
            model,
            device,
            programs: HashMap::new(),
        }))
    }

    /// What it runs on.
    pub fn device_name(&self) -> String {
        self.device.name()
    }

    fn places(&self, images: usize, steps: usize) -> Places {
        let c = self.model.config();
        let mut inputs = Filled::new(Space::Inputs);
        Places {
            x: inputs.next(images * c.latent_numbers(), 4),
            ids: inputs.next(images, 8),
            labels: inputs.next(2 * images, 4),
            timesteps: inputs.next(2 * images, 4),
            tables: inputs.next(5 * steps, 8),
            output: Slot::new(Space::Outputs, 0, 2 * images * c.output_numbers(), 4),
            input_bytes: inputs.bytes(),
        }
    }

    /// The model's forward for `images` images in `branches` branches.
    fn forward(
        &mut self,
        images: usize,
        branches: usize,
        places: &Places,
    ) -> Result<Arc<Program>, DeviceError> {
        if let Some(program) = self.programs.get(&(images, branches)) {
            return Ok(Arc::clone(program));
        }
        let rows = branches * images;
        let program = self.model.forward(
            branches,
            places.x,
            places.timesteps.part(0, rows),
            places.labels.part(0, rows),
            places.output.part(0, rows * places.output.count() / (2 * images)),
        );
        self.device.reserve(Space::Arena, program.arena)?;
        let program = Arc::new(program);
        self.programs.insert((images, branches), Arc::clone(&program));
        Ok(program)
    }

    fn launch(&mut self, launch: Launch<Slot>) -> Result<(), DeviceError> {
        self.device.run(&Arc::new(Program {
            commands: vec![Command::Launch(launch)],
            arena: 0,
        }))
    }

    /// Latents `[B, C, H, W]`, as [`crate::sampler::sample`] gives them.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn sample(
        &mut self,
        schedule: &Schedule,
        config: &SampleConfig,
        batch: &Batch<'_>,
    ) -> Result<Vec<f32>, DeviceError> {
        let (images, steps) = (batch.indices.len(), schedule.len());
        let image = batch.channels * batch.area;
        if images == 0 {
            return Ok(Vec::new());
        }
        let places = self.places(images, steps);
        self.device.reserve(Space::Inputs, places.input_bytes)?;
        self.device.reserve(Space::Outputs, places.output.bytes)?;
        self.device
            .write(places.tables, cast_slice(&schedule_tables(schedule)))?;
        self.device.write(places.ids, cast_slice(batch.indices))?;
        let null = batch.null_label.unwrap_or(0);
        let unlabelled = std::iter::repeat_n(null, images);
        let labels: Vec<u32> = batch.labels.iter().copied().chain(unlabelled).collect();
        self.device.write(places.labels, cast_slice(&labels))?;
        let shape = [images, image];
        self.launch(normals(
            shape,
            config.seed,
            Stream::InitialNoise,
            0,
            places.ids,
            places.x,
        ))?;
        for k in (0..steps).rev() {
            let timestep = schedule.timestep_map[k];
            self.device
                .write(places.timesteps, cast_slice(&vec![timestep; 2 * images]))?;
            let is_guided = config
                .guidance
                .applies(schedule.sqrt_recipm1(k), batch.null_label);
            let program = self.forward(images, 1 + usize::from(is_guided), &places)?;
            self.device.run(&program)?;
            if is_guided {
                self.guide(&config.guidance, images, batch, places.output)?;
            }
            let step = SamplerStep {
                seed: config.seed,
                steps,
                index: k,
                timestep,
                is_learned: self.model.config().learn_sigma,
                ddim: match config.sampler {
                    Sampler::Ddpm => None,
                    Sampler::Ddim { eta } => Some((schedule.alphas_cumprod_prev[k], eta)),
                },
            };
            let output = places.output.part(0, places.output.count() / 2);
            let (ids, tables) = (places.ids, places.tables);
            self.launch(sampler_step(
                Element::F32,
                shape,
                step,
                places.x,
                output,
                ids,
                tables,
            ))?;
        }
        let mut latents = vec![0f32; images * image];
        self.device
            .read(places.x, bytemuck::cast_slice_mut(&mut latents))?;
        Ok(latents)
    }

    fn guide(
        &mut self,
        guidance: &Guidance,
        images: usize,
        batch: &Batch<'_>,
        output: Slot,
    ) -> Result<(), DeviceError> {
        let channels = match guidance.mode {
            GuidanceMode::All => batch.channels,
            GuidanceMode::Dit3 => batch.channels.min(3),
        };
        let width = output.count() / (2 * images);
        let shape = [images, width, channels * batch.area];
        self.launch(guided(Element::F32, shape, guidance.scale, output))
    }
}
