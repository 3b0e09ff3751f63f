//! Grids of samples during a run.

use preprocess::vae::AutoencoderKl;

use super::{Error, Event, RunFolder};
use crate::checkpoint::State;
use crate::distributed::HostReducer;
use crate::generate::{self, Generator, SamplePlan};
use crate::gpu::Place;
use crate::gpu::place::Use;
use crate::sampler::{Guidance, Sampler};

/// Grids of samples of the averaged weights, always of the same noise and classes.
#[derive(Default)]
pub(super) struct Preview {
    vae: Option<AutoencoderKl>,
    is_impossible: bool,
}

impl Preview {
    /// Writes the grid of the step that `state` is of.
    pub(super) fn write(
        &mut self,
        folder: &RunFolder,
        state: &State,
        ema: &[f32],
        place: Place,
        reducer: &mut HostReducer,
        listener: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        if self.is_impossible {
            return Ok(());
        }
        let generator = Generator::new(
            state.config.clone(),
            state.dataset.clone(),
            state.step,
            ema.to_vec(),
        )?;
        let generator = match self.prepare(generator, place, reducer) {
            Ok(generator) => generator,
            Err(error) => {
                // Training needs neither the autoencoder, which may well not be at hand on this machine, nor room for a second
                // model on the GPU.
                self.is_impossible = true;
                listener(Event::Note(&format!("no grids of samples: {error}")));
                return Ok(());
            }
        };
        let Some(vae) = &self.vae else { return Ok(()) };
        let run_config = &state.config.run;
        let plan = SamplePlan {
            seed: run_config.global_seed,
            sampler: Sampler::Ddim { eta: 0.0 },
            steps: run_config.sample_steps.to_string(),
            guidance: Guidance {
                scale: run_config.sample_cfg,
                ..Guidance::default()
            },
            ..SamplePlan::default()
        };
        let indices: Vec<u64> = (0..run_config.sample_count).collect();
        let mut images = Vec::new();
        for indices in indices.chunks(state.config.optim.micro_batch()) {
            images.extend(generator.images(&plan, vae, indices)?);
        }
        let columns = grid_columns(images.len(), state.config.model.num_classes);
        let path = folder.write_samples(state.step, &images, columns)?;
        listener(Event::Sampled(&path));
        Ok(())
    }

    /// The generator where the model is trained, and the autoencoder, once.
    fn prepare(
        &mut self,
        generator: Generator,
        place: Place,
        reducer: &mut HostReducer,
    ) -> Result<Generator, generate::Error> {
        let wish = Use {
            precision: generator.config.run.precision,
            ..Use::default()
        };
        let generator = generator.at(place, wish, reducer)?;
        if self.vae.is_none() {
            self.vae = Some(generator.autoencoder_at(place, reducer)?);
        }
        Ok(generator)
    }
}

/// Columns of a grid of `count` images: one a class where that gives whole rows, else a square.
pub fn grid_columns(count: usize, classes: usize) -> usize {
    if (2..=20).contains(&classes) && count.is_multiple_of(classes) {
        classes
    } else {
        (count as f64).sqrt().ceil() as usize
    }
}
