//! Samples of a trained model as a set of images: drawn while they are scored, never stored.

use std::path::{Path, PathBuf};

use preprocess::image::RgbImage;
use preprocess::vae::AutoencoderKl;
use trainer::generate::{Generator, SamplePlan};

use crate::error::Result;

/// The first `count` samples of a model under a plan.
pub struct GeneratedImages {
    generator: Generator,
    vae: AutoencoderKl,
    plan: SamplePlan,
    count: usize,
    batch: usize,
    path: PathBuf,
}

impl std::fmt::Debug for GeneratedImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratedImages")
            .field("path", &self.path)
            .field("step", &self.generator.step)
            .field("plan", &self.plan)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl GeneratedImages {
    /// `count` samples of the checkpoint, run or folder of runs at `path`; `batch` go through the model together.
    ///
    /// # Errors
    /// If there is no sound checkpoint, or its autoencoder cannot be loaded.
    pub fn open(path: &Path, plan: SamplePlan, count: usize, batch: usize) -> Result<Self> {
        let generator = Generator::open(path)?;
        let vae = generator.autoencoder()?;
        Ok(Self {
            generator,
            vae,
            plan,
            count,
            batch: batch.max(1),
            path: path.to_owned(),
        })
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The folder of the dataset that the model learned from.
    pub fn dataset(&self) -> &Path {
        Path::new(&self.generator.dataset.path)
    }

    /// What defines the samples, in words.
    pub fn description(&self) -> String {
        let guidance = &self.plan.guidance;
        let interval = guidance
            .interval
            .map_or_else(String::new, |(low, high)| format!(", interval ({low}, {high}]"));
        format!(
            "{} at step {}, {:?} with {} steps, guidance {} ({:?}{interval}), labels {:?}, seed {}",
            self.path.display(),
            self.generator.step,
            self.plan.sampler,
            self.plan.steps,
            guidance.scale,
            guidance.mode,
            self.plan.labels,
            self.plan.seed
        )
    }

    /// Streams the first `limit` samples through `visit`.
    ///
    /// # Errors
    /// Those of sampling and of `visit`.
    pub fn visit(&self, limit: usize, mut visit: impl FnMut(Vec<RgbImage>) -> Result<()>) -> Result<()> {
        let indices: Vec<u64> = (0..self.count.min(limit) as u64).collect();
        for indices in indices.chunks(self.batch) {
            visit(self.generator.images(&self.plan, &self.vae, indices)?)?;
        }
        Ok(())
    }
}
